"""A thread that calls a method now and then, for as long as somebody has the object.

It has only a weak reference, so that the object ends where its owner loses it; the thread then ends by itself. Nothing
is locked here in Python code, where what a signal's handler raises could leave it locked.
"""

import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue

from ..contract.errors import EngineError


class Ticker:
    def __init__(self, name: str, seconds: float, method: Callable[[], None]):
        """Calls the bound `method` every so many seconds. EngineError if there is no thread to be had."""
        self._stop: SimpleQueue[None] = SimpleQueue()
        what = self._stop, seconds, weakref.WeakMethod(method)
        self._thread = threading.Thread(target=_tick, args=what, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as e:
            raise EngineError(f"the thread {name} could not be started: {e}") from e

    def close(self) -> None:
        """Waits for a call in progress and ends the thread. Closing again is fine, also after an interrupt."""
        self._stop.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()


def _tick(stop: "SimpleQueue[None]", seconds: float, of: "weakref.WeakMethod[Callable[[], None]]") -> None:
    while True:
        try:
            return stop.get(timeout=seconds)
        except Empty:
            if (method := of()) is None:
                return
            method()
            del method
