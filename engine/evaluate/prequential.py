"""Prequential evaluation: predict, then learn, in time order.

Responsible for who is asked when, for the rank of what came, and for the measures. Not for learning or ranking (the
ranker's) and not for reading files (sources/). It takes any `Ranker`: the engine, `Popularity`, or another model.

Invariants: no list is made after any row of its request, or of its micro-batch, was learned. Ties count against the
model. What a user had is known completely, from the rows of the call itself, never from the ranker. Nothing here is
random. Called from one thread; the ranker is called from that thread only.
"""

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..contract.arguments import (
    MAX_EVENTS,
    Wanted,
    callback,
    describe,
    id_column,
    is_finite,
    number,
    plain_array,
    whole_number,
    wrong_type,
)
from ..contract.arrays import Ids
from ..contract.errors import InputError
from ..contract.settings import Settings
from ..contract.times import timestamp_column

__all__ = ["CALL_ROWS", "Ranker", "Report", "prequential", "ranks"]

CALL_ROWS = MAX_EVENTS  # learned in one call at most: one record of the log, so that a call is all or nothing
_NUMBERS = Wanted("numbers", "a number", lambda x: isinstance(x, bool) or is_finite(x))
_COMPARABLE = Wanted("a column of what can be compared", "what can be compared", lambda _: True)


class Answer(Protocol):
    """For U users: `ids` int64[U, k] padded with -1, `scores` float32[U, k] padded with -inf, best first."""

    @property
    def ids(self) -> NDArray[Any]: ...
    @property
    def scores(self) -> NDArray[Any]: ...


class Ingested(Protocol):
    """What `ingest` gives: at least the mean loss of the call."""

    @property
    def loss(self) -> float: ...


class Ranker(Protocol):
    """What can be judged. `settings["batch_size"]`: the rows that are listed before any of them is learned."""

    @property
    def settings(self) -> Mapping[str, Any]: ...
    def topk(self, users: Ids, k: int, *, exclude: list[Ids] | None = None) -> Answer: ...
    def ingest(
        self,
        users: Ids,
        items: Ids,
        values: NDArray[Any] | None = None,
        *,
        timestamps: NDArray[Any] | None = None,
        durable: bool = True,
    ) -> Ingested: ...


@dataclass(frozen=True)
class Report:
    """The judged rows and the measures over them.

    `rows`: columns of one length N, in time order: `row` int64 (index into the arrays of the call), `user` int64,
    `item` int64, `rank_all` int64 (1 is best; -1: not among the listed; 0: the row's value is not above 0, so it does
    not count), `rank_new` int64 (the same on the list without the items already had; 0 also: the user had this item),
    `known_user` bool (a row of this user came before the request). Only ranks up to `max(k)` are exact; a larger one
    says "beyond".

    `summary`: `"all"` and `"new"`, each a dict of `rows` (int) and, for each k, `hit_rate@k` and `ndcg@k` (float,
    0..1, NaN without rows); and `learned` (rows learned in this call), `judged` (rows), `requests` (lists judged),
    `known_users` (judged rows of them), `loss` (mean over the judged rows, each taken before the step that learned
    it), `seconds`.
    """

    rows: dict[str, NDArray[Any]]
    summary: dict[str, Any]
    k: tuple[int, ...]

    def __repr__(self) -> str:
        found = {name: of for name, of in self.summary["all"].items() if name.endswith(f"@{max(self.k)}")}
        measured = ", ".join(f"{name} {of:.4f}" for name, of in found.items())
        return f"Report({self.summary['judged']:,} judged rows, {measured}, loss {self.summary['loss']:g})"

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `rows` as CSV with a header, one line a judged row, booleans as 0 and 1. Replaces the file."""
        with open(path, "w", newline="", encoding="ascii") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(self.rows)
            writer.writerows(zip(*(c.astype(np.int64).tolist() for c in self.rows.values()), strict=True))


def ranks(answer: Answer, lists: NDArray[np.intp], items: Ids) -> Ids:
    """How many items of list `lists[i]` score at least as high as `items[i]`, itself included; -1: it is not listed.

    Ties count against the item. Exact up to one less than the length of the lists: a tie that runs over a list's end
    fills the whole list, so the item stands at its last place, whichever of the tied items were listed.
    """
    found = np.asarray(answer.ids)[lists] == items[:, None]
    scores = np.asarray(answer.scores)[lists]
    own = np.where(found, scores, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(found.any(axis=1), (scores >= own[:, None]).sum(axis=1), -1).astype(np.int64)


def prequential(
    eng: Ranker,
    users: ArrayLike,
    items: ArrayLike,
    timestamps: ArrayLike | None = None,
    *,
    values: ArrayLike | None = None,
    baskets: ArrayLike | None = None,
    k: int | Sequence[int] = (1, 10, 20),
    warmup: float = 0.2,
    progress: Callable[[int, int, float], None] | None = None,
    resume: int = 0,
    ingest: Callable[[int, int], Ingested] | None = None,
) -> Report:
    """Judge `eng` on rows in time order: list for a row's user, see where its item stands, then learn the row.

    Args:
        users, items: integer ids [N], none -1.
        timestamps: [N] as `ingest` takes them, not decreasing; `topk` has them, too, where settings say that it looks.
        values: [N] labels or ratings, given to `ingest`; where not above 0, a row is learned and not judged.
        baskets: [N] of any type that compares: consecutive rows of one (user, basket) are one request, listed once
            before any of them is learned. Without it each row is a request.
        k: list lengths of the measures.
        warmup: the share of rows, from the first, in [0, 1), that are only learned, with requests begun there.
        progress: called after every call learned with (rows done, rows in all, mean loss of the call).
        resume: rows before it were learned by an earlier run; they only count as had.
        ingest: learns rows [start, stop) in place of `eng.ingest(..., durable=False)`, at most 65,536, and stores what
            a later `resume` needs. Calls are cut at the same rows, resumed or not, where no request is longer.

    The lists of at least `eng.settings["batch_size"]` rows (whole requests) are made before these rows are learned in
    one call.

    Two measures. *all*: over every judged row, items already had may be listed. *new*: over the rows whose item the
    user had in no row before the request, the items already had taken off the list. Ties count against the model, an
    unlisted item is a miss, so are users and items never seen before unless the ranker lists something for them. NDCG
    is that of one relevant item: 1 / log2(1 + rank) where rank <= k, else 0 (Jarvelin and Kekalainen, 2002).

    Raises InputError, before anything is learned, for columns of other lengths, shapes or types, an id of -1,
    timestamps that decrease, warmup outside [0, 1), k that is not positive integers, resume outside [0, N].

    >>> users, items = np.arange(1000) % 50, np.arange(1000) % 10
    >>> report = engine.evaluate.prequential(eng, users, items, k=[1, 5])
    >>> report.summary["judged"], sorted(report.summary["all"])
    (800, ['hit_rate@1', 'hit_rate@5', 'ndcg@1', 'ndcg@5', 'rows'])
    """
    began, eng = perf_counter(), _ranker(eng)
    columns = _Columns.check(users, items, timestamps, values)
    n, depths = len(columns.user), _depths(k)
    warmup = _share("warmup", warmup)
    resume = whole_number("resume", resume, 0, n)
    past = _Past(columns.user, columns.item, _requests(columns.user, baskets))
    first = int(past.bounds[np.searchsorted(past.bounds, max(round(warmup * n), resume))])
    given = callback("ingest", ingest, "the first row and the one behind the last")
    learn = _learner(n, given or partial(columns.learned_by, eng), progress)
    for start, stop in _calls(resume, first, long=True):
        learn(start, stop)
    rank_all, rank_new, loss = _judged(eng, past, columns, first, depths[-1] + 1, learn)
    rows: dict[str, NDArray[Any]] = {"row": np.arange(first, n), "user": past.user[first:], "item": past.item[first:]}
    rows |= {"rank_all": rank_all, "rank_new": rank_new, "known_user": past.known_user[first:]}
    summary: dict[str, Any] = {
        "all": _measure(rank_all, depths),
        "new": _measure(rank_new, depths),
        "learned": n - resume,
        "judged": n - first,
        "requests": len(np.unique(past.begin[first:][columns.positive[first:]])),
        "loss": loss / (n - first) if n > first else math.nan,
        "known_users": int(rows["known_user"].sum()),
        "seconds": perf_counter() - began,
    }
    return Report(rows, summary, depths)


@dataclass(frozen=True)
class _Columns:
    """The columns of the call, checked; `positive` [N]: the rows whose items somebody is asked to list."""

    user: Ids
    item: Ids
    times: NDArray[np.float64] | None
    value: NDArray[Any] | None
    positive: NDArray[np.bool_]

    @classmethod
    def check(
        cls, users: ArrayLike, items: ArrayLike, timestamps: ArrayLike | None, values: ArrayLike | None
    ) -> "_Columns":
        user, item = id_column("users", users), id_column("items", items)
        n = len(user)
        _same_length("items", item, n)
        times = None if timestamps is None else _times(timestamps, n)
        if values is None:
            return cls(user, item, times, None, np.ones(n, np.bool_))
        value = plain_array("values", values, _NUMBERS)
        _same_length("values", value, n)
        if value.dtype.kind not in "iufb":
            raise wrong_type("values", value, _NUMBERS)
        return cls(user, item, times, value, value > 0)

    def learned_by(self, eng: Ranker, start: int, stop: int) -> Ingested:
        times = None if self.times is None else self.times[start:stop]
        given = () if self.value is None else (self.value[start:stop],)
        return eng.ingest(self.user[start:stop], self.item[start:stop], *given, timestamps=times, durable=False)


def _ranker(eng: Ranker) -> Ranker:
    if not all(hasattr(eng, name) for name in ("settings", "topk", "ingest")):
        raise InputError(f"eng: got {describe(eng)}, wanted an engine, or what has its settings, topk and ingest")
    return eng


def _learner(
    n: int, ingest: Callable[[int, int], Ingested], progress: Callable[[int, int, float], None] | None
) -> Callable[[int, int], float]:
    """What learns rows [start, stop) in calls, and returns the sum of their losses."""
    callback("progress", progress, "rows done, rows in all and a mean loss")

    def learn(start: int, stop: int) -> float:
        total = 0.0
        for a, b in _calls(start, stop):
            loss = ingest(a, b).loss
            total += loss * (b - a)
            if progress is not None:
                progress(b, n, loss)
        return total

    return learn


def _judged(
    eng: Ranker,
    past: "_Past",
    columns: "_Columns",
    first: int,
    depth: int,
    learn: Callable[[int, int], float],
) -> tuple[Ids, Ids, float]:
    """Lists for whole requests, then learns them, from row `first` to the end, in lists of `depth`.

    Returns the ranks (all, new) of these rows, and the sum of their losses.
    """
    n, step = len(past.user), int(eng.settings["batch_size"])
    rank_all, rank_new = np.zeros(n - first, np.int64), np.zeros(n - first, np.int64)
    total, start = 0.0, first
    looks = any(eng.settings.get(name) for name in Settings.SEQUENCE)  # at what users have had, and when
    times = columns.times if looks else None
    while start < n:
        stop = int(past.bounds[np.searchsorted(past.bounds, min(start + step, n))])
        at = start - first
        asked = np.flatnonzero(columns.positive[start:stop])
        if len(asked):
            rank_all[at + asked], rank_new[at + asked] = _judge(eng, past, times, start + asked, depth)
        total += learn(start, stop)
        start = stop
    return rank_all, rank_new, total


def _judge(
    eng: Ranker, past: "_Past", times: NDArray[np.float64] | None, rows: NDArray[np.intp], depth: int
) -> tuple[Ids, Ids]:
    """Ranks (all, new) of `rows`, of whole requests: one `topk` call with one or two lists a request."""
    item, fresh = past.item[rows], past.fresh[rows]
    heads, request = np.unique(past.begin[rows], return_inverse=True)
    # Only where there is something to take off is the second list another one than the first.
    second = np.zeros(len(heads), bool)
    second[request[fresh & past.known_user[rows]]] = True
    apart = np.flatnonzero(second)
    asked, lists = heads, np.arange(len(heads))
    exclude: list[Ids] | None = None
    if len(apart):
        lists[apart] = len(heads) + np.arange(len(apart))
        asked = np.concatenate([heads, heads[apart]])
        exclude = [past.user[:0]] * len(heads) + [past.had(r) for r in heads[apart].tolist()]
    when = {} if times is None else {"at": times[asked]}
    answer = eng.topk(past.user[asked], depth, exclude=exclude, **when)
    both = ranks(answer, np.concatenate([request, lists[request]]), np.concatenate([item, item]))
    return both[: len(item)], np.where(fresh, both[len(item) :], 0)


class _Past:
    """What was known before each row's request: worked out once for all rows by sorting, exact, in O(N) memory.

    `begin` [N]: the first row of the row's request; `bounds`: all of them and N; `fresh` [N]: the user had the item
    in no row before the request; `known_user` [N].
    """

    def __init__(self, user: Ids, item: Ids, begin: Ids):
        n = len(user)
        self.user, self.item, self.begin = user, item, begin
        self.bounds = np.append(np.flatnonzero(begin == np.arange(n)), n)
        _, first_of_user, code = np.unique(user, return_index=True, return_inverse=True)
        names, item_code = np.unique(item, return_inverse=True)
        _, first_of_pair, pair = np.unique(code * len(names) + item_code, return_index=True, return_inverse=True)
        self.fresh = first_of_pair[pair] >= begin
        self.known_user = first_of_user[code] < begin
        # The first row of every (user, item), by user and then by row: what a user had before a row is one slice of it.
        firsts = np.sort(first_of_pair)
        firsts = firsts[np.argsort(code[firsts], kind="stable")]
        self._had = item[firsts]
        key = code[firsts] * (n + 1) + firsts
        self._from = np.searchsorted(key, code * (n + 1))
        self._upto = np.searchsorted(key, code * (n + 1) + begin)

    def had(self, row: int) -> Ids:
        """The distinct items that the row's user had before the row's request, oldest first."""
        had: Ids = self._had[self._from[row] : self._upto[row]]
        return had


def _requests(user: Ids, baskets: ArrayLike | None) -> Ids:
    """[N] the first row of each row's request."""
    rows = np.arange(len(user))
    if baskets is None or not len(user):
        return rows
    basket = plain_array("baskets", baskets, _COMPARABLE)
    _same_length("baskets", basket, len(user))
    try:
        others = np.asarray(basket[1:] != basket[:-1], dtype=bool)
    except Exception as e:  # whatever the elements' own comparison raises
        raise InputError(f"baskets: got {describe(basket)}, wanted {_COMPARABLE.whole}") from e
    changes = np.append(True, (user[1:] != user[:-1]) | others)
    return np.maximum.accumulate(np.where(changes, rows, 0))


def _calls(start: int, stop: int, long: bool = False) -> Iterator[tuple[int, int]]:
    """Calls of at most CALL_ROWS; a longer stretch, and any with `long`, is cut at absolute multiples of it."""
    if not long and stop - start <= CALL_ROWS:
        yield start, stop
        return
    while start < stop:
        end = min((start // CALL_ROWS + 1) * CALL_ROWS, stop)
        yield start, end
        start = end


def _measure(rank: Ids, depths: Iterable[int]) -> dict[str, float]:
    rank = rank[rank != 0]
    out: dict[str, float] = {"rows": len(rank)}
    gain = np.where(rank > 0, 1 / np.log2(1 + np.maximum(rank, 1)), 0.0)
    for k in depths:
        hit = (rank > 0) & (rank <= k)
        out[f"hit_rate@{k}"] = float(hit.mean()) if len(rank) else math.nan
        out[f"ndcg@{k}"] = float((gain * hit).mean()) if len(rank) else math.nan
    return out


def _same_length(name: str, column: NDArray[Any], n: int) -> None:
    if column.shape != (n,):
        raise InputError(f"{name}: got shape {column.shape}, wanted ({n},), that of users")


def _times(timestamps: ArrayLike, n: int) -> NDArray[np.float64]:
    times = timestamp_column(timestamps, n)
    falls = times[1:] < times[:-1]
    if falls.any():
        row = int(falls.argmax()) + 1
        raise InputError(f"timestamps: row {row} is before the row above it; rows in time order were wanted")
    return times


def _share(name: str, x: float) -> float:
    share = number(name, x, 0, 1)
    if share == 1:
        raise InputError(f"{name}: got 1, wanted a number below it")
    return share


def _depths(k: int | Sequence[int]) -> tuple[int, ...]:
    try:
        given: list[Any] = [k] if isinstance(k, (str, bytes)) else list(k)  # type: ignore[arg-type]
    except TypeError:
        given = [k]
    if not given:
        raise InputError("k: got none, wanted one or more positive integers")
    return tuple(sorted({whole_number("k", depth, 1, 2**31 - 1) for depth in given}))
