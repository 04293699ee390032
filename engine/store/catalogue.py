"""The catalogue: one scoring copy of every item that can be ranked.

Wraps csrc/table/catalogue.h. An item's ordinal is its position here, given at first sight; ids are never positions.
Any thread may call anything but `restore` and `follow`.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from ..contract.arrays import Floats, Ids, RowBytes
from ..contract.errors import CorruptionError
from ..machine.backend import native

_Stored = Iterable[tuple[Ids, RowBytes]]  # ids and rows, in parts

OrdinalLists = tuple[Ids | None, Ids | None]
"""Ordinals, rising: one list for all queries, or lists end to end and their offsets; or none."""


class Ask(NamedTuple):
    """What is to be ranked: the best k of the first `items` items for each query [n, dim], hidden ones left out.

    `query_biases` [n] are added to all scores of a query: they change no rank but where adding rounds to a tie.
    `cosine`: by the cosine to the query, without the item's bias. `raised`, `raises`: ordinals for each query, and what
    is added to their scores. `gate`: items that fewer known users have had come behind all others, but where raised.
    """

    queries: Floats
    k: int
    items: int
    query_biases: Floats | None = None
    exclude_all: Ids | None = None
    exclude: OrdinalLists = (None, None)
    include: OrdinalLists = (None, None)
    raised: OrdinalLists = (None, None)
    raises: Floats | None = None
    cosine: bool = False
    gate: int = 0
    threads: int = 1


class TopItems(NamedTuple):
    """Ids [n, k], scores [n, k] and how many of each row are real [n]."""

    ids: Ids
    scores: Floats
    counts: Ids


class Catalogue:
    def __init__(self, dim: int):
        self.native = native.Catalogue(dim)
        self.dim = dim

    def __len__(self) -> int:
        return len(self.native)

    @property
    def bytes(self) -> int:
        return self.native.bytes

    @property
    def hidden(self) -> Ids:
        """Ids of hidden items, rising."""
        return self.native.hidden

    def restore(self, stored: _Stored, n: int, end: int, hidden: _Stored, n_hidden: int) -> None:
        """Fills the catalogue at opening from the item rows of LMDB, n of them, the last one's ordinal end - 1, and
        from the rows of hidden ids."""
        for ids, _ in hidden:
            _require_ids(ids)
            self.native.hide(ids)
        if (found := len(self.hidden)) != n_hidden:
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
        return self.native.moves

    def held(self) -> AbstractContextManager[None]:
        """For `with`: ordinals keep their meaning in the block. A writer that gives a removed item's place to a new one
        waits for the end of the block."""
        return self.native.hold()

    def follow(self, ids: Ids, rows: RowBytes) -> bool:
        """Moves on to the item rows of a later epoch; nobody may read meanwhile.

        False, and the catalogue is of no use any more, if these are not rows that it had and the ones that came after.
        """
        return self.native.follow(ids, rows, self.dim)

    def ordinals(self, ids: Ids) -> Ids:
        """Ordinals of ids, -1 where there is no such item. Use them in `held()`."""
        return self.native.ordinals(ids)

    def read(self, ordinals: Ids) -> tuple[Floats, Floats]:
        """Vectors [n, dim] and biases [n]; each item's are of one moment."""
        return self.native.read(ordinals)

    def score(self, queries: Floats, ordinals: Ids) -> Floats:
        """Query i [n, dim] against item ordinals[i]: float32 [n], the bits that `topk` gives."""
        return self.native.score(queries, ordinals)

    def topk(self, ask: Ask) -> TopItems:
        """The best of `ask`."""
        return TopItems(
            *self.native.topk(
                ask.queries, ask.query_biases, ask.k, ask.items, ask.exclude_all, *ask.exclude, *ask.include,
                *ask.raised, ask.raises, ask.cosine, ask.gate, ask.threads,
            )
        )  # fmt: skip


def _require_ids(ids: Ids) -> None:
    if (ids == -1).any():
        raise CorruptionError("a row in LMDB has the item id -1, which no item has")
