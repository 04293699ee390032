"""What one call of a reader sees: a snapshot of LMDB, and the state and the catalogue of the same epoch.

Responsible for what is read through it. Not for finding out whether the three agree (reader.py). One thread at a time.
"""

from dataclasses import dataclass

from ..cold.cold import Snapshot
from ..cold.keys import HISTORY
from ..contract.arrays import Floats
from ..learn.model import Sequence
from ..table.stored import StoredTable
from .catalogue import Catalogue
from .digest import digest
from .history import StoredHistory, stored_chunks
from .state import State
from .tables import ITEMS, TABLES, USERS

__all__ = ["View"]


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What a list is made from: one epoch, as its transaction and the catalogue have it."""

    users: StoredTable
    items: StoredTable
    catalogue: Catalogue
    history: StoredHistory
    mean: Floats
    base: float
    sequence: Sequence | None


class View:
    """One epoch. Its parts are set one by one, by whoever makes it; `valid` once they are known to agree."""

    snapshot: Snapshot
    state: State
    catalogue: Catalogue
    valid = False

    def epoch(self) -> _Epoch:
        """What a ranker takes."""
        state = self.state
        users, items = (StoredTable(d.number, d.stored_bytes(state.settings), self.snapshot) for d in (USERS, ITEMS))
        return _Epoch(
            users, items, self.catalogue, StoredHistory(self.snapshot), state.mean, state.base, state.sequence
        )  # fmt: skip

    def digest(self) -> str:
        """What the writer's was at this epoch."""
        now, settings = self.snapshot, self.state.settings
        tables = [StoredTable(d.number, d.stored_bytes(settings), now) for d in TABLES.values()]
        return digest(self.state, tables, self.catalogue.hidden, stored_chunks(now.scan_raw(HISTORY)))
