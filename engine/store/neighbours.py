"""Neighbours: what came soon after an item, as the items' rows have it.

The learner adds them (csrc/learn/neighbours.h). Responsible for taking forgotten items out of them, in RAM and in LMDB.
The writer's thread, between records.
"""

import numpy as np

from ..contract.arrays import NO_IDS, Ids
from ..machine.backend import native
from ..table.table import Table


class Neighbours:
    def __init__(self, items: Table, at: int, most: int):
        """`at`: the float of a row at which they begin; `most`: that a row has room for."""
        self._items = items
        self._at = at
        self._most = most

    def forget(self, ids: Ids) -> None:
        """Takes items, rising, out of the rows in RAM."""
        native.forget_neighbours(self._items.warm, self._at, self._most, ids)

    def owners(self, ids: Ids) -> Ids:
        """The items, rising, whose rows in LMDB name one of `ids`, rising."""
        if self._items.cold is None:
            return NO_IDS
        rows = self._items.cold.scan(self._items.number, self._items.warm.stored_bytes)
        found = [of[native.name_neighbours(part, self._at, self._most, ids)] for of, part in rows]
        return np.concatenate(found) if found else NO_IDS
