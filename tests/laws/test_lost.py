"""Memory and directories are given back: at closing, without a collection of garbage, and where nobody closes."""

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from queue import SimpleQueue

import pytest
from directories import SMALL

import engine
from engine import BusyError, EngineError, StorageFullError
from engine.cold.cold import Cold
from engine.directory.lock import hold
from engine.learn.model import Model

QUIET = SMALL | {"epoch_seconds": 1e9}


@pytest.fixture
def no_collection():
    """Only what nobody refers to is freed, as it is at once."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tables_of(eng):
    """Weak references to what holds memory."""
    if isinstance(eng, engine.Reader):
        return [weakref.ref(part) for part in (eng._catalogue, eng._catalogue.native)]
    store = eng._store
    parts = [eng._writer, store, store.model.learner, store.catalogue.native, store.history.native]
    parts += [table.warm for table in store.tables]
    return [weakref.ref(part) for part in parts]


def alive(references):
    return [reference() for reference in references if reference() is not None]


def engine_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rowtide")]


def use(eng):
    eng.topk(1, exclude_seen=True)
    eng.similar(10)
    eng.digest()
    eng.stats()


@pytest.mark.usefixtures("no_collection")
def test_a_closed_engine_that_is_kept_holds_no_tables(place):
    eng = engine.open(place, **QUIET)
    eng.ingest([1, 2, 3], [10, 20, 30])
    use(eng)
    eng.checkpoint()
    eng.forget(1)
    eng.checkpoint()
    references = tables_of(eng)
    eng.close()
    assert alive(references) == []
    assert (eng.seq, eng.settings["dim"]) == (3, 8)
    for call in (eng.stats, eng.refresh, lambda: eng.topk(1), lambda: eng.ingest(1, 2), lambda: eng.position("shop")):
        with pytest.raises(EngineError, match="closed"):
            call()
    eng.close()


@pytest.mark.usefixtures("no_collection")
def test_a_closed_reader_that_is_kept_holds_no_items(home):
    with engine.open(home, **QUIET) as eng:
        eng.ingest([1, 2, 3], [10, 20, 30])
    reader = engine.open(home, mode="r")
    use(reader)
    references = tables_of(reader)
    reader.close()
    assert alive(references) == []
    assert (reader.seq, reader.settings["dim"]) == (3, 8)
    with pytest.raises(EngineError, match="closed"):
        reader.topk(1)
    reader.close()


@pytest.mark.usefixtures("no_collection")
def test_errors_keep_no_tables(home, monkeypatch):
    """An exception leads by its traceback to the Engine's insides; the Engine must not lead to the exception."""

    def full(*_):
        raise StorageFullError("no room")

    def broken(*_, **how):
        raise RuntimeError("broken")

    eng = engine.open(home, **QUIET)
    references = tables_of(eng)
    eng.ingest(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Cold, "write", full)
        with pytest.raises(StorageFullError):
            eng.checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(Model, "plan", broken)
        with pytest.raises(RuntimeError):
            eng.ingest(1, 2)
    eng.close()
    assert alive(references) == []


@pytest.mark.usefixtures("no_collection")
def test_a_lost_engine_gives_its_directory_back(home):
    eng = engine.open(home, **QUIET)
    eng.ingest([1, 2], [10, 20])
    eng.checkpoint()
    eng.ingest(3, 30)
    use(eng)
    references = tables_of(eng)
    with pytest.warns(ResourceWarning, match="Engine of .*model: lost without close"):
        del eng
    assert alive(references) == []
    assert engine_threads() == []
    with engine.open(home) as eng:  # what the epoch lacks is replayed
        assert (eng.seq, eng.stats()["opening"]["replayed_events"]) == (3, 1)


@pytest.mark.usefixtures("no_collection")
def test_a_lost_reader_gives_its_directory_back(home):
    engine.open(home, **QUIET).close()
    reader = engine.open(home, mode="r")
    reader.topk(1)
    with pytest.warns(ResourceWarning, match="Reader of .*model: lost without close"):
        del reader
    engine.open(home).close()


@pytest.mark.usefixtures("no_collection")
def test_an_engine_in_memory_holds_nothing_that_could_be_lost():
    eng = engine.open(":memory:", **SMALL)
    eng.ingest(1, 2)
    references = tables_of(eng)
    del eng
    assert alive(references) == []


def test_an_engine_lost_in_a_cycle_is_collected(home):
    class Service:
        def __init__(self):
            self.eng = engine.open(home, **QUIET)
            self.eng.ingest(1, 2)
            self.ask = self.answer

        def answer(self):
            return self.eng.topk(1)

    Service().ask()
    with pytest.warns(ResourceWarning, match="lost"):
        gc.collect()
    engine.open(home).close()


def test_an_engine_lost_while_an_epoch_is_written(home, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    plain = Cold.write

    def write(self, *args):
        inside.set()
        go_on.wait()
        return plain(self, *args)

    eng = engine.open(home, **QUIET)
    eng.ingest(1, 2)
    monkeypatch.setattr(Cold, "write", write)
    with eng._writer.lock:
        eng._writer.begin_epoch()
    inside.wait()
    going = threading.Timer(0.01, go_on.set)
    going.start()
    with pytest.warns(ResourceWarning, match="lost"):
        del eng
    going.join()
    monkeypatch.undo()
    assert engine.verify(home).lmdb_seq == 1
    engine.open(home).close()


def test_garbage_may_be_collected_in_a_thread_of_the_engine(home):
    """One that waited for its own end would never end."""
    box = [engine.open(home, **QUIET)]
    caught = []

    def lose():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            box.clear()
            caught.extend(found)

    thread = threading.Thread(target=lose, name="rowtide-epoch_0")
    thread.start()
    thread.join()
    for other in threading.enumerate():
        if other.name == "rowtide-lost":
            other.join()
    assert [found.category for found in caught] == [ResourceWarning]
    engine.open(home).close()


def test_a_child_loses_nothing(home):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(1, 2)
        child = os.fork()
        if child == 0:
            warnings.simplefilter("error")
            sys.unraisablehook = lambda found: os._exit(1)
            eng.__del__()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        eng.ingest(1, 2)
    assert engine.verify(home).lmdb_seq == 2


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_nothing_is_copied_and_lost(home, mode, how):
    engine.open(home, **QUIET).close()
    with engine.open(home, mode=mode) as eng:
        with pytest.raises(TypeError, match="open the directory in each process"):
            how(eng)
        gc.collect()
        assert eng.topk(1).seq == 0


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_program_that_ends_without_closing(home, mode):
    engine.open(home, **QUIET).close()
    code = "import engine, sys; eng = engine.open(sys.argv[1], mode=sys.argv[2]); eng.topk(1)"
    command = [sys.executable, "-W", "default", "-c", code, home, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "lost without close()" in done.stderr
    assert "Error" not in done.stderr


@pytest.mark.parametrize("calls", [1, 3])
def test_closing_goes_on_where_interrupts_have_cut_it_off(home, stream, monkeypatch, calls):
    inside, go_on, armed, letting_go = threading.Event(), threading.Event(), threading.Event(), SimpleQueue()
    plain, let_go = Cold._transact, engine.Engine._let_go

    def transact(self, *args):
        inside.set()
        go_on.wait()
        return plain(self, *args)

    def told(self):
        letting_go.put(None)
        let_go(self)

    def strike():
        """A signal that comes just before a thread begins to wait is seen after the wait alone: so many come."""
        armed.set()
        while armed.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.01)

    def struck(*_):
        if armed.is_set():
            armed.clear()
            raise KeyboardInterrupt

    def interrupt(first):
        if first:  # while the last epoch is waited for
            inside.wait()
            strike()
        letting_go.get()
        strike()

    before = signal.signal(signal.SIGINT, struck)
    eng = engine.open(home, **QUIET)
    try:
        eng.ingest(*stream(100))
        digest = eng.digest()
        monkeypatch.setattr(Cold, "_transact", transact)
        monkeypatch.setattr(engine.Engine, "_let_go", told)
        for call in range(calls):
            thread = threading.Thread(target=interrupt, args=(call == 0,))
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                eng.close()
            thread.join()
            with pytest.raises(EngineError, match="closed"):
                eng.ingest(1, 2)
            with pytest.raises(BusyError):
                hold(home)
    finally:
        signal.signal(signal.SIGINT, before)
        go_on.set()
    monkeypatch.undo()
    eng.close()
    with engine.open(home) as again:
        assert (again.seq, again.digest()) == (100, digest)
