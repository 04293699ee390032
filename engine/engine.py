"""Engine: the public calls of a model that learns. `ingest` goes on in writer.py; `topk` is in answers.py.

docs/how-it-works/path-of-an-event.md and path-of-a-query.md tell both ways from end to end.

Responsible for arguments, for answers about the whole, and for the lifetime. Not for a record's way (writer.py), nor
for what a list is made from (rank/). One writer at a time; readers take no lock of this file. Any thread may call
anything.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from .answers import Answers
from .cold.cold import Snapshot
from .contract.arguments import checked_position, describe, flag, id_column
from .contract.arrays import NO_IDS, Ids
from .contract.errors import ConfigError, InputError
from .contract.events import Events
from .contract.reports import IngestReport
from .contract.settings import Settings
from .directory import backup
from .directory.directory import Directory
from .machine.resources import Resources
from .rank.ranker import CatalogueRanker
from .store.store import Store
from .writer import Writer

if TYPE_CHECKING:
    from .device.device import Device

T = TypeVar("T")


class Engine(Answers):
    """A model that learns from events and ranks items. Made by `engine.open`."""

    def __init__(self, directory: Directory | None, settings: Settings, resources: Resources, given: dict[str, Any]):
        """`settings`: of the last epoch, for the replay; `given`: what the caller wants after it, None for as it is."""
        super().__init__()
        self._directory = directory
        warm_bytes, cold = (resources.warm_bytes, directory.cold) if directory else (None, None)
        self._store = Store(settings, warm_bytes, cold)
        self._device = _device(settings, resources, self._store)
        self._writer = Writer(self._store, self._device, directory, resources)
        self._ranker = CatalogueRanker(self._device or self._store, resources.threads)
        self._opening = self._writer.recover()
        wanted = Settings.resolve(given, self._store.model.settings)
        self._writer.require_capacity(wanted)
        if directory and directory.unsaved:
            self._writer.complete_epoch()  # a directory of format 1 is migrated before its log gets a record
        if wanted != self._store.model.settings:
            self._writer.change_settings(wanted)
        self._stop: SimpleQueue[None] = SimpleQueue()
        self._ticker: threading.Thread | None = None
        if directory:
            seconds = max(0.05, resources.epoch_seconds / 4)
            self._ticker = threading.Thread(target=self._tick, args=(seconds,), name="rowtide-tick", daemon=True)
            self._ticker.start()

    def _tick(self, seconds: float) -> None:
        """Begins the epoch that is due by time while nobody ingests."""
        while True:
            try:
                return self._stop.get(timeout=seconds)
            except Empty:
                self._writer.begin_if_due()

    @property
    def _seq(self) -> int:
        return self._writer.seq

    def _alone(self, call: str, work: Callable[[], T]) -> T:
        """What `work` returns, which has the writer's lock."""
        self._alive()
        return self._writer.alone(call, work)

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
            values: float [n], required with pointwise losses, as "logistic" (each 0 or 1) and "squared" (finite
                ratings), which learn to predict them; None with losses that learn from positives, as "softmax".
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
        loss = self._store.model.settings.loss
        events = Events.check(users, items, values=values, weights=weights, timestamps=timestamps, loss=loss)
        position = checked_position(position, len(events))
        durable = flag("durable", durable)
        if progress is not None and not callable(progress):
            raise InputError(f"progress: got {describe(progress)}, wanted a function of (events done, events in all)")
        writer = self._writer
        tally, seq = self._alone("ingest", lambda: (writer.ingest(events, position, durable, progress), writer.seq))
        return IngestReport(
            events=tally.events + tally.unlearned,
            seq=seq,
            loss=tally.loss / tally.events if tally.events else math.nan,
            new_users=tally.new_users,
            new_items=tally.new_items,
            seconds=time.perf_counter() - began,
            found={"warm": tally.warm, "cold": tally.cold, "made": tally.new_users + tally.new_items},
            unlearned=tally.unlearned,
        )

    # --- removing

    def hide(self, items: Any) -> None:
        """These items are in no answer of `topk` until `show` is called, not even by `include`; on disk at return.

        items: a scalar or a column of ids; an id that is no item yet is not ranked when it becomes one. Hidden items
        are learned as others, also as negatives, and have scores and vectors. Raises InputError, StorageFullError.
        """
        self._operate("hide", NO_IDS, id_column("items", items))

    def show(self, items: Any) -> None:
        """These items are ranked again; as `hide`."""
        self._operate("show", NO_IDS, id_column("items", items))

    def forget(self, users: Any = None, items: Any = None) -> None:
        """Removes rows, histories and catalogue entries of these ids; on disk at return.

        Forgotten items leave the histories of all users, too, and are hidden no more. After the next `checkpoint()` no
        byte of the ids or of their vectors is in log or LMDB. An id that comes again is new. Ids that are not there are
        fine. Forgetting an item reads all histories that are in LMDB. More than 65,536 ids are several log records: a
        call that fails may have done the first ones. Raises InputError, StorageFullError.
        """
        if users is None and items is None:
            raise InputError("users, items: got neither, wanted ids to forget")
        self._operate(
            "forget",
            NO_IDS if users is None else id_column("users", users),
            NO_IDS if items is None else id_column("items", items),
        )

    def _operate(self, kind: str, users: Ids, items: Ids) -> None:
        self._alone(kind, lambda: self._writer.operate(kind, users, items))

    # --- saving

    def checkpoint(self) -> int:
        """Writes everything learned to LMDB now; returns the seq that is in LMDB.

        After a `forget` it also copies LMDB's file without its free pages, and empties the log.

        >>> seq = eng.ingest(7, [100]).seq
        >>> eng.checkpoint() == seq
        True
        """
        return self._alone("checkpoint", self._writer.checkpoint)

    def backup(self, dst: Any) -> int:
        """Makes a second directory `dst` of what is learned now, while learning goes on; returns its seq.

        It is verified and durable when this returns, opens like any other, and has the digest of that seq. `dst` must
        not be there yet, its parent must. Raises ConfigError, StorageFullError, EngineError, with nothing left there.

        >>> with engine.open("shop", dim=8) as shop:
        ...     report = shop.ingest([7, 8], [100, 101])
        ...     seq = shop.backup("shop-2")
        >>> with engine.open("shop-2") as copy:
        ...     copy.seq == seq == 2
        True
        """
        if self._directory is None:
            raise ConfigError("backup: ':memory:' has no directory to make a second one of")
        directory = self._directory
        path = backup.checked_target(dst, directory.path)
        with ExitStack() as until_written:

            def saved() -> Snapshot:
                self._writer.complete_epoch()
                return until_written.enter_context(directory.cold.snapshot())

            return backup.write_backup(self._alone("backup", saved), path)

    def digest(self) -> str:
        """Hex digest over all state, in id order, wherever it lives: a function of the log alone.

        >>> empty = eng.digest()
        >>> report = eng.ingest(7, 100)
        >>> eng.digest() == empty
        False
        """

        def now() -> str:
            if self._device:
                self._device.refresh()
            return self._store.digest(self._writer.applied)

        return self._alone("digest", now)

    # --- state

    def _answering(self) -> AbstractContextManager[tuple[int, CatalogueRanker]]:
        self._alive()
        if self._device:
            self._writer.require_sound()  # what was under way on the device is in nobody's hands
        return nullcontext((self._writer.seq, self._ranker))  # the seq before anything is read

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
        return self._store.model.settings.as_dict()

    def position(self, source: str) -> bytes | None:
        """What the last `ingest` with a position of this source stored; None if there was none.

        >>> report = eng.ingest(7, 100, position=("clicks", b"file 3, row 41"))
        >>> eng.position("clicks")
        b'file 3, row 41'
        """
        self._alive()
        if not isinstance(source, str):
            raise InputError(f"source: got {describe(source)}, wanted a str")
        return self._writer.positions.get(source)

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
        writer, store, device = self._writer, self._store, self._device
        tables = {table.name: table.stats() | (device.stats(table.name) if device else {}) for table in store.tables}
        out: dict[str, Any] = {
            "seq": writer.seq,
            "durable_seq": self._directory.log.synced_seq if self._directory else 0,
            "lmdb_seq": writer.epochs.saved_seq if writer.epochs else 0,
            "bit_exact": writer.bit_exact,
            "skipped_updates": writer.skipped,
            **tables,
            "device": device.name if device else "cpu",
            "catalogue_bytes": store.catalogue.bytes,
            **(device.catalogue.stats() if device else {}),
            "history_bytes": store.history.ram_bytes,
            "hidden_items": len(store.catalogue.native.hidden),
            "expired_rows": store.removal.expired,
        }
        if self._directory and writer.epochs and writer.syncer:
            lmdb = out["lmdb"] = self._directory.cold.stats()
            out["log_bytes"] = self._directory.log.bytes
            out["disk"] = {
                "live_bytes": lmdb["used_pages"] * lmdb["page_bytes"],
                "free_bytes": lmdb["free_pages"] * lmdb["page_bytes"],
                "log_bytes": self._directory.log.bytes,
            }
            out["sync_seconds"] = writer.syncer.seconds
            out["opening"] = dict(self._opening)
            out |= writer.epochs.stats()
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
        with self._writer.lock:
            if self._closed:
                return
            self._writer.require_outside("close")
            self._closed = self._writer.closed = True
            self._stop.put(None)
            try:
                if not self._temporary:
                    self._writer.write_last_epoch()
            finally:
                with self._at_end:
                    if self._ticker:
                        self._ticker.join()
                    self._writer.close()


def _device(settings: Settings, resources: Resources, store: Store) -> "Device | None":
    if resources.device == "cpu":
        return None
    from .device.device import Device  # here, because it imports torch and Triton

    return Device(settings, resources.hot_bytes, store)
