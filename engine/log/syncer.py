"""The log made durable: by whoever calls, or beside that on a thread, while the record before is learned.

Responsible for where a sync runs and for what it takes; what it does is log.py's. One thread at a time, which waits for
a sync that it began before it appends again.
"""

import time

from ..machine.worker import Task, Worker
from .log import Log


class Syncer:
    def __init__(self, log: Log):
        self._log = log
        self._worker = Worker("rowtide-sync")
        self._begun: Task | None = None
        self.seconds = 0.0

    def sync(self) -> None:
        """`Log.sync`."""
        began = time.perf_counter()
        self._log.sync()
        self.seconds += time.perf_counter() - began

    def begin(self) -> None:
        """Begins a sync on the thread."""
        self._begun = Task(self.sync)
        self._worker.give(self._begun)

    def finish(self) -> None:
        """Waits for the sync that was begun, and raises what made it fail."""
        self._worker.drain()
        if self._begun and self._begun.error is not None:
            raise self._begun.error

    def close(self) -> None:
        """Waits for what runs, and ends the thread. Again is fine."""
        self._worker.close()
