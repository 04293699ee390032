"""Rows of a hot tier that the device names by itself: negatives, which it draws where every item has a place.

Responsible for telling it where each item is, and for remembering which rows it has named until the host asks. Not for
drawing. Invariants: `slots` is right for every item that has a place; what is named stays so until `clear`. Whoever
calls has the device's turn.
"""

from typing import Any

from ..contract.arrays import Ids
from .copies import Copies


class Drawn:
    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        torch, device = copies.torch, copies.device
        self.slots = torch.zeros(0, dtype=torch.int32, device=device)  # the place of each item, by ordinal
        self._named = torch.zeros(0, dtype=torch.uint8, device=device)  # by place: 1 if it was named; the last: none
        self.pending = False  # may some be named?

    def placed(self, ordinals: Ids, places: Ids) -> None:
        """Items have come to these places."""
        if not len(ordinals):
            return
        if (most := int(ordinals.max()) + 1) > len(self.slots):
            grown = self.slots.new_zeros(max(most, 2 * len(self.slots)))
            grown[: len(self.slots)] = self.slots
            self.slots = grown
        self.slots[self._copies.send(ordinals)] = self._copies.send(places).to(self._copies.torch.int32)

    def name(self, places: Any, rows: int) -> None:
        """The device names these of `rows` places: an int32 tensor there; -1 is none."""
        if len(self._named) <= rows:
            grown = self._named.new_zeros(rows + 1)
            grown[: max(0, len(self._named) - 1)] = self._named[:-1]
            self._named = grown
        none = len(self._named) - 1
        self.pending = True
        self._named.index_fill_(0, self._copies.torch.where(places < 0, none, places).long(), 1)

    def named(self) -> Ids:
        """All places that were named. Waits for the device."""
        places: Ids = self._copies.torch.nonzero(self._named[:-1])[:, 0].cpu().numpy()
        return places

    def clear(self) -> None:
        self._named.zero_()
        self.pending = False
