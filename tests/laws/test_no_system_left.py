"""What the system refuses, threads and rights and memory, comes out as an error of ours, and loses nothing."""

import errno
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from directories import SMALL, refuse

import engine
from engine import EngineError
from engine.log.segment import last_seq_in
from engine.store.tables import Tables

QUIET = SMALL | {"epoch_seconds": 1e9}


@pytest.fixture
def no_threads(monkeypatch):
    """Call it: from then on there is no thread to be had; at the end there are some again."""

    def start(thread):
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr(threading.Thread, "start", start)


def test_opening_without_threads(home, stream, no_threads, monkeypatch):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(20))
    no_threads()
    refuse("could not be started", lambda: engine.open(home), EngineError)
    refuse("could not be started", lambda: engine.open(home.parent / "other", **QUIET), EngineError)
    with engine.open(home, mode="r") as reader:
        assert reader.topk(1).seq == 20
    with engine.open(":memory:", **SMALL) as eng:
        eng.ingest(1, 2)
    monkeypatch.undo()
    with engine.open(home) as eng:
        assert eng.seq == 20


def test_an_open_engine_needs_no_more_threads(home, stream, no_threads):
    """Nor does it where an epoch has to end in the middle of a call, or a call has several records."""
    users, items = stream(140_000)
    with engine.open(home, **QUIET) as eng:
        no_threads()
        assert eng.ingest(users, items).seq == 140_000
        assert eng.checkpoint() == 140_000
        assert eng.topk(users[0]).seq == 140_000
        assert eng.backup(home.parent / "b") == 140_000
        eng.ingest(1, 2)
    assert engine.verify(home).lmdb_seq == 140_001


RANKING = """
import resource, numpy as np, engine
with engine.open(":memory:", dim=64, threads=8, loss="bpr") as eng:
    items = np.arange(40_000)
    eng.ingest(items % 50, items)
    few, many = eng.topk(7, 10), eng.topk(np.arange(50), 10)
    assert engine.open(":memory:", threads=1)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (32 << 20), resource.RLIM_INFINITY))
    import threading
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        print("no thread")
    for users, expected in ((7, few), (np.arange(50), many)):
        found = eng.topk(users, 10)
        assert (found.ids == expected.ids).all() and (found.scores == expected.scores).all()
print("ranked")
"""


def test_ranking_goes_on_without_threads(tmp_path):
    """A thread's stack is larger than what is left of the address space."""
    (tmp_path / "ranking.py").write_text(RANKING)
    command = ["sh", "-c", f"ulimit -S -s 262144; exec {sys.executable} {tmp_path / 'ranking.py'}"]
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | threads)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no thread\nranked\n", "")


@pytest.mark.parametrize("part", ["", "rows", "log"])
def test_a_directory_that_may_not_be_read(home, stream, monkeypatch, part):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(20))
    closed, plain = home / part, os.listdir

    def listdir(path="."):
        if os.path.samefile(path, closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return plain(path)

    monkeypatch.setattr(os, "listdir", listdir)
    calls = [
        lambda: engine.open(home),
        lambda: engine.verify(home),
        lambda: engine.open(home, untrusted=True),
        lambda: engine.open(home, mode="r"),
    ]
    for call in calls[: 3 if part == "log" else 4]:  # a reader does not read the log
        refuse([str(home), "Permission denied"], call, EngineError)
    if part == "log":
        refuse([str(closed), "Permission denied"], lambda: last_seq_in(closed), EngineError)
    monkeypatch.undo()
    with engine.open(home) as eng:
        assert eng.seq == 20


def test_a_name_that_is_not_utf_8(tmp_path, stream):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/shop-\xff")
    with engine.open(path, **QUIET) as eng:
        eng.ingest(*stream(20))
        eng.checkpoint()
        eng.backup(path + "-2")
    assert engine.verify(path).seq == 20
    for how in ({"mode": "r"}, {"untrusted": True}, {}):
        with engine.open(path, **how) as eng:
            assert eng.seq == 20
    for words in (("info",), ("topk", "1"), ("verify",)):
        command = [sys.executable, "-m", "engine", words[0], path, *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("memory", [MemoryError("std::bad_alloc"), MemoryError()])
def test_no_memory_for_the_last_epoch(home, stream, monkeypatch, memory):
    def freeze(tables):
        raise memory

    eng = engine.open(home, **QUIET)
    eng.ingest(*stream(20))
    monkeypatch.setattr(Tables, "freeze", freeze)
    with pytest.raises(EngineError, match="out of memory"):
        eng.close()
    monkeypatch.undo()
    with engine.open(home) as eng:
        assert eng.seq == 20
        np.testing.assert_array_equal(eng.stats()["opening"]["replayed_events"], 20)
