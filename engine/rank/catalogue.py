"""The catalogue: one scoring copy of every item that can be ranked.

Wraps csrc/catalogue.h. An item's ordinal is its position here, given at first sight; ids are never positions.
Any thread may call anything but `restore` and `follow`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import native
from ..errors import CorruptionError
from ..events import Floats, Ids


class Catalogue:
    def __init__(self, dim: int):
        self.native: Any = native.Catalogue(dim)
        self.dim = dim

    def __len__(self) -> int:
        return len(self.native)

    @property
    def bytes(self) -> int:
        return int(self.native.bytes)

    def restore(self, stored: Iterable[tuple[Ids, NDArray[np.uint8]]], n: int) -> None:
        """Fills the catalogue at opening from the item rows of LMDB; they must be the ordinals 0..n-1, each once."""
        self.native.reserve_for(n)
        for ids, rows in stored:
            self.native.restore(ids, rows, self.dim, n)
        if not self.native.restored(n):
            raise CorruptionError(f"the item rows in LMDB are not the {n} items that it says it has")

    def follow(self, ids: Ids, rows: NDArray[np.uint8]) -> bool:
        """Moves on to the item rows of a later epoch; nobody may read meanwhile.

        False, and the catalogue is of no use any more, if these are not rows that it had and the ones that came after.
        """
        return bool(self.native.follow(ids, rows, self.dim))

    def ordinals(self, ids: Ids) -> Ids:
        """Ordinals of ids, -1 where there is no such item."""
        found: Ids = self.native.ordinals(ids)
        return found

    def read(self, ordinals: Ids) -> tuple[Floats, Floats]:
        """Vectors [n, dim] and biases [n]; each item's are of one moment."""
        vectors, biases = self.native.read(ordinals)
        return vectors, biases

    def score(self, queries: Floats, ordinals: Ids) -> Floats:
        """Query i [n, dim] against item ordinals[i]: float32 [n], the bits that `topk` gives."""
        scores: Floats = self.native.score(queries, ordinals)
        return scores

    def topk(
        self,
        queries: Floats,
        k: int,
        items: int,
        *,
        exclude_all: Ids | None,
        exclude: tuple[Ids | None, Ids | None],
        include: tuple[Ids | None, Ids | None],
        cosine: bool,
        threads: int,
    ) -> tuple[Ids, Floats, Ids]:
        """The best k of the first `items` items for each query [n, dim]: ids [n, k], scores [n, k], counts [n].

        Filters are positions, rising: one list for all, or lists and offsets in CSR form (no offsets: one for all).
        `cosine`: by the cosine to the query, without the bias.
        """
        found: tuple[Ids, Floats, Ids] = self.native.topk(
            queries, k, items, exclude_all, *exclude, *include, cosine, threads
        )
        return found
