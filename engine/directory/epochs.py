"""Epochs: freeze what is dirty, write it to LMDB in one transaction, then drop old log; and recovery, its mirror.

Invariants: nothing dirty reaches LMDB before its epoch; the log is durable up to the epoch's seq before LMDB is; the
log is kept one epoch back; one thread, this file's, writes LMDB. The writer's lock is needed for `begin` and `finish`.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np

from ..cold import changes
from ..contract.arrays import NO_IDS, Ids
from ..contract.errors import EngineError
from ..store.history import History
from ..store.removal import Frozen, Removal
from ..store.state import State
from ..table.table import Table
from .directory import Directory

LOG_BYTES = 1 << 30  # an epoch is due when the log has grown by as much


class Epochs:
    """Writes the epochs of one directory. `snapshot` gives the State of now, at a record's or a window's end."""

    def __init__(
        self,
        directory: Directory,
        tables: tuple[Table, Table],
        history: History,
        removal: Removal,
        snapshot: Callable[[], State],
        seconds: float,
        kept_limit: int,
    ):
        self._directory = directory
        self._users, self._items = tables
        self._history = history
        self._removal = removal
        self._snapshot = snapshot
        self._seconds = seconds
        self._kept_limit = kept_limit
        self._thread = ThreadPoolExecutor(1, "rowtide-epoch")
        self._running: Future[None] | None = None
        self._saved_seq = directory.state.seq  # in LMDB
        self._saved = directory.state.to_meta()
        with directory.cold.snapshot() as saved:
            self._number = changes.epoch_of(saved)
        self._drop_seq = 0
        self._error: BaseException | None = None
        self._interrupted = False
        self._log_mark = 0
        self._began = time.monotonic()
        self._count = 0
        self._write_seconds = 0.0
        self._wait_seconds = 0.0

    @property
    def saved_seq(self) -> int:
        return self._saved_seq

    def due(self) -> bool:
        """Is it time for one, with something to write? Looked at between records."""
        if self._users.warm.crowded or self._items.warm.crowded:
            return True
        if time.monotonic() - self._began < self._seconds:
            return self._directory.log.appended_bytes - self._log_mark >= LOG_BYTES
        return bool(self._users.warm.dirty + self._items.warm.dirty > 0) or self._removal.pending

    def crowded(self) -> bool:
        """Does a running epoch hold so many copies of changed rows that the writer should wait for its end?"""
        kept = self._users.warm.kept_bytes + self._items.warm.kept_bytes
        return self._running is not None and bool(kept > self._kept_limit)

    def begin(self) -> None:
        """Freezes what is dirty now and starts to write it; waits for the epoch before."""
        self.finish()
        if self._interrupted:
            raise EngineError("an epoch was interrupted while it began; close and open the directory again")
        log = self._directory.log
        state = self._snapshot()
        if log.synced_seq < state.seq or state.decided:  # what was decided is of a record that must not be lost
            log.sync()
        self._log_mark = log.appended_bytes
        self._began = time.monotonic()
        self._users.refresh()
        self._items.refresh()
        self._interrupted = True  # until it is handed over: a KeyboardInterrupt may come anywhere
        self._users.warm.freeze()
        self._items.warm.freeze()
        self._history.freeze()
        self._running = self._thread.submit(self._write, state, self._removal.freeze())
        self._interrupted = False

    def finish(self) -> None:
        """Waits for the running epoch, if there is one. What made it fail is kept for `require`."""
        if self._running is None:
            return
        began = time.monotonic()
        wait([self._running])  # an interrupt leaves it tracked
        self._wait_seconds += time.monotonic() - began
        self._error = self._running.exception()
        self._running = None
        self._removal.ended(self._error is None)
        if self._error is None:
            self._directory.log.drop_through(self._drop_seq)

    def require(self) -> None:
        """Raises if the last epoch failed and fails again now. Its rows were dirty again; nothing is lost."""
        if self._running is not None and self._running.done():
            self.finish()
        if self._error is not None:
            self.complete()

    def complete(self) -> None:
        """Writes an epoch of now, whole; raises if it fails."""
        self.begin()
        self.finish()
        if self._error is not None:
            raise self._error

    def last(self) -> None:
        """Writes an epoch of now if LMDB lacks anything; raises if it fails. At closing."""
        self.finish()
        if self._interrupted:
            return  # what is frozen is in nobody's hands; the log has it
        dirty = self._users.warm.dirty + self._items.warm.dirty > 0
        if dirty or self._removal.pending or self._snapshot().to_meta() != self._saved:
            self.complete()

    def purge(self) -> None:
        """Rids the files of what was forgotten: LMDB copied without its free pages, the log without a record.

        After `complete`, so that LMDB has everything. If it fails or is cut off, the state in LMDB still says that it
        is to be done.
        """
        self._directory.cold.compact()
        self._directory.log.empty()
        self._log_mark = self._directory.log.appended_bytes
        done = replace(self._snapshot(), purge=False).to_meta()
        self._directory.cold.write((), done)
        self._saved = done
        self._removal.purge = False

    def close(self) -> None:
        self._thread.shutdown()

    def stats(self) -> dict[str, float]:
        return {
            "epochs": self._count,
            "epoch_write_seconds": self._write_seconds,
            "epoch_wait_seconds": self._wait_seconds,
        }

    def _write(self, state: State, work: Frozen) -> None:
        began = time.monotonic()
        committed = False
        try:
            number = self._number + 1
            meta = state.to_meta()
            also = {changes.EPOCH: number.to_bytes(8, "little")}
            also |= self._directory.unsaved
            self._directory.cold.write(self._batches(number, state.items, work), meta | also, work.deletes)
            self._number, self._saved, self._directory.unsaved = number, meta, {}
            committed = True
            self._removal.deleted()
        finally:
            self._history.thaw(committed)  # it needs the frozen users, so it comes first
            self._users.warm.thaw(committed)
            self._items.warm.thaw(committed)
            self._write_seconds += time.monotonic() - began
        self._drop_seq = self._saved_seq
        self._saved_seq = state.seq
        self._count += 1

    def _batches(self, number: int, items: int, work: Frozen) -> Iterator[list[tuple[bytes, bytes]]]:
        users = 0
        for batch in self._users.frozen():
            users += len(batch)
            yield batch
        changed: list[Ids] = [NO_IDS]
        yield from self._items.frozen(changed.append)
        yield from self._history.frozen(users)
        yield work.hidden
        if work.can_be_followed:
            yield changes.encode(number, np.concatenate(changed), items)
