"""A snapshot: what one read transaction of LMDB sees. Keys, values and their CRCs, as FORMAT.md has them.

Responsible for reading; not for the transaction's life, which is its maker's (cold.py), nor for what a row means.
Invariant: bytes whose CRC is wrong are never returned. One thread at a time.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Ids, RowBytes
from ..contract.errors import CorruptionError, InputError
from ..machine.backend import native
from ..machine.files import AnyFile
from .file import write_copy
from .keys import CHANGES, CHUNK_KEY_BYTES, HISTORY, META, Pair, chunk_key, meta_key

T = TypeVar("T")

CHUNK = 1024  # entries per step of a scan: the step's objects stay in the CPU's cache


class Snapshot:
    """All of a cold tier as of one transaction."""

    def __init__(self, txn: Any, file: str):
        """`txn`: a read transaction, as long as the snapshot is used; `file`: for messages."""
        self._txn = txn
        self._file = file

    def fetch(self, table: int, ids: Ids, width: int) -> tuple[NDArray[np.bool_], RowBytes]:
        """The rows of `ids` (int64 [N], rising).

        Returns found (bool [N]) and rows (uint8 [count of found, width]), in the order of ids. CorruptionError;
        InputError if ids do not rise strictly.
        """
        if (ids[1:] <= ids[:-1]).any():
            raise InputError("ids: must rise strictly")
        keys: list[bytes] = native.row_keys(table, np.ascontiguousarray(ids))
        pairs = self._txn.cursor().getmulti(keys)
        got = np.empty(len(pairs), np.int64)
        rows = np.empty((len(pairs), width), np.uint8)
        count: int = native.unseal_rows(table, pairs, got, rows)
        if count != len(pairs):
            raise self._corrupt(pairs[-1 - count])
        found = np.zeros(len(ids), np.bool_)
        found[np.searchsorted(ids, got)] = True
        return found, rows

    def fetch_chunks(self, user: int, table: int = HISTORY) -> list[tuple[int, bytes]]:
        """The chunks of one id, (number, payload) by number; empty if there are none."""
        prefix = chunk_key(table, user, 0)[:-1]
        cursor = self._txn.cursor()
        pairs: list[Pair] = []
        if cursor.set_range(prefix):
            for pair in cursor.iternext():
                pairs.append(pair)
                if pair[0][:9] != prefix:  # kept: whatever ends the list has its CRC checked, too
                    break
        chunks = self._unseal(table, pairs)[1]
        return [(key[9], payload) for key, payload in chunks if key[:9] == prefix]

    def __len__(self) -> int:
        """Entries, of all tables."""
        return int(self._txn.stat()["entries"])

    def get(self, table: int, ids: Ids) -> list[bytes]:
        """The payloads of `ids` (int64 [N], rising), of any length; those that are not there are passed over."""
        pairs = self._txn.cursor().getmulti(native.row_keys(table, ids))
        return [payload for _, payload in self._unseal(table, pairs)[1]]

    def meta(self, name: str) -> bytes | None:
        """One metadata item, or None."""
        key = meta_key(name)
        value = self._txn.get(key)
        return None if value is None else self._unseal(META, [(key, value)])[1][0][1]

    def scan(self, table: int, width: int, chunk: int = CHUNK) -> Iterator[tuple[Ids, RowBytes]]:
        """Yields all rows of a table in the order of ids: (int64 [n], uint8 [n, width]), 1 <= n <= chunk."""

        def unseal(pairs: list[Any]) -> tuple[int, tuple[Ids, RowBytes]]:
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

    def copy(self, data: AnyFile, meta: dict[str, bytes] | None = None) -> None:
        """Makes the data file `data` of everything but the lists of changes: no byte besides, checked and durable.

        `meta`: metadata items that are others in the copy. If it fails, no file is left. StorageFullError,
        CorruptionError.
        """
        others = native.seal_values([(meta_key(name), payload) for name, payload in (meta or {}).items()])
        write_copy(self._pairs(dict(others)), data)

    def _pairs(self, others: dict[bytes, bytes]) -> Iterator[list[Pair]]:
        cursor = self._txn.cursor()
        entries = cursor.iternext() if cursor.first() else iter(())
        while part := list(islice(entries, CHUNK)):
            if others and part[0][0][0] == META:  # its keys come first
                part = [(key, others.get(key, value)) for key, value in part]
            yield [pair for pair in part if pair[0][0] != CHANGES]

    def _walk(self, start: bytes, chunk: int, unseal: Callable[[list[Any]], tuple[int, T]]) -> Iterator[T]:
        cursor = self._txn.cursor()
        entries = cursor.iternext() if cursor.set_range(start) else iter(())
        count = chunk
        while count == chunk:
            pairs = list(islice(entries, chunk))
            count, part = unseal(pairs)
            if count:
                yield part

    def _unseal(self, table: int, pairs: list[Any]) -> tuple[int, list[Pair]]:
        payloads: list[Pair]
        payloads, bad = native.unseal_values(table, pairs)
        if bad >= 0:
            raise self._corrupt(pairs[bad])
        if table == HISTORY:
            for pair in payloads:
                if len(pair[0]) != CHUNK_KEY_BYTES:
                    raise self._corrupt(pair)
        return len(payloads), payloads

    def _corrupt(self, pair: tuple[Any, Any]) -> CorruptionError:
        key = bytes(pair[0][:16]).hex()
        return CorruptionError(f"the value of key 0x{key} is not what was written", file=self._file)
