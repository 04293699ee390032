"""A table as one snapshot of LMDB has it, and reading rows that lie there. One thread at a time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..cold.cold import Cold, Snapshot
from ..contract.arrays import Ids
from .layout import Rows, stored_bytes


class StoredTable:
    """A table as one snapshot of LMDB has it: what `Table` answers, without RAM. One thread at a time."""

    def __init__(self, number: int, dim: int, optimizer: str, snapshot: Snapshot):
        self.number = number
        self.dim = dim
        self._snapshot = snapshot
        self._width = stored_bytes(dim, optimizer)

    def peek(self, ids: Ids) -> tuple[NDArray[np.bool_], Rows]:
        """As `Table.peek`."""
        rows = np.empty((len(ids), self._width), np.uint8)
        return _fetch(self._snapshot, self.number, ids, rows, np.arange(len(ids))), rows

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """As `Table.floats`."""
        return _vectors(rows, self.dim)

    def biases(self, rows: Rows) -> NDArray[np.float32]:
        """As `Table.biases`."""
        return _biases(rows, self.dim)

    def rows(self) -> Iterator[tuple[Ids, Rows]]:
        """As `Table.rows`."""
        return self._snapshot.scan(self.number, self._width)


def _fetch(source: Cold | Snapshot, number: int, ids: Ids, rows: Rows, at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Puts the rows of `ids` (any order, repeated or not) to rows[at]; which of them there are, bool [len(ids)]."""
    wanted, which = np.unique(ids, return_inverse=True)
    there, fetched = source.fetch(number, wanted, rows.shape[1])
    found = there[which]
    rows[at[found]] = fetched[(np.cumsum(there) - 1)[which[found]]]
    return found


def _vectors(rows: Rows, dim: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows[:, : 4 * dim]).view(np.float32)


def _biases(rows: Rows, dim: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows[:, 4 * dim : 4 * dim + 4]).view(np.float32).reshape(-1)
