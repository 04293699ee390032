"""loss_grads: scores of events, their losses, and the gradients that learning needs.

Checks its arguments and hands them to the C++ core; `reference.py` says what comes out. Reads rows, writes none: the
coefficients it returns go to update_rows. Any thread; the GIL is released while it runs.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...backend import native
from ...errors import InputError
from ..arguments import F32, I64, MAX_DIM, floats, integer, integers, rows_in_place, within

__all__ = ["LOSSES", "Loss", "LossGrads", "loss_grads"]

Loss = Literal["softmax", "bpr"]
LOSSES = {"softmax": 0, "bpr": 1}  # as the C++ core numbers them


class LossGrads(NamedTuple):
    """What an event costs, and how the cost moves with its query and with the scores of its items.

    The gradient of an item row's vector is its coefficient times the query; of its bias, the coefficient.
    """

    losses: npt.NDArray[Any]  # float32 [B], in nats
    query_grads: npt.NDArray[Any]  # float32 [B, dim]
    positive_coefs: npt.NDArray[Any]  # float32 [B], d loss / d score of the positive
    negative_coefs: npt.NDArray[Any]  # float32 [B, K], d loss / d score of each negative; 0 where masked


def loss_grads(
    loss: Loss,
    queries: F32,
    rows: F32,
    positives: I64,
    negatives: I64,
    *,
    dim: int,
    weights: F32 | None = None,
) -> LossGrads:
    """Losses of B events and their gradients; the score of a row is query . vector + bias.

    softmax: minus the log of the positive's share in the sum of exp(score) over it and the negatives.
    bpr: the mean over the negatives of -log sigmoid(score of the positive - score of the negative), Rendle et al. 2009,
    "BPR: Bayesian Personalized Ranking from Implicit Feedback".
    A negative that is -1 or the event's own positive is masked: no part of the sum, coefficient 0. With all of them
    masked, or K = 0, loss and gradients are 0. A negative drawn twice counts twice.

    loss       "softmax" or "bpr"
    queries    float32 [B, dim]
    rows       float32 [R, W], W >= dim + 3, C-contiguous; columns 0..dim are read: vector and bias
    positives  int64 [B], each a row of `rows`
    negatives  int64: softmax [K], shared by all events; bpr [B, K]; each a row of `rows`, or -1
    weights    float32 [B], multiplied into losses, coefficients and query_grads; None for ones

    Returns LossGrads. Raises InputError.
    """
    if not isinstance(loss, str) or loss not in LOSSES:
        raise InputError(f"loss: got {loss!r}, wanted one of {', '.join(LOSSES)}")
    dim = integer("dim", dim, 1, MAX_DIM)
    queries = floats("queries", queries, "B", dim)
    events = queries.shape[0]
    rows = rows_in_place(rows, dim)
    positives = integers("positives", positives, events)
    within("positives", positives, 0, rows.shape[0])
    shape = ("K",) if loss == "softmax" else (events, "K")
    negatives = integers("negatives", negatives, *shape)
    within("negatives", negatives, -1, rows.shape[0])
    if weights is not None:
        weights = floats("weights", weights, events)

    result = LossGrads(
        losses=np.empty(events, dtype=np.float32),
        query_grads=np.empty((events, dim), dtype=np.float32),
        positive_coefs=np.empty(events, dtype=np.float32),
        negative_coefs=np.empty((events, negatives.shape[-1]), dtype=np.float32),
    )
    native.loss_grads(LOSSES[loss], queries, rows, dim, positives, negatives, weights, *result)
    return result
