"""Interrupts, and what must not reach the log: afterwards the directory opens at what the log has."""

import os
import signal
import sys
import traceback

import numpy as np
import pytest

import engine
from engine.contract.errors import ConfigError, CorruptionError, EngineError
from engine.machine.worker import Worker

SMALL = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 1, "seed": 3}


def reference(*calls):
    with engine.open(":memory:", **SMALL) as eng:
        for call in calls:
            eng.ingest(*call)
        return eng.digest()


@pytest.fixture(autouse=True)
def interrupts():
    """SIGINT raises, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_checkpoint_goes_on(home, stream, monkeypatch):
    """The epoch that nobody waits for any more must still end before the next one begins."""
    first, second = stream(300), stream(200)
    waited = []

    def drain(worker):
        waited.append(worker)
        if len(waited) == 1:
            raise KeyboardInterrupt
        return plain(worker)

    plain = Worker.drain
    monkeypatch.setattr(Worker, "drain", drain)
    with engine.open(home, **SMALL, epoch_seconds=1e6) as eng:
        eng.ingest(*first)
        with pytest.raises(KeyboardInterrupt):
            eng.checkpoint()
        interrupted = eng._writer.epochs._running
        eng.ingest(*second)
        eng.checkpoint()
        assert interrupted.ended
    assert engine.verify(home).lmdb_seq == 500
    with engine.open(home) as eng:
        assert eng.digest() == reference(first, second)


def test_an_interrupted_read_keeps_nobody_from_closing(home, stream):
    """Wherever it comes while LMDB is read: a signal's handler may run where a function begins, and after any call."""
    first = stream(60)
    eng = engine.open(home, **SMALL, epoch_seconds=1e6, warm_bytes=40_000)
    eng.ingest(*first)
    eng.checkpoint()
    cold = eng._directory.cold

    def read():
        with cold.snapshot():
            pass

    for moment in range(200):
        left = [moment]

        def tick(frame, event, arg, left=left):
            left[0] -= event in ("call", "c_return")
            if left[0] < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

        try:
            sys.setprofile(tick)
            read()
            sys.setprofile(None)
            break
        except KeyboardInterrupt:
            pass
    assert 10 < moment < 199  # moments at which it came
    assert not cold._mapped.inside
    eng.close()
    with engine.open(home) as eng:
        assert eng.seq == 60


def test_an_epoch_interrupted_at_its_beginning_closes_the_engine(home, stream, monkeypatch):
    first = stream(300)
    eng = engine.open(home, **SMALL, epoch_seconds=1e6)
    eng.ingest(*first)
    monkeypatch.setattr(eng._store.history, "freeze", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        eng.checkpoint()
    monkeypatch.undo()
    with pytest.raises(EngineError, match="interrupted"):
        eng.checkpoint()
    eng.close()
    with engine.open(home) as eng:
        assert eng.digest() == reference(first)


@pytest.mark.parametrize("step", ["sync", "apply"])
def test_an_interrupt_between_log_and_learning_closes_the_engine(home, stream, monkeypatch, step):
    first, second = stream(100), stream(60)
    eng = engine.open(home, **SMALL, epoch_seconds=1e6)
    eng.ingest(*first)
    place = eng._writer.syncer if step == "sync" else eng._writer
    monkeypatch.setattr(place, step, lambda *args, **how: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        eng.ingest(*second)
    monkeypatch.undo()
    with pytest.raises(EngineError, match="close and open") as caught:
        eng.ingest(*second)
    assert caught.value.seq is None
    eng.close()
    with engine.open(home) as eng:
        assert eng.seq == 160
        assert eng.digest() == reference(first, second)


@pytest.mark.parametrize("memory", [False, True])
def test_an_interrupt_says_what_was_accepted(home, stream, memory):
    """Wherever it comes in the call: between two records, before the first, while arguments are checked."""
    users, items = stream(140_000)

    def progress(done, events):
        if done >= 65_536:
            signal.raise_signal(signal.SIGINT)

    class Interrupting:
        def __array__(self, *args, **how):
            raise KeyboardInterrupt

    with engine.open(":memory:" if memory else home, **SMALL, epoch_seconds=1e6) as eng:
        eng.ingest(1, 2)
        with pytest.raises(KeyboardInterrupt) as caught:
            eng.ingest(Interrupting(), items)
        assert caught.value.seq is None
        with pytest.raises(KeyboardInterrupt) as caught:
            eng.ingest(users, items, progress=progress)
        accepted, notes = caught.value.seq, getattr(caught.value, "__notes__", [])
        assert accepted in ({140_001} if memory else {65_537, 131_073})
        if notes:
            assert "Close it and open the directory again" in notes[0]
            with pytest.raises(EngineError, match="close and open"):
                eng.ingest(1, 2)
        else:
            assert eng.ingest(1, 2).seq == accepted + 1
    if not memory:
        with engine.open(home) as eng:
            assert eng.seq == accepted + (not notes)


@pytest.mark.parametrize("step", ["sync", "apply"])
def test_an_interrupt_that_closes_the_engine_says_so(home, stream, monkeypatch, step):
    with engine.open(home, **SMALL, epoch_seconds=1e6) as eng:
        place = eng._writer.syncer if step == "sync" else eng._writer
        monkeypatch.setattr(place, step, lambda *args, **how: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt) as caught:
            eng.ingest(*stream(60))
        monkeypatch.undo()
        assert caught.value.seq == 60
        assert caught.value.__notes__ == ["This Engine takes no more writes. Close it and open the directory again."]


def test_an_interrupt_at_any_moment_of_a_call_has_a_seq(stream):
    """A signal's handler may run where a function begins, and after any call."""
    users, items = stream(8)
    seen = set()
    for moment in range(1, 400):  # before the first there is nothing of the call yet
        left = [moment]

        def tick(frame, event, arg, left=left):
            left[0] -= event in ("call", "c_return")
            if left[0] < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

        with engine.open(":memory:", **SMALL) as eng:
            ingest = eng.ingest
            try:
                sys.setprofile(tick)
                ingest(users, items)
                sys.setprofile(None)
                break
            except KeyboardInterrupt as e:
                sys.setprofile(None)
                if "ingest" in {frame.name for frame in traceback.extract_tb(e.__traceback__)}:
                    seen.add((e.seq, eng.seq))
    assert moment < 399
    assert seen == {(None, 0), (8, 8)}


def test_a_micro_batch_that_memory_cannot_hold_is_refused(home):
    for settings in ({"batch_size": 65_536, "negatives": 65_536}, {"batch_size": 16_384, "negatives": 4096}):
        with pytest.raises(ConfigError, match="gradient terms"):
            engine.open(home, **settings)
    assert not home.exists()


def test_damage_to_the_last_record_shows_after_a_clean_close(home, stream):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(100))
    (segment,) = (home / "log").iterdir()
    data = bytearray(segment.read_bytes())
    data[1000] ^= 1  # within the only record with events
    segment.write_bytes(data)
    with pytest.raises(CorruptionError):
        engine.open(home)


def test_histories_over_their_budget_bring_an_epoch(home):
    """Where no row can leave, an epoch makes room; new users must not sweep the table in vain, each for itself."""
    with engine.open(home, **SMALL, warm_bytes=1_200_000, epoch_seconds=1e6) as eng:
        for item in range(40):
            eng.ingest(np.arange(item * 10, item * 10 + 2000), np.full(2000, item))
        stats = eng.stats()
        assert stats["epochs"] > 0
        assert stats["users"]["evicted"] > 0


def test_what_an_interrupt_says_is_what_reopening_learns(home):
    """Wherever it comes in a durable call: while the log is written, while it is synced, while it is learned."""
    seen = set()
    for moment in range(1, 400, 3):
        left = [moment]

        def tick(frame, event, arg, left=left):
            left[0] -= event in ("call", "c_call", "c_return")
            if left[0] < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

        eng = engine.open(home.with_name(str(moment)), **SMALL)
        eng.ingest([1], [1])
        ingest, said = eng.ingest, 4
        try:
            sys.setprofile(tick)
            ingest([7, 7, 7], [10, 11, 12])
            sys.setprofile(None)
        except KeyboardInterrupt as e:
            sys.setprofile(None)
            if "ingest" not in {frame.name for frame in traceback.extract_tb(e.__traceback__)}:
                said = eng.seq  # before the call had begun
            else:
                said = e.seq or 1
        eng.close()
        with engine.open(home.with_name(str(moment))) as eng:
            assert eng.seq == said, moment
        seen.add(said)
    assert seen == {1, 4}


def test_an_interrupted_fsync_is_done_again(home, monkeypatch):
    eng = engine.open(home, **SMALL)
    eng.ingest([1], [1])
    synced = os.fdatasync

    def interrupted(descriptor):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        return synced(descriptor)

    monkeypatch.setattr(os, "fdatasync", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        eng.ingest([7, 7, 7], [10, 11, 12])
    assert caught.value.seq == 4
    eng.close()
    with engine.open(home) as eng:
        assert eng.seq == 4
        assert eng.history(7).tolist() == [10, 11, 12]
