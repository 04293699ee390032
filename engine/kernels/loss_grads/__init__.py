"""loss_grads: scores of events, their losses, and the gradients that learning needs.

Checks its arguments and hands them to the C++ core, or tensors to Triton; `reference.py` says what comes out. Reads
rows, writes none: the coefficients it returns go to update_rows. Any thread; the GIL is released while it runs.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...contract.arguments import choice, whole_number
from ...contract.arrays import MAX_DIM
from ...contract.errors import InputError
from ...contract.losses import LOSSES, POINTWISE, Loss
from ...contract.tensors import is_tensor
from ...machine.backend import native, need_triton
from ..checks import F32, I64, floats, integers, rows_in_place, wide_in_place, within

__all__ = ["LossGrads", "loss_grads"]


class LossGrads(NamedTuple):
    """What an event costs, and how the cost moves with its query and with the scores of its items.

    The gradient of an item row's vector is its coefficient times the query; of its bias, the coefficient.
    """

    losses: npt.NDArray[Any]  # float32 [B], in nats; squared: in squared units of the values
    query_grads: npt.NDArray[Any]  # float32 [B, dim]
    positive_coefs: npt.NDArray[Any]  # float32 [B], d loss / d score of the positive
    negative_coefs: npt.NDArray[Any]  # float32 [B, K], d loss / d score of each negative; 0 where masked


def loss_grads(
    loss: Loss,
    queries: F32,
    rows: F32,
    positives: I64,
    negatives: I64 | None,
    *,
    dim: int,
    query_slots: I64 | None = None,
    weights: F32 | None = None,
    values: F32 | None = None,
    offsets: F32 | None = None,
) -> LossGrads:
    """Losses of B events and their gradients; the score of a row is query . vector + bias.

    contract/losses.py has the formulas. softmax and bpr rank the positive above negatives. A negative that is -1 or the
    event's own positive is masked: no part of the sum, coefficient 0. With all of them masked, or K = 0, loss and
    gradients are 0. A negative drawn twice counts twice.

    Pointwise losses have no negatives. Their score is query . vector + bias + offset, of the positive and its event.
    The offset is what an event adds to all scores: a base and the user's bias. Its gradient is the coefficient.

    loss         one of contract.losses.LOSSES
    queries      float32 [B, dim]; with query_slots a slab, float32 [Q, >= dim], C-contiguous, columns 0..dim-1 are read
    rows         float32 [R, W], W >= dim + 1, C-contiguous; columns 0..dim are read: vector and bias
    positives    int64 [B], each a row of `rows`
    negatives    int64: softmax [K], shared by all events; bpr [B, K]; each a row of `rows`, or -1. The others: None
    query_slots  int64 [B], the row of `queries` that is an event's query; None: event b has row b
    weights      float32 [B], multiplied into losses, coefficients and query_grads; None for ones
    values       float32 [B], for pointwise losses (logistic: what is more than 0.5 counts as 1); else None
    offsets      float32 [B], for pointwise losses; None for zeros

    Tensors: all of them on the device of `rows`, where W is a multiple of 4.

    Returns LossGrads. Raises InputError; for tensors, DeviceError where Triton cannot run.
    """
    choice("loss", loss, LOSSES)
    dim = whole_number("dim", dim, 1, MAX_DIM)
    rows = rows_in_place(rows, dim, 0)
    queries, query_slots = _queries(queries, query_slots, dim, rows)
    events = len(queries) if query_slots is None else len(query_slots)
    positives = integers("positives", positives, events, like=rows)
    within("positives", positives, 0, rows.shape[0])
    _require_columns(loss, negatives, values, offsets)
    if negatives is not None:
        negatives = integers("negatives", negatives, *(("K",) if loss == "softmax" else (events, "K")), like=rows)
        within("negatives", negatives, -1, rows.shape[0])
    weights, values, offsets = (
        None if column is None else floats(name, column, events, like=rows)
        for name, column in (("weights", weights), ("values", values), ("offsets", offsets))
    )
    if is_tensor(rows):
        need_triton(rows.device)
        from . import triton_kernel

        options = {"query_slots": query_slots, "weights": weights, "values": values, "offsets": offsets}
        return LossGrads(*triton_kernel.loss_grads(loss, queries, rows, positives, negatives, dim=dim, **options))
    if query_slots is not None:
        queries = np.take(queries[:, :dim], query_slots, axis=0)
    if negatives is None:
        negatives = np.empty((events, 0), dtype=np.int64)
    shapes = events, (events, dim), events, (events, negatives.shape[-1])
    result = LossGrads(*(np.empty(shape, np.float32) for shape in shapes))
    native.loss_grads(LOSSES.index(loss), queries, rows, dim, positives, negatives, weights, values, offsets, *result)
    return result


def _require_columns(loss: Loss, negatives: Any, values: Any, offsets: Any) -> None:
    """The columns that a loss does not take are None, and those that it needs are not."""
    for name, given, wanted in (
        ("negatives", negatives, loss not in POINTWISE),
        ("values", values, loss in POINTWISE),
        ("offsets", offsets, loss in POINTWISE and offsets is not None),
    ):
        if (given is not None) != wanted:
            raise InputError(f"{name}: got {type(given).__name__}, wanted {'an array' if wanted else None} for {loss}")


def _queries(queries: F32, query_slots: I64 | None, dim: int, rows: F32) -> tuple[F32, I64 | None]:
    """Both, checked: a query for each event, or a slab of them and the row of each event's."""
    if query_slots is None:
        return floats("queries", queries, "B", dim, like=rows), None
    queries = wide_in_place("queries", queries, dim, dim, like=rows)
    query_slots = integers("query_slots", query_slots, "B", like=rows)
    within("query_slots", query_slots, 0, queries.shape[0])
    return queries, query_slots
