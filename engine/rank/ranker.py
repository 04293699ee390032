"""Ranking: users to query vectors, filters to lists, and the catalogue's best for them; scores and vectors likewise.

What to show, never what to learn: nothing here changes anything. Any thread. The users' rows are looked up wherever
they are; items are read from the catalogue.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..contract.arguments import choice, describe, flag, id_array, ids_or_one, query_vectors, whole_number
from ..contract.arrays import PADDING, Floats, Ids, Mask
from ..contract.errors import InputError, UnknownIdError
from ..contract.reports import TopK
from ..learn.model import Moments, Sequence
from ..store.catalogue import Ask, Catalogue, TopItems
from ..table.layout import biases_of, vectors_of
from .context import Look, Peeks, Worth, looking, moments
from .filters import Filter, Lists, Ordinals, filter_lists, newest_last

_MOST_K = 2**24
_MOST_ANSWERS = 2**27  # queries x k of one call: 1.5 GiB, for short answers are padded
_MOST_PAIRS = 2**27  # of one call to `score`
_PAIRS = 2**16  # scored at a time: each needs a copy of its user's vector
_QUERIES = 1024  # ranked at a time: each needs a copy of its user's row, and of what the user has had
_SCRATCH = 2**22  # answers at a time


class Seen(Protocol):
    """What users have had; `recent`: in the order of the last events."""

    def items_of(self, user: int) -> Ids: ...
    def recent(self, user: int) -> Ids: ...
    def entries(self, user: int) -> bytes: ...


class Rankable(Protocol):
    """What a list is made from: the store, a device in front of it, or one epoch of it. A user without a row is ranked
    with `mean`; `base` is what the scores of all pairs add to."""

    @property
    def users(self) -> Peeks: ...
    @property
    def items(self) -> Peeks: ...
    @property
    def catalogue(self) -> Catalogue: ...
    @property
    def history(self) -> Seen: ...
    @property
    def mean(self) -> Floats: ...
    @property
    def base(self) -> float: ...
    @property
    def sequence(self) -> Sequence | None: ...


class Request(NamedTuple):
    """The arguments of `topk`, as they came."""

    users: Any
    k: Any
    vectors: Any
    exclude_seen: Any
    exclude: Any
    include: Any
    unknown: Any
    at: Any = None
    session: Any = None
    history: Any = None

    def require_one(self) -> None:
        """Raises InputError unless it is about users, vectors or a history alone."""
        if self.users is not None and self.vectors is not None:
            raise InputError("users, vectors: got both, wanted exactly one of the two")
        if self.users is None and self.vectors is None and self.history is None:
            raise InputError("users, vectors: got neither, wanted exactly one of the two")
        if self.vectors is not None and self.history is not None:
            raise InputError("history: got vectors, too, wanted users or nobody beside it")


class Alike(NamedTuple):
    """The arguments of `similar`, as they came."""

    items: Any
    k: Any
    exclude: Any
    include: Any
    unknown: Any


class _Queries(NamedTuple):
    """The vectors of some queries, what is added to all scores of each (None: nothing), which get an empty row, and
    what single items of a query are worth besides."""

    vectors: Floats
    biases: Floats | None
    none: Mask | None
    worth: Worth | None = None


class _Ranking(NamedTuple):
    """What a call asks for. queries(part): of a slice of its `n` queries; also(part): what else each must not get."""

    n: int
    scalar: bool
    k: int
    queries: Callable[[slice], _Queries]
    exclude: Any
    include: Any
    also: Callable[[slice], Lists] | None = None
    cosine: bool = False
    gate: int = 0


class CatalogueRanker:
    def __init__(self, source: Rankable, threads: int):
        """`threads`: that score the items of one call."""
        self.source = source
        self._catalogue = source.catalogue
        self._threads = threads

    def topk(self, seq: int, asked: Request) -> TopK:
        """`Engine.topk`, at least at `seq`."""
        k, sequence = whole_number("k", asked.k, 1, _MOST_K), self.source.sequence
        gate = sequence.gate if sequence else 0
        choice("unknown", asked.unknown, ("fallback", "raise", "skip"))
        exclude_seen = flag("exclude_seen", asked.exclude_seen)
        asked.require_one()
        require_history(asked.history, sequence)
        if asked.vectors is not None:
            if exclude_seen:
                raise InputError("exclude_seen: needs users, got vectors")
            given, scalar = query_vectors("vectors", asked.vectors, self._catalogue.dim)
            bases = np.full(len(given), self.source.base, np.float32)

            def as_given(part: slice) -> _Queries:
                return _Queries(given[part], bases[part], None)

            ranking = _Ranking(len(given), scalar, k, as_given, asked.exclude, asked.include, gate=gate)
            return self._best(seq, ranking)
        newest: Lists | None
        if asked.users is None:
            newest, scalar = newest_last("history", asked.history, None)
            ids = np.full(len(newest.offsets) - 1, PADDING)  # nobody has it
        else:
            ids, scalar = ids_or_one("users", asked.users)
            newest = None if asked.history is None else newest_last("history", asked.history, len(ids))[0]

        def seen(part: slice) -> Lists:
            had = [self.source.history.items_of(user) for user in ids[part].tolist()]
            if newest:
                now = newest.cut(part.start, part.stop)
                had = [np.append(own, now.ids[a:b]) for own, (a, b) in zip(had, pairwise(now.offsets), strict=True)]
            return Lists.of(had)

        queries = self._queries_of(ids, newest, asked, self._look(sequence, moments(asked.at, asked.session, len(ids))))
        also = seen if exclude_seen else None
        return self._best(seq, _Ranking(len(ids), scalar, k, queries, asked.exclude, asked.include, also, gate=gate))

    def _queries_of(
        self, ids: Ids, newest: Lists | None, asked: Request, look: Look | None
    ) -> Callable[[slice], _Queries]:
        """The queries of users; for those without a row as `unknown` says."""
        base, unknown = self.source.base, "fallback" if asked.users is None else asked.unknown
        mean: list[Floats] = []  # of one moment for the whole call

        def queries(part: slice) -> _Queries:
            known, vectors, biases = self._known_users(ids[part], base)
            now = newest.cut(part.start, part.stop) if newest else None
            if known.all():
                return _Queries(vectors, biases, None, look(part, ids[part], vectors, now) if look else None)
            if unknown == "raise":
                require_rows("users", ids[part], known)
            if not mean:
                mean.append(self.source.mean)
            vectors[~known] = mean[0]
            worth = look(part, ids[part], vectors, now) if look else None
            return _Queries(vectors, biases, ~known if unknown == "skip" else None, worth)

        return queries

    def _look(self, sequence: Sequence | None, asked: Moments) -> Look | None:
        """How a request looks at users' histories; None where the model does not."""
        if sequence is None:
            return None
        return looking(sequence, self.source.history, self.source.items, self._catalogue, asked)

    def similar(self, seq: int, asked: Alike) -> TopK:
        """`Engine.similar`, at least at `seq`."""
        k = whole_number("k", asked.k, 1, _MOST_K)
        skip = _skips(asked.unknown)
        ids, scalar = ids_or_one("items", asked.items)
        self._ordinals(ids, skip)  # all or none

        def queries(part: slice) -> _Queries:
            ordinals = self._ordinals(ids[part], skip)
            known = ordinals >= 0
            if known.all():
                return _Queries(self._catalogue.read(ordinals)[0], None, None)
            vectors: Floats = np.zeros((len(ordinals), self._catalogue.dim), np.float32)
            vectors[known] = self._catalogue.read(ordinals[known])[0]
            return _Queries(vectors, None, ~known)

        def itself(part: slice) -> Lists:
            return Lists(ids[part], np.arange(len(ids[part]) + 1))

        return self._best(
            seq, _Ranking(len(ids), scalar, k, queries, asked.exclude, asked.include, itself, cosine=True)
        )

    def _best(self, seq: int, ranking: _Ranking) -> TopK:
        """The best k for all queries, some at a time, so that scratch memory does not grow with their number."""
        n, k, catalogue = ranking.n, ranking.k, self._catalogue
        if n * k > _MOST_ANSWERS:
            raise InputError(f"k: got {k} for {n} queries, wanted at most {_MOST_ANSWERS} answers in one call")
        excluded = filter_lists("exclude", ranking.exclude, n)
        included = filter_lists("include", ranking.include, n)
        items, moves = len(catalogue), -1
        ids = np.full((n, k), PADDING, np.int64)
        scores = np.full((n, k), -np.inf, np.float32)
        counts = np.zeros(n, np.int64)
        width = min(k, max(1, items))
        step = max(1, min(_QUERIES, _SCRATCH // width))
        for start in range(0, n, step):
            part = slice(start, min(n, start + step))
            with catalogue.held():
                if moves != catalogue.moves:  # at first, and where ordinals may have changed
                    moves, items = catalogue.moves, min(items, len(catalogue))
                    ordinals = Ordinals(catalogue.ordinals, items)
                    for_all, chosen = ordinals.of_all([excluded]), ordinals.of_all([included])
                wanted = ranking.queries(part)
                filters = _Filters(
                    for_all, chosen, _each(ranking, excluded, part),
                    included.cut(part.start, part.stop) if isinstance(included, Lists) else None,
                )  # fmt: skip
                found = self._found(wanted, filters, ordinals, width, ranking)
            ids[part, :width], scores[part, :width], counts[part] = found
            if wanted.none is not None:
                ids[part][wanted.none], scores[part][wanted.none], counts[part][wanted.none] = PADDING, -np.inf, 0
        if ranking.scalar:
            return TopK(ids[0], scores[0], int(counts[0]), seq)
        return TopK(ids, scores, counts, seq)

    def _found(
        self, wanted: _Queries, filters: "_Filters", ordinals: Ordinals, width: int, ranking: _Ranking
    ) -> TopItems:
        """The best of some queries."""
        worth = wanted.worth
        return self._catalogue.topk(
            Ask(
                queries=wanted.vectors,
                k=width,
                items=ordinals.items,
                query_biases=wanted.biases if wanted.biases is not None and wanted.biases.any() else None,
                exclude_all=filters.exclude_all,
                exclude=ordinals.of_each(filters.exclude),
                include=(filters.include_all, None) if filters.include is None else ordinals.of_each([filters.include]),
                raised=(worth.ordinals, worth.offsets) if worth else (None, None),
                raises=worth.values if worth else None,
                cosine=ranking.cosine,
                gate=ranking.gate,
                threads=self._threads,
            )
        )

    def score(self, users: Any, items: Any, unknown: Any) -> Any:
        """`Engine.score`."""
        skip = _skips(unknown)
        u, i = id_array("users", users), id_array("items", items)
        try:
            u, i = np.broadcast_arrays(u, i)
        except ValueError as e:
            raise InputError(f"users, items: got shapes {u.shape} and {i.shape}, which do not broadcast") from e
        if u.size > _MOST_PAIRS:
            raise InputError(f"users, items: got {u.size} pairs, wanted at most {_MOST_PAIRS} in one call")
        base, look = self.source.base, self._look(self.source.sequence, Moments())
        scores: Floats = np.empty(u.size, np.float32)
        for start in range(0, u.size, _PAIRS):
            part = slice(start, start + _PAIRS)
            distinct, which = np.unique(u.flat[part], return_inverse=True)
            known, vectors, biases = self._known_users(distinct, base)
            if not skip:
                require_rows("users", distinct, known)
            with self._catalogue.held():
                worth = look(part, distinct, vectors, None) if look else None
                ordinals = self._ordinals(i.flat[part], skip)
                there = known[which] & (ordinals >= 0)
                who = which[there]
                found = self._catalogue.score(vectors[who], ordinals[there])
            with np.errstate(over="ignore", invalid="ignore"):  # of a model that has diverged
                found = found + biases[who]
                if worth:
                    found += worth.of_pairs(who, ordinals[there])
            scores[part] = np.nan
            scores[part][there] = found
        scores = scores.reshape(u.shape)
        return scores if scores.ndim else scores[()]

    def history(self, user: Any) -> Ids:
        """`Engine.history`."""
        ids, scalar = ids_or_one("user", user)
        if not scalar:
            raise InputError(f"user: got {describe(user)}, wanted one id")
        return self.source.history.recent(int(ids[0]))

    def user_vectors(self, ids: Ids) -> Floats:
        vectors: Floats = np.empty((len(ids), self._catalogue.dim), np.float32)
        for start in range(0, len(ids), _PAIRS):
            part = slice(start, start + _PAIRS)
            known, vectors[part], _ = self._known_users(ids[part], 0.0)
            require_rows("users", ids[part], known)
        return vectors

    def item_vectors(self, ids: Ids) -> Floats:
        with self._catalogue.held():
            return self._catalogue.read(self._ordinals(ids))[0]

    def _known_users(self, ids: Ids, base: float) -> tuple[Mask, Floats, Floats]:
        """Which users have a row, their vectors, and what is added to all scores of a user: base and bias."""
        known, rows = self.source.users.peek(ids)
        biases = np.where(known, biases_of(rows, self._catalogue.dim), np.float32(0))
        return known, vectors_of(rows, self._catalogue.dim), biases + np.float32(base)

    def _ordinals(self, ids: Ids, skip: bool = False) -> Ids:
        """The items' ordinals. -1 where an item has no row, with `skip`; else UnknownIdError."""
        ordinals = self._catalogue.ordinals(ids)
        if not skip:
            require_rows("items", ids, ordinals >= 0)
        return ordinals


class _Filters(NamedTuple):
    """What some queries must not get and what alone they may get: ordinals for all, ids for each."""

    exclude_all: Ids | None
    include_all: Ids | None
    exclude: list[Lists]
    include: Lists | None


def _each(ranking: _Ranking, excluded: Filter, part: slice) -> list[Lists]:
    """The lists of what each query of `part` must not get."""
    each = [excluded.cut(part.start, part.stop)] if isinstance(excluded, Lists) else []
    return [*each, ranking.also(part)] if ranking.also else each


def require_history(given: Any, sequence: Sequence | None) -> None:
    """Raises InputError for a `history` where the model does not look at it."""
    if given is not None and sequence is None:
        raise InputError("history: this model does not look at what users have had; one that was opened with bag does")


def require_rows(name: str, ids: Ids, known: Mask) -> None:
    """Raises UnknownIdError for the first id that is not known."""
    if not known.all():
        raise UnknownIdError(f"{name}: {int(ids[~known][0])} has no row")


def _skips(unknown: Any) -> bool:
    """Whether ids without a row are passed over, and not an error."""
    return choice("unknown", unknown, ("raise", "skip")) == "skip"
