"""Many threads, and a fork: one writer at a time, readers beside it, and a child that is told to open its own."""

import contextlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from killed import kill

import engine
from engine import EngineError
from engine.store.catalogue import Ask, Catalogue
from engine.table.layout import stored_row_bytes, vector_floats


def test_a_fork_leaves_the_engine_to_the_parent(eng, stream):
    eng.ingest(*stream(50))
    digest = eng.digest()
    child = os.fork()
    if child == 0:
        wrong = 1
        try:
            calls = (lambda: eng.topk(1), lambda: eng.ingest(1, 2), eng.digest, eng.stats, eng.checkpoint)
            for call in calls:
                with pytest.raises(EngineError, match="child"):
                    call()
            eng.close()
            wrong = 0
        finally:
            os._exit(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    eng.ingest(*stream(50, seed=1))
    assert eng.seq == 100
    assert eng.digest() != digest


ENDING = """
import atexit, os, sys, warnings, numpy as np, engine
warnings.simplefilter("ignore")
home, mode, ending = sys.argv[1:]
ids = np.arange(5000)
eng = engine.open(home, dim=8, loss="bpr", negatives=1, warm_bytes=1 << 18)
eng.ingest(ids, ids)
eng.checkpoint()
if mode == "r":
    eng.close()
    eng = engine.open(home, mode="r")
eng.topk(1, 1)
if (child := os.fork()) == 0:
    if ending == "del":
        del eng
        os._exit(0)
    if ending == "rebound":
        eng = None
        os._exit(0)
    if ending == "atexit":
        atexit.register(eng.close)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert eng.topk([1, 2], 3).ids.shape == (2, 3)
if mode == "a":
    assert eng.ingest(ids[::-1], ids[::-1]).seq == 10_000
eng.digest()
eng.close()
"""


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("ending", ["exit", "atexit", "del", "rebound"])
def test_a_child_that_merely_ends_takes_nothing_from_its_parent(home, mode, ending):
    command = [sys.executable, "-c", ENDING, str(home), mode, ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_writers_take_turns(place, loss):
    with engine.open(place, dim=8, loss=loss, negatives=4, batch_size=4, epoch_seconds=1e9) as eng:
        seqs: list[list[int]] = [[], []]

        def write(which):
            for n in range(25):
                report = eng.ingest(np.arange(3) + 100 * which, np.arange(3) + n, durable=bool(n % 2))
                seqs[which].append(report.seq)

        threads = [threading.Thread(target=write, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seqs[0] + seqs[1]) == list(range(3, 151, 3))
        assert seqs == [sorted(part) for part in seqs]
        digest = eng.digest()
        kill(eng)
    if place != ":memory:":
        with engine.open(place) as eng:
            assert (eng.seq, eng.digest()) == (150, digest)
            assert eng.stats()["opening"]["replayed_events"] == 150


def test_readers_beside_a_writer_see_whole_and_recent_answers(eng, stream):
    users, items = stream(4000)
    eng.ingest(users[:100], items[:100])
    done, acknowledged, wrong = threading.Event(), [100], []

    def read():
        while not done.is_set():
            least = acknowledged[0]
            found = eng.topk(users[:5], 6, exclude=items[:3], exclude_seen=True)
            falling = (found.scores[:, :-1] >= found.scores[:, 1:]).all() and np.isfinite(eng.vectors(users[:9])).all()
            if found.seq < least or not falling or np.isin(found.ids, items[:3]).any():
                wrong.append(found)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for start in range(100, 4000, 100):
            acknowledged[0] = eng.ingest(users[start : start + 100], items[start : start + 100], durable=False).seq
            if start % 1000 == 0:
                eng.checkpoint()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_no_row_is_seen_half_updated():
    """Every row that a reader sees beside the writer is one that the same stream gave, learned event by event."""
    settings = {"dim": 4096, "loss": "bpr", "negatives": 2, "seed": 3}
    n = 4000
    users, items = np.arange(n) % 2, np.arange(n) % 3
    versions = {("users", id): set() for id in range(2)} | {("items", id): set() for id in range(3)}
    with engine.open(":memory:", **settings) as steps:
        for user, item in zip(users, items, strict=True):
            steps.ingest(user, item)
            for (table, id), seen in versions.items():
                with contextlib.suppress(engine.UnknownIdError):
                    seen.add(hash(steps.vectors(**{table: id}).tobytes()))
    wrong, looks, done = [], [0], threading.Event()
    with engine.open(":memory:", **settings) as eng:
        eng.ingest(users[:6], items[:6])

        def read():
            while not done.is_set() or not looks[0]:
                for table, id in versions:
                    looks[0] += 1
                    if hash(eng.vectors(**{table: id}).tobytes()) not in versions[table, id]:
                        wrong.append((table, id))

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for start in range(6, n, 999):
                eng.ingest(users[start : start + 999], items[start : start + 999])
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert looks[0]
    assert wrong == []


def test_no_item_is_read_half_written():
    """Beside a writer that does nothing but write it, so that the two meet on a busy machine, too."""
    dim, times = 4096, 512
    rows = np.zeros(
        (times, stored_row_bytes(vector_floats(dim, "sgd"))), np.uint8
    )  # all of the item with ordinal 0, in turn 1 and 2
    rows[:, : 4 * (dim + 1)].view(np.float32)[:] = 1 + np.arange(times).reshape(-1, 1) % 2
    ids = np.full(times, 7)
    catalogue = Catalogue(dim)
    catalogue.restore([(ids[:1], rows[:1])], 1, 1, [], 0)
    done, passes = threading.Event(), [0]

    def write():  # no id or ordinal comes or goes, so readers may be there
        while not done.is_set():
            assert catalogue.follow(ids, rows)
            passes[0] += 1

    looks, seen = 0, set()
    query = np.ones((1, dim), np.float32)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        while looks < 500 or passes[0] < 100:
            looks += 1
            vectors, biases = catalogue.read(np.zeros(8, np.int64))
            assert (vectors == biases[:, None]).all()
            seen |= {*biases.tolist()}
            _, score, _ = catalogue.topk(Ask(query, 1, 1))
            assert score in (dim + 1, 2 * (dim + 1))
    finally:
        done.set()
        writer.join()
    assert seen <= {1, 2}


def test_stats_while_items_are_hidden_and_shown(memory):
    items = np.arange(3000)
    memory.ingest(items[:10], items[:10])
    done, counts = threading.Event(), []

    def look():
        while not done.is_set():
            counts.append(memory.stats()["hidden_items"])

    reader = threading.Thread(target=look)
    reader.start()
    turns = 0
    while turns < 30 or (not counts and reader.is_alive()):
        memory.hide(items)
        memory.show(items)
        turns += 1
    done.set()
    reader.join()
    assert counts
    assert 0 <= min(counts) <= max(counts) <= len(items)
