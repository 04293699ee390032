"""score_topk: scores queries against all items and keeps the best k of each, exactly.

Checks its arguments and hands them to the C++ core; `reference.py` says what comes out. Knows items by position and
gives back their ids; what a user has seen, or what is hidden, arrives here as excluded positions. Reads only. Any
thread; the GIL is released while it runs.
"""

import numpy as np

from ...contract.arguments import whole_number
from ...contract.arrays import MAX_DIM
from ...contract.errors import InputError
from ...machine.backend import native
from ..checks import (
    F32,
    I64,
    ascending_in_bags,
    floats,
    integers,
    matrix_in_place,
    offsets_of,
    within,
)

__all__ = ["PositionLists", "padded", "score_topk"]

PositionLists = tuple[I64, I64]
"""For each query a set of items: positions int64 [nnz], strictly ascending within a query; offsets int64 [Q+1]."""


MAX_K = 2**31 - 1


def padded(dim: int) -> int:
    """Columns of a catalogue of `dim` columns: the next multiple of 16."""
    return -(-dim // 16) * 16


def score_topk(
    queries: F32,
    vectors: F32,
    biases: F32,
    ids: I64,
    k: int,
    *,
    exclude: PositionLists | None = None,
    include: PositionLists | None = None,
    cosine: bool = False,
    threads: int = 1,
) -> tuple[I64, F32, I64]:
    """The k items with the highest query . vector + bias, for each query: score down, then id up.

    An item whose score is NaN is never returned. Where fewer than k are left, id -1 and score -inf fill the row.

    queries  float32 [Q, dim]
    vectors  float32 [N, D16], D16 = dim rounded up to a multiple of 16, C-contiguous; columns from dim on are zero (the
             caller's promise: looking would cost as much as scoring)
    biases   float32 [N];  ids  int64 [N]
    k        1 to 2^31 - 1
    exclude  items that a query must not get; None: no such items. It wins over `include`
    include  the only items that a query may get; None: all
    cosine   rank by the cosine of query and vector instead, in [-1, 1], 0 where either is zero; the bias does not count
    threads  1 or more; how many share the work. The answer's bits do not depend on it, nor on the other queries

    Returns ids int64 [Q, k], scores float32 [Q, k], counts int64 [Q]: how many of a row are real. Raises InputError.
    """
    queries = floats("queries", queries, "Q", "dim")
    count, dim = queries.shape
    whole_number("queries' columns", dim, 1, MAX_DIM)
    vectors = matrix_in_place("vectors", vectors, padded(dim))
    items = vectors.shape[0]
    biases = floats("biases", biases, items)
    ids = integers("ids", ids, items)
    k = whole_number("k", k, 1, MAX_K)
    threads = whole_number("threads", threads, 1, 1024)
    excluded, exclude_offsets = _positions("exclude", exclude, count, items)
    included, include_offsets = _positions("include", include, count, items)

    best_ids = np.empty((count, k), dtype=np.int64)
    scores = np.empty((count, k), dtype=np.float32)
    counts = np.empty(count, dtype=np.int64)
    native.score_topk(
        queries,
        dim,
        vectors,
        biases,
        ids,
        k,
        excluded,
        exclude_offsets,
        included,
        include_offsets,
        bool(cosine),
        best_ids,
        scores,
        counts,
        threads,
    )
    return best_ids, scores, counts


def _positions(name: str, value: PositionLists | None, queries: int, items: int) -> tuple[I64 | None, I64 | None]:
    if value is None:
        return None, None
    try:
        positions, offsets = value
    except (TypeError, ValueError):
        raise InputError(f"{name}: got {type(value).__name__}, wanted a pair (positions, offsets)") from None
    positions = integers(f"{name} positions", positions, "nnz")
    within(f"{name} positions", positions, 0, items)
    offsets = offsets_of(f"{name} offsets", offsets, queries, positions.size)
    ascending_in_bags(f"{name} positions", positions, offsets)
    return positions, offsets
