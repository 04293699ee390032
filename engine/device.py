"""A device in front of RAM: its tiers, its catalogue and its learning, put together for one Engine.

Responsible for how much of the device's memory is whose. Not for what any of the parts does. Made at opening, by the
thread that opens.
"""

from . import backend
from .config import Settings
from .learn.device import DeviceSteps
from .learn.model import Model, require_room
from .rank.device import DeviceCatalogue
from .table.hot import HotTier, Turn, row_bytes
from .table.table import Table

_SHARE = 0.5  # of the memory that is free, for rows
_DEFAULT_HOST_BYTES = 1 << 26  # where the device is the CPU, under the interpreter


class Device:
    def __init__(self, settings: Settings, hot_bytes: int | None):
        self._torch, self._device = backend.require_device()
        reserved = hot_bytes is not None
        if hot_bytes is None:
            on_gpu = self._device.type == "cuda"
            free = self._torch.cuda.mem_get_info(self._device)[0] if on_gpu else 2 * _DEFAULT_HOST_BYTES
            hot_bytes = int(free * _SHARE)
        row = row_bytes(settings.dim, settings.optimizer)
        rows = max(1, hot_bytes // (2 * row))  # half of them of users, half of items
        require_room(settings, rows, hot_row_bytes=row)
        self._rows, self._row_bytes, self._reserved = rows, row, reserved
        self.turn = Turn()
        self.catalogue = DeviceCatalogue(settings.dim, self._torch, self._device, self.turn)

    @property
    def name(self) -> str:
        return backend.device_name()

    def put_before(self, users: Table, items: Table, model: Model) -> None:
        """Has the device hold rows of these tables and learn for the model."""
        device = self._device, self._torch, self.turn
        users.hot = HotTier(users.warm, self._rows, self._reserved, *device)
        items.hot = HotTier(
            items.warm, self._rows, self._reserved, *device, self.catalogue.native, self.catalogue.publish
        )
        self.catalogue.refresh, self.catalogue.show = items.refresh, items.hot.show
        steps = DeviceSteps(self._torch, self._device, users.hot, items.hot)
        model.learn_on(steps, self.turn, self._rows, self._row_bytes)
