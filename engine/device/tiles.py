"""What a device has no room for of a catalogue: brought there tile by tile, each beside the ranking of the one before.

Responsible for staging memory, the copies and their order, and for joining the best of two parts. Not for what is in a
tile, nor for ranking it. Invariants, across calls too: nothing is launched on a tile before its copy, a tile is not
copied over before what was launched on it is done, staging memory is not filled before its copy is done. How a
catalogue is cut changes no bit of an answer: an item is scored by itself, and no two have the same score and id. One
thread at a time: the device's turn is held. With Triton's interpreter streams are torch's for the CPU: all is in order.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.score_topk import padded

TILE_BYTES = 1 << 25  # copying so much takes longer than the launches that rank it
ALIGNED = 64  # items: whole words of filters, and of what the scan looks at together

Best = tuple[Any, Any, Any]  # ids int64 [Q, k], scores float32 [Q, k], counts int64 [Q]; as score_topk fills them


class Block(NamedTuple):
    """Items of a catalogue on the device, from ordinal `first` on, a multiple of ALIGNED: vectors [n, padded], biases
    and ids [n]; and the ranking of the ids, where it is known."""

    first: int
    vectors: Any
    biases: Any
    ids: Any
    ranking: Any = None


def item_bytes(dim: int) -> int:
    """Of an item in a block: vector, bias and id."""
    return 4 * padded(dim) + 4 + 8


class _Slot:
    """Room for a tile here and there, and how far its copy and its ranking are."""

    def __init__(self, torch: Any, device: Any, streams: Any, items: int, dim: int):
        self.staging = room(torch, items, dim, pin_memory=device.type == "cuda")
        self.tile = room(torch, items, dim, device=device)
        self.copied = streams.Event()
        self.ranked = streams.Event()


class Tiles:
    def __init__(
        self,
        torch: Any,
        device: Any,
        dim: int,
        fill: Callable[[int, NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], None],
    ):
        """fill(first, vectors, biases, ids) writes the items from `first` on into [n, padded], [n] and [n]; columns
        from dim on are zero already."""
        self.items = max(1, TILE_BYTES // item_bytes(dim) // ALIGNED) * ALIGNED
        self._torch = torch
        self._device = device
        self._dim = dim
        self._fill = fill
        self._streams = getattr(torch, device.type)
        self._side: Any = None
        self._slots: list[_Slot] = []

    @property
    def bytes(self) -> int:
        """On the device."""
        return sum(x.nbytes for slot in self._slots for x in slot.tile)

    def blocks(self, first: int, end: int) -> Iterator[Block]:
        """The items first..end in tiles; each is good until the next is asked for, for what is launched on the current
        stream until then."""
        if not self._slots:
            self._slots = [_Slot(self._torch, self._device, self._streams, self.items, self._dim) for _ in range(2)]
            self._side = self._streams.Stream()
        for slot in self._slots:
            slot.ranked.record()  # all that was launched before, by a call that failed, or on memory that was another's
        for n, start in enumerate(range(first, end, self.items)):
            slot = self._slots[n % 2]
            size = min(self.items, end - start)
            slot.copied.synchronize()
            self._fill(start, *(x[:size].numpy() for x in slot.staging))
            with self._streams.stream(self._side):
                slot.ranked.wait()
                for to, staged in zip(slot.tile, slot.staging, strict=True):
                    to[:size].copy_(staged[:size], non_blocking=True)
                slot.copied.record()
            slot.copied.wait()
            yield Block(start, *(x[:size] for x in slot.tile))
            slot.ranked.record()


def room(torch: Any, items: int, dim: int, **where: Any) -> tuple[Any, Any, Any]:
    """Vectors [items, padded], biases and ids [items], zeros; device and pin_memory as torch takes them."""
    return (
        torch.zeros((items, padded(dim)), dtype=torch.float32, **where),
        torch.zeros(items, dtype=torch.float32, **where),
        torch.zeros(items, dtype=torch.int64, **where),
    )


def merged(torch: Any, best: Best, more: Best) -> Best:
    """The best k of both: score down, then id up, then padding; k is that of `best`."""
    k = best[0].shape[1]
    ids, scores = (torch.cat((a, b), 1) for a, b in zip(best[:2], more[:2], strict=True))
    real = torch.cat([torch.arange(x[0].shape[1], device=ids.device) < x[2][:, None] for x in (best, more)], 1)
    bits = scores.view(torch.int32)  # of no NaN and no negative zero: the kernel gives neither
    keys = torch.where(real, (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long(), -(1 << 32))
    order = torch.argsort(ids, dim=1, stable=True)
    by_score = torch.argsort(keys.gather(1, order), dim=1, descending=True, stable=True)
    order = order.gather(1, by_score)[:, :k]
    return ids.gather(1, order), scores.gather(1, order), (best[2] + more[2]).clamp(max=k)
