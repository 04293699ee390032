"""The catalogue: one scoring copy of every item that can be ranked, and which of them a call may show.

Wraps csrc/catalogue.h. An item's ordinal is its position here, given at first sight; ids are never positions.
Any thread may call anything but `restore` and `follow`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import native
from ..errors import CorruptionError, InputError
from ..events import Floats, Ids, describe, id_array

Lists = Ids | Sequence[Ids] | None  # one list for all queries, one per query, or none
_Stored = Iterable[tuple[Ids, NDArray[np.uint8]]]  # ids and rows, in parts
_MOST_POSITIONS = 1 << 22  # filter entries per native call
_MOST_QUERIES = 4096


def filter_lists(name: str, x: Any, queries: int) -> Lists:
    """Checks `exclude` / `include`: 1-D for all queries, or one per query: a list of arrays or 2-D padded with -1."""
    if x is None:
        return None
    wanted = f"ids in 1-D for all, or one list for each of the {queries} users (2-D may be padded with -1)"
    nested = isinstance(x, (list, tuple)) and any(isinstance(row, (list, tuple, np.ndarray)) for row in x)
    if nested:
        if len(x) != queries:
            raise InputError(f"{name}: got {len(x)} lists, wanted {wanted}")
        lists = [id_array(f"{name}[{i}]", row, padding=True) for i, row in enumerate(x)]
        for i, row in enumerate(lists):
            if row.ndim != 1:
                raise InputError(f"{name}[{i}]: got {describe(row)}, wanted ids in 1-D")
        return lists
    a = id_array(name, x, padding=True)
    if a.ndim == 2:
        if len(a) != queries:
            raise InputError(f"{name}: got {len(a)} rows, wanted {wanted}")
        return list(a)
    if a.ndim > 1:
        raise InputError(f"{name}: got {describe(a)}, wanted {wanted}")
    return a.reshape(-1)


class Catalogue:
    def __init__(self, dim: int):
        self.native: Any = native.Catalogue(dim)
        self.dim = dim

    def __len__(self) -> int:
        return len(self.native)

    @property
    def bytes(self) -> int:
        return int(self.native.bytes)

    def restore(self, stored: _Stored, n: int, end: int, hidden: _Stored, n_hidden: int) -> None:
        """Fills the catalogue at opening from the item rows of LMDB, n of them, the last one's ordinal end - 1, and
        from the rows of hidden ids."""
        for ids, _ in hidden:
            self.native.hide(ids)
        if (found := len(self.native.hidden)) != n_hidden:
            raise CorruptionError(f"LMDB holds {found} hidden ids, its state says {n_hidden}")
        self.native.reserve_for(n, end)
        for ids, rows in stored:
            self.native.restore(ids, rows, self.dim, end)
        if not self.native.restored(n, end):
            raise CorruptionError(f"the item rows in LMDB are not the {n} items that it says it has")

    def pinned(self) -> Any:
        """For `with`: ordinals keep their meaning in the block. Short, for the writer may have to wait for its end."""
        return self.native.pin()

    def follow(self, ids: Ids, rows: NDArray[np.uint8]) -> bool:
        """Moves on to the item rows of a later epoch; nobody may read meanwhile.

        False, and the catalogue is of no use any more, if these are not rows that it had and the ones that came after.
        """
        return bool(self.native.follow(ids, rows, self.dim))

    def ordinals(self, ids: Ids) -> Ids:
        """Ordinals of ids, -1 where there is no such item. Use them while pinned."""
        found: Ids = self.native.ordinals(ids)
        return found

    def read(self, ordinals: Ids) -> tuple[Floats, Floats]:
        """Vectors [n, dim] and biases [n]; each item's are of one moment."""
        vectors, biases = self.native.read(ordinals)
        return vectors, biases

    def score(self, queries: Floats, ordinals: Ids) -> Floats:
        """Query i [n, dim] against item ordinals[i]: float32 [n], the bits that `topk` gives."""
        scores: Floats = self.native.score(queries, ordinals)
        return scores

    def topk(
        self, queries: Floats, k: int, *, exclude: Sequence[Lists], include: Lists, threads: int
    ) -> tuple[Ids, Floats, Ids]:
        """The best k of the catalogue for each query [n, dim], hidden items left out: ids [n, k], scores [n, k],
        counts [n]."""
        n = len(queries)
        shared = [self._positions(x) for x in (*exclude, include) if isinstance(x, np.ndarray)]
        chunk = int(max(1, min(_MOST_QUERIES, _MOST_POSITIONS // (1 + sum(map(len, shared))))))
        parts = []
        for start in range(0, n, chunk):
            stop = min(n, start + chunk)
            with self.pinned():
                filters = (*self._filter(exclude, start, stop), *self._filter([include], start, stop))
                parts.append(self.native.topk(queries[start:stop], k, *filters, threads))
        if len(parts) == 1:
            return parts[0]  # type: ignore[no-any-return]  # native has no types
        if not parts:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32), np.empty(0, np.int64)
        ids, scores, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        return ids, scores, counts

    def _positions(self, ids: Ids) -> Ids:
        """Ordinals of the ids that are items, rising and distinct."""
        ordinals = self.ordinals(ids)
        return np.unique(ordinals[ordinals >= 0])

    def _filter(self, filters: Sequence[Lists], start: int, stop: int) -> tuple[Ids | None, Ids | None]:
        """The union of filters for queries [start, stop) in CSR form: positions, offsets; (None, None) without any."""
        given = [x for x in filters if x is not None]
        if not given:
            return None, None
        common = [self._positions(x) for x in given if isinstance(x, np.ndarray)]
        per_query = [x for x in given if not isinstance(x, np.ndarray)]
        rows = []
        for q in range(start, stop):
            parts = common + [self._positions(x[q]) for x in per_query]
            rows.append(parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts)))
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return (np.concatenate(rows) if rows else np.empty(0, np.int64)), offsets
