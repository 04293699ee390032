"""score_topk in plain numpy, scored in float64. The truth for tests; slow, and unchecked. Any thread."""

from typing import Any

import numpy as np
import numpy.typing as npt

from . import PositionLists


def score_items(
    queries: npt.NDArray[Any], vectors: npt.NDArray[Any], biases: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """float64 [Q, N]: the score of every item for every query."""
    dim = queries.shape[1]
    with np.errstate(invalid="ignore"):  # infinities may meet: NaN, and the item is not returned
        scores: npt.NDArray[np.float64] = queries.astype(np.float64) @ vectors[:, :dim].T.astype(np.float64) + biases
    return scores


def cosine_items(
    queries: npt.NDArray[Any], vectors: npt.NDArray[Any], biases: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """float64 [Q, N]: the cosine of every query and item, 0 where either is zero; the biases don't count."""
    units = []
    for x in (queries, vectors[:, : queries.shape[1]]):
        wide = x.astype(np.longdouble)
        norms = np.sqrt((wide**2).sum(axis=1, keepdims=True))
        units.append(np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0).astype(np.float64))
    cosines: npt.NDArray[np.float64] = np.clip(units[0] @ units[1].T, -1.0, 1.0)
    return cosines


def score_topk(
    queries: npt.NDArray[Any],
    vectors: npt.NDArray[Any],
    biases: npt.NDArray[Any],
    ids: npt.NDArray[np.int64],
    k: int,
    *,
    exclude: PositionLists | None = None,
    include: PositionLists | None = None,
    cosine: bool = False,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """ids int64 [Q, k], scores float64 [Q, k], counts int64 [Q]; the arguments are those of the kernel."""
    scores = (cosine_items if cosine else score_items)(queries, vectors, biases)
    best_ids = np.full((len(queries), k), -1, dtype=np.int64)
    best = np.full((len(queries), k), -np.inf)
    counts = np.zeros(len(queries), dtype=np.int64)
    for q, row in enumerate(scores):
        allowed = ~np.isnan(row)
        if include is not None:
            positions, offsets = include
            listed = np.zeros(allowed.size, dtype=bool)
            listed[positions[offsets[q] : offsets[q + 1]]] = True
            allowed &= listed
        if exclude is not None:
            positions, offsets = exclude
            allowed[positions[offsets[q] : offsets[q + 1]]] = False
        (left,) = np.nonzero(allowed)
        order = left[np.lexsort((ids[left], -row[left]))][:k]
        counts[q] = order.size
        best_ids[q, : order.size] = ids[order]
        best[q, : order.size] = row[order]
    return best_ids, best, counts
