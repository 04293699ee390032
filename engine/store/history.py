"""History: what each user has had, the most recent 1,024 distinct items.

Lives with the rows of the users' table (csrc/table/history.h); in LMDB it is a table of its own, in chunks of 64
entries. An entry is (item int64, seq uint64). `items_of` may be called by any thread.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..cold.keys import HISTORY, MOST_CHUNKS
from ..contract.arrays import Ids
from ..contract.errors import CorruptionError
from ..machine.backend import native

ENTRY = np.dtype([("item", "<i8"), ("seq", "<u8")])
_CHUNK_BYTES = 64 * ENTRY.itemsize
_CHUNK = 2048  # users at a time

Chunks = list[tuple[int, bytes]]


class History:
    """`users` is the native warm tier of the users' table; `fetch` reads one user's chunks from LMDB, but not for
    those that are `gone`."""

    def __init__(self, users: Any, budget_bytes: int, fetch: Callable[[int], Chunks], gone: Callable[[], Ids]):
        self._users = users
        self._stored = fetch
        self._gone = gone
        self._native: Any = native.History(users, budget_bytes)

    @property
    def native(self) -> Any:
        return self._native

    @property
    def ram_bytes(self) -> int:
        return int(self._native.bytes)

    def items_of(self, user: int) -> Ids:
        """Item ids that a user has had, in no order; empty for a stranger."""
        raw = self._native.entries(self._users, user)
        if raw is None:
            raw = _joined(user, self._fetch(user))
        return items_in(raw)

    def _fetch(self, user: int) -> Chunks:
        gone = self._gone()
        at = int(np.searchsorted(gone, user))
        return [] if at < len(gone) and gone[at] == user else self._stored(user)

    def deliver(self, users: Ids) -> None:
        """Loads the histories of users whose rows are being brought in from LMDB, and still hidden. Writer only."""
        for user in users.tolist():
            raw = _joined(user, self._fetch(user))
            if raw:
                self._native.load(self._users, user, raw)

    def freeze(self) -> None:
        self._native.freeze()

    def frozen(self, users: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """The dirty chunks of the frozen users as LMDB's pairs, by rising key. Epoch thread, after the users' rows."""
        for start in range(0, users, _CHUNK):
            chunks = self._native.collect(self._users, start, min(_CHUNK, users - start))
            if chunks:
                yield _sealed(chunks)

    def thaw(self, committed: bool) -> None:
        """Before the users' rows are thawed."""
        self._native.thaw(self._users, committed)

    def owners(self, stored: Iterator[list[tuple[bytes, bytes]]], items: Ids) -> Ids:
        """The users, rising, whose stored chunks name one of `items`. `stored`: LMDB's (key, payload) pairs.

        CorruptionError for chunks that no engine writes.
        """
        found: set[int] = set()
        for pairs in stored:
            if odd := next((key for key, payload in pairs if len(payload) % ENTRY.itemsize), None):
                raise CorruptionError(f"the history of user {_user(odd)} is not what an engine writes")
            entries = np.frombuffer(b"".join(payload for _, payload in pairs), ENTRY)["item"]
            ends = np.cumsum([len(payload) // ENTRY.itemsize for _, payload in pairs])
            for at in np.searchsorted(ends, np.flatnonzero(np.isin(entries, items)), side="right"):
                found.add(_user(pairs[at][0]))
        return np.array(sorted(found), np.int64)

    def chunks(self, stored: Iterator[list[tuple[bytes, bytes]]]) -> Iterator[tuple[int, int, bytes]]:
        """Every chunk as (user, number, bytes), by user and number. `stored`: LMDB's (key, payload) pairs, in order."""
        resident = self._users.resident().tolist()
        here = {*resident, *self._gone().tolist()}  # before the scan begins
        at = 0
        for user, number, payload in stored_chunks(stored):
            while at < len(resident) and resident[at] < user:
                yield from self._resident_chunks(resident[at])
                at += 1
            if user not in here:
                yield user, number, payload
        for user in resident[at:]:
            yield from self._resident_chunks(user)

    def _resident_chunks(self, user: int) -> Iterator[tuple[int, int, bytes]]:
        raw = self._native.entries(self._users, user)
        for start in range(0, len(raw), _CHUNK_BYTES):
            yield user, start // _CHUNK_BYTES, raw[start : start + _CHUNK_BYTES]


def _joined(user: int, chunks: Chunks) -> bytes:
    """All entries of one user: chunks 0, 1, ..., full ones, at most one that is not, and those whose entries were all
    forgotten. CorruptionError if they are anything else."""
    room = _CHUNK_BYTES  # of a chunk, where all before it are full
    for place, (number, payload) in enumerate(chunks):
        size = len(payload)
        if number != place or place >= MOST_CHUNKS or size > room or size % ENTRY.itemsize:
            raise CorruptionError(f"the history of user {user} is not what an engine writes")
        if size < _CHUNK_BYTES:
            room = 0
    return b"".join(payload for _, payload in chunks)


def items_in(raw: bytes) -> Ids:
    """The item ids of a user's chunks, put together."""
    return np.ascontiguousarray(np.frombuffer(raw, ENTRY)["item"], dtype=np.int64)


class StoredHistory:
    """What users have had, as one snapshot of LMDB has it; `fetch` reads one user's chunks there."""

    def __init__(self, fetch: Callable[[int], Chunks]):
        self._fetch = fetch

    def items_of(self, user: int) -> Ids:
        return items_in(_joined(user, self._fetch(user)))


def stored_chunks(stored: Iterator[list[tuple[bytes, bytes]]]) -> Iterator[tuple[int, int, bytes]]:
    """Every chunk as (user, number, bytes), out of LMDB's (key, payload) pairs."""
    for key, payload in (pair for pairs in stored for pair in pairs):
        if payload:  # else its entries were forgotten
            yield _user(key), key[9], payload


def _user(key: bytes) -> int:
    return int.from_bytes(key[1:9], "big") - (1 << 63)


def _sealed(chunks: list[tuple[int, int, bytes]]) -> list[tuple[bytes, bytes]]:
    ids = np.array([user for user, _, _ in chunks], np.int64)
    numbers = np.array([number for _, number, _ in chunks], np.uint8)
    offsets = np.cumsum([0, *(len(payload) for _, _, payload in chunks)], dtype=np.int64)
    payload = np.frombuffer(b"".join(payload for _, _, payload in chunks), np.uint8)
    sealed: list[tuple[bytes, bytes]] = native.seal_chunks(HISTORY, ids, numbers, payload, offsets)
    return sealed
