"""Closing: the last epoch, what it must not cost, and what is left when it fails."""

import signal
import subprocess
import threading

import pytest
from directories import SMALL, mounted
from killed import kill

import engine
from engine import EngineError, InputError, StorageFullError
from engine.cold.cold import Cold
from engine.machine.worker import Worker

QUIET = SMALL | {"epoch_seconds": 1e9}

LEARNING = {
    "events": lambda eng: eng.ingest([1, 5], [10, 50]),
    "a position": lambda eng: eng.ingest([], [], position=("shop", b"7")),
    "hidden": lambda eng: eng.hide([10, 99]),
    "shown": lambda eng: eng.show(40),
    "forgotten": lambda eng: eng.forget(1, 20),
}


def engine_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rowtide")]


@pytest.fixture
def writes(monkeypatch):
    """One entry for each transaction of LMDB."""
    calls = []
    plain = Cold.write

    def write(self, *args):
        calls.append(args)
        return plain(self, *args)

    monkeypatch.setattr(Cold, "write", write)
    return calls


@pytest.fixture
def no_room(monkeypatch):
    """Epochs find no room from now on; call it for an end of that."""

    def write(*_):
        raise StorageFullError("no room")

    def begin():
        monkeypatch.setattr(Cold, "write", write)
        return monkeypatch.undo

    return begin


@pytest.mark.parametrize("what", LEARNING)
def test_reopening_replays_nothing_and_readers_see_all(home, what):
    with engine.open(home, **QUIET) as eng:
        eng.ingest([1, 2, 3, 4], [10, 20, 30, 40])
        eng.hide(40)
        eng.checkpoint()
        LEARNING[what](eng)
        seq, digest = eng.seq, eng.digest()
    assert engine.verify(home).lmdb_seq == seq
    with engine.open(home, mode="r") as reader:
        assert (reader.seq, reader.digest()) == (seq, digest)
    with engine.open(home) as eng:
        assert (eng.seq, eng.digest()) == (seq, digest)
        assert eng.stats()["opening"]["replayed_events"] == 0


def test_changed_settings_are_in_the_last_epoch(home):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(1, 2)
    engine.open(home, lr=0.5).close()
    with engine.open(home, mode="r") as reader:
        assert reader.settings["lr"] == 0.5


@pytest.mark.parametrize("what", ["events", "a position", "hidden", "forgotten"])
def test_where_nothing_is_new_nothing_is_written(home, contents, what):
    with engine.open(home, **QUIET) as eng:
        eng.ingest([1, 2, 3, 4], [10, 20, 30, 40])
        eng.hide(40)
        eng.checkpoint()
        LEARNING[what](eng)
    before = contents(home)
    for _ in range(2):
        with engine.open(home) as eng:
            eng.topk(2)
        assert contents(home) == before


def test_nothing_is_written_after_a_checkpoint_that_purged(home, contents, writes):
    with engine.open(home, **QUIET) as eng:
        eng.ingest([1, 2], [10, 20])
        eng.forget(1)
        eng.checkpoint()
        before = len(writes)
    assert len(writes) == before


def test_what_was_replayed_is_written(home, stream):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(100))
        digest = eng.digest()
        kill(eng)
    assert engine.verify(home).lmdb_seq == 0
    with engine.open(home) as eng:
        assert eng.stats()["opening"]["replayed_events"] == 100
    assert engine.verify(home).lmdb_seq == 100
    with engine.open(home) as eng:
        assert eng.digest() == digest
        assert eng.stats()["opening"]["replayed_events"] == 0


def test_the_epoch_that_runs_comes_first(home, stream, monkeypatch):
    users, items = stream(200)
    inside, go_on = threading.Event(), threading.Event()
    plain = Cold.write

    def write(self, *args):
        inside.set()
        go_on.wait()
        return plain(self, *args)

    with engine.open(home, **QUIET) as eng:
        eng.ingest(users[:100], items[:100])
        monkeypatch.setattr(Cold, "write", write)
        with eng._writer.lock:
            eng._writer.begin_epoch()
        inside.wait()
        eng.ingest(users[100:], items[100:])
        digest = eng.digest()
        closing = threading.Thread(target=eng.close)
        closing.start()
        go_on.set()
        closing.join()
    assert engine.verify(home).lmdb_seq == 200
    with engine.open(home) as eng:
        assert eng.digest() == digest


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_block_does_not_keep_it_from_being_written(home, error):
    def work():
        with engine.open(home, **QUIET) as eng:
            eng.ingest([1, 2], [10, 20])
            raise error

    with pytest.raises(error):
        work()
    assert engine.verify(home).lmdb_seq == 2


def test_a_last_epoch_that_fails_loses_nothing(home, stream, no_room):
    eng = engine.open(home, **QUIET)
    eng.ingest(*stream(100))
    digest = eng.digest()
    room = no_room()
    with pytest.raises(StorageFullError, match="no room"):
        eng.close()
    assert engine_threads() == []
    eng.close()
    room()
    with engine.open(home) as again:
        assert (again.seq, again.digest()) == (100, digest)
        assert again.stats()["opening"]["replayed_events"] == 100
    with engine.open(home) as again:
        assert again.stats()["opening"]["replayed_events"] == 0


def test_an_epoch_that_failed_is_tried_again_at_the_end(home, stream, no_room):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(100))
        room = no_room()
        with pytest.raises(StorageFullError):
            eng.checkpoint()
        room()
    assert engine.verify(home).lmdb_seq == 100


def test_the_error_of_the_block_comes_out_and_tells_of_the_other(home, no_room):
    def work():
        with engine.open(home, **QUIET) as eng:
            eng.ingest(1, 2)
            no_room()
            eng.ingest(1, "two")

    with pytest.raises(InputError, match="items") as caught:
        work()
    assert "StorageFullError: no room" in caught.value.__notes__[0]
    assert engine_threads() == []


def test_a_full_disk_at_the_end(tmp_path, stream):
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=600k", "tmpfs"):
        eng = engine.open(disk / "model", **QUIET)
        eng.ingest(*stream(4000, 3000, 2000))
        digest = eng.digest()
        with pytest.raises(StorageFullError):
            eng.close()
        assert engine_threads() == []
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        with engine.open(disk / "model") as again:
            assert (again.seq, again.digest()) == (4000, digest)
        assert engine.verify(disk / "model").lmdb_seq == 4000


def test_what_the_log_cannot_keep_is_said(home, monkeypatch):
    eng = engine.open(home, **QUIET)
    eng.ingest(1, 2, durable=False)

    def fail(fd):
        raise OSError(5, "broken")

    monkeypatch.setattr(engine.log.log.os, "fdatasync", fail)
    with pytest.raises(EngineError, match="broken"):
        eng.close()
    assert engine_threads() == []
    monkeypatch.undo()
    with engine.open(home) as again:
        assert again.seq == 1


def test_an_interrupt_while_closing(home, stream, monkeypatch):
    eng = engine.open(home, **QUIET)
    eng.ingest(*stream(100))
    digest = eng.digest()

    def drain(worker):
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "drain", drain)
    with pytest.raises(KeyboardInterrupt):
        eng.close()
    monkeypatch.undo()
    assert engine_threads() == []
    with engine.open(home) as again:
        assert (again.seq, again.digest()) == (100, digest)


def test_an_engine_that_failed_writes_no_epoch(home, stream, monkeypatch, writes):
    """RAM is behind the log then: nothing that it holds may be taken for the state at a seq."""
    first, second = stream(100), stream(60)
    eng = engine.open(home, **QUIET)
    eng.ingest(*first)
    made = len(writes)
    monkeypatch.setattr(eng._writer.syncer, "sync", lambda: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            eng.ingest(*second)
    finally:
        signal.signal(signal.SIGINT, before)
    eng.close()
    assert len(writes) == made
    with engine.open(home) as again:
        assert again.seq == 160


def test_a_private_copy_is_not_written_for_the_bin(home, stream, writes):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(100))
    before = len(writes)
    with engine.open(home, untrusted=True) as copy:
        copy.ingest(*stream(100))
    assert len(writes) == before
    assert engine.verify(home).seq == 100


def test_memory_has_nothing_to_write(writes):
    with engine.open(":memory:", **SMALL) as eng:
        eng.ingest(1, 2)
    assert writes == []
