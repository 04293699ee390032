"""A device in front of the store: its tiers, its catalogue and its learning, and the order in which they move rows.

Responsible for how much of the device's memory is whose, and for the order of a window: what leaves is shown, what left
before settles in RAM, then rows are exchanged, then kernels run. Answers, as the store does, with RAM brought up to
date. Made at opening, by the thread that opens; `learn` and `finish` are the writer's, the rest any thread's.
"""

from ..contract.arrays import Floats
from ..contract.errors import ConfigError, EngineError
from ..contract.settings import Settings
from ..machine import backend
from ..machine.backend import native
from ..store.history import History
from ..store.store import Store
from ..store.tables import ITEMS, USERS, no_room, rows_needed
from .catalogue import DeviceCatalogue
from .copies import Copies
from .hot import HotTier, Turn, hot_capacity, hot_row_bytes
from .steps import DeviceSteps, Landed

_SHARE = 0.5  # of the memory that is free, for rows
_CATALOGUE_SHARE = 0.5  # of what they leave, for items that rank; while they grow half as much again; and for scratch


class Device:
    def __init__(self, settings: Settings, hot_bytes: int | None, store: Store):
        """Takes memory of the device, and puts it in front of users and items; other tables stay in RAM."""
        torch, device = backend.require_device()
        free = backend.free_bytes(device)
        room = int(free * _SHARE) if hot_bytes is None else hot_bytes
        self._rows = hot_capacity(settings.dim, settings.optimizer, room)
        self._store = store
        self.turn = Turn()
        copies, reserved = Copies(torch, device), hot_bytes is not None
        host = store.catalogue
        self.users = HotTier(store.tables.users, self._rows, reserved, copies, self.turn)
        self.items = HotTier(store.tables.items, self._rows, reserved, copies, self.turn, host.native)
        left = max(0, int((free - room) * _CATALOGUE_SHARE))
        self.catalogue = DeviceCatalogue(host, self.items, copies, left)
        assert self.items.drawn
        self._steps = DeviceSteps(copies, self.users, self.items, self.items.drawn)
        native.limit_windows(store.model.learner, self._rows, self._rows)

    @property
    def name(self) -> str:
        return backend.device_name()

    def require_capacity(self, settings: Settings) -> None:
        """Raises ConfigError for settings whose micro-batches need more rows than there is room for."""
        settings.require_device()
        require_hot_room(settings, self._rows)

    # --- as far as ranking needs it

    @property
    def history(self) -> History:
        return self._store.history

    @property
    def mean(self) -> Floats:
        with self.turn:
            self._steps.land()
        return self._store.mean

    @property
    def base(self) -> float:
        return self._store.base

    @property
    def sequence(self) -> None:
        """A device does not learn with what users have had."""

    # --- learning

    def prepare(self, settings: Settings, events: int) -> None:
        """Before a window of at most so many events is planned, with the turn."""
        self._steps.prepare(self._store.model, settings, events)

    def learn(self, settings: Settings, events: native.EventColumns, start: int) -> native.Learned:
        """Has the window learned that was planned from event `start` on; with the turn. Its losses and refused steps
        are 0 here, and come in with `landed`."""
        model = self._store.model
        native.fill_fresh(model.learner, model.native_settings(settings))
        self._place(self.users)
        self._place(self.items)
        return self._steps.learn(model, settings, events, start)

    def _place(self, tier: HotTier) -> None:
        """Brings a tier's pinned rows to the device, and sends back what leaves and is ahead."""
        moves = tier.claim()
        if moves is None:
            return
        if tier is self.items:
            self.catalogue.show(only_left=True)  # while the rows are still in their old places
        tier.settle()  # a row that the last exchange sent back may be wanted again now
        tier.exchange(moves)

    @property
    def under_way(self) -> bool:
        """Is there a window that nobody has waited for?"""
        return self._steps.under_way

    def finish(self) -> None:
        """Waits for what is under way: from here on rows may be removed and saved, and the mean is right."""
        with self.turn:
            self._steps.finish()

    def landed(self) -> Landed:
        """Losses and refused steps of the windows that were waited for since the last time."""
        return self._steps.landed()

    def refresh(self) -> None:
        """Brings RAM up to date with all that was learned: before an epoch freezes, a digest, or a removal."""
        if self.under_way:
            raise EngineError("a device has not finished what it learns")
        self.users.refresh()
        self.items.refresh()

    def stats(self, name: str) -> dict[str, int]:
        """What the device holds of the table `name`."""
        tiers: dict[str, HotTier] = {USERS.name: self.users, ITEMS.name: self.items}
        return tiers[name].stats() if name in tiers else {}


def require_hot_room(settings: Settings, rows: int) -> None:
    """Raises ConfigError if a tier of so many rows can't hold those of one micro-batch."""
    needed = max(rows_needed(declared, settings) for declared in (USERS, ITEMS))
    if needed > rows:
        wanted = 2 * needed * hot_row_bytes(settings.dim, settings.optimizer)
        raise ConfigError(no_room("hot_bytes", rows, settings, (needed, wanted)))
