"""Directories of somebody else: a typed error or the right answer, never a signal, and the original stays as it is."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
from damage import CALL, CASES, JUDGE, SAVED, append, cut, flip, log_of, zero
from directories import SMALL, mounted, refuse
from killed import kill

import engine
from engine import BusyError, ConfigError, CorruptionError, StorageFullError
from engine.cold.cold import Cold, chunk_key, data_file
from engine.cold.keys import meta_key
from engine.contract.arrays import NO_IDS
from engine.log.log import Log
from engine.log.record import Record
from engine.machine.backend import native
from engine.store.created import Created
from engine.table.layout import stored_row_bytes, vector_floats

JUDGE_COPY = JUDGE.replace("engine.open(path)", "engine.open(path, untrusted=True)")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where private copies are made; must be empty at the end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert os.listdir(place) == []


@pytest.fixture
def model(home, stream):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(60))
        eng.checkpoint()
        eng.ingest(*stream(30, seed=1))
        kill(eng)
    return home


def test_a_sound_directory_with_operations_in_its_log(model, temporary):
    """Their columns are filled up with -1, which no event may name."""
    with engine.open(model) as eng:
        eng.hide([1, 555])
        eng.show(555)
        eng.forget(users=2)
        eng.forget(items=[3])
        digest = eng.digest()
        kill(eng)
    with engine.open(model, untrusted=True) as eng:
        assert eng.digest() == digest


def test_a_sound_directory(model, temporary, stream, contents):
    with engine.open(model) as eng:
        digest = eng.digest()
        kill(eng)
    before = contents(model)
    with engine.open(model, untrusted=True) as eng:
        (copy,) = temporary.iterdir()
        assert copy.stat().st_mode & 0o777 == 0o700
        assert (eng.seq, eng.digest()) == (90, digest)
        eng.ingest(*stream(30))
        eng.checkpoint()
        assert eng.seq == 120
    with engine.open(model, mode="r", untrusted=True) as eng:
        assert eng.seq == 60
    assert contents(model) == before
    with engine.open(model) as eng:
        assert eng.seq == 90


def test_what_untrusted_is_not_for(model, temporary, tmp_path):
    refuse("model", lambda: engine.open(tmp_path / "none", untrusted=True))
    refuse("untrusted", lambda: engine.open(model, mode="x", untrusted=True))
    refuse("untrusted", lambda: engine.open(":memory:", untrusted=True))
    refuse("untrusted", lambda: engine.open(model, untrusted=1), ConfigError)
    refuse("dim", lambda: engine.open(model, dim=99, untrusted=True), ConfigError)
    with engine.open(model):
        refuse("model", lambda: engine.open(model, untrusted=True), BusyError)
    engine.open(model, untrusted=True).close()


def test_no_room_for_the_copy(model, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=16k", "tmpfs"):
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        refuse("", lambda: engine.open(model, untrusted=True), StorageFullError)
        assert os.listdir(disk) == []


@pytest.mark.parametrize("damage", [flip, cut, zero, append])
def test_fuzzed_files(whole, tmp_path, damage):
    home, digests = whole
    paths = []
    for case in range(CASES // 2):
        path, rng = tmp_path / str(case), np.random.default_rng(case)
        shutil.copytree(home, path)
        damage(log_of(path) if case % 3 == 0 else data_file(path / "rows"), rng)
        paths.append(str(path))
    (tmp_path / "list").write_text("\n".join(paths))
    (tmp_path / "temporary").mkdir()
    judge = [sys.executable, "-c", JUDGE_COPY, tmp_path / "list", ",".join(digests), str(CALL * SAVED)]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    run = subprocess.run(judge, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == CASES // 2
    assert [line for line in lines if not line.startswith(("right", "refused"))] == []
    assert damage is append or any(line.startswith("refused") for line in lines)
    assert os.listdir(tmp_path / "temporary") == []


def seal(model, entries, meta=None):
    with Cold.open(model / "rows") as cold:
        cold.write([native.seal_values(sorted(entries))], meta or {})


def lost(model, name):
    with Cold.open(model / "rows") as cold:
        cold.write([], {}, [meta_key(name)])


def changed_state(model, **change):
    with Cold.open(model / "rows") as cold:
        state = json.loads(cold.meta("state"))
        cold.write([], {"state": json.dumps(state | change).encode()})


def settings_of(model, **change):
    with Cold.open(model / "rows") as cold:
        state = json.loads(cold.meta("state"))
        state["settings"] |= change
        cold.write([], {"state": json.dumps(state).encode()})


def created_as(model, **change):
    with Cold.open(model / "rows") as cold:
        created = json.loads(cold.meta("created"))
        cold.write([], {"created": json.dumps(created | change).encode()})


def rows_of(model, **change):
    with Cold.open(model / "rows") as cold:
        rows = json.loads(cold.meta("state"))["rows"]
    changed_state(model, rows=rows | change)


def logged(model, **parts):
    with Cold.open(model / "rows") as cold:
        state = json.loads(cold.meta("state"))
        owner = Created.from_meta(cold.meta, model).owner
    log = Log.open(model / "log", owner, known_durable_seq=state["seq"])
    ids = np.array([1, 2], np.int64)
    log.append(Record(**({"first_seq": log.last_seq + 1, "batch_size": 4, "users": ids, "items": ids} | parts)))
    log.close()


USER = 7 - 30 * 2**40
LIES = {
    "state is no JSON": lambda m: seal(m, [], {"state": b"{"}),
    "state is a list": lambda m: seal(m, [], {"state": b"[1]"}),
    "state is deep": lambda m: seal(m, [], {"state": b"[" * 100_000}),
    "state is no text": lambda m: seal(m, [], {"state": b"\xff\xfe\xfd"}),
    "created is a number": lambda m: seal(m, [], {"created": b"17"}),
    "no settings": lambda m: changed_state(m, settings={}),
    "settings of a list": lambda m: changed_state(m, settings=[1]),
    "settings with more": lambda m: settings_of(m, extra=1),
    "dim is huge": lambda m: settings_of(m, dim=2**40),
    "dim is another": lambda m: settings_of(m, dim=16),
    "dim is text": lambda m: settings_of(m, dim="8"),
    "dim is nothing": lambda m: settings_of(m, dim=None),
    "lr is negative": lambda m: settings_of(m, lr=-1.0),
    "loss is unknown": lambda m: settings_of(m, loss="mse"),
    "batch is huge": lambda m: settings_of(m, batch_size=2**31),
    "positions are a list": lambda m: changed_state(m, positions=[1]),
    "position is no hex": lambda m: changed_state(m, positions={"a": "zz"}),
    "seq is negative": lambda m: changed_state(m, seq=-1),
    "seq is a float": lambda m: changed_state(m, seq=1.5),
    "seq is text": lambda m: changed_state(m, seq="60"),
    "mean count is huge": lambda m: changed_state(m, mean_count=2**64),
    "items are more": lambda m: rows_of(m, items=10**6),
    "users are none": lambda m: rows_of(m, users=0),
    "a table more": lambda m: rows_of(m, tags=0),
    "rows of a list": lambda m: changed_state(m, rows=["users", "items"]),
    "rows are negative": lambda m: rows_of(m, users=-1),
    "a field more": lambda m: changed_state(m, colour=1),
    "fields of format 1": lambda m: changed_state(m, users=3, items=3),
    "another schema": lambda m: changed_state(m, schema=3),
    "schema is text": lambda m: changed_state(m, schema="2"),
    "a part more": lambda m: changed_state(m, parts=["mean", "tower"]),
    "a part that is not there": lambda m: lost(m, "sightings"),
    "parts are a number": lambda m: changed_state(m, parts=1),
    "another format": lambda m: created_as(m, format=3),
    "format is true": lambda m: created_as(m, format=True),
    "format 1 with an id": lambda m: created_as(m, format=1),
    "an id that is none": lambda m: created_as(m, id="0" * 16),
    "an id that is short": lambda m: created_as(m, id="abc"),
    "an id of signs": lambda m: created_as(m, id="0x12345678901234"),
    "an id in capitals": lambda m: created_as(m, id="ABCDEF0123456789"),
    "the id of another": lambda m: created_as(m, id="0123456789abcdef"),
    "a fingerprint of numbers": lambda m: created_as(m, fingerprint=[1]),
    "created with more": lambda m: created_as(m, colour="blue"),
    "migrated at a text": lambda m: created_as(m, version_1_through="60"),
    "migrated before the beginning": lambda m: created_as(m, version_1_through=-2),
    "mean is short": lambda m: seal(m, [], {"mean": b"abc"}),
    "mean is another dim's": lambda m: seal(m, [], {"mean": bytes(4 * 9)}),
    "history has too many chunks": lambda m: seal(m, [(chunk_key(3, USER, n), bytes(1024)) for n in range(40)]),
    "history is too long": lambda m: seal(m, [(chunk_key(3, USER, 0), bytes(4096))]),
    "history is cut": lambda m: seal(m, [(chunk_key(3, USER, 0), bytes(17))]),
    "log names no one": lambda m: logged(m, items=np.array([1, -1], np.int64)),
    "log steps are empty": lambda m: logged(m, batch_size=0),
    "log steps are huge": lambda m: logged(m, batch_size=2**31),
    "log weighs less than nothing": lambda m: logged(m, weights=np.array([1, -1], np.float32)),
    "log weighs infinity": lambda m: logged(m, weights=np.array([1, np.inf], np.float32)),
    "log changes the dim": lambda m: logged(m, users=NO_IDS, items=NO_IDS, settings={"dim": 16}),
    "log changes to nonsense": lambda m: logged(m, users=NO_IDS, items=NO_IDS, settings={"lr": -1}),
    "log rates what is not rated": lambda m: logged(m, values=np.array([1, 0], np.float32)),
    "log sets something else": lambda m: logged(m, users=NO_IDS, items=NO_IDS, settings={"colour": 1}),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_with_the_right_checksums(model, temporary, contents, lie):
    LIES[lie](model)
    before = contents(model)
    with pytest.raises(CorruptionError) as caught:
        engine.open(model, untrusted=True)
    assert str(temporary) not in str(caught.value)
    assert str(temporary) not in str(caught.value.file)
    assert contents(model) == before


def test_rows_with_the_right_checksums(model, temporary):
    """Item rows whose ordinals are not 0..n-1, and rows of another width."""
    with Cold.open(model / "rows") as cold:
        ids, rows = next(iter(cold.scan(2, stored_row_bytes(vector_floats(8, "adagrad")))))
    rows[0, -8:] = 255
    for payload in (rows[:1].tobytes(), rows[0, :-8].tobytes()):
        seal(model, [(native.row_keys(2, ids[:1])[0], payload)])
        refuse("", lambda: engine.open(model, untrusted=True), CorruptionError)


@pytest.mark.parametrize("name", ["LOCK", "rows/data-1.mdb", "log/00000000000000000001.log"])
@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "dangling"])
def test_files_that_are_none(model, temporary, name, kind):
    path = model / name
    path.rename(model / "aside")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(model / "aside" if kind == "link" else "nowhere")
    if (name, kind) in [("LOCK", "fifo"), ("LOCK", "directory")]:
        engine.open(model, untrusted=True).close()  # locks as well as a file does
    else:
        refuse("", lambda: engine.open(model, untrusted=True), engine.EngineError)


OPEN_ALL_THE_TIME = """
import sys, engine
rights = 0
for n in range(40):
    try:
        with engine.open(sys.argv[1], untrusted=True) as eng:
            eng.topk(list(range(9)), 20)
            assert eng.digest() in sys.argv[2:], "a wrong answer"
            rights += 1
    except engine.CorruptionError:
        pass
print(rights)
"""


def test_somebody_changes_the_files_meanwhile(model, temporary):
    # The log's last record may be missing, which nobody can tell: what is left is a right answer, too.
    with engine.open(model, mode="r") as eng:
        digests = [eng.digest()]
    with engine.open(model) as eng:
        digests.append(eng.digest())
    files = [data_file(model / "rows"), log_of(model)]
    good = {file: file.read_bytes() for file in files}
    stop = threading.Event()

    def scribble():
        rng = np.random.default_rng(1)
        while not stop.is_set():
            file = files[int(rng.integers(2))]
            with file.open("r+b") as f:
                f.truncate(int(rng.integers(len(good[file]))))
                f.seek(int(rng.integers(len(good[file]))))
                f.write(rng.bytes(100))
            stop.wait(0.001)
            file.write_bytes(good[file])
            stop.wait(0.002)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        command = [sys.executable, "-c", OPEN_ALL_THE_TIME, model, *digests]
        environment = os.environ | {"TMPDIR": str(temporary)}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    finally:
        stop.set()
        thread.join()
    assert run.returncode == 0, run.stderr
