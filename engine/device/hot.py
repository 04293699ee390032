"""The hot tier of a table: rows in a device's memory, where steps are learned; RAM behind it, brought up to date on
demand.

Responsible for which rows are on the device (csrc/table/hot.h decides, on the host), for copying them there and back,
and for the turn that the writer and readers of the device take. Not for what is computed on them, nor for how copies
run beside it (transfers.py). Invariants: a hot row has a slot in the warm tier; where the device's floats are newer the
row is *ahead*, and dirty in the warm tier, so it reaches RAM before an epoch freezes it and before it can leave; so is
one that has lost its place and is on its way back, and nothing is read from RAM before it has come (`settle`). Every
call takes the turn. The device is any that torch has: with the Triton interpreter it is the CPU.
"""

from collections.abc import Callable
from typing import Any

from ..contract.arrays import Ids
from ..contract.errors import EngineError
from ..contract.losses import OPTIMIZERS
from ..kernels import work
from ..machine.backend import native
from ..machine.marks import marked
from .copies import Transfers
from .drawn import Drawn

_FIRST_ROWS = 1 << 16  # where memory is taken as it is needed
_CHUNK = 1 << 16  # rows copied at a time: 19 MB of staging memory at dim 64


Turn = native.Turn  # re-entrant; to whoever has waited longest


class HotTier:
    def __init__(
        self,
        warm: Any,
        capacity: int,
        reserved: bool,
        device: Any,
        torch: Any,
        turn: Any,
        transfers: Transfers,
        catalogue: Any = None,
        publish: Callable[[Ids, Ids, Any, Ids], None] | None = None,
    ):
        """`warm`: the native warm tier; `catalogue`: the native catalogue that follows its rows when they come back;
        `reserved`: all of its memory is taken now, else as it is needed.

        publish(ids, ordinals, rows, places) shows rows on the device that were learned."""
        self.native: Any = native.Hot(warm, capacity, publish is not None)
        self._publish = publish
        self.turn = turn
        self._torch = torch
        self._device = device
        self._catalogue = catalogue
        self._transfers = transfers
        self._leaving: list[tuple[Any, Callable[[], Any]]] = []  # victims on their way to RAM, the oldest first
        self.drawn = Drawn(torch, device, transfers) if publish else None
        self.rows = self._room(capacity if reserved else min(capacity, _FIRST_ROWS))

    @property
    def bytes(self) -> int:
        return int(self.rows.nbytes)

    def _room(self, rows: int) -> Any:
        with self._transfers.computing(f"making room for {rows} rows"):
            width = _row_floats(self.native.floats)
            return self._torch.zeros((rows, width), device=self._device, dtype=self._torch.float32)

    def _grow(self, rows: int) -> None:
        if rows > len(self.rows):
            with self._transfers.computing("making room for rows"):
                grown = self._room(min(int(self.native.capacity), max(rows, 2 * len(self.rows))))
                grown[: len(self.rows)] = self.rows
                self.rows = grown

    @marked("place")
    def place(self) -> None:
        """Brings the rows that the warm tier has pinned to the device, and sends back what leaves and is ahead.

        What comes is copied while the device still computes. What leaves is packed when it has, and `settle` takes it
        over: the next call at the latest.
        """
        placed = self.native.place()
        if placed is None:
            raise EngineError("a window of more rows than the device has places for")
        loads, victims = placed
        if not len(loads):
            return  # and so nobody has lost a place
        self._grow(int(self.native.reached))
        self.show(only_left=True)
        self.settle()  # a row that the last call sent back may be wanted again now
        coming = self._load(loads)
        if self.drawn:
            with self._transfers.computing("placing items"):
                self.drawn.placed(self.native.ordinals(loads), loads.places)
        self._send_back(victims)
        with self._transfers.computing("copying rows to it"):
            for places, rows in coming:
                self.rows.index_copy_(0, places, rows())

    def collect(self) -> None:
        """Has the host know which rows the device has named by itself. Until then they are not ahead for it, nor dirty
        in RAM, so before it looks at that, and before any may lose its place or leave RAM."""
        if self.drawn and self.drawn.pending:
            with self._transfers.computing("learning"):
                places = self.drawn.named()
            self.native.touched(places)
            with self._transfers.computing("learning"):
                self.drawn.clear()

    def settle(self) -> None:
        """Has what left the device and was ahead in RAM."""
        while self._leaving:
            rows, landed = self._leaving[0]
            with self._transfers.computing("copying rows back"):
                floats = landed()
            self.native.scatter(rows, floats, self._catalogue)
            del self._leaving[0]  # not before it is there: who reads may be interrupted

    def refresh(self, ids: Ids | None = None) -> None:
        """Brings RAM up to date, for all rows or for those of `ids`; nothing moves on the device."""
        with self.turn:
            self.settle()
            self.collect()
            if self.native.ahead:
                rows = self.native.rows_ahead() if ids is None else self.native.rows_ahead(ids)
                for part in rows.parts(_CHUNK):  # one after the other: all of them may be as much as the tier
                    self._send_back(part)
                    self.settle()

    @marked("copy_back", work.copied)
    def _send_back(self, rows: Any) -> None:
        with self._transfers.computing("copying rows back"):
            for part in rows.parts(_CHUNK):
                packed = self.rows.index_select(0, self._transfers.send(part.places))
                self._leaving.append((part, self._transfers.fetch(packed)))

    @marked("load", work.copied)
    def _load(self, rows: Any) -> list[tuple[Any, Callable[[], Any]]]:
        """Places on the device, and what gives the rows for them."""
        coming = []
        with self._transfers.computing("copying rows to it"):
            for part in rows.parts(_CHUNK):
                staging = self._transfers.staging(len(part), self.rows.shape[1])
                self.native.gather(part, staging.numpy())
                coming.append((self._transfers.send(part.places), self._transfers.load(staging)))
        return coming

    def show(self, only_left: bool = False) -> None:
        """Hands rows that were learned since the last time to who shows them; or those that are leaving alone."""
        if self._publish:
            with self.turn:
                if not only_left:
                    self.collect()
                ids, ordinals, places = self.native.changed(only_left)
                if len(ids):
                    with self._transfers.computing("showing what was learned"):
                        self._publish(ids, ordinals, self.rows, places)
                    self.native.shown(only_left)  # not if it failed

    def stats(self) -> dict[str, int]:
        return {
            "hot_rows": len(self.native),
            "hot_capacity": int(self.native.capacity),
            "hot_bytes": self.bytes,
            "hot_evicted": int(self.native.evicted),
            "ahead_rows": int(self.native.ahead),
        }


def row_bytes(dim: int, optimizer: str) -> int:
    """Bytes of one row on the device."""
    return 4 * _row_floats(dim + 1 + int(native.state_floats(OPTIMIZERS.index(optimizer), dim)))


def hot_rows(dim: int, optimizer: str, hot_bytes: int) -> int:
    """Rows of each of the two tables that there is room for."""
    return max(1, hot_bytes // (2 * row_bytes(dim, optimizer)))


def _row_floats(floats: int) -> int:
    """Floats from one row to the next on the device: whole sectors of 32 bytes."""
    return -(-floats // 8) * 8
