"""The cold tier: rows, history chunks and metadata in LMDB, one environment per directory.

Responsible for the environment's life, for one write transaction per epoch, and for compaction. Not for the files as
such (file.py), for keys and values (snapshot.py, FORMAT.md), for what a row's bytes mean, when an epoch is due, or
who may write the directory (the engine holds that lock). Invariants: a file is checked before LMDB maps it; a write
happens whole or not at all, and is on the disk when `write` returns. Any thread may call anything; a second writer is
refused. Each call begins and ends its own transaction, except a snapshot, which is one for the length of a block, and a
scan, which holds one until it is exhausted or closed: meanwhile LMDB cannot use pages again that they may still see.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Ids, RowBytes
from ..contract.errors import CorruptionError, EngineError, ReadOnlyError, StorageFullError
from ..machine.backend import native
from ..machine.calls import Call, this_call
from ..machine.files import AnyPath, Folder, sync_directory
from . import file as cold_file
from .file import check_file, data_file, newest, translated, verify
from .keys import CHANGES, HISTORY, META, Pair, chunk_key, meta_key
from .mapped import Mapped
from .snapshot import CHUNK, Snapshot

__all__ = ["CHANGES", "HISTORY", "META", "Cold", "Snapshot", "chunk_key", "data_file", "newest", "verify"]

T = TypeVar("T")


class Cold:
    """One open cold tier. `Cold.create` and `Cold.open` make it; `close`, or a `with` block, ends it."""

    def __init__(self, folder: Folder, generation: int, *, readonly: bool):
        """`folder` is the Cold's from here on."""
        self.folder = folder
        self.directory = Path(str(folder))  # as it was opened
        self.readonly = readonly
        self._mapped = Mapped(folder, generation, readonly=readonly)
        self._retired: list[Mapped] = []
        self._pid = os.getpid()
        self._writing = threading.Lock()
        self._lock = threading.RLock()  # no Condition: its way in is Python, where an interrupt could leave it taken
        self._closed = False
        self._failed: str | None = None
        self.entries: dict[int, int] = {}  # by table, when it was opened

    @classmethod
    def create(cls, directory: Path, meta: dict[str, bytes]) -> Self:
        """Makes a new cold tier holding `meta`, on the disk when this returns, and opens it for writing.

        The directory is made (mode 0700) if it is absent. A failure may leave files behind: build aside, then rename.
        EngineError if there is a data file already; StorageFullError; ReadOnlyError.
        """
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as e:
            raise translated(e, directory) from e
        if os.path.exists(data_file(directory)):
            raise EngineError(f"{data_file(directory)} is there already")
        cold = cls(_held(directory), 1, readonly=False)
        try:
            cold.write((), meta)
            sync_directory(cold.folder)
        except BaseException:
            cold.close()
            raise
        return cold

    @classmethod
    def open(cls, directory: AnyPath, *, readonly: bool = False, values: bool = True) -> Self:
        """Checks the newest data file, page by page and value by value, and only then maps it.

        Without `values` the CRCs of values are checked when they are read, and not before: a third less work, but a
        row whose key was damaged then looks absent to `fetch`.

        `readonly`: for a process beside the writer; sees each transaction as it is committed, in this generation.
        CorruptionError (file, offset) if the file is missing or damaged; ReadOnlyError if it may not be written or,
        when `readonly`, if the lock file beside it may not.
        """
        held = _held(directory)
        while True:
            generation = newest(held)
            try:
                found = check_file(data_file(held, generation), values=values)
                cold = cls(held, generation, readonly=readonly)
            except EngineError:
                if readonly and newest(held) != generation:
                    continue  # it was compacted meanwhile
                raise
            cold.entries = found["tables"]
            break
        try:
            if not readonly:
                cold._within(Mapped.settle)
                # Who made this generation may have been killed before its name was durable: not before are older ones
                # deleted.
                _sync(held)
                cold_file.sweep(held, keep=generation)
        except BaseException:
            cold.close()
            raise
        return cold

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def generation(self) -> int:
        """1 at creation; one more after each compaction."""
        return self._mapped.generation

    @property
    def current(self) -> bool:
        """False once another process has moved to a newer generation: this one sees nothing new any more."""
        return os.path.exists(self._mapped.path)

    def close(self) -> None:
        """Waits for other threads' calls that are in progress, then unmaps. Unfinished scans raise at their next step.
        Again is fine, also after an interrupt."""
        with self._lock:
            self._closed = True
            every = [self._mapped, *self._retired]
        for mapped in every:
            mapped.inside.wait_for_others()
        if os.getpid() == self._pid:  # a child that closed it would take the parent's locks away
            for mapped in every:
                cold_file.unmap(mapped.env)
        self.folder.close()

    def _within(self, work: Callable[[Mapped], T], of: Mapped | None = None) -> T:
        """What `work` returns, with the map (the current one if none is given) in place; translates LMDB's errors.

        No context manager: an interrupt between its two halves would leave a call inside, and `close` waiting for it.
        """
        call, mapped = this_call(), of or self._mapped
        try:
            mapped = self._enter(call, of)
            return work(mapped)
        except lmdb.Error as e:
            raise translated(e, mapped.path) from e
        finally:
            mapped.inside.discard(call)  # in one step, and first: an interrupt may end the rest
            self._leave(mapped)

    def _enter(self, call: Call, of: Mapped | None = None) -> Mapped:
        if os.getpid() != self._pid:
            raise EngineError("a cold tier cannot be used after fork; open it in the child")
        with self._lock:
            if self._closed:
                raise EngineError("the cold tier is closed")
            mapped = of or self._mapped
            mapped.inside.add(call)
        return mapped

    def _leave(self, mapped: Mapped, *, scans: int = 0) -> None:
        with self._lock:
            mapped.scans -= scans
            idle = mapped in self._retired and not mapped.inside and not mapped.scans and not self._closed
            if idle:
                self._retired.remove(mapped)
        if idle and os.getpid() == self._pid:
            cold_file.unmap(mapped.env)

    # Reading

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """What is in LMDB now, unchanged for the length of the block. `close` waits for its end."""
        call, mapped = this_call(), self._mapped
        try:
            mapped = self._enter(call)
            txn = mapped.begin_reading()
            try:
                yield Snapshot(txn, str(mapped.path))
            finally:
                mapped.end(txn)  # which is fine where `close` has done it
        except lmdb.Error as e:
            raise translated(e, mapped.path) from e
        finally:
            mapped.inside.discard(call)
            self._leave(mapped)

    def _now(self, read: Callable[[Snapshot], T]) -> T:
        def begin(mapped: Mapped) -> T:
            txn = mapped.begin_reading()
            try:
                return read(Snapshot(txn, str(mapped.path)))
            finally:
                mapped.end(txn)

        return self._within(begin)

    def fetch(self, table: int, ids: Ids, width: int) -> tuple[NDArray[np.bool_], RowBytes]:
        """`Snapshot.fetch`, of now."""
        return self._now(lambda now: now.fetch(table, ids, width))

    def fetch_chunks(self, user: int, table: int = HISTORY) -> list[tuple[int, bytes]]:
        """`Snapshot.fetch_chunks`, of now."""
        return self._now(lambda now: now.fetch_chunks(user, table))

    def meta(self, name: str) -> bytes | None:
        """`Snapshot.meta`, of now."""
        return self._now(lambda now: now.meta(name))

    def scan(self, table: int, width: int, chunk: int = CHUNK) -> Iterator[tuple[Ids, RowBytes]]:
        """`Snapshot.scan`, of when it begins."""
        return self._walk(lambda then: then.scan(table, width, chunk))

    def scan_raw(self, table: int, chunk: int = CHUNK) -> Iterator[list[Pair]]:
        """`Snapshot.scan_raw`, of when it begins."""
        return self._walk(lambda then: then.scan_raw(table, chunk))

    def _walk(self, begin: Callable[[Snapshot], Iterator[T]]) -> Iterator[T]:
        def first(mapped: Mapped) -> tuple[Mapped, Any]:
            txn = mapped.begin_reading()
            with self._lock:
                mapped.scans += 1
            return mapped, txn

        mapped, txn = self._within(first)
        try:
            steps = begin(Snapshot(txn, str(mapped.path)))
            end = object()
            while True:
                step = self._within(lambda _: next(steps, end), mapped)
                if step is end:
                    return
                yield step  # type: ignore[misc]  # not the end, so a T
        finally:
            mapped.end(txn)
            self._leave(mapped, scans=1)

    # Writing

    def write(self, batches: Iterable[list[Pair]], meta: dict[str, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Deletes, puts all batches of sealed (key, value) pairs, then `meta`, in one transaction; synced at return.

        For each of `deletes`, every key that begins with it goes, if there is any. Existing keys are overwritten. Keys
        in rising order are fast. If anything fails, also an exception out of `batches`, nothing of it is in the file.
        StorageFullError: free space and call again. EngineError otherwise; when a commit failed for another reason than
        space, the disk is not trusted: open the tier again.
        """

        def write(mapped: Mapped) -> None:
            mapped.env.reader_check()  # readers that died would keep pages from being used again
            last = native.seal_values([(meta_key(k), v) for k, v in sorted(meta.items())])
            self._transact(mapped, deletes, batches, last)

        self._alone(write)

    def _alone(self, work: Callable[[Mapped], None]) -> None:
        """As `_within`, for the only one who writes."""
        if self.readonly:
            raise ReadOnlyError(f"{self.directory} was opened for reading")
        if not self._writing.acquire(blocking=False):
            raise EngineError("another thread is writing the cold tier")
        try:
            if self._failed:
                raise EngineError(f"an earlier write failed ({self._failed}); open the directory again")
            self._within(work)
        finally:
            self._writing.release()

    def _transact(
        self, mapped: Mapped, deletes: Iterable[bytes], batches: Iterable[list[Pair]], last: list[Pair]
    ) -> None:
        txn = mapped.env.begin(write=True)
        try:
            cursor = txn.cursor()
            for prefix in deletes:
                there = cursor.set_range(prefix)
                while there and cursor.key().startswith(prefix):
                    there = cursor.delete()  # now on the next one
            for batch in batches:
                cursor.putmulti(batch)
            cursor.putmulti(last)
        except BaseException:
            mapped.end(txn)
            raise
        try:
            txn.commit()
        except lmdb.Error as e:
            error = translated(e, mapped.path)
            if not isinstance(error, StorageFullError):
                self._failed = str(e)
            raise error from e

    def compact(self) -> None:
        """Moves to a new file that holds what is in LMDB now and no byte besides, and deletes the old one.

        What was deleted or overwritten is then in no file of the tier, be it in free pages or between the entries of
        used ones. A process that reads goes on with the old file until it opens the new one. Calls and scans of other
        threads that are in progress end on the old map; writes are refused meanwhile.

        StorageFullError or EngineError: the old file is still in use and whole, or, if names could not be made durable,
        nothing more is written until the directory is opened again. If only the deletion failed, the next compaction or
        opening deletes.
        """
        self._alone(self._compact)

    def _compact(self, old: Mapped) -> None:
        data = data_file(self.folder, old.generation + 1)
        aside = cold_file.aside_file(data)
        cold_file.sweep(self.folder, keep=old.generation)
        try:
            with old.env.begin() as txn:
                Snapshot(txn, str(old.path)).copy(aside)
            cold_file.reserve_lock(data)  # while it can still fail for want of room
            self._failed = "a compaction was interrupted"  # from here on either file may be the one that is found
            os.rename(aside, data)
        except BaseException as e:
            with contextlib.suppress(OSError):  # if this fails, too, `sweep` will find it
                os.unlink(aside)
                self._failed = None
            if isinstance(e, OSError) and not isinstance(e, EngineError):
                raise translated(e, data) from e
            raise
        _sync(self.folder)
        mapped = Mapped(self.folder, old.generation + 1, readonly=False)
        with self._lock:
            self._mapped = mapped
            self._retired.append(old)
        self._failed = None
        cold_file.sweep(self.folder, keep=mapped.generation)

    def stats(self) -> dict[str, int]:
        """`file_bytes`, `disk_bytes`, `map_bytes`, `page_bytes`, `used_pages`, `free_pages` (LMDB's own list included),
        `entries`, `txnid`, `generation`, `readers`: the most transactions at once since the first process opened it,
        and `oldest_reader_pid` and `oldest_reader_lag`: which process reads the oldest state, and how many transactions
        it is behind (0 and 0 if nobody reads). LMDB uses no page again that it may still see."""
        return self._within(Mapped.stats)


def _held(directory: AnyPath) -> Folder:
    try:
        return Folder(directory)
    except FileNotFoundError as e:
        raise CorruptionError("the directory is missing", file=str(directory)) from e
    except OSError as e:
        raise translated(e, directory) from e


def _sync(directory: Folder) -> None:
    try:
        sync_directory(directory)
    except OSError as e:
        raise translated(e, directory) from e
