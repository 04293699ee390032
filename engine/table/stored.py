"""A table as one snapshot of LMDB has it, and reading rows that lie there. One thread at a time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..cold.cold import Cold
from ..cold.snapshot import Snapshot
from ..contract.arrays import Ids, Mask, RowBytes


class StoredTable:
    """What `Table` answers, without RAM. `number`: the table's key byte; `width`: bytes of a stored row."""

    def __init__(self, number: int, width: int, snapshot: Snapshot):
        self._number = number
        self._snapshot = snapshot
        self._width = width

    def peek(self, ids: Ids) -> tuple[Mask, RowBytes]:
        """As `Table.peek`."""
        rows = np.empty((len(ids), self._width), np.uint8)
        return fetch_rows(self._snapshot, self._number, ids, rows, np.arange(len(ids))), rows

    def rows(self) -> Iterator[tuple[Ids, RowBytes]]:
        """As `Table.rows`."""
        return self._snapshot.scan(self._number, self._width)


def fetch_rows(source: Cold | Snapshot, number: int, ids: Ids, rows: RowBytes, at: NDArray[np.int64]) -> Mask:
    """Puts the rows of `ids` (any order, repeated or not) to rows[at]; which of them there are, bool [len(ids)]."""
    wanted, which = np.unique(ids, return_inverse=True)
    there, fetched = source.fetch(number, wanted, rows.shape[1])
    found: Mask = there[which]
    rows[at[found]] = fetched[(np.cumsum(there) - 1)[which[found]]]
    return found
