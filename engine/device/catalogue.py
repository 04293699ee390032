"""The catalogue in a device's memory: ranking there, with the host's copy behind it for everything else.

Responsible for the device's copy of the items that it has room for, the first ones by ordinal, and for filters as bits.
Takes over what was learned from the items' hot tier (`show`). Not for which items there are: ids, ordinals, gaps and
hidden items are the host's (store/catalogue.py); nor for how the others come to the device for a ranking (tiles.py).
Invariants: what ranks has been shown all that was learned; every access takes the device's turn. The host's vectors are
brought up to date before they are read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Floats, Ids
from ..kernels.score_topk.triton_kernel import Ranking, rank_ids, score_topk
from ..kernels.work import published
from ..machine.marks import marked
from ..store.catalogue import Ask, Catalogue, OrdinalLists, TopItems
from .copies import Copies
from .hot import HotTier
from .tiles import ALIGNED, Best, Block, Tiles, item_bytes, merged, room

_FILTER_WORDS = 1 << 23  # of the bitmaps of some queries: 32 MiB
_RESTORED = 1 << 16  # items copied at a time at opening
_RANKING_BYTES = 8  # of an item
_FIRST_ITEMS = 1 << 10
_BLOCK = 1 << 21  # items that it holds and looks at together, beside tiles: with lists, for 128 queries

_Lists = tuple[int, Any, Any]  # how many; of each position its list, and the position: arrays or tensors


class DeviceCatalogue(Catalogue):
    def __init__(self, host: Catalogue, items: HotTier, copies: Copies, room: int):
        """`room`: bytes that items may take on the device for good; while the catalogue grows, half as much again."""
        self.native, self.dim = host.native, host.dim
        self._items = items
        self._turn = items.turn
        self._copies = copies
        self._torch = copies.torch
        self._device = copies.device
        self._limit = room // (item_bytes(self.dim) + _RANKING_BYTES) // ALIGNED * ALIGNED
        with copies.computing("making room for items"):
            self._vectors, self._biases, self._ids = self._room(min(_FIRST_ITEMS, self._limit))
        self._tiles = Tiles(self._torch, self._device, self.dim, self.native.read_tile)
        self._rankings: tuple[tuple[int, int, bool] | None, dict[int, Ranking]] = None, {}
        self._ranked: tuple[tuple[int, int, int], Any] | None = None

    def _room(self, items: int) -> tuple[Any, Any, Any]:
        return room(self._torch, items, self.dim, device=self._device)

    @contextmanager
    def held(self) -> Iterator[None]:
        """As the catalogue's, with the turn, which comes first: the writer may wait for holds while it has it."""
        with self._turn, super().held():
            yield

    def stats(self) -> dict[str, int | bool]:
        """What the device holds: bytes, items, and whether there are more, which are ranked in tiles from RAM."""
        return {
            "device_catalogue_bytes": sum(x.nbytes for x in (self._vectors, self._biases, self._ids))
            + self._tiles.bytes,
            "device_catalogue_items": min(len(self), self._limit),
            "catalogue_tiled": len(self) > self._limit,
        }

    # --- taking over items

    def fill(self) -> None:
        """At opening: takes over all items of the host."""
        end = len(self)
        with self._copies.computing("filling its catalogue"):
            self._grow(end)
            for start in range(0, min(end, self._limit), _RESTORED):
                ordinals = np.arange(start, min(end, self._limit, start + _RESTORED))
                vectors, biases = super().read(ordinals)
                rows = self._copies.send(np.column_stack([vectors, biases]))
                self.publish(self.native.ids(ordinals), ordinals, rows, None)

    def show(self, only_left: bool = False) -> None:
        """Takes over the rows that were learned since the last time; or those alone that have lost their places, before
        others come there."""
        with self._turn:
            if not only_left:
                self._items.collect()
            changed = self._items.native.changed(only_left)
            if len(changed):
                with self._copies.computing("showing what was learned"):
                    self.publish(changed.ids, changed.ordinals, self._items.rows, changed.places)
                self._items.native.shown(only_left)  # not if it failed

    def _grow(self, items: int) -> None:
        """Makes room for so many items, or for those there is memory for: the rest is ranked in tiles from then on."""
        items = min(items, self._limit)
        if items <= (held := len(self._ids)):
            return
        try:
            grown = self._room(min(self._limit, max(2 * held, -(-items // ALIGNED) * ALIGNED)))
        except self._torch.OutOfMemoryError:
            self._limit = held
            return
        for old, new in zip((self._vectors, self._biases, self._ids), grown, strict=True):
            new[:held] = old
        self._vectors, self._biases, self._ids = grown

    @marked("show", published)
    def publish(self, ids: Ids, ordinals: Ids, rows: Any, places: Ids | None) -> None:
        """Takes over items' vectors and biases from rows[places] (None: all rows, in order), of items that it holds;
        others are read from RAM. The turn is held."""
        if not len(ordinals):
            return
        self._grow(int(ordinals.max()) + 1)
        if not (held := ordinals < self._limit).all():
            places = (np.arange(len(ordinals)) if places is None else places)[held]
            ids, ordinals = ids[held], ordinals[held]
        at = self._copies.send(ordinals)
        if places is not None:
            rows = rows.index_select(0, self._copies.send(places))
        self._vectors[at, : self.dim] = rows[:, : self.dim]
        self._biases[at] = rows[:, self.dim]
        self._ids[at] = self._copies.send(ids)

    # --- reading

    def read(self, ordinals: Ids) -> tuple[Floats, Floats]:
        self._items.refresh()
        return super().read(ordinals)

    def score(self, queries: Floats, ordinals: Ids) -> Floats:
        self._items.refresh()
        return super().score(queries, ordinals)

    @marked("rank")
    def topk(self, ask: Ask) -> TopItems:
        """As the catalogue's, on the device; cosines on the host. Offsets are added to what was ranked without them."""
        if ask.cosine or not ask.items:
            self._items.refresh()
            return super().topk(ask)
        with self._turn, self._copies.computing("ranking"):
            self.show()
            found = self._parts(ask)
            ids, scores, counts = (np.concatenate(x) for x in zip(*(landed() for landed in found), strict=True))
        if ask.query_biases is not None:
            scores += ask.query_biases[:, None]
            order = np.lexsort((ids, -scores), axis=1)  # two scores may have become one; padding stays last
            order = np.where(np.arange(ask.k) < counts[:, None], order, np.arange(ask.k))
            ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        return TopItems(ids, scores, counts)

    def _parts(self, ask: Ask) -> list[Callable[[], list[NDArray[Any]]]]:
        """Ranks some queries after the other; what waits for each part's answer."""
        tiled = ask.items > self._limit
        if tiled:
            self._items.refresh()
        asked = self._copies.send(ask.queries)
        filtered = ask.exclude[0] is not None or ask.include[1] is not None
        most = min(ask.items, max(_BLOCK, self._tiles.items)) if tiled else ask.items
        # The same queries together for all blocks: in what order a score is added up depends on how many they are.
        step = max(1, _FILTER_WORDS // -(-most // 32)) if filtered else len(asked)
        found = []
        for start in range(0, len(asked), step):
            part = slice(start, start + step)
            n = len(asked[part])
            wanted = self._lists(n, *_of(part, *ask.include), tiled)
            unwanted = [self._lists(n, *x, tiled) for x in ((ask.exclude_all, None), _of(part, *ask.exclude))]
            best = self._best(asked[part], ask.k, ask.items, wanted, unwanted)
            found.append(self._copies.report(*best))
        return found

    def _best(self, queries: Any, k: int, items: int, wanted: _Lists | None, unwanted: list[_Lists | None]) -> Best:
        """The best k of all blocks."""
        best: Best | None = None
        for first, vectors, biases, ids, ranking in self._blocks(items):
            allowed = self._all(items)[:, first // 32 : -(-(first + len(ids)) // 32)]
            if wanted:
                allowed = self._bits(wanted, first, allowed.shape[1]) & allowed
            for lists in unwanted:
                if lists:
                    allowed = ~self._bits(lists, first, allowed.shape[1]) & allowed
            more = score_topk(
                queries, vectors, biases, ids, k if best is None else min(k, len(ids)),
                allowed=allowed.contiguous(), ranking=ranking,
            )  # fmt: skip
            best = more if best is None else merged(self._torch, best, more)
        assert best is not None
        return best

    def _blocks(self, items: int) -> Iterator[Block]:
        """All items: at once where the device holds them; else those that it holds, in blocks, then tiles."""
        held = min(items, self._limit)
        size = held if held == items else _BLOCK
        for first in range(0, held, size):
            part = slice(first, min(held, first + size))
            ranking = self._rank(part, (held, self.moves, held < items))
            yield Block(first, self._vectors[part], self._biases[part], self._ids[part], ranking)
        if held < items:
            yield from self._tiles.blocks(held, items)

    def _rank(self, part: slice, key: tuple[int, int, bool]) -> Ranking:
        """The order of a block's ids, which is the same until an item comes or goes, or blocks are other ones."""
        if self._rankings[0] != key:
            self._rankings = key, {}
        rankings = self._rankings[1]
        if part.start not in rankings:
            rankings[part.start] = rank_ids(self._ids[part])
        return rankings[part.start]

    def _all(self, items: int) -> Any:
        """Which items are ranked, int32 [1, words]: not gaps, not hidden."""
        key = items, self.moves, int(self.native.flips)
        if self._ranked is None or self._ranked[0] != key:
            self._ranked = key, self._torch.from_numpy(self.native.ranked(items)).to(self._device)[None]
        return self._ranked[1]

    def _lists(self, n: int, positions: Ids | None, offsets: Ids | None, there: bool) -> _Lists | None:
        """One list for all of n queries, or one for each in CSR form; on the device, if they are looked at often."""
        if positions is None:
            return None
        query = np.zeros(len(positions), np.int64) if offsets is None else np.repeat(np.arange(n), np.diff(offsets))
        rows = 1 if offsets is None else n
        return (rows, self._to_device(query), self._to_device(positions)) if there else (rows, query, positions)

    def _bits(self, lists: _Lists, first: int, words: int) -> Any:
        """A bitmap int32 [1 or n, words] of the positions from `first` on."""
        torch = self._torch
        rows, query, positions = lists
        word = (positions - first) >> 5
        # Of a position elsewhere no bit is added, anywhere. One stands once in a list, so the sum of bits is their
        # union; in 64 bits, since bit 31 has a sign.
        bit = ((word >= 0) & (word < words)) * 1 << (positions & 31)
        sums = torch.zeros(rows * words, dtype=torch.int64, device=self._device)
        sums.index_add_(0, self._to_device(query * words + word % words), self._to_device(bit))
        return torch.where(sums > 0x7FFFFFFF, sums - (1 << 32), sums).to(torch.int32).view(-1, words)

    def _to_device(self, x: Any) -> Any:
        return self._torch.as_tensor(x, device=self._device)


def _of(part: slice, positions: Ids | None, offsets: Ids | None) -> OrdinalLists:
    """The lists of a part of the queries."""
    if positions is None or offsets is None:
        return positions, offsets
    cut: NDArray[np.int64] = offsets[part.start : part.stop + 1]
    return positions[cut[0] : cut[-1]], cut - cut[0]
