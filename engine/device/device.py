"""A device in front of RAM: its tiers, its catalogue and its learning, put together for one Engine.

Responsible for how much of the device's memory is whose. Not for what any of the parts does. Made at opening, by the
thread that opens.
"""

from ..contract.settings import Settings
from ..learn.model import Model
from ..machine import backend
from ..table.table import Table
from .catalogue import DeviceCatalogue
from .copies import Transfers
from .hot import HotTier, Turn, hot_rows, row_bytes
from .steps import DeviceSteps

_SHARE = 0.5  # of the memory that is free, for rows
_CATALOGUE_SHARE = 0.5  # of what they leave, for items that rank; while they grow half as much again; and for scratch


class Device:
    def __init__(self, settings: Settings, hot_bytes: int | None):
        self._torch, self._device = backend.require_device()
        free = backend.free_bytes(self._device)
        room = int(free * _SHARE) if hot_bytes is None else hot_bytes
        self._row_bytes = row_bytes(settings.dim, settings.optimizer)
        self._rows = hot_rows(settings.dim, settings.optimizer, room)
        self._reserved = hot_bytes is not None
        self.turn = Turn()
        self._transfers = Transfers(self._torch, self._device)
        left = max(0, int((free - room) * _CATALOGUE_SHARE))
        self.catalogue = DeviceCatalogue(settings.dim, self._torch, self._device, self.turn, self._transfers, left)

    @property
    def name(self) -> str:
        return backend.device_name()

    def put_before(self, users: Table, items: Table, model: Model) -> None:
        """Has the device hold rows of these tables and learn for the model."""
        device = self._device, self._torch, self.turn, self._transfers
        users.hot = HotTier(users.warm, self._rows, self._reserved, *device)
        items.hot = HotTier(
            items.warm, self._rows, self._reserved, *device, self.catalogue.native, self.catalogue.publish
        )
        self.catalogue.refresh, self.catalogue.show = items.refresh, items.hot.show
        steps = DeviceSteps(self._torch, self._device, self._transfers, users.hot, items.hot)
        model.learn_on(steps, self.turn, self._rows, self._row_bytes)
