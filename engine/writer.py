"""The writer: one record's way, in order: log, sync, admit, plan, fetch, learn, epoch.

Responsible for who may write (`alone`), for what happens to a record and when, and for what is known afterwards: seq,
positions, failures. Lower rooms return what they need, rows or room, and the writer acts. Not for arguments and answers
(engine.py). A failure in the middle of learning leaves RAM behind the log, so it closes the writer: reopening replays
the log. One thread at a time; `seq`, `positions`, `failure` and `skipped` may be read by any.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from .contract.arrays import NO_IDS, Ids
from .contract.errors import CorruptionError, EngineError
from .contract.events import Events
from .contract.settings import Settings
from .directory.directory import Directory
from .directory.epochs import Epochs
from .directory.recovery import beyond
from .learn.model import Tally, native_events
from .log.parts import FORGET_POSITION
from .log.record import Record, follow_position, operations, records
from .log.syncer import Syncer
from .machine.backend import native
from .machine.resources import Resources
from .store.store import Applied, Store

if TYPE_CHECKING:
    from .device.device import Device

OnProgress = Callable[[int, int], None] | None
T = TypeVar("T")


class Writer:
    def __init__(self, store: Store, device: "Device | None", directory: Directory | None, resources: Resources):
        """`directory`: None in memory. `recover` comes before anything else."""
        self.store = store
        self.device = device
        self.directory = directory
        self.epochs = Epochs(directory, store, resources) if directory else None
        self.seq = 0
        self.positions: dict[str, bytes] = {}
        self.bit_exact = True
        self.skipped = 0
        self.failure: str | None = None
        self.inside: str | None = None  # the call that the thread is in that holds the lock
        self.lock = threading.RLock()
        self.closed = False  # by the Engine, which has the lock then
        self._roomy: Settings | None = None  # for whose micro-batches there is room
        self._turn: AbstractContextManager[None] = device.turn if device else nullcontext()  # readers rank with it, too
        self.syncer = Syncer(directory.log) if directory else None
        self._applied = 0  # records, of those that the log was given

    # --- opening

    def recover(self) -> dict[str, float]:
        """Takes over the state of the last epoch, then learns what the log has beyond it; says what it took."""
        if self.directory is None:
            return {}
        state = self.directory.state
        began = time.monotonic()
        self.store.restore(state)
        if self.device:
            self.device.catalogue.fill()
        scanned = time.monotonic()
        self.seq, self.positions, self.bit_exact = state.seq, dict(state.positions), state.bit_exact
        for record, start in beyond(self.directory):
            self.apply(record, Tally(), start)
        self._applied = self.directory.log.appended_records
        return {
            "scan_seconds": scanned - began,
            "scanned_items": state.items,
            "replay_seconds": time.monotonic() - scanned,
            "replayed_events": self.seq - state.seq,
        }

    def require_capacity(self, settings: Settings) -> None:
        """Raises ConfigError for settings whose micro-batches need more rows than there is room for."""
        if settings is self._roomy:
            return
        self.store.tables.require_capacity(settings)
        if self.device:
            self.device.require_capacity(settings)
        self._roomy = settings

    def change_settings(self, settings: Settings) -> None:
        """Has these settings in force from here on; the log has them first."""
        if self.directory:
            changed = {name: x for name, x in settings.as_dict().items() if name not in Settings.FIXED}
            self.directory.log.append(Record(self.seq + 1, settings.batch_size, NO_IDS, NO_IDS, settings=changed))
            self.directory.log.sync()
            self._applied += 1
        self.store.model.settings = settings

    # --- who may write

    def alone(self, call: str, work: Callable[[], T]) -> T:
        """What `work` returns, which has the lock; refused inside another call of the thread, and after a failure.

        No context manager: an interrupt could come between the lock that one takes and the block.
        """
        with self.lock:
            if self.closed:
                raise EngineError("this Engine is closed")
            self.require_outside(call)
            self._note()
            self.require_sound()
            if self.epochs is not None:
                if self.epochs.unattended():
                    self.epochs.finish()
                if self.epochs.error is not None:  # raises if it fails again; its rows were dirty again
                    self.complete_epoch()
            try:
                self.inside = call
                return work()
            except BaseException as e:
                self._note(e)
                raise
            finally:
                self.inside = None

    def _note(self, error: BaseException | None = None) -> None:
        """Notes a failure if RAM is behind the log or a device's steps; a replay alone mends that. After a call, and
        again before the next, for a second interrupt may have come."""
        behind = self.directory is not None and self.directory.log.appended_records != self._applied
        if behind or (self.device and self.device.under_way):
            self._failed(error or InterruptedError("in the middle of a call"))

    def require_outside(self, call: str) -> None:
        """Raises EngineError in a progress function or a signal handler that runs inside another call."""
        if self.inside:
            raise EngineError(
                f"{call}: called inside {self.inside} of the same thread, by a progress function or a signal handler; "
                "it needs the Engine to itself. Answers, positions and stats can be had there"
            )

    def require_sound(self) -> None:
        """Raises EngineError after a failure that left RAM behind the log."""
        if self.failure is not None:
            raise EngineError(f"an earlier call failed ({self.failure}); close and open the directory again")

    def _failed(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = f"{type(error).__name__}: {error}".removesuffix(": ")
            error.add_note("This Engine takes no more writes. Close it and open the directory again.")

    # --- a call's records

    def ingest(self, events: Events, position: tuple[str, bytes] | None, durable: bool, progress: OnProgress) -> Tally:
        """Logs and learns the events. What it raises says in `.seq` what was accepted of them."""
        before = self.seq
        try:
            return self._log_and_learn(events, position, durable, progress)
        except BaseException as e:
            self._note(e)
            if isinstance(e, MemoryError):
                e = EngineError(f"out of memory; close and open the directory again: {e}")
            accepted = self._accepted(durable)
            vars(e)["seq"] = accepted if accepted > before else None
            raise e

    def _log_and_learn(
        self, events: Events, position: tuple[str, bytes] | None, durable: bool, progress: OnProgress
    ) -> Tally:
        """Each record is logged, and if `durable` synced, before it is learned. Of several, the fsync of one overlaps
        the learning of the one before. What a device has under way is waited for at the end."""
        tally = Tally()
        waiting: Record | None = None
        try:
            for record in records(events, self.seq + 1, self.store.model.settings.batch_size, position):
                if self.directory is None or self.syncer is None:
                    self.apply(record, tally)
                    continue
                self.directory.log.append(record)
                if not durable:
                    self.apply(record, tally, wait=False)
                elif waiting is None and record.count == len(events):
                    self.syncer.sync()  # the only record: no thread to go through
                    self.apply(record, tally, wait=False)
                else:
                    self.syncer.begin()
                    last, waiting = waiting, None
                    try:
                        if last is not None:
                            self.apply(last, tally, wait=False)
                    finally:
                        self.syncer.finish()
                        waiting = record
                if progress:
                    progress(tally.events + tally.unlearned, len(events))
        finally:
            try:
                if waiting is not None and self.failure is None and waiting.first_seq == self.seq + 1:
                    self.apply(waiting, tally, wait=False)
            finally:  # also where what follows a record's learning, an epoch, was interrupted
                if self.failure is None:
                    self._wait(tally)
        if progress:
            progress(tally.events + tally.unlearned, len(events))
        return tally

    def _accepted(self, durable: bool) -> int:
        """The last event that a call has had accepted: the log decides, for what it holds is learned on reopening."""
        return self.directory.log.settle(durable) if self.directory else self.seq

    def operate(self, kind: str, users: Ids = NO_IDS, items: Ids = NO_IDS, source: str | None = None) -> None:
        """Logs and applies one of `parts.OPERATIONS`: on ids, or on a source."""
        for record in operations(kind, users, items, self.seq + 1, self.store.model.settings.batch_size, source):
            if self.directory and self.syncer:
                self.directory.log.append(record)
                self.syncer.sync()
            self.apply(record, Tally())

    # --- one record

    def apply(self, record: Record, tally: Tally, start: int = 0, wait: bool = True) -> None:
        """Applies one record of the log from event `start` on, also at replay. `wait`: leaves nothing under way."""
        try:
            if record.settings is not None:
                self.store.model.settings = self.store.model.settings.changed(record.settings)
            if record.count > start:
                self._learn_events(record, tally, start, wait)
            if record.operation is not None and record.operation != FORGET_POSITION:
                self._apply_operation(record)
            follow_position(self.positions, record)
        except BaseException as e:
            self._failed(e)
            raise
        self._applied += 1
        if self.epochs:
            if self.epochs.crowded():
                self.epochs.finish()
            if self.epochs.due():
                self._wait(tally)
                self.begin_epoch()

    def _learn_events(self, record: Record, tally: Tally, start: int, wait: bool) -> None:
        if record.first_seq + start != self.seq + 1:
            raise EngineError(f"event {record.first_seq + start} is due after {self.seq}")
        settings, admission = self.store.model.settings, self.store.admission
        skipped, events = tally.skipped, tally.events
        with self._turn:
            runs = admission.begin(record, start, settings.admit_after)
            for _ in admission.name(record, start):  # an epoch makes room for what it names
                self._make_room(record.first_seq - 1)
        for first, stop in runs:
            self._learn_run(record, first, stop, tally)
        admission.end()
        self.skipped += tally.skipped - skipped
        if wait or settings.row_ttl or settings.admit_after:
            self._wait(tally)
        tally.unlearned += record.count - start - (tally.events - events)
        self.seq = record.last_seq
        if settings.row_ttl:
            self._expire(record.first_seq - 1, settings.row_ttl)

    def _learn_run(self, record: Record, first: int, stop: int, tally: Tally) -> None:
        """Learns events [first, stop) of a record, window by window: planned, its rows brought in, then learned."""
        model = self.store.model
        settings = model.settings_for(record.batch_size)
        self.require_capacity(settings)
        events = native_events(record, slice(first, stop))
        start = 0
        while start < len(events):
            learned = None
            with self._turn:
                if self.device:
                    self.device.prepare(settings, len(events) - start)
                while (plan := model.plan(settings, events, start)) == native.Plan.fetch:
                    self.store.tables.deliver(model.wanted)
                    if not model.delivered():
                        what = "an item of the catalogue has no row in LMDB"
                        raise CorruptionError(what, seq=events.first_seq + start)
                if plan == native.Plan.ready:
                    learned = (
                        self.device.learn(settings, events, start) if self.device else model.learn(settings, events)
                    )
            if learned is None:  # every row in RAM is dirty
                tally.waits += 1
                self._wait_for_device(tally)
                self._make_room(events.first_seq + start - 1)  # without the turn: an epoch takes long
                continue
            start += learned.events
            tally.add(learned)
            if self.device:
                tally.land(*self.device.landed())

    def _apply_operation(self, record: Record) -> None:
        """Applies an operation, with no epoch running and RAM up to date: rows may leave."""
        if self.epochs:
            self.epochs.finish()  # before the turn is taken: it may take long
        with self._turn:
            if self.device:
                self.device.refresh()
            for _ in self.store.removal.apply(record):
                self.complete_epoch()

    def _expire(self, before: int, row_ttl: int) -> None:
        with self._turn:
            users, items = self.store.removal.due_for_expiry(before, self.seq, row_ttl)
            if not len(users) and not len(items):
                return
            if self.epochs:
                self.epochs.finish()
            if self.device:
                self.device.refresh()
            self.store.removal.expire(users, items)

    def _wait(self, tally: Tally) -> None:
        """Waits for what a device has under way; before anything but the next record's learning."""
        skipped = tally.skipped
        try:
            self._wait_for_device(tally)
        except BaseException as e:
            self._failed(e)
            raise
        self.skipped += tally.skipped - skipped

    def _wait_for_device(self, tally: Tally) -> None:
        if self.device:
            self.device.finish()
            tally.land(*self.device.landed())

    # --- epochs

    @property
    def applied(self) -> Applied:
        return Applied(self.seq, self.positions, self.bit_exact)

    def begin_epoch(self) -> None:
        """Begins to write what is dirty to LMDB; waits for the epoch before."""
        assert self.epochs
        self.epochs.finish()
        if self.device:
            self.device.refresh()
        self.epochs.begin(self.store.state(self.applied))

    def complete_epoch(self) -> None:
        """Writes an epoch of now, whole; raises if it fails."""
        assert self.epochs
        self.begin_epoch()
        self.epochs.finish(asked=True)
        if self.epochs.error is not None:
            raise self.epochs.error

    def _make_room(self, seq: int) -> None:
        """Every row in RAM is dirty: ends an epoch, in the middle of a record if need be (an epoch syncs the log)."""
        if self.epochs is None:
            raise EngineError("no memory for more rows")
        self.seq = seq
        self.complete_epoch()

    def begin_if_due(self) -> None:
        """Begins the epoch that is due by time, unless somebody writes now."""
        assert self.epochs
        if self.epochs.due() and self.lock.acquire(blocking=False):
            try:
                self._note()
                if self.failure is None and self.epochs.due():
                    self.begin_epoch()
            except Exception as e:
                self._failed(e)
            finally:
                self.lock.release()

    def checkpoint(self) -> int:
        """Writes an epoch of now, and after a `forget` rids the files of what was forgotten; the seq in LMDB."""
        if self.epochs is not None:
            self.epochs.require_there()
            self.complete_epoch()
            if self.store.removal.purge:
                self.epochs.purge(self.store.state(self.applied))
        return self.seq

    def write_last_epoch(self) -> None:
        """At closing: writes an epoch of now if LMDB lacks anything; raises if it fails."""
        self._note()
        if self.epochs is None or self.failure is not None:
            return
        self.epochs.require_there()
        self.epochs.finish(asked=True)
        if not self.epochs.interrupted and self.epochs.lacks(self.store.state(self.applied)):
            self.complete_epoch()

    def close(self) -> None:
        """Ends the threads and lets go of the directory."""
        for part in (self.epochs, self.syncer, self.directory):
            if part:
                part.close()
