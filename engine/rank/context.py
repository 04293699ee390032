"""Context: what users' histories say for their lists, under a model that looks at them.

A query is then more than the user's vector, and single items are worth something besides their scores. Responsible for
both. Pure functions over what they are given; any thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..contract.arguments import describe, ids_or_one
from ..contract.arrays import Floats, Ids, Mask, RowBytes
from ..contract.errors import InputError
from ..contract.times import timestamp_column
from ..learn.model import Moments, Sequence, native_marks, native_times
from ..store.catalogue import Catalogue
from .filters import Lists


class Remembers(Protocol):
    """All that is known of what a user has had."""

    def entries(self, user: int) -> bytes: ...


class Peeks(Protocol):
    """The rows of a table, wherever they are."""

    def peek(self, ids: Ids) -> tuple[Mask, RowBytes]: ...


@dataclass(frozen=True, slots=True)
class Worth:
    """What items are worth to each of some queries beside their scores: of query q the items with the ordinals
    ordinals[offsets[q]:offsets[q + 1]], rising; `values` stand as they do."""

    ordinals: Ids
    offsets: Ids
    values: Floats

    def of_pairs(self, queries: Ids, ordinals: Ids) -> Floats:
        """float32 [n]: of item ordinals[i] to query queries[i]; 0 for items that are not among its own."""
        out: Floats = np.zeros(len(ordinals), np.float32)
        for query in np.unique(queries).tolist():
            own = slice(*self.offsets[query : query + 2])
            if own.start == own.stop:
                continue
            mine = np.flatnonzero(queries == query)
            at = np.minimum(np.searchsorted(self.ordinals[own], ordinals[mine]), own.stop - own.start - 1)
            here = self.ordinals[own][at] == ordinals[mine]
            out[mine[here]] = self.values[own][at[here]]
        return out


Look = Callable[[slice, Ids, Floats, Lists | None], Worth]
"""look(part, users, vectors, newest): turns the vectors [n, dim] of the users, which are `part` of the call's, into
their queries, in place; says what items are worth. `newest`: what each has had besides, by now."""


def moments(at: Any, session: Any, n: int) -> Moments:
    """When n requests come, and in which sessions: one of either for all, or one for each. InputError."""
    times = None if at is None else native_times(timestamp_column(at, n))
    if session is None:
        return Moments(times)
    ids, one = ids_or_one("session", session)
    if not one and len(ids) != n:
        raise InputError(f"session: got {describe(session)}, wanted one id, or one for each of the {n} requests")
    return Moments(times, native_marks(ids))


def looking(sequence: Sequence, history: Remembers, items: Peeks, catalogue: Catalogue, asked: Moments) -> Look:
    """How to look at users for one request; call it with the catalogue held."""

    def look(part: slice, users: Ids, vectors: Floats, newest: Lists | None) -> Worth:
        more, offsets = (newest.ids, newest.offsets) if newest else (None, None)
        looks = sequence.look([history.entries(user) for user in users.tolist()], more, offsets, asked.cut(part))
        found, rows = items.peek(looks.sources)
        return Worth(*looks.finish(catalogue.native, vectors, found, rows, sequence.neighbours_at))

    return look
