"""The cold tier: rows, history chunks and metadata in LMDB, one environment per directory.

Responsible for keys, values and their CRCs (FORMAT.md), and for one write transaction per epoch. Not for the files as
such (cold_file.py), for what a row's bytes mean, when an epoch is due, or who may write the directory (the engine holds
that lock). Invariants: a file is checked before LMDB maps it; bytes whose CRC is wrong are never returned; a write
happens whole or not at all, and is on the disk when `write` returns. Any thread may call anything; a second writer is
refused. Each call begins and ends its own transaction, except a scan, which holds one until it is exhausted or closed:
meanwhile LMDB cannot use pages again that the scan may still see.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray

from ..backend import native
from ..errors import CorruptionError, EngineError, InputError, ReadOnlyError, StorageFullError
from ..files import sync_directory
from .cold_file import DATA, check_file, map_file, translated, verify

__all__ = ["DATA", "Cold", "chunk_key", "verify"]

Pair = tuple[bytes, bytes]
Ids = NDArray[np.int64]
Rows = NDArray[np.uint8]
T = TypeVar("T")

META, HISTORY = 0, 3
CHUNK = 1024  # entries per step of a scan: the step's objects stay in the CPU's cache


def chunk_key(table: int, id: int, chunk: int) -> bytes:
    """The key of one chunk: table and chunk 0..255, id any int64."""
    return bytes([table]) + (id + (1 << 63)).to_bytes(8, "big") + bytes([chunk])


class Cold:
    """One open cold tier. `Cold.create` and `Cold.open` make it; `close`, or a `with` block, ends it."""

    def __init__(self, directory: Path, env: Any, readonly: bool):
        self.directory = directory
        self.readonly = readonly
        self._env = env
        self._pid = os.getpid()
        self._writing = threading.Lock()
        self._turn = threading.Condition()
        self._inside = 0  # calls that are using the map now; close() waits for them
        self._closed = False
        self._failed: str | None = None

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
        if (directory / DATA).exists():
            raise EngineError(f"{directory / DATA} is there already")
        cold = cls(directory, map_file(directory, readonly=False), readonly=False)
        try:
            cold.write((), meta)
            sync_directory(directory)
        except BaseException:
            cold.close()
            raise
        return cold

    @classmethod
    def open(cls, directory: Path, *, readonly: bool = False, values: bool = True) -> Self:
        """Checks the data file, page by page and value by value, and only then maps it.

        Without `values` the CRCs of values are checked when they are read, and not before: a third less work, but a
        row whose key was damaged then looks absent to `fetch`.

        `readonly`: for a process beside the writer; sees each transaction as it is committed.
        CorruptionError (file, offset) if the file is missing or damaged; ReadOnlyError if it may not be written or,
        when `readonly`, if the lock file beside it may not.
        """
        check_file(directory / DATA, values=values)
        return cls(directory, map_file(directory, readonly=readonly), readonly)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the calls that are in progress, then unmaps. Unfinished scans raise at their next step."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._turn.wait_for(lambda: self._inside == 0)
        if os.getpid() == self._pid:  # a child that closed it would take the parent's locks away
            self._env.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Keeps the map in place for the length of a block; translates what LMDB raises in it."""
        if os.getpid() != self._pid:
            raise EngineError("a cold tier cannot be used after fork; open it in the child")
        with self._turn:
            if self._closed:
                raise EngineError("the cold tier is closed")
            self._inside += 1
        try:
            yield
        except lmdb.Error as e:
            raise translated(e, self.directory / DATA) from e
        finally:
            with self._turn:
                self._inside -= 1
                self._turn.notify_all()

    def _corrupt(self, pair: tuple[Any, Any]) -> CorruptionError:
        key = bytes(pair[0][:16]).hex()
        return CorruptionError(f"the value of key 0x{key} is not what was written", file=str(self.directory / DATA))

    # Reading

    def fetch(self, table: int, ids: Ids, width: int) -> tuple[NDArray[np.bool_], Rows]:
        """Reads the rows of `ids` (int64 [N], rising) in one transaction.

        Returns found (bool [N]) and rows (uint8 [count of found, width]), in the order of ids. CorruptionError;
        InputError if ids do not rise strictly.
        """
        if (ids[1:] <= ids[:-1]).any():
            raise InputError("ids: must rise strictly")
        keys: list[bytes] = native.row_keys(table, np.ascontiguousarray(ids))
        with self._using(), self._env.begin() as txn:
            pairs = txn.cursor().getmulti(keys)
            got = np.empty(len(pairs), np.int64)
            rows = np.empty((len(pairs), width), np.uint8)
            count: int = native.unseal_rows(table, pairs, got, rows)
            if count != len(pairs):
                raise self._corrupt(pairs[-1 - count])
        found = np.zeros(len(ids), np.bool_)
        found[np.searchsorted(ids, got)] = True
        return found, rows

    def scan(self, table: int, width: int, chunk: int = CHUNK) -> Iterator[tuple[Ids, Rows]]:
        """Yields all rows of a table in the order of ids: (int64 [n], uint8 [n, width]), 1 <= n <= chunk."""

        def unseal(pairs: list[Any]) -> tuple[int, tuple[Ids, Rows]]:
            ids = np.empty(len(pairs), np.int64)
            rows = np.empty((len(pairs), width), np.uint8)
            count: int = native.unseal_rows(table, pairs, ids, rows)
            if count < 0:
                raise self._corrupt(pairs[-1 - count])
            return count, (ids[:count], rows[:count])

        return self._walk(bytes([table]), chunk, unseal)

    def scan_raw(self, table: int, chunk: int = CHUNK) -> Iterator[list[Pair]]:
        """Yields everything of a table in the order of keys, as lists of (key, payload)."""
        return self._walk(bytes([table]), chunk, lambda pairs: self._unseal(table, pairs))

    def fetch_chunks(self, user: int, table: int = HISTORY) -> list[tuple[int, bytes]]:
        """The chunks of one id, (number, payload) by number; empty if there are none."""
        prefix = chunk_key(table, user, 0)[:-1]
        with self._using(), self._env.begin() as txn:
            cursor = txn.cursor()
            pairs: list[Pair] = []
            if cursor.set_range(prefix):
                for pair in cursor.iternext():
                    pairs.append(pair)
                    if pair[0][:9] != prefix:  # kept: whatever ends the list has its CRC checked, too
                        break
            chunks = self._unseal(table, pairs)[1]
        return [(key[9], payload) for key, payload in chunks if key[:9] == prefix]

    def meta(self, key: str) -> bytes | None:
        """One metadata item, or None."""
        name = _meta_key(key)
        with self._using(), self._env.begin() as txn:
            value = txn.get(name)
            return None if value is None else self._unseal(META, [(name, value)])[1][0][1]

    def _unseal(self, table: int, pairs: list[Any]) -> tuple[int, list[Pair]]:
        payloads: list[Pair]
        payloads, bad = native.unseal_values(table, pairs)
        if bad >= 0:
            raise self._corrupt(pairs[bad])
        return len(payloads), payloads

    def _walk(self, start: bytes, chunk: int, unseal: Callable[[list[Any]], tuple[int, T]]) -> Iterator[T]:
        with self._using():
            txn = self._env.begin()
        try:
            with self._using():
                cursor = txn.cursor()
                entries = cursor.iternext() if cursor.set_range(start) else iter(())
            count = chunk
            while count == chunk:
                with self._using():
                    pairs = list(islice(entries, chunk))
                    count, part = unseal(pairs)
                if count:
                    yield part
        finally:
            if os.getpid() == self._pid:  # the parent's reader slot is not the child's to free
                txn.abort()

    # Writing

    def write(self, batches: Iterable[list[Pair]], meta: dict[str, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Deletes, then puts all batches of sealed (key, value) pairs, then `meta`, in one transaction; synced when it
        returns.

        Existing keys are overwritten; of each of `deletes` every key goes that begins with it, if there is any. Keys in
        rising order are fast. If anything fails, also an exception out of
        `batches`, nothing of it is in the file. StorageFullError: free space and call again. EngineError otherwise;
        when a commit failed for another reason than space, the disk is not trusted: open the tier again.
        """
        if self.readonly:
            raise ReadOnlyError(f"{self.directory} was opened for reading")
        if not self._writing.acquire(blocking=False):
            raise EngineError("another thread is writing the cold tier")
        try:
            with self._using():
                if self._failed:
                    raise EngineError(f"an earlier write failed ({self._failed}); open the directory again")
                self._env.reader_check()  # readers that died would keep pages from being used again
                self._transact(
                    deletes, batches, native.seal_values([(_meta_key(k), v) for k, v in sorted(meta.items())])
                )
        finally:
            self._writing.release()

    def _transact(self, deletes: Iterable[bytes], batches: Iterable[list[Pair]], last: list[Pair]) -> None:
        txn = self._env.begin(write=True)
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
            txn.abort()
            raise
        try:
            txn.commit()
        except lmdb.Error as e:
            error = translated(e, self.directory / DATA)
            if not isinstance(error, StorageFullError):
                self._failed = str(e)
            raise error from e

    def stats(self) -> dict[str, int]:
        """`file_bytes`, `disk_bytes`, `map_bytes`, `page_bytes`, `used_pages`, `free_pages` (LMDB's own list included),
        `entries`, `txnid`, and `readers`: the most transactions at once since the first process opened it."""
        with self._using():
            file, stat, info = os.stat(self.directory / DATA), self._env.stat(), self._env.info()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return {
            "file_bytes": file.st_size,
            "disk_bytes": file.st_blocks * 512,
            "map_bytes": info["map_size"],
            "page_bytes": stat["psize"],
            "used_pages": used,
            "free_pages": info["last_pgno"] + 1 - 2 - used,
            "entries": stat["entries"],
            "txnid": info["last_txnid"],
            "readers": info["num_readers"],
        }


def _meta_key(name: str) -> bytes:
    return bytes([META]) + name.encode()
