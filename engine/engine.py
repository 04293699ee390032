"""Engine: where log, table, learn and rank meet; `ingest` and `topk` read top to bottom.

One writer at a time (`_writing`); readers take no lock of this file. Any thread may call anything. A failure in the
middle of learning leaves RAM behind the log, so it closes the engine to writes: reopening replays the log.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from .answers import Reading
from .cold.keys import ITEMS, USERS
from .contract.arguments import checked_position, describe, flag
from .contract.arrays import NO_IDS, Ids
from .contract.errors import EngineError, InputError
from .contract.events import Events
from .contract.reports import IngestReport
from .contract.settings import Settings
from .directory import epochs as epoch
from .directory import recovery
from .directory.directory import Directory
from .learn.model import Learned, Model
from .log.record import Record, records
from .machine.resources import Resources
from .rank.ranker import Ranker
from .removing import Removing
from .saving import Saving
from .store.admission import Admission
from .store.catalogue import Catalogue
from .store.history import History
from .store.removal import Removal
from .store.state import State
from .table.layout import capacities
from .table.table import Table

if TYPE_CHECKING:
    from .device.device import Device


class Engine(Reading, Removing, Saving):
    """A model that learns from events and ranks items. Made by `engine.open`."""

    def __init__(self, directory: Directory | None, settings: Settings, resources: Resources, given: dict[str, Any]):
        """`settings`: of the last epoch, for the replay; `given`: what the caller wants after it, None for as it is."""
        self._directory = directory
        self._resources = resources
        cold = directory.cold if directory else None
        capacity = capacities(settings.dim, settings.optimizer, resources.warm_bytes if directory else None)
        self._users = Table(USERS, settings.dim, settings.optimizer, capacity[0], cold)
        self._items = Table(ITEMS, settings.dim, settings.optimizer, capacity[1], cold)
        self._device = _device(settings, resources)
        self._catalogue = self._device.catalogue if self._device else Catalogue(settings.dim)
        self._history = History(
            self._users.warm, capacity[2], cold.fetch_chunks if cold else lambda user: [], lambda: self._users.gone
        )
        self._model = Model(settings, self._users.warm, self._items.warm, self._catalogue.native, self._history.native)
        if self._device:
            self._device.put_before(self._users, self._items, self._model)
        self._removal = Removal(self._users, self._items, self._catalogue, self._history, self._model)
        self._admission = Admission(self._users, self._items, self._catalogue, self._history, settings.seed)
        self._ranker = Ranker(self._users, self._catalogue, self._history, self._model, resources.threads)
        self._turn = self._device.turn if self._device else nullcontext()
        self._writing = threading.RLock()
        self._inside: str | None = None  # the call that the thread is in that holds the lock
        self._pid = os.getpid()
        self._closed = False
        self._at_end = ExitStack()
        self._failure: str | None = None
        self._seq = 0
        self._positions: dict[str, bytes] = {}
        self._bit_exact = True
        self._skipped = 0
        self._sync_seconds = 0.0
        self._opening: dict[str, float] = {}
        self._epochs: epoch.Epochs | None = None
        self._syncer: ThreadPoolExecutor | None = None
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        if directory:
            self._recover(directory)
        wanted = Settings.resolve(given, self._model.settings)
        self._model.require_room(wanted)
        if directory and directory.unsaved and self._epochs:
            self._epochs.complete()  # a directory of format 1 is migrated before anything is appended to its log
        if wanted != self._model.settings:
            self._change_settings(wanted)
        if directory:
            self._ticker = threading.Thread(target=self._tick, name="rowtide-tick", daemon=True)
            self._ticker.start()

    # --- opening

    def _recover(self, directory: Directory) -> None:
        state = directory.state
        began = time.monotonic()
        recovery.restore(
            directory, (self._users, self._items), self._catalogue, self._removal, self._admission, self._model
        )
        scanned = time.monotonic()
        self._seq, self._positions, self._bit_exact = state.seq, dict(state.positions), state.bit_exact
        self._epochs = epoch.Epochs(
            directory,
            (self._users, self._items),
            self._history,
            self._removal,
            self._snapshot,
            self._resources.epoch_seconds,
            self._resources.warm_bytes // 4,
        )
        self._removal.settle = self._epochs.finish
        self._removal.make_room = self._epochs.complete
        self._syncer = ThreadPoolExecutor(1, "rowtide-sync")
        replayed = recovery.replay(directory, lambda record, start: self._learn(record, Learned(), start))
        self._opening = {
            "scan_seconds": scanned - began,
            "scanned_items": state.items,
            "replay_seconds": time.monotonic() - scanned,
            "replayed_events": replayed,
        }

    def _change_settings(self, given: Settings) -> None:
        if self._directory:
            record = Record(self._seq + 1, given.batch_size, NO_IDS, NO_IDS, settings=_changeable(given))
            self._directory.log.append(record)
            self._directory.log.sync()
        self._model.settings = given

    def _tick(self) -> None:
        """Begins the epoch that is due by time while nobody ingests."""
        assert self._epochs
        while not self._stop.wait(max(0.05, self._resources.epoch_seconds / 4)):
            if self._epochs.due() and self._writing.acquire(blocking=False):
                try:
                    if not self._closed and self._failure is None and self._epochs.due():
                        self._epochs.begin()
                except Exception as e:
                    self._failure = self._failure or f"{type(e).__name__}: {e}"
                finally:
                    self._writing.release()

    # --- learning

    def ingest(
        self,
        users: Any,
        items: Any,
        values: Any = None,
        *,
        weights: Any = None,
        timestamps: Any = None,
        durable: bool = True,
        position: tuple[str, bytes] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> IngestReport:
        """Learns the events (users[i], items[i]) in order; when it returns they are on disk and in every later answer.

        Args:
            users, items: ids, scalars or 1-D columns of equal length; any int64 but -1.
            values: float [n], required with the losses "logistic" (each 0 or 1) and "squared" (finite ratings), which
                learn to predict them; None with "softmax" and "bpr", which learn from positives.
            weights: float [n] >= 0, scale each event's loss; 1 by default.
            timestamps: Unix seconds or datetime64 [n]; kept in the log.
            durable: False: in the page cache only; survives SIGKILL, not power loss.
            position: (source, bytes) stored in the same log record, so at most 65,536 events; `position()` reads it.
            progress: called as progress(events done, events in all) now and then.

        A progress function may ask for answers, positions and `stats`; calls that change the Engine or need it to stand
        still, as `digest` does, are refused. What it raises ends the call after an accepted part.

        Raises InputError for bad arguments, with nothing changed; StorageFullError and EngineError, whose `.seq` says
        what was accepted.

        >>> report = eng.ingest([7, 7, 8], [100, 101, 100])
        >>> report.events, report.new_users, report.new_items, report.seq
        (3, 2, 2, 3)
        """
        began = time.perf_counter()
        events = Events.check(
            users, items, values=values, weights=weights, timestamps=timestamps, loss=self._model.settings.loss
        )
        position = checked_position(position, len(events))
        durable = flag("durable", durable)
        if progress is not None and not callable(progress):
            raise InputError(f"progress: got {describe(progress)}, wanted a function of (events done, events in all)")
        learned = Learned()
        with self._writer("ingest"):
            before = self._seq
            try:
                self._log_and_learn(events, position, durable, learned, progress)
            except BaseException as e:
                if self._model.under_way or (self._directory and self._directory.log.last_seq != self._seq):
                    # Whatever it was, an interrupt perhaps: RAM is behind the log, and only a replay brings it there.
                    self._failure = self._failure or f"{type(e).__name__}: {e}"
                if isinstance(e, MemoryError):
                    e = EngineError(f"out of memory; close and open the directory again: {e}")
                if isinstance(e, EngineError):
                    accepted = self._accepted(durable)
                    e.seq = accepted if accepted > before else None
                raise e
            seq = self._seq
        return IngestReport(
            events=learned.events + learned.unlearned,
            seq=seq,
            loss=learned.loss / learned.events if learned.events else math.nan,
            new_users=learned.new_users,
            new_items=learned.new_items,
            seconds=time.perf_counter() - began,
            found={"warm": learned.warm, "cold": learned.cold, "made": learned.new_users + learned.new_items},
            unlearned=learned.unlearned,
        )

    def _log_and_learn(
        self,
        events: Events,
        position: tuple[str, bytes] | None,
        durable: bool,
        learned: Learned,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Each record is durable before it is learned; its fsync overlaps the learning of the one before. So do its
        plan and its rows' way to a device: what that has under way is waited for at the end."""
        waiting: Record | None = None
        try:
            for record in records(events, self._seq + 1, self._model.settings.batch_size, position):
                if self._directory is None:
                    self._learn(record, learned)
                    continue
                self._directory.log.append(record)
                if not durable:
                    self._learn(record, learned, finish=False)
                elif waiting is None and record.count == len(events):
                    self._sync()  # the only record: no thread to go through
                    self._learn(record, learned, finish=False)
                else:
                    assert self._syncer
                    synced = self._syncer.submit(self._sync)
                    last, waiting = waiting, None
                    try:
                        if last is not None:
                            self._learn(last, learned, finish=False)
                    finally:
                        synced.result()
                        waiting = record
                if progress:
                    progress(learned.events + learned.unlearned, len(events))
        finally:
            try:
                if waiting is not None and self._failure is None:
                    self._learn(waiting, learned, finish=False)
            finally:  # also where what follows a record's learning, an epoch, was interrupted
                if self._failure is None:
                    self._finish(learned)
        if progress:
            progress(learned.events + learned.unlearned, len(events))

    def _accepted(self, durable: bool) -> int:
        """The last event that a call has had accepted: the log decides, for what it holds is learned on reopening."""
        if self._directory is None:
            return self._seq
        return self._directory.log.synced_seq if durable else self._directory.log.last_seq

    def _sync(self) -> None:
        assert self._directory
        began = time.perf_counter()
        self._directory.log.sync()
        self._sync_seconds += time.perf_counter() - began

    def _finish(self, learned: Learned) -> None:
        """Waits for what a device has under way; before anything but the next record's learning."""
        skipped = learned.skipped
        try:
            self._model.finish(learned)
        except BaseException as e:
            self._failure = self._failure or f"{type(e).__name__}: {e}"
            raise
        self._skipped += learned.skipped - skipped

    def _learn(self, record: Record, learned: Learned, start: int = 0, finish: bool = True) -> None:
        """Applies one record that is in the log. Also the replay's path. `finish`: leaves nothing under way."""
        try:
            if record.settings is not None:
                self._model.settings = self._model.settings.changed(record.settings)
            if record.count > start:
                if record.first_seq + start != self._seq + 1:
                    raise EngineError(f"event {record.first_seq + start} is due after {self._seq}")
                before = learned.skipped, learned.events
                settings = self._model.settings
                with self._turn:
                    runs = self._admission.begin(
                        record, start, settings.admit_after, lambda: self._make_room(record.first_seq - 1)
                    )
                for first, stop in runs:
                    self._model.learn(
                        record.users[first:stop],
                        record.items[first:stop],
                        None if record.values is None else record.values[first:stop],
                        None if record.weights is None else record.weights[first:stop],
                        first_seq=record.first_seq + first,
                        batch_size=record.batch_size,
                        deliver=self._deliver,
                        make_room=self._make_room,
                        into=learned,
                    )
                self._admission.end()
                self._skipped += learned.skipped - before[0]
                if finish or settings.row_ttl or settings.admit_after:
                    self._finish(learned)
                learned.unlearned += record.count - start - (learned.events - before[1])
                self._seq = record.last_seq
                if ttl := settings.row_ttl:
                    with self._turn:
                        self._removal.expire(record.first_seq - 1, self._seq, ttl)
            if record.operation is not None:
                self._removal.settle()  # before the turn is taken: it may take long
                with self._turn:
                    self._removal.apply(record)
            if record.position is not None:
                self._positions[record.position[0]] = record.position[1]
        except BaseException as e:
            self._failure = f"{type(e).__name__}: {e}"
            raise
        if self._epochs:
            if self._epochs.crowded():
                self._epochs.finish()
            if self._epochs.due():
                self._finish(learned)
                self._epochs.begin()

    def _deliver(self, users: Ids, items: Ids) -> None:
        self._users.deliver(users, self._history.deliver)
        self._items.deliver(items)

    def _make_room(self, seq: int) -> None:
        """Every row in RAM is dirty: ends an epoch, in the middle of a record if need be (its log is durable)."""
        if self._epochs is None:
            raise EngineError("no memory for more rows")
        self._seq = seq
        self._epochs.complete()

    def _snapshot(self) -> State:
        if self._model.under_way:
            raise EngineError("a device has not finished what it learns")
        users, items = self._model.totals
        return State(
            seq=self._seq,
            rows={"users": users, "items": items},
            mean=self._model.mean,
            mean_count=self._model.mean_count,
            settings=self._model.settings,
            positions=dict(self._positions),
            value_sums=self._model.value_sums,
            bit_exact=self._bit_exact,
            ordinals=len(self._catalogue),
            hidden=len(self._catalogue.native.hidden),
            purge=self._removal.purge,
            sightings=self._admission.sightings,
            decided=self._admission.decided,
        )

    # --- state

    def _answering(self) -> AbstractContextManager[tuple[int, Ranker]]:
        self._alive()
        if self._device and self._failure is not None:  # what was under way on the device is in nobody's hands
            raise EngineError(f"an earlier call failed ({self._failure}); close and open the directory again")
        return nullcontext((self._seq, self._ranker))  # the seq before anything is read

    def refresh(self) -> int:
        """The seq. An Engine that learns is always at its newest state; see `Reader.refresh`.

        >>> eng.refresh() == eng.seq
        True
        """
        self._alive()
        return self._seq

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in force, by name."""
        return self._model.settings.as_dict()

    def position(self, source: str) -> bytes | None:
        """What the last `ingest` with a position of this source stored; None if there was none.

        >>> report = eng.ingest(7, 100, position=("clicks", b"file 3, row 41"))
        >>> eng.position("clicks")
        b'file 3, row 41'
        """
        self._alive()
        if not isinstance(source, str):
            raise InputError(f"source: got {describe(source)}, wanted a str")
        return self._positions.get(source)

    def stats(self) -> dict[str, Any]:
        """Rows, bytes and seqs by tier (on a device without the rows that it drew and nobody has asked for yet in
        `dirty_rows` and `ahead_rows`); `disk` by cause: LMDB's pages with live rows, its free pages, the log; and what
        opening and syncing took. On a device also what it holds for ranking: `device_catalogue_bytes`, items of
        `device_catalogue_items`; `catalogue_tiled` says that there are more, brought there from RAM for each ranking.

        >>> report = eng.ingest([7, 8], [100, 100])
        >>> eng.stats()["users"]["rows"], eng.stats()["items"]["rows"]
        (2, 1)
        """
        self._alive()
        out: dict[str, Any] = {
            "seq": self._seq,
            "durable_seq": self._directory.log.synced_seq if self._directory else 0,
            "lmdb_seq": self._epochs.saved_seq if self._epochs else 0,
            "bit_exact": self._bit_exact,
            "skipped_updates": self._skipped,
            "users": self._users.stats(),
            "items": self._items.stats(),
            "device": self._device.name if self._device else "cpu",
            "catalogue_bytes": self._catalogue.bytes,
            **(self._device.catalogue.stats() if self._device else {}),
            "history_bytes": self._history.ram_bytes,
            "hidden_items": len(self._catalogue.native.hidden),
            "expired_rows": self._removal.expired,
        }
        if self._directory and self._epochs:
            lmdb = out["lmdb"] = self._directory.cold.stats()
            out["log_bytes"] = self._directory.log.bytes
            out["disk"] = {
                "live_bytes": lmdb["used_pages"] * lmdb["page_bytes"],
                "free_bytes": lmdb["free_pages"] * lmdb["page_bytes"],
                "log_bytes": self._directory.log.bytes,
            }
            out["sync_seconds"] = self._sync_seconds
            out["opening"] = dict(self._opening)
            out |= self._epochs.stats()
        return out

    # --- lifetime

    def close(self) -> None:
        """Writes what LMDB lacks as a last epoch and lets go of the directory. Closing twice is fine.

        So the next opening has nothing to replay, and readers see all. After a call that closed the Engine to writes
        there is no such epoch. Raises StorageFullError, EngineError if it fails: what was durable stays so, for the log
        has it, and the directory is let go of all the same.
        """
        if self._pid != os.getpid():
            return
        with self._writing:
            if self._closed:
                return
            self._require_outside("close")
            self._closed = True
            self._stop.set()
            try:
                if self._epochs and self._failure is None and not self._temporary:
                    self._epochs.last()
            finally:
                with self._at_end:
                    if self._ticker:
                        self._ticker.join()
                    if self._epochs:
                        self._epochs.close()
                    if self._syncer:
                        self._syncer.shutdown()
                    if self._directory:
                        self._directory.close()

    def _require_outside(self, call: str) -> None:
        if self._inside:
            raise EngineError(
                f"{call}: called inside {self._inside} of the same thread, by a progress function or a signal handler; "
                "it needs the Engine to itself. Answers, positions and stats can be had there"
            )

    @contextmanager
    def _writer(self, call: str) -> Iterator[None]:
        self._alive()
        with self._writing:
            self._alive()
            self._require_outside(call)
            if self._failure is not None:
                raise EngineError(f"an earlier call failed ({self._failure}); close and open the directory again")
            if self._epochs is not None:
                self._epochs.require()
            try:
                self._inside = call
                yield
            finally:
                self._inside = None


def _device(settings: Settings, resources: Resources) -> "Device | None":
    if resources.device == "cpu":
        return None
    from .device.device import Device  # here, because it imports torch and Triton

    return Device(settings, resources.hot_bytes)


def _changeable(settings: Settings) -> dict[str, Any]:
    return {name: x for name, x in settings.as_dict().items() if name not in Settings.FIXED}
