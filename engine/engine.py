"""Engine: the public calls of a model that learns. `ingest` goes on in writer.py; `topk` is in answers.py.

docs/how-it-works/path-of-an-event.md and path-of-a-query.md tell both ways from end to end.

Responsible for arguments, for answers about the whole, and for the lifetime. Not for a record's way (writer.py), nor
for what a list is made from (rank/). One writer at a time; readers take no lock of this file. Any thread may call
anything.
"""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeVar

from .answers import Answers
from .cold.cold import Snapshot
from .contract.arguments import callback, flag, id_column_or_set
from .contract.arrays import NO_IDS, Ids, IdsLike, IdsOrSet
from .contract.errors import ConfigError, EngineError, InputError
from .contract.events import Events
from .contract.positions import checked_expected, checked_position, checked_source, require_expected
from .contract.reports import IngestReport
from .contract.settings import Settings
from .directory import backup
from .directory.directory import MEMORY, Directory
from .learn.model import Tally
from .machine.resources import Resources
from .machine.ticker import Ticker
from .rank.ranker import CatalogueRanker
from .stats import stats
from .store.divergence import Divergence
from .store.store import Store
from .store.working_set import WorkingSet
from .writer import Writer

if TYPE_CHECKING:
    from .device.device import Device

T = TypeVar("T")


class Engine(Answers):
    """A model that learns from events and ranks items. Made by `engine.open`.

    One that is lost without `close` gives a ResourceWarning, and its directory back. The next opening then replays what
    the last epoch lacks.
    """

    _parts: tuple[Writer, CatalogueRanker] | None = None  # closing lets go of them, and so of all tables

    def __init__(self, directory: Directory | None, settings: Settings, resources: Resources, given: dict[str, Any]):
        """`settings`: of the last epoch, for the replay; `given`: what the caller wants after it, None for as it is."""
        super().__init__(directory.path if directory else MEMORY)
        warm_bytes, cold = (resources.warm_bytes, directory.cold) if directory else (None, None)
        store = Store(settings, warm_bytes, cold)
        device = _device(settings, resources, store)
        writer = Writer(store, device, directory, resources)
        self._opening = writer.recover()
        wanted = Settings.resolve(given, store.model.settings)
        writer.require_capacity(wanted)
        if directory and directory.unsaved:
            writer.complete_epoch()  # a directory of format 1 is migrated before its log gets a record
        if wanted != store.model.settings:
            writer.change_settings(wanted)
        self._ticker = None
        if directory:  # begins the epoch that is due by time while nobody ingests
            self._ticker = Ticker("rowtide-tick", max(0.05, resources.epoch_seconds / 4), writer.begin_if_due)
        ranker = CatalogueRanker(device or store, resources.threads)
        self._parts = writer, ranker
        self._working_set, self._divergence = WorkingSet(str(self._where)), Divergence(str(self._where))
        self._at_close = writer.seq, wanted  # what a closed Engine still says
        self._holds = directory.path if directory else None

    @property
    def _open(self) -> tuple[Writer, CatalogueRanker]:
        if (parts := self._parts) is None:
            raise EngineError("this Engine is closed")
        return parts

    @property
    def _writer(self) -> Writer:
        return self._open[0]

    @property
    def _directory(self) -> Directory | None:
        return self._writer.directory

    @property
    def _store(self) -> Store:
        return self._writer.store

    @property
    def _device(self) -> "Device | None":
        return self._writer.device

    @property
    def _seq(self) -> int:
        return self._parts[0].seq if self._parts else self._at_close[0]

    def _alone(self, call: str, work: Callable[[], T]) -> T:
        """What `work` returns, which has the writer's lock."""
        self._alive()
        return self._writer.alone(call, work)

    # --- learning

    def ingest(
        self,
        users: IdsLike,
        items: IdsLike,
        values: Any = None,
        *,
        weights: Any = None,
        timestamps: Any = None,
        sessions: Any = None,
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
            timestamps: [n], from 1970 to 2199: Unix seconds, datetime64 or datetimes, also with zones, else UTC.
            sessions: ids of the users' sessions, where the caller knows them: a session ends where its id changes.
            durable: False: in the page cache only; survives SIGKILL, not power loss.
            position: (source, bytes) stored in the same log record, so at most 65,536 events; `position()` reads it.
            expect: the position that this source must have until now, None for none; else PositionError, and nothing is
                learned. So two processes that read one source, one after the other, learn no event twice.
            progress: called as progress(events done, events in all) now and then.

        A progress function may ask for answers, positions and `stats`; calls that change the Engine, and `digest`, are
        refused. What it raises ends the call after an accepted part.

        Raises InputError, with nothing changed; StorageFullError; EngineError. Whatever ends the call, an interrupt
        too, has a `.seq`: the last event that was accepted, or None. A note says so when it must be opened again.

        >>> report = eng.ingest([7, 7, 8], [100, 101, 100])
        >>> report.events, report.new_users, report.new_items, report.seq
        (3, 2, 2, 3)
        """
        seq = None
        try:
            began = time.perf_counter()
            given = {"values": values, "weights": weights, "timestamps": timestamps, "sessions": sessions}
            events = Events.check(users, items, given, self._store.model.settings.loss)
            position = checked_position(position, len(events))
            expect = checked_expected(expect, position)
            durable = flag("durable", durable)
            progress = callback("progress", progress, "(events done, events in all)")
            writer = self._writer

            def learn() -> Tally:
                nonlocal seq
                require_expected(writer.positions, position, expect)
                tally = writer.ingest(events, position, durable, progress)
                seq = writer.seq
                self._working_set.add(tally, writer.store.tables)
                self._divergence.add(tally)
                return tally

            tally = self._alone("ingest", learn)
            return tally.report(seq or 0, time.perf_counter() - began)
        except BaseException as e:  # a KeyboardInterrupt, too: whoever catches it asks what was accepted
            vars(e).setdefault("seq", seq)
            raise

    # --- removing

    def hide(self, items: IdsOrSet) -> None:
        """These items are in no answer of `topk` until `show` is called, not even by `include`; on disk at return.

        items: a scalar, column or set of ids; an id that is no item yet is not ranked when it becomes one. Hidden items
        are learned as others, also as negatives, and have scores and vectors. Raises InputError, StorageFullError.
        """
        self._operate("hide", NO_IDS, id_column_or_set("items", items))

    def show(self, items: IdsOrSet) -> None:
        """These items are ranked again; as `hide`."""
        self._operate("show", NO_IDS, id_column_or_set("items", items))

    def forget(self, users: IdsOrSet | None = None, items: IdsOrSet | None = None) -> None:
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
            NO_IDS if users is None else id_column_or_set("users", users),
            NO_IDS if items is None else id_column_or_set("items", items),
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
        if (directory := self._directory) is None:
            raise ConfigError("backup: ':memory:' has no directory to make a second one of")
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
        writer, ranker = self._open
        if writer.device:
            writer.require_sound()  # what was under way on the device is in nobody's hands
        return nullcontext((writer.seq, ranker))  # the seq before anything is read

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
        """The settings in force, by name: a copy, so changing it changes nothing."""
        parts = self._parts
        return (parts[0].store.model.settings if parts else self._at_close[1]).as_dict()

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
        source = checked_source(source)

        def forget() -> None:
            if source in self._writer.positions:
                self._writer.operate("forget_position", source=source)

        self._alone("forget_position", forget)

    def stats(self) -> dict[str, Any]:
        """Rows, bytes and seqs by tier, what epochs and fsyncs took; docs/operations/monitoring.md says it key by key.

        On a device `dirty_rows` and `ahead_rows` are without the rows that it drew and nobody has asked for yet.

        >>> report = eng.ingest([7, 8], [100, 100])
        >>> eng.stats()["users"]["rows"], eng.stats()["items"]["rows"]
        (2, 1)
        """
        self._alive()
        opening = {"opening": dict(self._opening)} if self._directory else {}
        return stats(self._writer) | opening | {"diverged": self._divergence.found}

    # --- lifetime

    def close(self) -> None:
        """Writes what LMDB lacks as a last epoch and lets go of the directory. Closing twice is fine.

        So the next opening has nothing to replay, and readers see all. After a call that closed the Engine to writes
        there is no such epoch. Raises StorageFullError, EngineError if it fails: what was durable stays so, for the log
        has it, and the directory is let go of all the same. Memory is given back. After a KeyboardInterrupt that cut it
        off, call it again: it goes on.
        """
        parts = self._parts
        if parts is None or self._pid != os.getpid():
            return
        writer = parts[0]
        with writer.lock:
            if self._parts is None:
                return
            writer.require_outside("close")
            first, self._closed = not self._closed, True
            try:
                if first and not self._temporary:
                    writer.write_last_epoch()
            except MemoryError as e:
                raise EngineError(f"out of memory for the last epoch; the log has what it would have held: {e}") from e
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """What an interrupt leaves undone, the next call does; an error leaves nothing undone."""
        writer, done = self._writer, False
        with writer.lock:
            try:
                writer.closed = True
                if self._ticker:
                    self._ticker.close()
                writer.close()
                done = True
            except Exception:
                done = True
                raise
            finally:
                if done:
                    self._at_close = writer.seq, writer.store.model.settings
                    self._parts = self._holds = None
                    self._at_end.close()


def _device(settings: Settings, resources: Resources, store: Store) -> "Device | None":
    if resources.device == "cpu":
        return None
    from .device.device import Device  # here, because it imports torch and Triton

    return Device(settings, resources.hot_bytes, store)
