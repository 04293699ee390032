"""The catalogue in a device's memory: ranking there, with the host's copy behind it for everything else.

Responsible for the device's copy of every item that can be ranked and for filters as bits. Not for which items there
are: ids, ordinals, gaps and hidden items are the host's (catalogue.py). Invariants: what ranks has been shown all that
was learned; every access takes the device's turn. The host's vectors are brought up to date before they are read.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import device_errors
from ..events import Floats, Ids
from ..kernels.score_topk import padded
from ..kernels.score_topk.triton_kernel import Ranking, rank_ids, score_topk
from ..kernels.work import published
from ..ranges import marked
from .catalogue import Catalogue

_FILTER_WORDS = 1 << 23  # of the bitmaps of some queries: 32 MiB
_RESTORED = 1 << 16  # items copied at a time at opening

Filter = tuple[Ids | None, Ids | None]


class DeviceCatalogue(Catalogue):
    def __init__(self, dim: int, torch: Any, device: Any, turn: AbstractContextManager[None]):
        super().__init__(dim)
        self.refresh: Callable[[], None] = lambda: None  # brings the host's vectors up to date
        self.show: Callable[[], None] = lambda: None  # and the device's
        self._torch = torch
        self._device = device
        self._turn = turn
        self._vectors, self._biases, self._ids = self._room(1024)
        self._ranking: tuple[tuple[int, int], Ranking] | None = None
        self._ranked: tuple[tuple[int, int, int], Any] | None = None

    def _room(self, items: int) -> tuple[Any, Any, Any]:
        new = {"device": self._device}
        with device_errors(f"making room for {items} items"):
            return self._zeros(items, new)

    def _zeros(self, items: int, new: dict[str, Any]) -> tuple[Any, Any, Any]:
        return (
            self._torch.zeros((items, padded(self.dim)), dtype=self._torch.float32, **new),
            self._torch.zeros(items, dtype=self._torch.float32, **new),
            self._torch.zeros(items, dtype=self._torch.int64, **new),
        )

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """As the catalogue's, with the turn, which comes first: the writer may wait for pins while it has it."""
        with self._turn, super().pinned():
            yield

    @property
    def device_bytes(self) -> int:
        return int(self._vectors.nbytes + self._biases.nbytes + self._ids.nbytes)

    def restore(self, stored: Any, n: int, end: int, hidden: Any, n_hidden: int) -> None:
        super().restore(stored, n, end, hidden, n_hidden)
        for start in range(0, end, _RESTORED):
            ordinals = np.arange(start, min(end, start + _RESTORED))
            vectors, biases = super().read(ordinals)
            rows = self._torch.from_numpy(np.column_stack([vectors, biases])).to(self._device)
            with device_errors("filling its catalogue"):
                self.publish(self.native.ids(ordinals), ordinals, rows, None)

    @marked("show", published)
    def publish(self, ids: Ids, ordinals: Ids, rows: Any, places: Ids | None) -> None:
        """Takes over items' vectors and biases from rows[places] (None: all rows, in order). The turn is held."""
        if not len(ordinals):
            return
        torch = self._torch
        if (most := int(ordinals.max()) + 1) > len(self._ids):
            grown = self._room(2 * most)
            for old, new in zip((self._vectors, self._biases, self._ids), grown, strict=True):
                new[: len(old)] = old
            self._vectors, self._biases, self._ids = grown
        at = torch.from_numpy(ordinals).to(self._device)
        if places is not None:
            rows = rows.index_select(0, torch.from_numpy(places).to(self._device))
        self._vectors[at, : self.dim] = rows[:, : self.dim]
        self._biases[at] = rows[:, self.dim]
        self._ids[at] = torch.from_numpy(ids).to(self._device)

    def read(self, ordinals: Ids) -> tuple[Floats, Floats]:
        self.refresh()
        return super().read(ordinals)

    def score(self, queries: Floats, ordinals: Ids) -> Floats:
        self.refresh()
        return super().score(queries, ordinals)

    @marked("rank")
    def topk(
        self,
        queries: Floats,
        k: int,
        items: int,
        *,
        offsets: Floats | None,
        exclude_all: Ids | None,
        exclude: Filter,
        include: Filter,
        cosine: bool,
        threads: int,
    ) -> tuple[Ids, Floats, Ids]:
        """As the catalogue's, on the device; cosines on the host. Offsets are added to what was ranked without them."""
        if cosine or not items:
            self.refresh()
            return super().topk(
                queries, k, items, offsets=offsets, exclude_all=exclude_all, exclude=exclude, include=include,
                cosine=cosine, threads=threads,
            )  # fmt: skip
        found: list[tuple[Ids, Floats, Ids]] = []
        filtered = exclude[0] is not None or include[1] is not None
        step = max(1, _FILTER_WORDS // -(-items // 32)) if filtered else len(queries)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            with self._turn, device_errors("ranking"):
                self.show()
                allowed = self._allowed(items, part, len(queries[part]), exclude_all, exclude, include)
                best = score_topk(
                    self._torch.from_numpy(np.ascontiguousarray(queries[part])).to(self._device),
                    self._vectors[:items], self._biases[:items], self._ids[:items], k,
                    allowed=allowed, ranking=self._rank(items),
                )  # fmt: skip
                found.append((best[0].cpu().numpy(), best[1].cpu().numpy(), best[2].cpu().numpy()))
        ids: Ids = np.concatenate([x[0] for x in found])
        scores: Floats = np.concatenate([x[1] for x in found])
        counts: Ids = np.concatenate([x[2] for x in found])
        if offsets is not None:
            scores += offsets[:, None]
            order = np.lexsort((ids, -scores), axis=1)  # two scores may have become one; padding stays last
            order = np.where(np.arange(k) < counts[:, None], order, np.arange(k))
            ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        return ids, scores, counts

    def _rank(self, items: int) -> Ranking:
        """The order of ids, which is the same until an item comes or goes."""
        key = items, self.moves
        if self._ranking is None or self._ranking[0] != key:
            self._ranking = key, rank_ids(self._ids[:items])
        return self._ranking[1]

    def _all(self, items: int) -> Any:
        """Which items are ranked, int32 [1, words]: not gaps, not hidden."""
        key = items, self.moves, int(self.native.flips)
        if self._ranked is None or self._ranked[0] != key:
            self._ranked = key, self._torch.from_numpy(self.native.ranked(items)).to(self._device)[None]
        return self._ranked[1]

    def _allowed(
        self, items: int, part: slice, n: int, exclude_all: Ids | None, exclude: Filter, include: Filter
    ) -> Any:
        """int32 [1 or n, words]: what each of n queries may get."""
        allowed = self._all(items)
        chosen, of_each = _of(part, *include)
        if chosen is not None:
            allowed = self._bits(items, n, chosen, of_each) & allowed
        for positions, offsets in ((exclude_all, None), _of(part, *exclude)):
            if positions is not None:
                allowed = ~self._bits(items, n, positions, offsets) & allowed
        return allowed.contiguous()

    def _bits(self, items: int, n: int, positions: Ids, offsets: Ids | None) -> Any:
        """A bitmap int32 [1 or n, words] of positions, one list for all, or one for each query in CSR form."""
        torch = self._torch
        words = -(-items // 32)
        query = np.zeros(len(positions), np.int64) if offsets is None else np.repeat(np.arange(n), np.diff(offsets))
        # A position stands once in a list, so the sum of its bits is their union; in 64 bits, since bit 31 has a sign.
        at = torch.from_numpy(query * words + (positions >> 5)).to(self._device)
        bit = torch.from_numpy(np.int64(1) << (positions & 31)).to(self._device)
        sums = torch.zeros((1 if offsets is None else n) * words, dtype=torch.int64, device=self._device)
        sums.index_add_(0, at, bit)
        return torch.where(sums > 0x7FFFFFFF, sums - (1 << 32), sums).to(torch.int32).view(-1, words)


def _of(part: slice, positions: Ids | None, offsets: Ids | None) -> Filter:
    """The lists of a part of the queries."""
    if positions is None or offsets is None:
        return positions, offsets
    cut: NDArray[np.int64] = offsets[part.start : part.stop + 1]
    return positions[cut[0] : cut[-1]], cut - cut[0]
