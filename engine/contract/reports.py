"""What calls return: IngestReport and TopK. Data alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic

from .arrays import IdsT, ScoresT

_FEW = 10  # are printed one by one


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one call to `ingest` did.

    `loss` is the mean over the events, each taken before the step that learned it (NaN for an empty batch); `found`
    counts where the rows were that the call needed: "warm", "cold" (fetched from LMDB) or "made". `unlearned` of the
    events named an id that `admit_after` keeps out; they are in `events` and not in `loss`.

    >>> eng.ingest([7, 7], [100, 101]).found
    {'warm': 0, 'cold': 0, 'made': 3}
    """

    events: int
    seq: int
    loss: float
    new_users: int
    new_items: int
    seconds: float
    found: dict[str, int]
    unlearned: int

    def __repr__(self) -> str:
        unlearned = f", {self.unlearned:,} unlearned" if self.unlearned else ""
        return (
            f"IngestReport({_counted(self.events, 'event')}{unlearned}, seq {self.seq:,}, loss {self.loss:g}, "
            f"{_counted(self.new_users, 'new user')}, {_counted(self.new_items, 'new item')}, {self.seconds:.3g} s)"
        )


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the score of one item is made of, for `explain`: the parts add up to `score` but for rounding."""

    item: int
    score: float
    user: float
    """The user's own vector and the item's."""
    bias: float
    """The item's bias and the user's, and what all scores add to."""
    bag: dict[int, float]
    """By item that the user had last, the newest first: its vector and the item's."""
    had: float
    """What it is worth that the user had the item before."""
    near: dict[int, float]
    """By item that the user had last: what it is worth that the item often comes after it."""


@dataclass(frozen=True, slots=True, eq=False)
class TopK(Generic[IdsT, ScoresT]):
    """The answer of `topk`; unpacks as `ids, scores`.

    ids: int64 [k] or [n, k], -1 where there are fewer than k; scores: float32 of the same shape, -inf there, falling,
    ids rising where scores are equal; counts: how many are real, an int or int64 [n]; seq: every event up to this one
    is reflected (later ones may be). Where the call was given a tensor, tensors take the place of arrays. As a type,
    `TopK` is of arrays, `TopK[Tensor, Tensor]` of tensors. Two are equal if all of it is the same.

    >>> report = eng.ingest([7, 7], [100, 101])
    >>> ids, scores = found = eng.topk([7, 8], k=3, exclude=[100])
    >>> found.counts.tolist(), found.seq, ids[0].tolist()
    ([1, 1], 2, [101, -1, -1])
    """

    ids: IdsT
    scores: ScoresT
    counts: Any
    seq: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ids, self.scores))

    def to_list(self) -> list[Any]:
        """Pairs (id, score) without the padding; where `ids` is [n, k], a list of them for each of the n.

        >>> report = eng.ingest([7, 7], [100, 101])
        >>> [[id for id, score in row] for row in eng.topk([7, 8], k=3, exclude=[100]).to_list()]
        [[101], [101]]
        """
        ids: Any = self.ids
        scores: Any = self.scores
        if ids.ndim == 1:
            return list(zip(ids.tolist(), scores.tolist(), strict=True))[: int(self.counts)]
        rows = zip(ids.tolist(), scores.tolist(), self.counts.tolist(), strict=True)
        return [list(zip(row, of, strict=True))[:count] for row, of, count in rows]

    def __repr__(self) -> str:
        ids: Any = self.ids
        if ids.ndim == 1 and len(ids) <= _FEW:
            pairs = ", ".join(f"({id}, {score:.4g})" for id, score in self.to_list())
            return f"TopK([{pairs}], seq {self.seq:,})"
        lists = "list" if ids.ndim == 1 else _counted(len(ids), "list")
        return f"TopK({lists} of {ids.shape[-1]:,}, seq {self.seq:,})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopK):
            return NotImplemented
        parts: Any = ((self.ids, other.ids), (self.scores, other.scores))
        return self.seq == other.seq and all(
            type(mine) is type(theirs) and mine.shape == theirs.shape and bool((mine == theirs).all())
            for mine, theirs in parts
        )

    __hash__ = None  # type: ignore[assignment]
