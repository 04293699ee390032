"""One table: the rows of one id space, warm in RAM and cold in LMDB.

Responsible for finding a row wherever it is, for reading the cold ones that are wanted, and for handing an epoch the
rows that it froze. Not for what the rows mean or when an epoch is due. The warm tier itself is native
(csrc/table/warm.h). `peek` may be called by any thread; the rest belongs to the writer or, where it says so, to the
epoch's thread.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..cold.cold import Cold
from ..cold.keys import Pair
from ..contract.arrays import NO_IDS, Ids, Mask, RowBytes
from ..machine.backend import native
from .stored import fetch_rows

_CHUNK = 2048  # rows copied, sealed or digested at a time: about half a megabyte


class FrozenRows(NamedTuple):
    """Some rows as an epoch writes them: their ids, rising, and LMDB's pairs."""

    ids: Ids
    pairs: list[Pair]


class Table:
    def __init__(self, name: str, number: int, warm: native.Warm, cold: Cold | None):
        """`number`: the table's first key byte in LMDB; `cold` is None in memory."""
        self.name = name
        self.number = number
        self.warm = warm
        self.cold = cold
        self._gone: Ids = NO_IDS

    def __len__(self) -> int:
        return self.warm.total

    # --- reading

    def peek(self, ids: Ids) -> tuple[Mask, RowBytes]:
        """Reads rows where they are, with no promotion: found bool [n], rows uint8 [n, stored_bytes].

        RAM first, then LMDB: a row leaves RAM only after the epoch that holds it, so one that is missed in RAM is found
        by a read that begins later.
        """
        found, rows = self.warm.peek(ids)
        self.look_in_cold(ids, found, rows)
        return found, rows

    def look_in_cold(self, ids: Ids, found: Mask, rows: RowBytes) -> None:
        """Completes what a look into RAM has not found."""
        if self.cold is None or found.all():
            return
        missed = ~found
        missed[missed] = ~contains(self._gone, ids[missed])  # looked at before LMDB is read
        found[missed] = fetch_rows(self.cold, self.number, ids[missed], rows, np.flatnonzero(missed))

    def has(self, ids: Ids) -> Mask:
        """Which of `ids`, rising, have a row."""
        found = np.empty(len(ids), np.bool_)
        for start in range(0, len(ids), _CHUNK):
            found[start : start + _CHUNK] = self.peek(ids[start : start + _CHUNK])[0]
        return found

    def rows(self) -> Iterator[tuple[Ids, RowBytes]]:
        """Every row in id order, wherever it lives. The writer's lock must be held, RAM be up to date."""
        resident = self.warm.resident()
        gone = self._gone  # before the scan begins: what it still finds of them is not valid
        cold = iter(()) if self.cold is None else self.cold.scan(self.number, self.warm.stored_bytes)
        done = 0
        for ids, rows in cold:
            if len(gone) and not (kept := ~contains(gone, ids)).all():
                ids, rows = ids[kept], rows[kept]
            if not len(ids):
                continue
            # Where a row is in both, RAM has the newer one.
            stop = int(np.searchsorted(resident, ids[-1], side="right"))
            warm_ids = resident[done:stop]
            done = stop
            if len(warm_ids):
                only_cold = ~np.isin(ids, warm_ids)
                ids = np.concatenate([ids[only_cold], warm_ids])
                rows = np.concatenate([rows[only_cold], self.warm.peek(warm_ids)[1]])
                order = np.argsort(ids)
                ids, rows = ids[order], rows[order]
            yield ids, rows
        for start in range(done, len(resident), _CHUNK):
            ids = resident[start : start + _CHUNK]
            yield ids, self.warm.peek(ids)[1]

    # --- learning

    def stored(self, missing: Ids) -> tuple[Ids, RowBytes]:
        """What LMDB has of `missing`: ids, rising, and their rows. Slots that wait for them are `warm.fill`ed."""
        if self.cold is None or not len(missing):
            return NO_IDS, np.empty((0, self.warm.stored_bytes), np.uint8)
        wanted = np.sort(missing)
        wanted = wanted[~contains(self._gone, wanted)]
        there, rows = self.cold.fetch(self.number, wanted, self.warm.stored_bytes)
        return wanted[there], rows

    def frozen(self) -> Iterator[FrozenRows]:
        """The frozen rows, by rising key. Epoch thread, once per freeze."""
        n = self.warm.sort_frozen()
        for start in range(0, n, _CHUNK):
            ids, rows = self.warm.collect(start, min(_CHUNK, n - start))
            yield FrozenRows(ids, native.seal_rows(self.number, ids, rows))

    # --- removal: the writer, between records, while no epoch runs

    def remove(self, ids: Ids) -> int:
        """Removes the rows of `ids`, rising; returns how many there were. LMDB loses them with the next epoch."""
        present = ids[self.has(ids)]
        if self.cold is not None:
            self._gone = np.union1d(self._gone, present)  # first: readers look into RAM, then here, then into LMDB
        self.warm.remove(present)
        self.warm.rows_removed(len(present))
        return len(present)

    def untouched_since(self, seq: int) -> Ids:
        """The ids, rising, of rows that no event after `seq` has named, wherever they live."""
        parts: list[Ids] = [self.warm.untouched_since(seq)]
        if self.cold is not None and len(self.warm) < len(self):
            elsewhere = np.union1d(self.warm.resident(), self._gone)
            for ids, rows in self.cold.scan(self.number, self.warm.stored_bytes):
                last = np.ascontiguousarray(rows[:, self.warm.seq_offset :][:, :8]).view(np.uint64)[:, 0]
                old = ids[last <= seq]
                parts.append(old[~contains(elsewhere, old)])
        return np.sort(np.concatenate(parts))

    @property
    def gone(self) -> Ids:
        """Ids, rising, of which nothing that LMDB has is valid: the next epoch deletes it. Any thread, but look before
        you begin to read LMDB."""
        return self._gone

    def deleted(self) -> None:
        """LMDB has lost the keys. Before the rows are thawed: one that came again may then leave RAM. Epoch thread."""
        self._gone = NO_IDS

    def stats(self) -> dict[str, int]:
        """Rows and bytes in RAM; `rows`: in all tiers."""
        return {
            "rows": self.warm.total,
            "warm_rows": len(self.warm),
            "warm_capacity": self.warm.capacity,
            "warm_bytes": self.warm.bytes,
            "row_bytes": self.warm.stride,
            "dirty_rows": self.warm.dirty,
            "evicted": self.warm.evicted,
        }


def contains(rising: Ids, ids: Ids) -> Mask:
    """Which of `ids` are in `rising`, bool [n]."""
    if not len(rising):
        return np.zeros(len(ids), np.bool_)
    at = np.searchsorted(rising, ids)
    at[at == len(rising)] = 0
    found: Mask = rising[at] == ids
    return found
