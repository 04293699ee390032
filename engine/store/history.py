"""History: what each user has had, the most recent 1,024 distinct items.

Lives with the rows of the users' table (csrc/table/history.h); in LMDB it is a table of its own, in chunks of 64
entries. A chunk of an earlier format, of (item, seq) alone, is read as what it would be in this one; its length tells
which it is. `items_of` may be called by any thread.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cold.keys import HISTORY, MOST_CHUNKS, Pair
from ..cold.snapshot import Snapshot
from ..contract.arrays import Ids
from ..contract.errors import CorruptionError
from ..machine.backend import native
from ..table.table import Table

ENTRY = np.dtype(
    [("item", "<i8"), ("seq", "<u8"), ("time", "<u4"), ("session", "<u4"), ("mark", "<u4"), ("place_and_times", "<u4")]
)
_OLD_ENTRY = np.dtype([("item", "<i8"), ("seq", "<u8")])
_TIMES_BITS = 6  # of place_and_times
_HEAD = b"entries\x02"  # of a chunk in LMDB: no chunk of the earlier format has such a length
_CHUNK_BYTES = 64 * ENTRY.itemsize
_CHUNK = 2048  # users at a time

Chunks = list[tuple[int, bytes]]  # of one user: number, entries
Chunk = tuple[int, int, bytes]  # user, number, entries


class History:
    """The histories of the users in `users`; `budget_bytes`: RAM for them."""

    def __init__(self, users: Table, budget_bytes: int):
        self._users = users
        self.native = native.History(users.warm, budget_bytes)

    @property
    def ram_bytes(self) -> int:
        return self.native.bytes

    def items_of(self, user: int) -> Ids:
        """Item ids that a user has had, in no order; empty for a stranger."""
        return items_in(self.entries(user))

    def recent(self, user: int) -> Ids:
        """Item ids that a user has had, the most recent last; empty for a stranger."""
        return in_order(self.entries(user))

    def entries(self, user: int) -> bytes:
        """What is known of all items that a user has had: bytes of `ENTRY`s."""
        raw = self.native.entries(self._users.warm, user)
        return _joined(user, self._stored(user)) if raw is None else raw

    def _stored(self, user: int) -> Chunks:
        """A user's chunks in LMDB; none of a user who was removed since the last epoch."""
        gone = self._users.gone
        at = int(np.searchsorted(gone, user))
        if self._users.cold is None or (at < len(gone) and gone[at] == user):
            return []
        return self._users.cold.fetch_chunks(user)

    def load(self, users: Ids) -> None:
        """Loads the histories of users whose rows are being brought in from LMDB, and still hidden. Writer only."""
        for user in users.tolist():
            stored = self._stored(user)
            raw = _joined(user, stored)
            if raw:
                self.native.load(self._users.warm, user, raw, any(_is_old(payload) for _, payload in stored))

    def freeze(self) -> None:
        self.native.freeze()

    def frozen(self, users: int) -> Iterator[list[Pair]]:
        """The dirty chunks of the frozen users as LMDB's pairs, by rising key. Epoch thread, after the users' rows."""
        for start in range(0, users, _CHUNK):
            chunks = self.native.collect(self._users.warm, start, min(_CHUNK, users - start))
            if chunks:
                yield _sealed(chunks)

    def thaw(self, committed: bool) -> None:
        """Before the users' rows are thawed."""
        self.native.thaw(self._users.warm, committed)

    def forget(self, items: Ids) -> None:
        """Takes items, rising, out of the histories of all users in RAM. Writer only, between records."""
        self.native.forget(items)

    def owners(self, items: Ids) -> Ids:
        """The users, rising, whose chunks in LMDB name one of `items`. CorruptionError for what nobody writes."""
        found: set[int] = set()
        for pairs in self._scan():
            named = [_entries(_user(key), payload)["item"] for key, payload in pairs]
            ends = np.cumsum([len(part) for part in named])
            for at in np.searchsorted(ends, np.flatnonzero(np.isin(np.concatenate(named), items)), side="right"):
                found.add(_user(pairs[at][0]))
        return np.array(sorted(found), np.int64)

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk, wherever it lives, by user and number. The writer's lock must be held."""
        resident = self._users.warm.resident().tolist()
        here = {*resident, *self._users.gone.tolist()}  # before the scan begins
        at = 0
        for user, number, payload in stored_chunks(self._scan()):
            while at < len(resident) and resident[at] < user:
                yield from self._resident_chunks(resident[at])
                at += 1
            if user not in here:
                yield user, number, payload
        for user in resident[at:]:
            yield from self._resident_chunks(user)

    def _scan(self) -> Iterator[list[Pair]]:
        return iter(()) if self._users.cold is None else self._users.cold.scan_raw(HISTORY)

    def _resident_chunks(self, user: int) -> Iterator[Chunk]:
        raw = self.native.entries(self._users.warm, user)
        assert raw is not None  # the user is in RAM, and nobody else removes rows
        for start in range(0, len(raw), _CHUNK_BYTES):
            yield user, start // _CHUNK_BYTES, raw[start : start + _CHUNK_BYTES]


def _joined(user: int, chunks: Chunks) -> bytes:
    """All entries of one user: chunks 0, 1, ..., full ones, at most one that is not, and those whose entries were all
    forgotten. CorruptionError if they are anything else."""
    room = _CHUNK_BYTES  # of a chunk, where all before it are full
    parts = _in_this_format(user, chunks)
    for place, (number, payload) in enumerate(parts):
        if number != place or place >= MOST_CHUNKS or len(payload) > room:
            raise _odd(user)
        if len(payload) < _CHUNK_BYTES:
            room = 0
    return b"".join(payload for _, payload in parts)


def _odd(user: int) -> CorruptionError:
    return CorruptionError(f"the history of user {user} is not what an engine writes")


def _is_old(payload: bytes) -> bool:
    """Has a chunk in LMDB the entries of the earlier format?"""
    return len(payload) > 0 and not payload.startswith(_HEAD)


def _entries(user: int, payload: bytes) -> NDArray[Any]:
    """The entries of a chunk in LMDB, in either format. CorruptionError."""
    kind, raw = (_OLD_ENTRY, payload) if _is_old(payload) else (ENTRY, payload[len(_HEAD) :])
    if len(raw) % kind.itemsize:
        raise _odd(user)
    return np.frombuffer(raw, kind)


def _in_this_format(user: int, chunks: Chunks) -> Chunks:
    """Chunks of one user as LMDB has them, without their heads. Entries of the earlier format come before all others:
    what places they had among the user's events follows from their seqs."""
    found = [(number, _entries(user, payload)) for number, payload in chunks]
    if any(entries.dtype == _OLD_ENTRY for _, entries in found):
        seqs = np.sort(np.concatenate([entries["seq"] for _, entries in found if entries.dtype == _OLD_ENTRY]))
        found = [(number, _converted(entries, seqs)) for number, entries in found]
    return [(number, entries.tobytes()) for number, entries in found]


def _converted(entries: NDArray[Any], seqs: NDArray[Any]) -> NDArray[Any]:
    if entries.dtype == ENTRY:
        return entries
    out = np.zeros(len(entries), ENTRY)
    out["item"], out["seq"] = entries["item"], entries["seq"]
    out["place_and_times"] = (np.searchsorted(seqs, entries["seq"]) + 1 << _TIMES_BITS) + 1
    return out


def items_in(raw: bytes) -> Ids:
    """The item ids of a user's chunks, put together."""
    return np.ascontiguousarray(np.frombuffer(raw, ENTRY)["item"], dtype=np.int64)


def named(raw: bytes) -> bytes:
    """Of a user's chunks: which event named which item last."""
    entries = np.frombuffer(raw, ENTRY)
    out = np.empty(len(entries), _OLD_ENTRY)
    out["item"], out["seq"] = entries["item"], entries["seq"]
    return out.tobytes()


def in_order(raw: bytes) -> Ids:
    """As `items_in`, by the seq of the last event that named each."""
    return items_in(np.sort(np.frombuffer(raw, ENTRY), order="seq").tobytes())


class StoredHistory:
    """What users have had, as one snapshot of LMDB has it."""

    def __init__(self, snapshot: Snapshot):
        self._snapshot = snapshot

    def items_of(self, user: int) -> Ids:
        """As `History.items_of`."""
        return items_in(self.entries(user))

    def recent(self, user: int) -> Ids:
        """As `History.recent`."""
        return in_order(self.entries(user))

    def entries(self, user: int) -> bytes:
        """As `History.entries`."""
        return _joined(user, self._snapshot.fetch_chunks(user))


def stored_chunks(stored: Iterator[list[Pair]]) -> Iterator[Chunk]:
    """Every chunk out of LMDB's (key, payload) pairs."""
    for user, pairs in groupby((pair for part in stored for pair in part), lambda pair: _user(pair[0])):
        for number, payload in _in_this_format(user, [(key[9], payload) for key, payload in pairs]):
            if payload:  # else its entries were forgotten
                yield user, number, payload


def _user(key: bytes) -> int:
    return int.from_bytes(key[1:9], "big") - (1 << 63)


def _sealed(chunks: list[tuple[int, int, bytes]]) -> list[Pair]:
    ids = np.array([user for user, _, _ in chunks], np.int64)
    numbers = np.array([number for _, number, _ in chunks], np.uint8)
    payloads = [_HEAD + payload if payload else payload for _, _, payload in chunks]
    offsets = np.cumsum([0, *map(len, payloads)], dtype=np.int64)
    payload = np.frombuffer(b"".join(payloads), np.uint8)
    sealed: list[Pair] = native.seal_chunks(HISTORY, ids, numbers, payload, offsets)
    return sealed
