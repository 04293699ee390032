"""The store: everything that a model is made of, but its log and its files.

Owns the tables by name with the histories, the catalogue, the model, and what removal and admission remember. Puts
their state together and takes it over again. Not for the order in which a record changes them (writer.py), nor for when
they are written to LMDB (directory/). The writer's thread, but for what a ranking reads.
"""

from dataclasses import dataclass

from ..cold.cold import Cold
from ..cold.keys import HIDDEN
from ..contract.arrays import Floats
from ..contract.settings import Settings
from ..learn.model import Model, Sequence
from ..machine.backend import native
from ..table.table import Table
from .admission import Admission
from .catalogue import Catalogue
from .digest import digest
from .history import History
from .removal import Removal
from .state import State
from .tables import Tables


@dataclass(frozen=True, slots=True)
class Applied:
    """How far the log has been applied: what a state needs to know besides the store."""

    seq: int
    positions: dict[str, bytes]
    bit_exact: bool


class Store:
    def __init__(self, settings: Settings, warm_bytes: int | None, cold: Cold | None):
        """`settings`: of the last epoch, or of a new model. `warm_bytes`, `cold`: None for a model in memory alone."""
        self._cold = cold
        self.tables = Tables(settings, warm_bytes, cold)
        self.catalogue = Catalogue(settings.dim)
        warm = self.tables.users.warm, self.tables.items.warm
        learner = native.Learner(*warm, self.catalogue.native, self.tables.history.native)
        self.tables.accompany(learner, settings)
        self.model = Model(settings, learner)
        self.removal = Removal(self.tables, self.catalogue, self.model)
        self.admission = Admission(self.tables, self.catalogue, settings.seed)

    # --- as far as ranking needs it; any thread

    @property
    def users(self) -> Table:
        return self.tables.users

    @property
    def items(self) -> Table:
        return self.tables.items

    @property
    def history(self) -> History:
        return self.tables.history

    @property
    def mean(self) -> Floats:
        return self.model.mean

    @property
    def base(self) -> float:
        return self.model.base

    @property
    def sequence(self) -> Sequence | None:
        return self.model.sequence

    # --- its state

    def state(self, applied: Applied) -> State:
        """The state of now, at the end of a record or of a window, with nothing under way."""
        return State(
            seq=applied.seq,
            rows=self.tables.rows,
            mean=self.model.mean,
            mean_count=self.model.mean_count,
            settings=self.model.settings,
            positions=dict(applied.positions),
            value_sums=self.model.value_sums,
            bit_exact=applied.bit_exact,
            ordinals=len(self.catalogue),
            hidden=len(self.catalogue.hidden),
            purge=self.removal.purge,
            sightings=self.admission.sightings,
            decided=self.admission.decided,
            **self.model.shared(),
        )

    def restore(self, state: State) -> None:
        """At opening: takes over the state of the last epoch, and the catalogue by a scan of the item rows."""
        assert self._cold
        self.model.restore(state.mean, state.mean_count, state.value_sums)
        self.tables.restore(state.rows)
        self.removal.purge = state.purge
        self.admission.restore(state.sightings, state.decided)
        self.model.restore_shared(state.weights, state.recent, state.recent_events, state.clock, state.ordinals)
        items = self.tables.items
        stored = self._cold.scan(items.number, items.warm.stored_bytes)
        hidden = self._cold.scan(HIDDEN, 0)
        self.catalogue.restore(stored, state.items, state.ordinals, hidden, state.hidden)

    def digest(self, applied: Applied) -> str:
        """`Engine.digest`, with RAM up to date and nobody writing."""
        return digest(self.state(applied), self.tables, self.catalogue.hidden, self.history.chunks())
