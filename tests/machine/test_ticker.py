"""The ticker: calls while its object is there, and keeps it from nobody."""

import gc
import threading
import weakref
from queue import SimpleQueue

import pytest

from engine.contract.errors import EngineError
from engine.machine.ticker import Ticker


class Counted:
    def __init__(self):
        self.calls = SimpleQueue()

    def call(self):
        self.calls.put(threading.current_thread().name)


def test_it_calls_until_it_is_closed():
    counted = Counted()
    ticker = Ticker("rowtide-tick", 0.001, counted.call)
    assert [counted.calls.get() for _ in range(3)] == ["rowtide-tick"] * 3
    ticker.close()
    ticker.close()
    assert not ticker._thread.is_alive()


def test_it_ends_with_the_object():
    counted = Counted()
    ticker = Ticker("rowtide-tick", 0.001, counted.call)
    counted.calls.get()
    lost = weakref.ref(counted)
    del counted
    ticker._thread.join()
    gc.collect()
    assert lost() is None


def test_it_may_be_closed_by_what_it_calls():
    class Closing(Counted):
        def call(self):
            made.get().close()
            self.calls.put(None)

    made, closing = SimpleQueue(), Closing()
    ticker = Ticker("rowtide-tick", 0.001, closing.call)
    made.put(ticker)
    closing.calls.get()
    ticker._thread.join()


def test_no_thread_to_be_had(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(EngineError, match="rowtide-tick could not be started: can't start new thread"):
        Ticker("rowtide-tick", 1, Counted().call)
