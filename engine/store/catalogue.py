"""The catalogue: one scoring copy of every item that can be ranked.

Wraps csrc/table/catalogue.h. An item's ordinal is its position here, given at first sight; ids are never positions.
Any thread may call anything but `restore` and `follow`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Floats, Ids
from ..contract.errors import CorruptionError
from ..machine.backend import native

_Stored = Iterable[tuple[Ids, NDArray[np.uint8]]]  # ids and rows, in parts


class Catalogue:
    def __init__(self, dim: int):
        self.native: Any = native.Catalogue(dim)
        self.dim = dim

    def __len__(self) -> int:
        return len(self.native)

    @property
    def bytes(self) -> int:
        return int(self.native.bytes)

    def restore(self, stored: _Stored, n: int, end: int, hidden: _Stored, n_hidden: int) -> None:
        """Fills the catalogue at opening from the item rows of LMDB, n of them, the last one's ordinal end - 1, and
        from the rows of hidden ids."""
        for ids, _ in hidden:
            _require_ids(ids)
            self.native.hide(ids)
        if (found := len(self.native.hidden)) != n_hidden:
            raise CorruptionError(f"LMDB holds {found} hidden ids, its state says {n_hidden}")
        self.native.reserve_for(n, end)
        for ids, rows in stored:
            _require_ids(ids)
            self.native.restore(ids, rows, self.dim, end)
        if not self.native.restored(n, end):
            raise CorruptionError(f"the item rows in LMDB are not the {n} items that it says it has")

    @property
    def moves(self) -> int:
        """Grows whenever items leave, or come where others were: ordinals must be looked up again."""
        return int(self.native.moves)

    def pinned(self) -> Any:
        """For `with`: ordinals keep their meaning in the block. Short, for the writer may have to wait for its end."""
        return self.native.pin()

    def follow(self, ids: Ids, rows: NDArray[np.uint8]) -> bool:
        """Moves on to the item rows of a later epoch; nobody may read meanwhile.

        False, and the catalogue is of no use any more, if these are not rows that it had and the ones that came after.
        """
        return bool(self.native.follow(ids, rows, self.dim))

    def ordinals(self, ids: Ids) -> Ids:
        """Ordinals of ids, -1 where there is no such item. Use them while pinned."""
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
        offsets: Floats | None,
        exclude_all: Ids | None,
        exclude: tuple[Ids | None, Ids | None],
        include: tuple[Ids | None, Ids | None],
        cosine: bool,
        threads: int,
    ) -> tuple[Ids, Floats, Ids]:
        """The best k of the first `items` items, hidden ones left out, for each query [n, dim]: ids and scores [n, k],
        counts [n].

        Filters are positions, rising: one list for all, or lists and offsets in CSR form (no offsets: one for all).
        `offsets` [n] are added to all scores of a query: they change no rank but where adding rounds to a tie.
        `cosine`: by the cosine to the query, without the bias.
        """
        found: tuple[Ids, Floats, Ids] = self.native.topk(
            queries, offsets, k, items, exclude_all, *exclude, *include, cosine, threads
        )
        return found


def _require_ids(ids: Ids) -> None:
    if (ids == -1).any():
        raise CorruptionError("a row in LMDB has the item id -1, which no item has")
