"""A thread that works for others, which they may wait for where a signal's handler raises.

A handler may run between any two steps of Python code. The locks of `threading.Condition`, of `threading.Event` and of
`concurrent.futures` are taken in such code, so that what the handler raises can leave one taken for ever. Here nothing
is taken but by a single call into C: a queue's `put`, or a lock in a `with` statement.

The thread begins with the Worker. It keeps nothing of what it has done, so whoever loses a Worker gets all back.
"""

import atexit
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from ..contract.errors import EngineError

_Work = Callable[[], object]

_CLOSED_MEANWHILE = 0.5  # seconds until somebody who waits looks whether the thread has ended
_running: dict[threading.Thread, SimpleQueue[_Work | None]] = {}


class Task:
    """One call for a Worker to make, once."""

    def __init__(self, work: _Work):
        self._work: _Work | None = work
        self.ended = False
        self.error: BaseException | None = None

    def __call__(self) -> None:
        work, self._work = self._work, None  # what it holds goes with it
        assert work
        try:
            work()
        except BaseException as e:
            self.error = e
        self.ended = True


class Worker:
    """One thread, which does what it is given in order. Any thread may give and wait."""

    def __init__(self, name: str):
        """Raises EngineError if there is no thread to be had."""
        self._given: SimpleQueue[_Work | None] = SimpleQueue()
        self._alive = threading.Lock()  # the thread's, as long as it runs
        self._closed = False
        self._alive.acquire()
        weakref.finalize(self, self._given.put, None).atexit = False
        self._thread = threading.Thread(target=_serve, args=(self._given, self._alive), name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as e:
            raise EngineError(f"the thread {name} could not be started: {e}") from e

    def give(self, task: Task) -> None:
        """Has the task done after those that were given before. EngineError if the Worker is closed."""
        if self._closed or not self._alive.locked():
            raise EngineError(f"the thread {self._thread.name} has ended")
        self._given.put(task)

    def drain(self) -> None:
        """Waits until all is done that was given before. An interrupt ends the wait, and one may wait again."""
        passed = threading.Lock()
        passed.acquire()
        self._given.put(passed.release)
        while not passed.acquire(timeout=_CLOSED_MEANWHILE) and self._alive.locked():
            pass

    def close(self) -> None:
        """Waits until all is done, and ends the thread. Closing again is fine, also after an interrupt."""
        self._closed = True
        self._given.put(None)
        with self._alive:  # not by `join` alone: an interrupt makes that take the thread for ended
            pass
        self._thread.join()


def _serve(given: SimpleQueue[_Work | None], alive: threading.Lock) -> None:
    me = threading.current_thread()
    _running[me] = given
    try:
        while (work := given.get()) is not None:
            work()
            del work
    finally:
        del _running[me]
        alive.release()


@atexit.register
def _end_all() -> None:
    """A thread in C++ must not outlive the interpreter."""
    for thread, given in list(_running.items()):
        given.put(None)
        thread.join()
