"""Removal: hiding items, forgetting ids, letting rows go that nobody touches; in RAM now, in LMDB with an epoch.

Responsible for what changes in tables, catalogue, histories and model when an operation of the log is applied, and for
what the next epoch has to delete. Not for the log, nor for when an epoch runs. Invariants: rows are removed between
records alone, while no epoch runs and RAM is up to date, so nothing that is frozen leaves; a key is deleted in the
transaction of the next epoch, not before (no-steal), and until then LMDB's value counts as absent; operations applied
again, together with those that followed them, come to the same. The writer's thread only, except where it says so.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..cold.keys import HIDDEN, HISTORY, Pair
from ..contract.arrays import NO_IDS, PADDING, Ids
from ..learn.model import Model
from ..log.record import Record
from ..machine.backend import native
from ..table.table import Table
from .catalogue import Catalogue
from .tables import Tables

_SWEEPS = 4  # in the time that a row may stay untouched


_PARTS = 1000  # of ids, put together no more often: that takes time in proportion to all of them


class FrozenRemoval(NamedTuple):
    """What an epoch has to do beside writing rows. `deletes`: what keys begin with that go, in rising order; `hidden`:
    pairs to put. A reader can follow from a list of changed items only if none was removed, hidden or shown."""

    deletes: list[bytes]
    hidden: list[Pair]
    can_be_followed: bool


class Removal:
    def __init__(self, tables: Tables, catalogue: Catalogue, model: Model):
        """These are changed and not owned."""
        self._tables = tables
        self._catalogue = catalogue
        self._model = model
        self._in_memory = tables.users.cold is None
        self._flipped: list[Ids] = []  # hidden or shown since the last epoch began, in parts
        self._frozen: Ids = NO_IDS  # by the epoch that runs
        self.purge = False  # log and LMDB may hold bytes of forgotten ids
        self.expired = 0  # rows, since opening

    # --- operations of the log

    def apply(self, record: Record) -> Iterator[None]:
        """Applies an operation of the log. Yields where an epoch must end before it can go on, so that rows can leave
        RAM."""
        users, items = (np.unique(column[column != PADDING]) for column in (record.users, record.items))
        if record.operation == "forget":
            yield from self._forget(users, items)
        else:
            self._flip(items, hide=record.operation == "hide")

    def _flip(self, items: Ids, *, hide: bool) -> None:
        native = self._catalogue.native
        changed = native.hide(items) if hide else native.unhide(items)
        if not self._in_memory:
            self._flipped.append(changed)
            if len(self._flipped) > _PARTS:
                self._flipped = [_union(self._flipped)]

    def _forget(self, users: Ids, items: Ids) -> Iterator[None]:
        self.purge = not self._in_memory
        self.remove(users, items)
        self._flip(items, hide=False)
        if len(items):
            yield from self._forget_where_named(items)

    def _forget_where_named(self, items: Ids) -> Iterator[None]:
        """Takes items out of histories and out of the neighbours of others."""
        history, neighbours = self._tables.history, self._tables.neighbours
        yield from self._change_all(self._tables.users, lambda: history.owners(items), lambda: history.forget(items))
        if neighbours:
            yield from self._change_all(
                self._tables.items, lambda: neighbours.owners(items), lambda: neighbours.forget(items)
            )

    def _change_all(self, table: Table, owners: Callable[[], Ids], change: Callable[[], None]) -> Iterator[None]:
        """Changes the rows in RAM, then brings those in of which LMDB has something to change, as many at a time as
        there is room for."""
        change()
        if self._in_memory or len(table.warm) == len(table):
            return
        left = np.setdiff1d(owners(), np.union1d(table.warm.resident(), table.gone))
        while len(left):
            n = self._tables.bring(table, left)
            change()
            table.warm.unpin()
            left = left[n:]
            if len(left):
                yield

    # --- rows that nobody touches

    def due_for_expiry(self, before: int, seq: int, row_ttl: int) -> tuple[Ids, Ids]:
        """At the end of a record that brought the events before + 1 .. seq: where they cross a sweep's point, the users
        and items that none of the last `row_ttl` events has named."""
        step = max(1, row_ttl // _SWEEPS)
        if before // step == seq // step or seq < row_ttl:
            return NO_IDS, NO_IDS
        return self._tables.users.untouched_since(seq - row_ttl), self._tables.items.untouched_since(seq - row_ttl)

    def expire(self, users: Ids, items: Ids) -> None:
        """Removes those that were due."""
        self.remove(users, items)
        self.expired += len(users) + len(items)

    def remove(self, users: Ids, items: Ids) -> None:
        """Removes these users and items from all tables that have a row for them."""
        self._catalogue.native.remove(items)
        for table in self._tables.keyed_by("user"):
            table.remove(users)
        for table in self._tables.keyed_by("item"):
            table.remove(items)
        self._model.rows_removed()

    # --- epochs

    @property
    def pending(self) -> bool:
        """Has an epoch something to delete, or to hide or show?"""
        return any(len(table.gone) for table in self._tables) or any(len(part) for part in self._flipped)

    def freeze(self) -> FrozenRemoval:
        """For the epoch that begins."""
        self._frozen, self._flipped = _union(self._flipped), []
        hidden = np.isin(self._frozen, self._catalogue.hidden)
        deletes: list[bytes] = [key for table in self._tables for key in native.row_keys(table.number, table.gone)]
        deletes += native.row_keys(HISTORY, self._tables.users.gone)
        deletes += native.row_keys(HIDDEN, self._frozen[~hidden])
        ids = self._frozen[hidden]
        sealed = native.seal_rows(HIDDEN, ids, np.empty((len(ids), 0), np.uint8))
        return FrozenRemoval(deletes, sealed, not len(self._tables.items.gone) and not len(self._frozen))

    def ended(self, committed: bool) -> None:
        """The epoch ended."""
        if not committed:
            self._flipped.append(self._frozen)
        self._frozen = NO_IDS


def _union(parts: list[Ids]) -> Ids:
    """Rising, each once."""
    return np.unique(np.concatenate(parts)) if parts else NO_IDS
