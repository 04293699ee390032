"""Context: what users' histories say for their lists, under a model that looks at them; and its place in a ranking.

A query is then more than the user's vector, and single items are worth something besides their scores. Responsible for
both, and for the merge that keeps the best k exact. Pure functions over what they are given; any thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..contract.arguments import describe, ids_or_one
from ..contract.arrays import PADDING, Floats, Ids
from ..contract.errors import InputError
from ..contract.times import timestamp_column
from ..learn.model import Sequence, native_marks, native_times
from ..store.catalogue import Catalogue, TopItems
from .filters import Lists


class Remembers(Protocol):
    """All that is known of what a user has had."""

    def entries(self, user: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Worth:
    """What items are worth to each of some queries beside their scores; `values` stand as `items.ids` do."""

    items: Lists
    values: Floats

    def of(self, query: int, ids: Ids) -> Floats:
        """float32 [len(ids)], of one query; 0 for items that are not among its own."""
        start, stop = self.items.offsets[query : query + 2]
        own, values = self.items.ids[start:stop], self.values[start:stop]
        out: Floats = np.zeros(len(ids), np.float32)
        if len(own):
            order = np.argsort(own)
            at = np.minimum(np.searchsorted(own[order], ids), len(own) - 1)
            here = own[order][at] == ids
            out[here] = values[order][at[here]]
        return out

    def of_pairs(self, queries: Ids, ids: Ids) -> Floats:
        """float32 [n]: of item ids[i] to query queries[i]."""
        out: Floats = np.zeros(len(ids), np.float32)
        for query in np.unique(queries).tolist():
            mine = queries == query
            out[mine] = self.of(query, ids[mine])
        return out

    def most(self) -> int:
        """Items of the query that has most of them."""
        return int(np.diff(self.items.offsets).max(initial=0))


Look = Callable[[Ids, Floats], Worth]
"""look(users, vectors): turns the users' vectors [n, dim] into their queries, in place; says what items are worth."""


def moment(at: Any, session: Any) -> tuple[int | None, int | None]:
    """The time and the session of a request, as the model has them; None: not said. InputError."""
    time = None if at is None else int(native_times(timestamp_column(at, 1))[0])
    if session is None:
        return time, None
    ids, one = ids_or_one("session", session)
    if not one:
        raise InputError(f"session: got {describe(session)}, wanted one id")
    return time, int(native_marks(ids)[0])


def looking(sequence: Sequence, history: Remembers, catalogue: Catalogue, at: Any, session: Any) -> Look:
    """How to look at users for one request; call it with the catalogue held."""
    time, mark = moment(at, session)

    def look(users: Ids, vectors: Floats) -> Worth:
        listed, worths = [], []
        for row, user in enumerate(users.tolist()):
            seen = sequence.look(history.entries(user), time, mark)
            query = vectors[row] * np.float32(seen.alpha)
            ordinals = catalogue.ordinals(seen.bag)
            there = ordinals >= 0
            for weight, item in zip(seen.bag_weights[there], catalogue.read(ordinals[there])[0], strict=True):
                query += weight * item
            vectors[row] = query
            listed.append(seen.listed)
            worths.append(seen.worths)
        return Worth(Lists.of(listed), np.concatenate([*worths, np.empty(0, np.float32)]))

    return look


def best_of_both(others: TopItems, own: TopItems, worth: Worth, catalogue: Catalogue) -> TopItems:
    """The best of both, as many as `others` has room for. `own`: all that may be shown of the items in `worth`, with
    their plain scores; `others`: the best of the rest. Of equal scores the lower ordinal comes first, as everywhere."""
    ids, scores, counts = others.ids.copy(), others.scores.copy(), others.counts.copy()
    width = ids.shape[1]
    for row in range(len(ids)):
        mine = own.ids[row, : own.counts[row]]
        if not len(mine):
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # of a model that has diverged
            raised = own.scores[row, : own.counts[row]] + worth.of(row, mine)
        both = np.concatenate([ids[row, : counts[row]], mine])
        worths = np.concatenate([scores[row, : counts[row]], raised])
        kept = np.flatnonzero(~np.isnan(worths))
        best = kept[np.lexsort((catalogue.ordinals(both[kept]), -worths[kept]))][:width]
        counts[row] = len(best)
        ids[row], scores[row] = PADDING, -np.inf
        ids[row, : len(best)], scores[row, : len(best)] = both[best], worths[best]
    return TopItems(ids, scores, counts)
