"""The same log gives the same bits: one stream of 200,000 events, whatever else differs.

One thread or two; all rows in RAM or a twentieth of them; an epoch every thousand events or none; killed and replayed
or straight; in one piece or many; any instruction set. The other losses and optimizers have shorter streams.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from killed import kill

import engine
from engine.contract.settings import Settings
from engine.machine.backend import native
from engine.store.digest import digest
from engine.store.state import State
from engine.table.layout import stored_row_bytes, vector_floats, warm_row_bytes

DIM, STEP = 16, 64
SHORTER = 5 if os.environ.keys() & {"ASAN_OPTIONS", "TSAN_OPTIONS"} else 1  # under a sanitizer all of it is slow
USERS, ITEMS, EVENTS = 60_000 // SHORTER, 60_000 // SHORTER, 200_000 // SHORTER
LAWS = {
    "bpr": {"loss": "bpr", "negatives": 1, "batch_size": STEP},
    "softmax": {"loss": "softmax", "negatives": 64, "batch_size": 16},
    "logistic, adam": {"loss": "logistic", "optimizer": "adam", "batch_size": STEP},
    "squared, sgd": {"loss": "squared", "optimizer": "sgd", "batch_size": 4},
}

WRITER = """
import json, sys, numpy as np, engine
path, settings, events, calls = sys.argv[1:]
data = np.load(events)
with engine.open(path, epoch_seconds=0.2, **json.loads(settings)) as eng:
    for start in range(eng.seq, len(data), int(calls)):
        if start > 0.9 * len(data):
            sys.stdin.read()  # to be killed here at the latest, however late the one who kills may be
        part = data[start : start + int(calls)]
        eng.ingest(*part.T, durable=False)
        print(eng.seq, flush=True)
    print("digest", eng.digest(), flush=True)
"""


def events(law):
    """Users, items and, for some losses, values: skewed ids; a stream that touches most rows now and then."""
    loss = LAWS[law]["loss"]
    n = EVENTS if law == "bpr" else EVENTS // 10
    rng = np.random.default_rng(11)
    draw = lambda size: (size * rng.random(n) ** 2).astype(np.int64)  # noqa: E731
    values = {"logistic": [rng.integers(0, 2, n)], "squared": [rng.integers(1, 6, n)]}.get(loss, [])
    return np.stack([draw(USERS) * 3 - 30_000, draw(ITEMS) * 5 + 2**40, *values], axis=1)


def options(law, **more):
    return {"dim": DIM, **LAWS[law], **more}


def learn(path, law, data, calls=65_536, each=None, leave=engine.Engine.close, **more):
    with engine.open(path, **options(law, **more)) as eng:
        for start in range(0, len(data), calls):
            eng.ingest(*data[start : start + calls].T, durable=False)
            if each:
                each(eng)
        digest, stats = eng.digest(), eng.stats()
        leave(eng)
    return digest, stats


@pytest.fixture(scope="module", params=LAWS)
def law(request):
    """The name of a law, its stream, and the digest of the plainest engine there is."""
    data = events(request.param)
    return request.param, data, learn(":memory:", request.param, data)[0]


def test_a_directory_is_as_good_as_memory(law, home):
    name, data, digest = law
    assert learn(home, name, data, leave=kill)[0] == digest
    for _ in ("replayed", "restored"):
        with engine.open(home) as eng:
            assert eng.digest() == digest


def test_two_threads(law):
    name, data, digest = law
    found, _ = learn(":memory:", name, data, threads=2, each=lambda eng: eng.topk(data[:300, 0], 20))
    assert found == digest


def test_a_twentieth_of_the_rows_in_memory(law, home):
    name, data, digest = law
    room = min(len(np.unique(column)) for column in data.T[:2]) // 20
    optimizer = LAWS[name].get("optimizer", "adagrad")
    warm_bytes = -(-room * warm_row_bytes(vector_floats(DIM, optimizer)) * 16 // 7)  # 7/16 of it is for each table
    found, stats = learn(home, name, data, leave=kill, warm_bytes=warm_bytes)
    assert found == digest
    for table in ("users", "items"):
        assert stats[table]["warm_rows"] <= stats[table]["warm_capacity"] <= stats[table]["rows"] / 20
        assert stats[table]["evicted"] > stats[table]["rows"]
    with engine.open(home, warm_bytes=warm_bytes) as eng:
        assert eng.digest() == digest
    with engine.open(home) as eng:
        assert eng.digest() == digest


def test_an_epoch_every_thousand_events(law, home):
    name, data, digest = law
    calls = 1000 // LAWS[name]["batch_size"] * LAWS[name]["batch_size"]
    found, stats = learn(home, name, data, calls, each=lambda eng: eng.checkpoint(), epoch_seconds=1e9)
    assert found == digest
    assert stats["epochs"] == -(-len(data) // calls)
    assert stats["lmdb_seq"] == len(data)


def test_where_the_calls_are_cut(law):
    name, data, digest = law
    step = LAWS[name]["batch_size"]
    rng = np.random.default_rng(5)
    with engine.open(":memory:", **options(name)) as eng:
        start = 0
        while start < len(data):
            stop = start + step * int(rng.integers(1, 400))
            eng.ingest(*data[start:stop].T)
            start = stop
        assert eng.digest() == digest


@pytest.mark.parametrize("crashes", [2])
def test_killed_and_replayed(law, home, tmp_path, crashes):
    name, data, digest = law
    file = tmp_path / "events.npy"
    np.save(file, data)
    calls = 10 * LAWS[name]["batch_size"]
    command = [sys.executable, "-c", WRITER, home, json.dumps(options(name)), file, str(calls)]
    acknowledged = 0
    for crash in range(crashes):
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= len(data) * (crash + 1) // (crashes + 1):
                break
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.stdin.close()
        assert writer.wait() == -signal.SIGKILL
        acknowledged = int(rest[-1]) if rest and rest[-1].isdigit() else acknowledged
        with engine.open(home) as eng:
            assert acknowledged <= eng.seq < len(data)
            assert eng.seq % calls == 0
            with engine.open(":memory:", **options(name)) as straight:
                straight.ingest(*data[: eng.seq].T)
                assert eng.digest() == straight.digest()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest


def test_every_instruction_set(law, tmp_path):
    name, data, digest = law
    file = tmp_path / "events.npy"
    np.save(file, data)
    for isa in ("avx512", "avx2", "portable"):
        if not native.isa_available(isa):
            continue
        command = [sys.executable, "-c", WRITER, ":memory:", json.dumps(options(name)), file, str(len(data))]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"ROWTIDE_ISA": isa})
        assert run.stdout.split()[-1] == digest, isa


def test_the_seed_and_the_order_do_matter():
    data = events("softmax")[:500]
    plain = learn(":memory:", "bpr", data)[0]
    assert learn(":memory:", "bpr", data, seed=1)[0] != plain
    assert learn(":memory:", "bpr", data[::-1])[0] != plain
    assert learn(":memory:", "bpr", data, calls=63)[0] != plain


class Rows:
    def __init__(self, rows):
        self.stored = rows

    def rows(self):
        yield np.arange(len(self.stored), dtype=np.int64), self.stored


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
def test_each_part_of_the_state_shows_in_the_digest(optimizer):
    """The laws above compare digests with each other, and would not miss what is in none of them."""
    settings = Settings.resolve({"dim": 5, "optimizer": optimizer, "loss": "squared"}, None)
    state = replace(State.initial(settings), weights=bytes(16))
    others = {
        "weights": bytes(15) + b"1",
        "recent": bytes(4),
        "clock": (5,),
        "mean": np.ones(5, np.float32),
        "rows": state.rows | {"users": 7},
        "settings": replace(settings, lr=0.5),
        "positions": {"a": b"1"},
        "value_sums": (1.0, 2.0),
        "sightings": bytes([1]) + bytes(native.SKETCH_BYTES - 1),
    }
    rows = np.random.default_rng(3).integers(0, 255, (3, stored_row_bytes(vector_floats(5, optimizer))), np.uint8)
    hidden = np.array([4, 9], np.int64)
    chunks = [(1, 0, bytes(32)), (1, 1, bytes(64))]

    def of(state=state, users=rows, items=rows, hidden=hidden, chunks=chunks):
        return digest(state, (Rows(users), Rows(items)), hidden, iter(chunks))

    found = [of(), of(hidden=hidden[:1]), of(chunks=chunks[:1]), of(users=rows[:2]), of(items=rows[:2])]
    found += [of(chunks=[*chunks[:1], (1, 1, bytes(63) + b"1")]), of(chunks=[*chunks[:1], (2, 1, bytes(64))])]
    not_of_the_log = {"bit_exact", "purge", "decided"}  # of the files, or of the middle of a record
    for field in fields(State):
        if field.name not in not_of_the_log:
            found.append(of(state=replace(state, **{field.name: others.get(field.name, 7)})))
    found += [of(state=replace(state, rows=state.rows | {name: n})) for name in state.rows for n in (8, 9)]
    for at in range(rows.shape[1]):
        changed = rows.copy()
        changed[1, at] += 1
        found += [of(users=changed), of(items=changed)]
    assert len(set(found)) == len(found)
    assert {of(state=replace(state, bit_exact=False)), of(state=replace(state, purge=True))} == {of()}
