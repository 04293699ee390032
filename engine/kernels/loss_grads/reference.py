"""loss_grads in plain numpy, in float64. The truth for tests; slow, and unchecked. Any thread.

float64 queries and rows are welcome: a test that moves them by 1e-6 sees the loss move.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ...contract.losses import POINTWISE, Loss
from . import LossGrads


def loss_grads(
    loss: Loss,
    queries: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    positives: npt.NDArray[np.int64],
    negatives: npt.NDArray[np.int64] | None,
    *,
    dim: int,
    query_slots: npt.NDArray[np.int64] | None = None,
    weights: npt.NDArray[Any] | None = None,
    values: npt.NDArray[Any] | None = None,
    offsets: npt.NDArray[Any] | None = None,
) -> LossGrads:
    """LossGrads in float64; the arguments are those of the kernel."""
    if query_slots is not None:
        queries = queries[query_slots, :dim]
    events = queries.shape[0]
    queries = queries.astype(np.float64)
    vectors, biases = rows[:, :dim].astype(np.float64), rows[:, dim].astype(np.float64)
    weights = np.ones(events) if weights is None else weights.astype(np.float64)
    positive_scores = np.einsum("bd,bd->b", queries, vectors[positives]) + biases[positives]
    if loss in POINTWISE:
        assert values is not None
        values = values.astype(np.float64)
        scores = positive_scores if offsets is None else positive_scores + offsets.astype(np.float64)
        if loss == "logistic":
            losses = np.logaddexp(0.0, scores) - values * scores
            coefs = np.exp(scores - np.logaddexp(0.0, scores)) - values
        else:
            losses = (scores - values) ** 2
            coefs = 2 * (scores - values)
        coefs = coefs * weights
        return LossGrads(losses * weights, coefs[:, None] * vectors[positives], coefs, np.zeros((events, 0)))
    assert negatives is not None
    negatives = np.broadcast_to(negatives, (events, negatives.shape[-1]))

    masked = (negatives == -1) | (negatives == positives[:, None])
    row_of = np.where(masked, positives[:, None], negatives)  # any row will do where masked
    negative_scores = np.einsum("bd,bkd->bk", queries, vectors[row_of]) + biases[row_of]
    gaps = np.where(masked, -np.inf, negative_scores - positive_scores[:, None])

    if loss == "softmax":
        # -log(1 / (1 + sum e^gap)), and e^gap / (1 + sum e^gap), with the largest exponent taken out
        top = np.maximum(gaps.max(axis=1, initial=0.0), 0.0)
        shares = np.exp(gaps - top[:, None])
        total = np.exp(-top) + shares.sum(axis=1)
        losses = top + np.log(total)
        negative_coefs = shares / total[:, None]
    else:
        unmasked = np.maximum((~masked).sum(axis=1), 1)
        losses = np.logaddexp(0.0, gaps).sum(axis=1) / unmasked
        negative_coefs = np.exp(gaps - np.logaddexp(0.0, gaps)) / unmasked[:, None]

    losses = losses * weights
    negative_coefs = negative_coefs * weights[:, None]
    positive_coefs = -negative_coefs.sum(axis=1)
    query_grads = positive_coefs[:, None] * vectors[positives]
    query_grads += np.einsum("bk,bkd->bd", negative_coefs, vectors[row_of])
    return LossGrads(losses, query_grads, positive_coefs, negative_coefs)
