"""The reader: what `engine.open(path, mode="r")` gives, in a process beside the writer's.

Responsible for answers that are exactly those of one epoch, the newest: rows and histories of users come from LMDB, in
a transaction that ends with the call; items from a catalogue that follows the epochs. Writes nothing but its place in
LMDB's table of readers. Invariant: while a call answers, the catalogue is of the epoch that its transaction sees. Any
thread may call anything; a call that finds a newer epoch moves the catalogue on first, while the others wait.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import EllipsisType
from typing import Any, NoReturn, Self

from .answers import Answers
from .cold import changes
from .cold.cold import Cold, Snapshot
from .cold.keys import HIDDEN
from .contract.arrays import Ids, IdsLike, IdsOrSet
from .contract.errors import ConfigError, CorruptionError, EngineError, ReadOnlyError
from .contract.positions import checked_source
from .contract.settings import Settings
from .directory import backup
from .directory.directory import exists
from .directory.lock import hold
from .machine.calls import LOOK_AGAIN, Call, Calls, this_call
from .machine.files import AnyPath, as_engine_error
from .rank.ranker import CatalogueRanker
from .store.catalogue import Catalogue
from .store.state import State
from .store.tables import ITEMS
from .store.view import View


class Reader(Answers):
    """A model that another process may be learning: its last epoch. Made by `engine.open(path, mode="r")`.

    Has all public methods of Engine; those that change the model raise ReadOnlyError. `seq` and `settings` are those
    that the last call saw: they move on with calls that answer, with `stats` and with `refresh`.

    >>> with engine.open("shop", dim=8) as shop:
    ...     report = shop.ingest([7, 7], [100, 101])
    >>> with engine.open("shop", mode="r") as reader:
    ...     sorted(reader.topk(7, k=2).ids.tolist()), reader.seq
    ([100, 101], 2)
    """

    _state: State
    _catalogue: Catalogue
    _epoch: int  # whose the catalogue is; -1 after a failure, when it is of none

    def __init__(self, path: Path, given: dict[str, Any], threads: int):
        """`given`: the settings of the call, None where not given; they must be those of the directory.

        Raises what `open` does.
        """
        self._path = path
        self._given = given
        self._threads = threads
        super().__init__(path)
        self._door = threading.RLock()  # whoever has it keeps new calls out; nobody waits for calls with it
        self._calls = Calls()  # that are inside, with a View each
        self._copies = Calls()  # that read a snapshot, and neither state nor catalogue
        self._left: list[Cold] = []  # for newer files, where calls of this thread or copies still read them
        self._moving = False
        self._moves = {"whole": 0, "followed": 0}
        with ExitStack() as undo:
            undo.callback(self._at_end.close)
            self._cold = self._open_files(path / "rows")
            undo.callback(self._cold.close)
            with self._cold.snapshot() as now:
                self._scan(now)
            self._require_given(self._state)
            undo.pop_all()

    @classmethod
    def open(cls, path: Path, given: dict[str, Any], threads: int) -> Self:
        """`given`: the settings of the call, None where not given; they must be those of the directory.

        Raises ConfigError, CorruptionError, ReadOnlyError without the rights, BusyError if this process has the
        directory open already.
        """
        if not exists(path):
            raise ConfigError(f"path: {path} holds no model, and mode 'r' makes none")
        try:
            reader = cls(path, given, threads)
            reader._holds = path  # before that there is nobody who could lose it
            return reader
        except OSError as e:
            if isinstance(e, EngineError):
                raise
            raise as_engine_error(path, e) from e

    def _open_files(self, rows: AnyPath) -> Cold:
        """The cold tier in the folder `rows`. Where the file system cannot be written, LMDB cannot tell a writer about
        this reader, so a lock keeps writers out until the end."""
        if os.statvfs(rows).f_flag & os.ST_RDONLY:
            self._at_end.callback(hold(self._path, shared=True).release)
        return Cold.open(rows, readonly=True)

    @property
    def _seq(self) -> int:
        return self._state.seq

    # --- moving on

    @contextmanager
    def _at_newest(self) -> Iterator[View]:
        """The newest epoch for the length of a block, with the catalogue at it.

        A call from inside another of the same thread, as a signal's handler makes it, may see what that one sees: it
        waits for nobody, who might be waiting for that one.
        """
        self._alive()
        me, view = threading.get_ident(), View()
        outer = next((v for thread, v in self._calls.copy() if thread == me and isinstance(v, View) and v.valid), None)
        call = me, view
        try:
            with self._door:
                self._enter()
                self._calls.add(call)
            if self._cold.current and not self._replaced():
                with self._cold.snapshot() as view.snapshot:
                    view.state, view.catalogue = self._state, self._catalogue
                    if changes.epoch_of(view.snapshot) == self._epoch and view.state is self._state:
                        view.valid = True
                        yield view
                        return
        finally:
            self._calls.discard(call)
        try:
            with ExitStack() as stack:
                while not self._moved(call, view, stack):
                    if outer is not None:
                        view = outer
                        break
                    time.sleep(LOOK_AGAIN)
                yield view
        finally:
            self._calls.discard(call)

    def _moved(self, call: Call, view: View, stack: ExitStack) -> bool:
        """Moves to the newest epoch, and enters `call` with its view; the snapshot ends with `stack`.

        False, with nothing done, while others are inside that see an older one. Whoever comes meanwhile waits, too.
        """
        with self._door:
            self._enter()
            others = self._calls.of_others()
            if others and (self._replaced() or not self._cold.current):
                return False
            try:
                self._moving = True
                file = self._cold if others else self._newest_file()
                view.snapshot = stack.enter_context(file.snapshot())
                if others and changes.epoch_of(view.snapshot) != self._epoch:
                    stack.close()
                    return False
                self._move(view.snapshot)
                view.state, view.catalogue = self._state, self._catalogue
                self._calls.add(call)
                view.valid = True
            finally:
                self._moving = False
        return True

    def _enter(self) -> None:
        self._alive()
        if self._moving:
            raise EngineError("called by a signal's handler inside a call of the same thread that moves to a new epoch")

    def _replaced(self) -> bool:
        """Is another directory where this one was opened? One that was moved away, with nothing in its place, goes
        on."""
        try:
            return not self._cold.folder.is_at(self._path / "rows")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as e:
            raise as_engine_error(self._path, e) from e

    def _newest_file(self) -> Cold:
        """The cold tier to answer from: after a compaction that of the new file, and if another directory has the path
        now, that one's."""
        replaced = self._replaced()
        if not replaced and self._cold.current:
            return self._cold
        if replaced:
            exists(self._path)  # raises for a directory of something else
        newer = self._open_files(self._path / "rows" if replaced else self._cold.folder)
        try:
            if replaced:
                with newer.snapshot() as now:
                    self._require_given(State.from_meta(now.meta, self._path))
                self._epoch = -1  # numbers of epochs say nothing about another model's
        except BaseException:
            newer.close()
            raise
        self._left.append(self._cold)
        self._cold = newer
        if not self._calls and not self._copies:
            self._close_left()
        return newer

    def _close_left(self) -> None:
        while self._left:
            self._left[-1].close()
            self._left.pop()

    def _require_given(self, state: State) -> None:
        wanted = Settings.resolve(self._given, state.settings)
        for name, value in wanted.as_dict().items():
            if value != (stored := getattr(state.settings, name)):
                raise ConfigError(f"{name}: got {value!r}, but {stored!r} is in force; mode 'r' reads")

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

        `seq` moves with calls alone, this one, `stats` and answers: between them it says what the last one saw.

        Reads the items that the epochs in between wrote; all items, if there were too many epochs, or too many items in
        one, or the writer has moved to a new file. Calls move on by themselves, too: LMDB shows its newest epoch alone.

        >>> engine.open("shop", dim=8).close()
        >>> with engine.open("shop", mode="r") as reader:
        ...     reader.refresh()
        0
        """
        with self._at_newest() as view:
            return view.state.seq

    # --- answers

    @contextmanager
    def _answering(self) -> Iterator[tuple[int, CatalogueRanker]]:
        with self._at_newest() as view:
            yield view.state.seq, CatalogueRanker(view.epoch(), self._threads)

    def _described(self) -> tuple[dict[str, int], str]:
        return self._state.rows, "cpu"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in force at `seq`, by name: a copy, so changing it changes nothing."""
        return self._state.settings.as_dict()

    def position(self, source: str) -> bytes | None:
        """As `Engine.position`, at the newest epoch."""
        with self._at_newest() as view:
            return view.state.positions.get(checked_source(source))

    def positions(self) -> dict[str, bytes]:
        """As `Engine.positions`, at the newest epoch."""
        with self._at_newest() as view:
            return dict(view.state.positions)

    def hidden(self) -> Ids:
        """As `Engine.hidden`, at the newest epoch."""
        with self._at_newest() as view:
            return view.catalogue.hidden

    def digest(self) -> str:
        """As `Engine.digest`, at the newest epoch: what the writer's was at this seq."""
        with self._at_newest() as view:
            return view.digest()

    def stats(self) -> dict[str, Any]:
        """Rows, bytes and seq of the newest epoch; `moves`: how often a whole scan, or lists, led to a newer one."""
        with self._at_newest() as view:
            seq = view.state.seq
            return {
                "seq": seq,
                "durable_seq": seq,
                "lmdb_seq": seq,
                "bit_exact": view.state.bit_exact,
                **{name: {"rows": rows} for name, rows in view.state.rows.items()},
                "catalogue_bytes": view.catalogue.bytes,
                "lmdb": self._cold.stats(),
                "moves": dict(self._moves),
            }

    def backup(self, dst: Any) -> int:
        """Makes a second directory `dst` of the newest epoch, also beside the writer; returns its seq.

        As `Engine.backup`: verified, durable, and with nothing left where it fails. What the log has beyond the epoch
        is not in it. Until the copy is made LMDB cannot use pages again, so its file grows as the writer goes on.

        >>> with engine.open("shop", dim=8) as shop:
        ...     report = shop.ingest([7, 8], [100, 101])
        >>> with engine.open("shop", mode="r") as reader:
        ...     reader.backup("shop-2")
        2
        """
        path = backup.checked_target(dst, self._path)
        copy = this_call()
        try:
            with ExitStack() as until_written:
                with self._at_newest():
                    self._copies.add(copy)
                    snapshot = until_written.enter_context(self._cold.snapshot())
                return backup.write_backup(snapshot, path)
        finally:
            self._copies.discard(copy)

    # --- lifetime

    def close(self) -> None:
        """Waits for the calls in progress, lets go of the directory and gives memory back. Closing twice is fine, also
        after an interrupt."""
        if self._pid != os.getpid():
            return
        with self._door:
            if not self._closed:
                self._enter()
            self._closed = True
        self._calls.wait_for_others()
        with self._door:
            if self._holds is not None:
                self._let_go()

    def _let_go(self) -> None:
        self._close_left()
        self._cold.close()
        self._at_end.close()
        self._holds = None
        del self._catalogue

    # --- what only the writer can do

    def _refuse(self, what: str) -> NoReturn:
        self._alive()
        raise ReadOnlyError(f"{what}: {self._path} was opened with mode 'r'")

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
    ) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("ingest")

    def hide(self, items: IdsOrSet) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("hide")

    def show(self, items: IdsOrSet) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("show")

    def forget(self, users: IdsOrSet | None = None, items: IdsOrSet | None = None) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("forget")

    def forget_position(self, source: str) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("forget_position")

    def checkpoint(self) -> NoReturn:
        """ReadOnlyError."""
        self._refuse("checkpoint")
