"""Filters: the lists of ids that `exclude` and `include` name, and where in the catalogue they stand.

Responsible for their shapes and for putting several together; not for scoring. An id that is no item is passed over.
Pure functions, any thread.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.arguments import describe, id_array, id_set
from ..contract.arrays import PADDING, Ids
from ..contract.errors import InputError
from ..contract.tensors import is_tensor


@dataclass(frozen=True, slots=True)
class Lists:
    """Ids for each of several queries, end to end: those of query q are ids[offsets[q]:offsets[q + 1]]."""

    ids: Ids
    offsets: Ids

    @classmethod
    def of(cls, lists: Sequence[Ids]) -> "Lists":
        offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return cls(np.concatenate(lists) if lists else np.empty(0, np.int64), offsets)

    def cut(self, start: int, stop: int) -> "Lists":
        offsets = self.offsets[start : stop + 1]
        return Lists(self.ids[offsets[0] : offsets[-1]], offsets - offsets[0])


Filter = Ids | Lists | None
"""One list for all queries, one for each, or none."""

MOST_NEWEST = 1024
"""Items of one query's `history`."""

_LISTS = (list, tuple, np.ndarray, Set)


def filter_lists(name: str, x: Any, queries: int) -> Filter:
    """Checks `exclude` / `include`: 1-D or a set for all queries, or one per query: a list of arrays, lists or sets, or
    2-D padded with -1."""
    if x is None:
        return None
    wanted = f"ids in 1-D for all, or one list for each of the {queries} queries (2-D may be padded with -1)"
    if isinstance(x, Set):
        return id_set(name, x)
    if isinstance(x, (list, tuple)) and any(isinstance(row, _LISTS) or is_tensor(row) for row in x):
        if len(x) != queries:
            raise InputError(f"{name}: got {len(x)} lists, wanted {wanted}")
        return Lists.of([_list(f"{name}[{i}]", row) for i, row in enumerate(x)])
    a = id_array(name, x, padding=True)
    if a.ndim == 2:
        if len(a) != queries:
            raise InputError(f"{name}: got {len(a)} rows, wanted {wanted}")
        return Lists(a.reshape(-1), np.arange(len(a) + 1) * a.shape[1])
    if a.ndim > 1:
        raise InputError(f"{name}: got {describe(a)}, wanted {wanted}")
    return a.reshape(-1)


def newest_last(name: str, x: Any, queries: int | None) -> tuple[Lists, bool]:
    """Checks `history`: ids for one query, or a list of them for each; of how many, None: as many as there are. Their
    order and what comes twice are kept, unlike in filters. Returns the lists, and whether there was one alone."""
    if isinstance(x, Set):
        raise InputError(f"{name}: got a set, which has no order, wanted ids, the newest last")
    many = isinstance(x, (list, tuple)) and any(isinstance(row, _LISTS) or is_tensor(row) for row in x)
    if many and any(isinstance(row, Set) for row in x):
        raise InputError(f"{name}: got a list with a set, which has no order, wanted ids, the newest last")
    found = filter_lists(name, x, len(x) if queries is None and (many or np.ndim(x) == 2) else queries or 1)
    one = isinstance(found, np.ndarray)
    if isinstance(found, np.ndarray):
        if queries not in (None, 1):
            raise InputError(f"{name}: got one list, wanted one for each of the {queries} users")
        found = Lists.of([found])
    assert found is not None
    lists = Lists.of([part[part != PADDING] for part in np.split(found.ids, found.offsets[1:-1])])
    if (longest := int(np.diff(lists.offsets).max(initial=0))) > MOST_NEWEST:
        raise InputError(f"{name}: got {longest} items for one query, wanted at most {MOST_NEWEST}")
    return lists, one


def _list(name: str, x: Any) -> Ids:
    if isinstance(x, Set):
        return id_set(name, x)
    ids = id_array(name, x, padding=True)
    if ids.ndim != 1:
        raise InputError(f"{name}: got {describe(ids if ids.ndim else x)}, wanted ids in 1-D, as the other lists are")
    return ids


class Ordinals:
    """Filters as ordinals of the catalogue. Only its first `items` count: what came later is as unknown."""

    def __init__(self, look_up: Callable[[Ids], Ids], items: int):
        """look_up(ids): their ordinals, -1 where there is no such item."""
        self._look_up = look_up
        self.items = items

    def of_all(self, lists: Sequence[Filter]) -> Ids | None:
        """The union of the lists that are for all queries: rising, distinct. None where there is none."""
        shared = [self._found(x)[0] for x in lists if isinstance(x, np.ndarray)]
        return np.unique(np.concatenate(shared)) if shared else None

    def of_each(self, lists: Sequence[Filter]) -> tuple[Ids | None, Ids | None]:
        """The union of the lists of each query, in CSR form: rising and distinct within each. (None, None): none."""
        each = [x for x in lists if isinstance(x, Lists)]
        if not each:
            return None, None
        queries = len(each[0].offsets) - 1
        if queries == 1:  # most calls rank for one user: nothing to keep apart
            ordinals = np.unique(np.concatenate([self._found(x.ids)[0] for x in each]))
            return ordinals, np.array([0, len(ordinals)])
        # One sort for all: a query's ordinals follow those of the query before.
        keys = []
        for x in each:
            found, there = self._found(x.ids)
            owner = np.repeat(np.arange(queries), np.diff(x.offsets))[there]
            keys.append(owner * self.items + found)
        key = np.unique(np.concatenate(keys))
        offsets = np.searchsorted(key, np.arange(queries + 1) * self.items)
        return key % max(1, self.items), offsets

    def _found(self, ids: Ids) -> tuple[Ids, NDArray[np.bool_]]:
        ordinals = self._look_up(ids)
        there = (ordinals >= 0) & (ordinals < self.items)
        return ordinals[there], there
