"""Removal: hiding items, forgetting ids, letting rows go that nobody touches; in RAM now, in LMDB with an epoch.

Responsible for what changes in tables, catalogue, histories and model when an operation of the log is applied, and for
what the next epoch has to delete. Not for the log, nor for when an epoch runs. Invariants: rows are removed between
records alone and while no epoch runs, so nothing that is frozen leaves; a key is deleted in the transaction of the next
epoch, not before (no-steal), and until then LMDB's value counts as absent; operations applied again, together with
those that followed them, come to the same. The writer's thread only, except where it says so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..cold.keys import HIDDEN, HISTORY
from ..contract.arrays import NO_IDS, PADDING, Ids
from ..log.record import Record
from ..machine.backend import native
from ..table.table import Table
from .catalogue import Catalogue
from .history import History

_SWEEPS = 4  # in the time that a row may stay untouched


class Frozen(NamedTuple):
    """What an epoch has to do beside writing rows. `deletes`: what keys begin with that go, in rising order; `hidden`:
    pairs to put. A reader can follow from a list of changed items only if none was removed, hidden or shown."""

    deletes: list[bytes]
    hidden: list[tuple[bytes, bytes]]
    can_be_followed: bool


class Removal:
    def __init__(self, users: Table, items: Table, catalogue: Catalogue, history: History, model: Any):
        """These are changed and not owned. In a directory `settle` must be made to wait for the running epoch, and
        `make_room` to end an epoch of now, so that rows can leave RAM."""
        self._users = users
        self._items = items
        self._catalogue = catalogue
        self._history = history
        self._model = model
        self.settle: Callable[[], None] = lambda: None
        self.make_room: Callable[[], None] = lambda: None
        self._flipped: Ids = NO_IDS  # hidden or shown since the last epoch began
        self._frozen: Ids = NO_IDS  # by the epoch that runs
        self.purge = False  # log and LMDB may hold bytes of forgotten ids
        self.expired = 0  # rows, since opening

    # --- operations of the log

    def apply(self, record: Record) -> None:
        """Applies an operation of the log."""
        users, items = (np.unique(column[column != PADDING]) for column in (record.users, record.items))
        if record.operation == "forget":
            self._forget(users, items)
        else:
            self._flip(items, hide=record.operation == "hide")

    def _flip(self, items: Ids, *, hide: bool) -> None:
        native = self._catalogue.native
        changed = native.hide(items) if hide else native.unhide(items)
        if self._items.cold is not None:
            self._flipped = np.union1d(self._flipped, changed)

    def _forget(self, users: Ids, items: Ids) -> None:
        self.purge = self._items.cold is not None
        self._remove(users, items)
        self._flip(items, hide=False)
        if len(items):
            self._history.native.forget(items)
            self._forget_in_cold_histories(items)

    def _forget_in_cold_histories(self, items: Ids) -> None:
        """Brings the users in who have had one of the items, as many at a time as there is room for."""
        cold = self._users.cold
        if cold is None or len(self._users.warm) == len(self._users):
            return
        left = self._history.owners(cold.scan_raw(HISTORY), items)
        left = np.setdiff1d(left, np.union1d(self._users.warm.resident(), self._users.gone))
        while len(left):
            n = self._users.bring(left, self._history.deliver)
            self._history.native.forget(items)
            self._users.warm.unpin()
            left = left[n:]
            if len(left):
                self.make_room()

    # --- rows that nobody touches

    def expire(self, before: int, seq: int, row_ttl: int) -> None:
        """At the end of a record that brought the events before + 1 .. seq: where they cross a sweep's point, the rows
        go that none of the last `row_ttl` events has named."""
        step = max(1, row_ttl // _SWEEPS)
        if before // step == seq // step or seq < row_ttl:
            return
        users, items = (table.untouched_since(seq - row_ttl) for table in (self._users, self._items))
        if len(users) or len(items):
            self._remove(users, items)
            self.expired += len(users) + len(items)

    def _remove(self, users: Ids, items: Ids) -> None:
        self.settle()
        self._users.refresh()  # while all of them are where a device's copies belong
        self._items.refresh()
        self._catalogue.native.remove(items)
        self._model.removed(self._users.remove(users), self._items.remove(items))

    # --- epochs

    @property
    def pending(self) -> bool:
        """Has an epoch something to delete, or to hide or show?"""
        return bool(len(self._users.gone) or len(self._items.gone) or len(self._flipped))

    def freeze(self) -> Frozen:
        """For the epoch that begins."""
        self._frozen, self._flipped = self._flipped, NO_IDS
        hidden = np.isin(self._frozen, self._catalogue.native.hidden)
        deletes: list[bytes] = [
            *native.row_keys(self._users.number, self._users.gone),
            *native.row_keys(self._items.number, self._items.gone),
            *native.row_keys(HISTORY, self._users.gone),
            *native.row_keys(HIDDEN, self._frozen[~hidden]),
        ]
        ids = self._frozen[hidden]
        sealed = native.seal_rows(HIDDEN, ids, np.empty((len(ids), 0), np.uint8))
        return Frozen(deletes, sealed, not len(self._items.gone) and not len(self._frozen))

    def deleted(self) -> None:
        """The epoch is committed, its rows not thawed yet. Epoch thread."""
        self._users.deleted()
        self._items.deleted()

    def ended(self, committed: bool) -> None:
        """The epoch ended."""
        if not committed:
            self._flipped = np.union1d(self._flipped, self._frozen)
        self._frozen = NO_IDS
