"""Epochs: freeze what is dirty, write it to LMDB in one transaction, then drop old log. recovery.py is the mirror.

Invariants: nothing dirty reaches LMDB before its epoch; the log is durable up to the epoch's seq before LMDB is; the
log is kept one epoch back; one thread, this file's, writes LMDB, so that no signal's handler raises there. The writer's
lock is needed for all but `due`, `crowded` and `stats`.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from ..cold import changes
from ..cold.keys import Pair
from ..contract import logger
from ..contract.arrays import NO_IDS, Ids
from ..contract.errors import EngineError
from ..machine.resources import Resources
from ..machine.worker import Task, Worker
from ..store.removal import FrozenRemoval
from ..store.state import State
from ..store.store import Store
from .directory import Directory

_DELETED = (
    "the directory was deleted while it is open; nothing that was learned will be on disk. Answers go on from RAM "
    "until it is closed, and backup() saves the model elsewhere"
)
LOG_BYTES = 1 << 30  # an epoch is due when the log has grown by as much


class Epochs:
    """Writes the epochs of one directory."""

    def __init__(self, directory: Directory, store: Store, resources: Resources):
        self._directory = directory
        self._store = store
        self._seconds = resources.epoch_seconds
        self._kept_limit = resources.warm_bytes // 4
        self._worker = Worker("rowtide-epoch")
        self._running: Task | None = None
        self._purging: Task | None = None
        self._saved_seq = directory.state.seq  # in LMDB
        self._saved = directory.state.to_meta()
        with directory.cold.snapshot() as saved:
            self._number = changes.epoch_of(saved)
        self._drop_seq = 0
        self._error: BaseException | None = None
        self._interrupted = False
        self._said_deleted = False
        self._log_mark = 0
        self._began = time.monotonic()
        self._count = 0
        self._write_seconds = 0.0
        self._wait_seconds = 0.0

    @property
    def saved_seq(self) -> int:
        """Of the last epoch that is in LMDB."""
        return self._saved_seq

    @property
    def error(self) -> BaseException | None:
        """What made the last epoch fail that was waited for. Its rows are dirty again; nothing is lost."""
        return self._error

    @property
    def interrupted(self) -> bool:
        """Was an epoch cut off while it began? What it froze is in nobody's hands; the log has it."""
        return self._interrupted

    def due(self) -> bool:
        """Is it time for one, with something to write? Looked at between records."""
        if self._store.tables.crowded:
            return True
        if time.monotonic() - self._began < self._seconds:
            return self._directory.log.appended_bytes - self._log_mark >= LOG_BYTES
        return self._store.tables.dirty > 0 or self._store.removal.pending

    def crowded(self) -> bool:
        """Does a running epoch hold so many copies of changed rows that the writer should wait for its end?"""
        return self._running is not None and self._store.tables.kept_bytes > self._kept_limit

    def lacks(self, state: State) -> bool:
        """Has LMDB anything otherwise than `state`, the one of now?"""
        return self._store.tables.dirty > 0 or self._store.removal.pending or state.to_meta() != self._saved

    def begin(self, state: State) -> None:
        """Freezes what is dirty now and starts to write it, and `state`, the one of now. No epoch runs; RAM is up to
        date."""
        if self._interrupted:
            raise EngineError("an epoch was interrupted while it began; close and open the directory again")
        log = self._directory.log
        if log.synced_seq < state.seq or state.decided:  # what was decided is of a record that must not be lost
            log.sync()
        if self._directory.deleted and not self._said_deleted:
            self._said_deleted = True
            logger.LOGGER.warning("%s: %s", self._directory.path, _DELETED)
        self._log_mark = log.appended_bytes
        self._began = time.monotonic()
        self._interrupted = True  # until it is handed over: a KeyboardInterrupt may come anywhere
        self._store.tables.freeze()
        self._running = Task(partial(self._write, state, self._store.removal.freeze()))
        self._worker.give(self._running)
        self._interrupted = False

    def unattended(self) -> bool:
        """Has an epoch ended that nobody has waited for, or was an interrupt in the way of waiting for a purge? That
        empties the log, which must not grow meanwhile."""
        return self._purging is not None or (self._running is not None and self._running.ended)

    def finish(self, asked: bool = False) -> None:
        """Waits for the running epoch, if there is one. What made it fail is kept as `error`. An interrupt may come at
        every step: whoever calls it next goes on. `asked`: the caller wants an epoch, so that the wait is no stall."""
        if self._purging is not None:
            self._worker.drain()
            self._purging = None
        if self._running is None or self._interrupted:
            return
        began = time.monotonic()
        self._worker.drain()
        waited = time.monotonic() - began
        self._wait_seconds += waited
        if waited >= logger.SLOW_WAIT_SECONDS and not asked:
            logger.LOGGER.warning("%s: a call waited %.1f s for an epoch to be written", self._directory.path, waited)
        self._error = self._running.error
        self._store.removal.ended(self._error is None)
        self._running = None
        if self._error is None:
            self._directory.log.drop_through(self._drop_seq)
        else:
            failed = f"{type(self._error).__name__}: {self._error}"  # no handler shall keep the exception
            said = "%s: an epoch failed, the log has what it would have held: %s"
            logger.LOGGER.warning(said, self._directory.path, failed)

    def require_there(self) -> None:
        """Raises EngineError if the directory was deleted while it is open: nothing that is written to it stays."""
        if self._directory.deleted:
            raise EngineError(f"{self._directory.path}: {_DELETED}")

    def purge(self, state: State) -> None:
        """Rids the files of what was forgotten: LMDB copied without its free pages, the log without a record.

        After an epoch of now, so that LMDB has everything; `state` is the one of now. If it fails or is cut off, the
        state in LMDB still says that it is to be done.
        """
        purging = self._purging = Task(partial(self._purge, state))
        self._worker.give(purging)
        self.finish()
        error = purging.error
        if error is not None:
            try:
                raise error
            finally:
                del error, purging  # its traceback has this frame

    def close(self) -> None:
        """Waits for what runs, and ends the thread. Again is fine."""
        self._worker.close()
        self._error = self._running = self._purging = None  # a traceback leads back here, and so to all tables

    def stats(self) -> dict[str, float]:
        """How many epochs, and what they took."""
        return {
            "epochs": self._count,
            "epoch_write_seconds": self._write_seconds,
            "epoch_wait_seconds": self._wait_seconds,
        }

    # --- the epoch's thread

    def _purge(self, state: State) -> None:
        self._directory.cold.compact()
        self._directory.log.empty()
        self._log_mark = self._directory.log.appended_bytes
        done = replace(state, purge=False).to_meta()
        self._directory.cold.write((), done)
        self._saved = done
        self._store.removal.purge = False

    def _write(self, state: State, removed: FrozenRemoval) -> None:
        began = time.monotonic()
        committed = False
        try:
            number = self._number + 1
            meta = state.to_meta()
            also = {changes.EPOCH: number.to_bytes(8, "little")} | self._directory.unsaved
            self._directory.cold.write(self._batches(number, state.items, removed), meta | also, removed.deletes)
            self._number, self._saved, self._directory.unsaved = number, meta, {}
            committed = True
            self._store.tables.deleted()
        finally:
            self._store.tables.thaw(committed)
            self._write_seconds += time.monotonic() - began
        self._drop_seq = self._saved_seq
        self._saved_seq = state.seq
        self._count += 1
        took, path = time.monotonic() - began, self._directory.path
        logger.LOGGER.info("%s: epoch %d, up to seq %d, is in LMDB after %.2f s", path, number, state.seq, took)

    def _batches(self, number: int, items: int, removed: FrozenRemoval) -> Iterator[list[Pair]]:
        tables = self._store.tables
        users = 0
        changed: list[Ids] = [NO_IDS]
        for table, part in tables.frozen():
            if table is tables.users:
                users += len(part.ids)
            elif table is tables.items:
                changed.append(part.ids)
            yield part.pairs
        yield from tables.frozen_histories(users)
        yield removed.hidden
        if removed.can_be_followed:
            yield changes.encode(number, np.concatenate(changed), items)
