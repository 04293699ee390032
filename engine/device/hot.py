"""The hot tier of a table: rows in a device's memory, where steps are learned; RAM behind it, brought up to date on
demand.

Responsible for which rows are on the device (csrc/table/hot.h decides, on the host) and for copying them there and
back. Not for what is computed on them, for the order of copies beside it (copies.py), nor for who shows what was
learned (device.py). Invariants: a hot row has a slot in the warm tier; where the device's floats are newer the row is
*ahead*, and dirty in the warm tier, so it reaches RAM before an epoch freezes it and before it can leave; so is one
that has lost its place and is on its way back, and nothing is read from RAM before it has come (`settle`). Every call
takes the turn. The device is any that torch has: with the Triton interpreter it is the CPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ..contract.arrays import Ids, Mask, RowBytes
from ..contract.errors import EngineError
from ..kernels import work
from ..machine.backend import native
from ..machine.marks import marked
from ..table.layout import vector_floats
from ..table.table import Table
from .copies import Copies
from .drawn import Drawn

_FIRST_ROWS = 1 << 16  # where memory is taken as it is needed
_CHUNK = 1 << 16  # rows copied at a time: 19 MB of staging memory at dim 64


Turn = native.Turn  # re-entrant; to whoever has waited longest


class Moves(NamedTuple):
    """Rows that have been given places: `loads` come there, `victims` have lost theirs and are ahead of RAM."""

    loads: native.Hot.Copy
    victims: native.Hot.Copy


class HotTier:
    def __init__(
        self,
        table: Table,
        capacity: int,
        reserved: bool,
        copies: Copies,
        turn: native.Turn,
        catalogue: native.Catalogue | None = None,
    ):
        """`reserved`: all of its memory is taken now, else as it is needed; `catalogue`: of items, the native catalogue
        that follows their rows when they come back."""
        self.table = table
        self.native = native.Hot(table.warm, capacity, catalogue is not None)
        self.turn = turn
        self._copies = copies
        self._catalogue = catalogue
        self._leaving: list[tuple[native.Hot.Copy, Callable[[], Any]]] = []  # victims on their way, the oldest first
        self.drawn = Drawn(copies) if catalogue is not None else None
        self.rows = self._room(capacity if reserved else min(capacity, _FIRST_ROWS))

    @property
    def bytes(self) -> int:
        return int(self.rows.nbytes)

    def _room(self, rows: int) -> Any:
        with self._copies.computing(f"making room for {rows} rows"):
            torch, width = self._copies.torch, _sectors(self.native.floats)
            return torch.zeros((rows, width), device=self._copies.device, dtype=torch.float32)

    def _grow(self, rows: int) -> None:
        if rows > len(self.rows):
            with self._copies.computing("making room for rows"):
                grown = self._room(min(self.native.capacity, max(rows, 2 * len(self.rows))))
                grown[: len(self.rows)] = self.rows
                self.rows = grown

    # --- a window's rows: claim, then settle, then exchange

    def claim(self) -> Moves | None:
        """Gives places to the rows that the warm tier has pinned. None: all had one. Before `exchange`, what was
        learned must be shown that leaves, and `settle` be called: a row that is on its way back may be wanted again."""
        placed = self.native.place()
        if placed is None:
            raise EngineError("a window of more rows than the device has places for")
        loads, victims = placed
        if not len(loads):
            return None  # and so nobody has lost a place
        self._grow(self.native.reached)
        return Moves(loads, victims)

    @marked("place")
    def exchange(self, moves: Moves) -> None:
        """Copies rows there, and sends back what left and is ahead.

        What comes is copied while the device still computes. What leaves is packed when it has, and `settle` takes it
        over: before the next exchange at the latest.
        """
        coming = self._load(moves.loads)
        if self.drawn:
            with self._copies.computing("placing items"):
                self.drawn.placed(self.native.ordinals(moves.loads), moves.loads.places)
        self._send_back(moves.victims)
        with self._copies.computing("copying rows to it"):
            for places, rows in coming:
                self.rows.index_copy_(0, places, rows())

    def collect(self) -> None:
        """Has the host know which rows the device has named by itself. Until then they are not ahead for it, nor dirty
        in RAM, so before it looks at that, and before any may lose its place or leave RAM."""
        if self.drawn and self.drawn.pending:
            with self._copies.computing("learning"):
                places = self.drawn.named()
            self.native.touched(places)
            with self._copies.computing("learning"):
                self.drawn.clear()

    def settle(self) -> None:
        """Has what left the device and was ahead in RAM."""
        while self._leaving:
            rows, landed = self._leaving[0]
            with self._copies.computing("copying rows back"):
                floats = landed()
            self.native.scatter(rows, floats, self._catalogue)
            del self._leaving[0]  # not before it is there: who reads may be interrupted

    # --- reading

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

    def peek(self, ids: Ids) -> tuple[Mask, RowBytes]:
        """As `Table.peek`, with the rows brought up to date. Any thread."""
        with self.turn:  # no window comes between the two
            self.refresh(ids)
            found, rows = self.table.warm.peek(ids)
        self.table.look_in_cold(ids, found, rows)
        return found, rows

    @marked("copy_back", work.copied)
    def _send_back(self, rows: native.Hot.Copy) -> None:
        with self._copies.computing("copying rows back"):
            for part in rows.parts(_CHUNK):
                packed = self.rows.index_select(0, self._copies.send(part.places))
                self._leaving.append((part, self._copies.fetch(packed)))

    @marked("load", work.copied)
    def _load(self, rows: native.Hot.Copy) -> list[tuple[Any, Callable[[], Any]]]:
        """Places on the device, and what gives the rows for them."""
        coming = []
        with self._copies.computing("copying rows to it"):
            for part in rows.parts(_CHUNK):
                staging = self._copies.staging(len(part), self.rows.shape[1])
                self.native.gather(part, staging.numpy())
                coming.append((self._copies.send(part.places), self._copies.load(staging)))
        return coming

    def stats(self) -> dict[str, int]:
        """Rows and bytes on the device; `ahead_rows`: those that RAM has as they were."""
        return {
            "hot_rows": len(self.native),
            "hot_capacity": self.native.capacity,
            "hot_bytes": self.bytes,
            "hot_evicted": self.native.evicted,
            "ahead_rows": self.native.ahead,
        }


def hot_row_bytes(dim: int, optimizer: str) -> int:
    """Bytes of one row on the device."""
    return 4 * _sectors(vector_floats(dim, optimizer))


def hot_capacity(dim: int, optimizer: str, hot_bytes: int) -> int:
    """Rows of each of the two tables that there is room for."""
    return max(1, hot_bytes // (2 * hot_row_bytes(dim, optimizer)))


def _sectors(floats: int) -> int:
    """Floats from one row to the next on the device: whole sectors of 32 bytes."""
    return -(-floats // 8) * 8
