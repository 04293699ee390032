"""The reader: what `engine.open(path, mode="r")` gives, in a process beside the writer's.

Responsible for answers that are exactly those of one epoch, the newest: rows and histories of users come from LMDB, in
a transaction that ends with the call; items from a catalogue that follows the epochs. Writes nothing but its place in
LMDB's table of readers. Invariant: while a call answers, the catalogue is of the epoch that its transaction sees. Any
thread may call anything; a call that finds a newer epoch moves the catalogue on first, while the others wait.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from .answers import Answers
from .cold import changes
from .cold.cold import Cold, Snapshot
from .cold.keys import HIDDEN, HISTORY
from .contract.arguments import describe
from .contract.arrays import Floats
from .contract.errors import ConfigError, CorruptionError, EngineError, InputError, ReadOnlyError
from .contract.settings import Settings
from .directory.directory import exists, hold
from .machine.calls import Calls, this_call
from .machine.files import as_engine_error
from .rank.ranker import CatalogueRanker
from .store.catalogue import Catalogue
from .store.digest import digest
from .store.history import StoredHistory, stored_chunks
from .store.state import State
from .store.tables import ITEMS, TABLES, USERS
from .table.stored import StoredTable


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What a list is made from: one epoch, as its transaction and the catalogue have it."""

    users: StoredTable
    catalogue: Catalogue
    history: StoredHistory
    mean: Floats
    base: float


class Reader(Answers):
    """A model that another process may be learning: its last epoch. Made by `engine.open(path, mode="r")`.

    Has all public methods of Engine; those that write raise ReadOnlyError.

    >>> with engine.open("shop", dim=8) as shop:
    ...     report = shop.ingest([7, 7], [100, 101])
    >>> with engine.open("shop", mode="r") as reader:
    ...     sorted(reader.topk(7, k=2).ids.tolist()), reader.seq
    ([100, 101], 2)
    """

    _state: State
    _catalogue: Catalogue
    _epoch: int  # whose the catalogue is; -1 after a failure, when it is of none

    def __init__(self, path: Path, cold: Cold, threads: int, lock: int | None):
        """`lock`: a descriptor that keeps writers out, where the file system cannot be written; closed at the end."""
        self._path = path
        self._cold = cold
        self._threads = threads
        super().__init__()
        self._door = threading.RLock()  # whoever has it keeps new calls out
        self._calls = Calls()  # that are inside
        self._moving = False
        if lock is not None:
            self._at_end.callback(os.close, lock)
        self._moves = {"whole": 0, "followed": 0}
        with cold.snapshot() as now:
            self._scan(now)

    @classmethod
    def open(cls, path: Path, given: dict[str, Any], threads: int) -> Self:
        """`given`: the settings of the call, None where not given; they must be those of the directory.

        Raises ConfigError, CorruptionError, ReadOnlyError without the rights, BusyError if this process has the
        directory open already.
        """
        if not exists(path):
            raise ConfigError(f"path: {path} holds no model, and mode 'r' makes none")
        lock = cold = None
        try:
            if os.statvfs(path / "rows").f_flag & os.ST_RDONLY:
                lock = hold(path, shared=True)  # LMDB cannot tell a writer about this reader there
            cold = Cold.open(path / "rows", readonly=True)
            reader = cls(path, cold, threads, lock)
            wanted, stored = Settings.resolve(given, reader._state.settings), reader._state.settings
            for name, value in wanted.as_dict().items():
                if value != getattr(stored, name):
                    raise ConfigError(
                        f"{name}: got {value!r}, but {getattr(stored, name)!r} is in force; mode 'r' reads"
                    )
            return reader
        except BaseException as e:
            if cold is not None:
                cold.close()
            if lock is not None:
                os.close(lock)
            if isinstance(e, OSError) and not isinstance(e, EngineError):
                raise as_engine_error(path, e) from e
            raise

    @property
    def _seq(self) -> int:
        return self._state.seq

    # --- moving on

    @contextmanager
    def _at_newest(self) -> Iterator[Snapshot]:
        """The newest epoch for the length of a block, with the catalogue at it."""
        self._alive()
        call = this_call()
        try:
            with self._door:
                self._enter()
                self._calls.add(call)
            if self._cold.current:
                with self._cold.snapshot() as now:
                    if changes.epoch_of(now) == self._epoch:
                        yield now
                        return
        finally:
            self._calls.discard(call)
        try:
            with ExitStack() as stack:
                with self._door:
                    self._enter()
                    try:
                        self._moving = True
                        self._calls.wait_for_others()
                        now = stack.enter_context(self._newest_file().snapshot())
                        self._move(now)
                    finally:
                        self._moving = False
                    self._calls.add(call)
                yield now
        finally:
            self._calls.discard(call)

    def _enter(self) -> None:
        self._alive()
        if self._moving:
            raise EngineError("called by a signal's handler inside a call of the same thread that moves to a new epoch")

    def _newest_file(self) -> Cold:
        if not self._cold.current:
            newer = Cold.open(self._path / "rows", readonly=True)
            self._cold.close()
            self._cold = newer
        return self._cold

    def _move(self, now: Snapshot) -> None:
        """Brings the catalogue to the epoch of `now`. If it fails, the next call tries again, with a whole scan."""
        epoch, at = changes.epoch_of(now), self._epoch
        if epoch == at:
            return
        # A call of this thread that a signal interrupted may still be reading the catalogue.
        ids = changes.between(now, at, epoch) if 0 <= at < epoch and not self._calls else None
        self._epoch = -1
        if ids is not None:
            found, rows = now.fetch(ITEMS.number, ids, ITEMS.stored_bytes(self._state.settings))
            if found.all() and self._catalogue.follow(ids, rows):
                self._state = State.from_meta(now.meta, self._path)
                if len(self._catalogue) == self._state.ordinals:
                    self._moves["followed"] += 1
                    self._epoch = epoch
                    return
        self._scan(now)

    def _scan(self, now: Snapshot) -> None:
        state = State.from_meta(now.meta, self._path)
        if state.items > len(now):  # before there is memory for them
            raise CorruptionError(f"LMDB holds {len(now)} entries, its state says {state.items} items")
        catalogue = Catalogue(state.settings.dim)
        rows = now.scan(ITEMS.number, ITEMS.stored_bytes(state.settings))
        catalogue.restore(rows, state.items, state.ordinals, now.scan(HIDDEN, 0), state.hidden)
        self._moves["whole"] += 1
        self._state, self._catalogue, self._epoch = state, catalogue, changes.epoch_of(now)

    def refresh(self) -> int:
        """Moves to the newest epoch now, so that no later call has to; returns its seq.

        Reads the items that the epochs in between wrote; all items, if there were too many epochs, or too many items in
        one, or the writer has moved to a new file. Calls move on by themselves, too: LMDB shows its newest epoch alone.

        >>> engine.open("shop", dim=8).close()
        >>> with engine.open("shop", mode="r") as reader:
        ...     reader.refresh()
        0
        """
        with self._at_newest():
            return self._seq

    # --- answers

    @contextmanager
    def _answering(self) -> Iterator[tuple[int, CatalogueRanker]]:
        with self._at_newest() as now:
            state = self._state
            users = StoredTable(USERS.number, USERS.stored_bytes(state.settings), now)
            epoch = _Epoch(users, self._catalogue, StoredHistory(now), state.mean, state.base)
            yield state.seq, CatalogueRanker(epoch, self._threads)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in force at `seq`, by name."""
        return self._state.settings.as_dict()

    def position(self, source: str) -> bytes | None:
        """As `Engine.position`, at the newest epoch."""
        if not isinstance(source, str):
            raise InputError(f"source: got {describe(source)}, wanted a str")
        with self._at_newest():
            return self._state.positions.get(source)

    def digest(self) -> str:
        """As `Engine.digest`, at the newest epoch: what the writer's was at this seq."""
        with self._at_newest() as now:
            state = self._state
            tables = [StoredTable(d.number, d.stored_bytes(state.settings), now) for d in TABLES.values()]
            return digest(state, tables, self._catalogue.native.hidden, stored_chunks(now.scan_raw(HISTORY)))

    def stats(self) -> dict[str, Any]:
        """Rows, bytes and seq of the newest epoch; `moves`: how often a whole scan, or lists, led to a newer one."""
        with self._at_newest():
            return {
                "seq": self._seq,
                "durable_seq": self._seq,
                "lmdb_seq": self._seq,
                "bit_exact": self._state.bit_exact,
                **{name: {"rows": rows} for name, rows in self._state.rows.items()},
                "catalogue_bytes": self._catalogue.bytes,
                "lmdb": self._cold.stats(),
                "moves": dict(self._moves),
            }

    # --- lifetime

    def close(self) -> None:
        """Waits for the calls in progress and lets go of the directory. Closing twice is fine, also after an
        interrupt."""
        if self._pid != os.getpid():
            return
        with self._door:
            if not self._closed:
                self._enter()
            self._closed = True
            self._calls.wait_for_others()
            self._cold.close()
            self._at_end.close()

    # --- what only the writer can do

    def _refuse(self, what: str) -> NoReturn:
        self._alive()
        raise ReadOnlyError(f"{what}: {self._path} was opened with mode 'r'")

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
    ) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("ingest")

    def hide(self, items: Any) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("hide")

    def show(self, items: Any) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("show")

    def forget(self, users: Any = None, items: Any = None) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("forget")

    def checkpoint(self) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("checkpoint")

    def backup(self, dst: Any) -> NoReturn:
        """ReadOnlyError: the writer's log says what is durable."""
        self._refuse("backup")
