"""One table: the rows of one id space, warm in RAM and cold in LMDB.

Responsible for finding a row wherever it is, for bringing cold rows in, and for handing an epoch the rows that it
froze. Not for what the rows mean or when an epoch is due. The warm tier itself is native (csrc/table/warm.h).
`peek` may be called by any thread; the rest belongs to the writer or, where it says so, to the epoch's thread.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cold.cold import Cold
from ..cold.keys import ITEMS
from ..contract.arrays import NO_IDS, Ids
from ..contract.errors import CorruptionError
from ..contract.losses import OPTIMIZERS
from ..device.hot import HotTier
from ..machine.backend import native
from .layout import Rows
from .stored import _biases, _fetch, _vectors

_CHUNK = 2048  # rows copied, sealed or digested at a time: about half a megabyte


class Table:
    """`number` is the table's first key byte in LMDB; `cold` is None in memory."""

    def __init__(self, number: int, dim: int, optimizer: str, capacity: int, cold: Cold | None):
        self.number = number
        self.dim = dim
        self.warm: Any = native.Warm(dim, OPTIMIZERS.index(optimizer), capacity, number == ITEMS)
        self.cold = cold
        self.hot: HotTier | None = None
        self._gone: Ids = NO_IDS

    def __len__(self) -> int:
        return int(self.warm.total)

    def peek(self, ids: Ids) -> tuple[NDArray[np.bool_], Rows]:
        """Reads rows where they are, with no promotion: found bool [n], rows uint8 [n, stored_bytes].

        RAM first, then LMDB: a row leaves RAM only after the epoch that holds it, so one that is missed in RAM is found
        by a read that begins later.
        """
        found: NDArray[np.bool_]
        rows: Rows
        with self.hot.turn if self.hot else nullcontext():  # no window comes between the two
            if self.hot:
                self.hot.refresh(ids)
            found, rows = self.warm.peek(ids)
        if self.cold is not None and not found.all():
            missed = ~found
            missed[missed] = ~contains(self._gone, ids[missed])  # looked at before LMDB is read
            found[missed] = _fetch(self.cold, self.number, ids[missed], rows, np.flatnonzero(missed))
        return found, rows

    def refresh(self) -> None:
        """Brings RAM up to what a device has learned. Any thread."""
        if self.hot:
            self.hot.refresh()

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """The vectors of rows, float32 [n, dim]."""
        return _vectors(rows, self.dim)

    def biases(self, rows: Rows) -> NDArray[np.float32]:
        """The biases of rows, float32 [n]."""
        return _biases(rows, self.dim)

    def deliver(self, missing: Ids, first: Callable[[Ids], None] | None = None) -> int:
        """Fills the slots that wait for `missing` with what LMDB has; returns how many it has.

        `first` gets the ids that it has, rising, before readers find their rows in RAM.
        """
        if self.cold is None or not len(missing):
            return 0
        wanted = self._not_gone(np.sort(missing))
        there, rows = self.cold.fetch(self.number, wanted, self.warm.stored_bytes)
        found = wanted[there]
        if first:
            first(found)
        self.warm.fill(found, rows)
        return len(found)

    def frozen(self, also: Callable[[Ids], None] | None = None) -> Iterator[list[tuple[bytes, bytes]]]:
        """The frozen rows as LMDB's pairs, by rising key; `also` gets their ids. Epoch thread, once per freeze."""
        n = self.warm.sort_frozen()
        for start in range(0, n, _CHUNK):
            ids, rows = self.warm.collect(start, min(_CHUNK, n - start))
            if also:
                also(ids)
            yield native.seal_rows(self.number, ids, rows)

    def rows(self) -> Iterator[tuple[Ids, Rows]]:
        """Every row in id order, wherever it lives. The writer's lock must be held."""
        self.refresh()
        resident: Ids = self.warm.resident()
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

    # --- removal: the writer, between records, while no epoch runs

    def remove(self, ids: Ids) -> int:
        """Removes the rows of `ids`, rising; returns how many there were. LMDB loses them with the next epoch."""
        present = ids[self.has(ids)]
        if self.cold is not None:
            self._gone = np.union1d(self._gone, present)  # first: readers look into RAM, then here, then into LMDB
        self.warm.remove(present)
        return len(present)

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of `ids`, rising, have a row."""
        found = np.empty(len(ids), np.bool_)
        for start in range(0, len(ids), _CHUNK):
            found[start : start + _CHUNK] = self.peek(ids[start : start + _CHUNK])[0]
        return found

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

    def bring(self, ids: Ids, first: Callable[[Ids], None] | None = None) -> int:
        """Brings the rows of `ids`, rising, into RAM, as many as there is room for; returns how many. All of them must
        exist; they stay until `warm.unpin`. `first` as in `deliver`."""
        n, missing = self.warm.bring(ids)
        if self.deliver(missing, first) < len(missing):
            raise CorruptionError("LMDB names an id that has no row there")
        return int(n)

    @property
    def gone(self) -> Ids:
        """Ids, rising, of which nothing that LMDB has is valid: the next epoch deletes it. Any thread, but look before
        you begin to read LMDB."""
        return self._gone

    def deleted(self) -> None:
        """LMDB has lost the keys. Before the rows are thawed: one that came again may then leave RAM. Epoch thread."""
        self._gone = NO_IDS

    def _not_gone(self, ids: Ids) -> Ids:
        return ids[~contains(self._gone, ids)]

    def stats(self) -> dict[str, int]:
        """Rows and bytes by tier."""
        return {
            "rows": int(self.warm.total),
            "warm_rows": len(self.warm),
            "warm_capacity": int(self.warm.capacity),
            "warm_bytes": int(self.warm.bytes),
            "row_bytes": int(self.warm.row_bytes),
            "dirty_rows": int(self.warm.dirty),
            "evicted": int(self.warm.evicted),
        } | (self.hot.stats() if self.hot else {})


def contains(rising: Ids, ids: Ids) -> NDArray[np.bool_]:
    """Which of `ids` are in `rising`, bool [n]."""
    if not len(rising):
        return np.zeros(len(ids), np.bool_)
    at = np.searchsorted(rising, ids)
    at[at == len(rising)] = 0
    found: NDArray[np.bool_] = rising[at] == ids
    return found
