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
from ..learn.model import Sequence, native_marks, native_times
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


Look = Callable[[Ids, Floats, Lists | None], Worth]
"""look(users, vectors, newest): turns the users' vectors [n, dim] into their queries, in place; says what items are
worth. `newest`: what each has had besides, by now."""


def moment(at: Any, session: Any) -> tuple[int | None, int | None]:
    """The time and the session of a request, as the model has them; None: not said. InputError."""
    time = None if at is None else int(native_times(timestamp_column(at, 1))[0])
    if session is None:
        return time, None
    ids, one = ids_or_one("session", session)
    if not one:
        raise InputError(f"session: got {describe(session)}, wanted one id")
    return time, int(native_marks(ids)[0])


def looking(sequence: Sequence, history: Remembers, items: Peeks, catalogue: Catalogue, at: Any, session: Any) -> Look:
    """How to look at users for one request; call it with the catalogue held."""
    time, mark = moment(at, session)

    def look(users: Ids, vectors: Floats, newest: Lists | None) -> Worth:
        more, offsets = (newest.ids, newest.offsets) if newest else (None, None)
        looks = sequence.look([history.entries(user) for user in users.tolist()], more, offsets, time, mark)
        found, rows = items.peek(looks.sources)
        return Worth(*looks.finish(catalogue.native, vectors, found, rows, sequence.neighbours_at))

    return look
