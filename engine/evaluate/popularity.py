"""Live popularity: the items with the most events so far, the same list for everybody. The baseline that a model has
to beat.

Responsible for counting and listing. Not for judging (prequential.py), which takes it as it takes the engine.
Invariant: the list is exact after every event; the order of equal counts is arbitrary, and the judge counts ties
against. Called from one thread.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Ids

__all__ = ["Popularity"]


@dataclass(frozen=True)
class Listed:
    """`ids` int64[U, k] padded with -1, `scores` (the counts) float64[U, k] padded with -inf."""

    ids: Ids
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """Popularity has no loss: NaN."""

    loss: float = math.nan


class Popularity:
    """Counts events and lists the most frequent items. An event costs O(1), a list of k O(k + items excluded).

    The items stand in one array, most frequent first. One more of an item: it changes places with the first of those
    that are as frequent, and is then the last of the next more frequent.

    batch_size: the micro-batch of the engine that it is compared with, so that both are judged alike.
    """

    def __init__(self, batch_size: int = 1) -> None:
        self.settings = {"batch_size": batch_size}
        self._ids = np.full(1024, -1, np.int64)
        self._counts: list[int] = []
        self._place: dict[int, int] = {}
        self._first: dict[int, int] = {}  # count -> first place with it; stale where no item has that count

    def ingest(
        self,
        users: Ids,
        items: Ids,
        values: NDArray[Any] | None = None,
        *,
        timestamps: NDArray[Any] | None = None,
        durable: bool = True,
    ) -> Counted:
        """Count `items` int64[N]; where there are values [N], those above 0. The rest is not looked at."""
        counts, first = self._counts, self._first
        if values is not None:
            items = items[values > 0]
        for item in items.tolist():
            place = self._place.get(item)
            if place is None:
                head = len(counts)
                if head == len(self._ids):
                    self._ids = np.append(self._ids, np.full(head, -1))
                counts.append(0)
            else:
                head = first[counts[place]]
                first[counts[place]] = head + 1
                other = int(self._ids[head])
                self._ids[place], self._place[other] = other, place
            self._ids[head], self._place[item] = item, head
            counts[head] += 1
            if head == 0 or counts[head - 1] != counts[head]:
                first[counts[head]] = head
        return Counted()

    def topk(self, users: Ids, k: int, *, exclude: list[Ids] | None = None) -> Listed:
        """The k most frequent items for each of `users` int64[U], without the ids in `exclude[row]`."""
        ids, scores = np.full((len(users), k), -1, np.int64), np.full((len(users), k), -np.inf)
        for row in range(len(users)):
            off = exclude[row] if exclude else self._ids[:0]
            head = self._ids[: min(k + len(off), len(self._counts))]
            keep = np.flatnonzero(~np.isin(head, off))[:k] if len(off) else np.arange(len(head))
            ids[row, : len(keep)], scores[row, : len(keep)] = head[keep], [self._counts[p] for p in keep.tolist()]
        return Listed(ids, scores)
