"""Ranking: users to query vectors, filters to lists, and the catalogue's best for them; scores and vectors likewise.

What to show, never what to learn: nothing here changes anything. Any thread. The users' rows are looked up wherever
they are; items are read from the catalogue.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, UnknownIdError
from ..events import PADDING, Floats, Ids, TopK, choice, describe, flag, id_array, query_vectors, whole_number
from .catalogue import Catalogue, filter_lists

_MOST_K = 2**24
_MOST_ANSWERS = 2**27  # users x k of one call: 1.5 GiB, for short answers are padded
_PAIRS = 2**16  # scored at a time: each needs a copy of its user's vector


class Rows(Protocol):
    """The users' table, as far as ranking needs it."""

    def peek(self, ids: Ids) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]: ...
    def floats(self, rows: NDArray[np.uint8]) -> Floats: ...


class Seen(Protocol):
    """What users have had."""

    def items_of(self, user: int) -> Ids: ...


class Strangers(Protocol):
    """What a user without a row is ranked with."""

    @property
    def mean(self) -> Floats: ...


class Ranker:
    def __init__(self, users: Rows, catalogue: Catalogue, history: Seen, strangers: Strangers, threads: int):
        self._users = users
        self._catalogue = catalogue
        self._history = history
        self._strangers = strangers
        self._threads = threads

    def topk(
        self,
        seq: int,
        users: Any,
        k: int,
        vectors: Any,
        exclude_seen: bool,
        exclude: Any,
        include: Any,
        unknown: str,
    ) -> TopK:
        """`Engine.topk`, at least at `seq`."""
        k = whole_number("k", k, 1, _MOST_K)
        choice("unknown", unknown, ("fallback", "raise", "skip"))
        exclude_seen = flag("exclude_seen", exclude_seen)
        if (users is None) == (vectors is None):
            raise InputError("users, vectors: wanted exactly one of the two")
        if vectors is not None:
            if exclude_seen:
                raise InputError("exclude_seen: needs users, got vectors")
            ids = None
            queries, scalar = query_vectors("vectors", vectors, self._catalogue.dim)
            known = np.ones(len(queries), np.bool_)
        else:
            ids = id_array("users", users)
            scalar = ids.ndim == 0
            if ids.ndim > 1:
                raise InputError(f"users: got {describe(ids)}, wanted a scalar or a 1-D column")
            ids = ids.reshape(-1)
            known, queries = self._known_users(ids)
            if unknown == "raise" and not known.all():
                raise UnknownIdError(f"users: {int(ids[~known][0])} has no row")
            queries[~known] = self._strangers.mean
        if len(queries) * k > _MOST_ANSWERS:
            raise InputError(f"k: got {k} for {len(queries)} users, wanted at most {_MOST_ANSWERS} answers in one call")
        filters = [filter_lists("exclude", exclude, len(queries))]
        chosen = filter_lists("include", include, len(queries))
        if exclude_seen and ids is not None:
            filters.append([self._history.items_of(user) for user in ids.tolist()])
        found, scores, counts = self._catalogue.topk(
            queries,
            min(k, max(1, len(self._catalogue))),
            exclude=filters,
            include=chosen,
            threads=self._threads,
        )
        if unknown == "skip":
            found[~known], scores[~known], counts[~known] = PADDING, -np.inf, 0
        if found.shape[1] < k:
            more = ((0, 0), (0, k - found.shape[1]))
            found = np.pad(found, more, constant_values=PADDING)
            scores = np.pad(scores, more, constant_values=-np.inf)
        if scalar:
            return TopK(found[0], scores[0], int(counts[0]), seq)
        return TopK(found, scores, counts, seq)

    def score(self, users: Any, items: Any) -> Any:
        """`Engine.score`."""
        u, i = id_array("users", users), id_array("items", items)
        try:
            u, i = np.broadcast_arrays(u, i)
        except ValueError as e:
            raise InputError(f"users, items: got shapes {u.shape} and {i.shape}, which do not broadcast") from e
        distinct, which = np.unique(u, return_inverse=True)
        known, vectors = self._known_users(distinct)
        if not known.all():
            raise UnknownIdError(f"users: {int(distinct[~known][0])} has no row")
        flat = np.ascontiguousarray(i).reshape(-1)
        which = which.reshape(-1)
        scores: Floats = np.empty(len(which), np.float32)
        for start in range(0, len(which), _PAIRS):
            part = slice(start, start + _PAIRS)
            with self._catalogue.pinned():
                scores[part] = self._catalogue.score(vectors[which[part]], self._known_items(flat[part]))
        scores = scores.reshape(u.shape)
        return scores if scores.ndim else scores[()]

    def user_vectors(self, ids: Ids) -> Floats:
        known, vectors = self._known_users(ids)
        if not known.all():
            raise UnknownIdError(f"users: {int(ids[~known][0])} has no row")
        return vectors

    def item_vectors(self, ids: Ids) -> Floats:
        with self._catalogue.pinned():
            return self._catalogue.read(self._known_items(ids))[0]

    def _known_users(self, ids: Ids) -> tuple[NDArray[np.bool_], Floats]:
        known, rows = self._users.peek(ids)
        return known, self._users.floats(rows)

    def _known_items(self, ids: Ids) -> Ids:
        ordinals = self._catalogue.ordinals(ids)
        if (ordinals < 0).any():
            raise UnknownIdError(f"items: {int(ids[ordinals < 0][0])} has no row")
        return ordinals
