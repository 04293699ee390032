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
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from .answers import Answers
from .contract.arguments import describe, flag, id_column
from .contract.arrays import NO_IDS, Ids, IdsLike
from .contract.errors import ConfigError, InputError
from .contract.events import Events
from .contract.positions import checked_expected, checked_position, checked_source, require_expected
from .contract.reports import IngestReport
from .contract.settings import Settings
from .directory import backup
from .directory.directory import MEMORY, Directory
from .machine.resources import Resources
from .rank.ranker import CatalogueRanker
from .store.store import Store
from .writer import Writer

if TYPE_CHECKING:
    from .device.device import Device


class Engine(Answers):
    """A model that learns from events and ranks items. Made by `engine.open`."""

    def __init__(self, directory: Directory | None, settings: Settings, resources: Resources, given: dict[str, Any]):
        """`settings`: of the last epoch, for the replay; `given`: what the caller wants after it, None for as it is."""
        super().__init__(directory.path if directory else MEMORY)
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
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        if directory:
            seconds = max(0.05, resources.epoch_seconds / 4)
            self._ticker = threading.Thread(target=self._tick, args=(seconds,), name="rowtide-tick", daemon=True)
            self._ticker.start()

    def _tick(self, seconds: float) -> None:
        """Begins the epoch that is due by time while nobody ingests."""
        while not self._stop.wait(seconds):
            self._writer.begin_if_due()

    @property
    def _seq(self) -> int:
        return self._writer.seq

    def _alone(self, call: str) -> AbstractContextManager[None]:
        """The writer's lock for the length of a call."""
        self._alive()
        return self._writer.alone(call)

    # --- learning

    def ingest(
        self,
        users: IdsLike,
        items: IdsLike,
        values: Any = None,
        *,
        weights: Any = None,
        timestamps: Any = None,
        durable: bool = True,
        position: tuple[str, bytes] | None = None,
        expect: bytes | EllipsisType | None = ...,
        progress: Callable[[int, int], None] | None = None,
    ) -> IngestReport:
        """Learns the events (users[i], items[i]) in order; when it returns they are on disk and in every later answer.

        Args:
            users, items: ids, 1-D columns of equal length; any int64 but -1. A scalar here or below counts for all.
            values: float [n], required with pointwise losses, as "logistic" (each 0 or 1) and "squared" (finite
                ratings), which learn to predict them; None with losses that learn from positives, as "softmax".
            weights: float [n] >= 0, scale each event's loss; 1 by default.
            timestamps: [n], from 1970 to 2199: Unix seconds, datetime64 or datetimes, also of pandas and with zones,
                else UTC; kept in the log.
            durable: False: in the page cache only; survives SIGKILL, not power loss.
            position: (source, bytes) stored in the same log record, so at most 65,536 events; `position()` reads it.
            expect: the position that this source must have until now, None for none; else PositionError, and nothing is
                learned. So two processes that read one source, one after the other, learn no event twice.
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
        expect = checked_expected(expect, position)
        durable = flag("durable", durable)
        if progress is not None and not callable(progress):
            raise InputError(f"progress: got {describe(progress)}, wanted a function of (events done, events in all)")
        with self._alone("ingest"):
            require_expected(self._writer.positions, position, expect)
            tally = self._writer.ingest(events, position, durable, progress)
            seq = self._writer.seq
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

    def hide(self, items: IdsLike) -> None:
        """These items are in no answer of `topk` until `show` is called, not even by `include`; on disk at return.

        items: a scalar or a column of ids; an id that is no item yet is not ranked when it becomes one. Hidden items
        are learned as others, also as negatives, and have scores and vectors. Raises InputError, StorageFullError.
        """
        self._operate("hide", NO_IDS, id_column("items", items))

    def show(self, items: IdsLike) -> None:
        """These items are ranked again; as `hide`."""
        self._operate("show", NO_IDS, id_column("items", items))

    def forget(self, users: IdsLike | None = None, items: IdsLike | None = None) -> None:
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

    def hidden(self) -> Ids:
        """The ids that are hidden now, int64 [n], rising.

        >>> eng.hide([101, 100])
        >>> eng.hidden().tolist()
        [100, 101]
        """
        self._alive()
        return self._store.catalogue.hidden

    def _operate(self, kind: str, users: Ids, items: Ids) -> None:
        with self._alone(kind):
            self._writer.operate(kind, users, items)

    # --- saving

    def checkpoint(self) -> int:
        """Writes everything learned to LMDB now; returns the seq that is in LMDB.

        After a `forget` it also copies LMDB's file without its free pages, and empties the log.

        >>> seq = eng.ingest(7, [100]).seq
        >>> eng.checkpoint() == seq
        True
        """
        with self._alone("checkpoint"):
            return self._writer.checkpoint()

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
        path = backup.checked_target(dst, self._directory.path)
        with ExitStack() as until_written:
            with self._alone("backup"):
                self._writer.complete_epoch()
                snapshot = until_written.enter_context(self._directory.cold.snapshot())
            return backup.write_backup(snapshot, path)

    def digest(self) -> str:
        """Hex digest over all state, in id order, wherever it lives: a function of the log alone.

        >>> empty = eng.digest()
        >>> report = eng.ingest(7, 100)
        >>> eng.digest() == empty
        False
        """
        with self._alone("digest"):
            if self._device:
                self._device.refresh()
            return self._store.digest(self._writer.applied)

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

    def _described(self) -> tuple[dict[str, int], str]:
        return self._store.tables.rows, self._device.name if self._device else "cpu"

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
        return self._writer.positions.get(checked_source(source))

    def positions(self) -> dict[str, bytes]:
        """The position of every source that has one.

        >>> report = eng.ingest(7, 100, position=("clicks", b"41"))
        >>> eng.positions()
        {'clicks': b'41'}
        """
        self._alive()
        return dict(self._writer.positions)

    def forget_position(self, source: str) -> None:
        """This source has no position any more, as if none had been stored; on disk at return. Twice is fine.

        Raises InputError, StorageFullError.

        >>> report = eng.ingest(7, 100, position=("clicks", b"41"))
        >>> eng.forget_position("clicks")
        >>> eng.position("clicks") is None
        True
        """
        with self._alone("forget_position"):
            if checked_source(source) in self._writer.positions:
                self._writer.operate("forget_position", source=source)

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
            "hidden_items": len(store.catalogue.hidden),
            "expired_rows": store.removal.expired,
        }
        if self._directory and writer.epochs:
            lmdb = out["lmdb"] = self._directory.cold.stats()
            out["log_bytes"] = self._directory.log.bytes
            out["disk"] = {
                "live_bytes": lmdb["used_pages"] * lmdb["page_bytes"],
                "free_bytes": lmdb["free_pages"] * lmdb["page_bytes"],
                "log_bytes": self._directory.log.bytes,
            }
            out["sync_seconds"] = writer.sync_seconds
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
            self._stop.set()
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
