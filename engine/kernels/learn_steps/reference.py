"""learn_steps in plain numpy, in float64, one step after the other. The truth for tests; slow, and unchecked.

Made of the references of `loss_grads` and `update_rows`. Rows are rounded to float32 after each step, as they are kept;
so are the vectors that move the mean. Any thread, one at a time per slab.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ...contract.losses import POINTWISE
from ..loss_grads.reference import loss_grads
from ..update_rows.reference import update_rows
from . import LearnedWindow, Window

MEAN_HORIZON = 4096


def learn_steps(
    users: npt.NDArray[Any],
    items: npt.NDArray[Any],
    window: Window,
    mean: npt.NDArray[Any],
    mean_count: int,
    *,
    dim: int,
    lr: float,
    l2: float = 0.0,
    optimizer: Any = "adagrad",
) -> LearnedWindow:
    """Writes rows and mean in place; the arguments are those of the kernel."""
    c, K = window.columns, window.negatives
    loss: Any = window.loss
    losses, skipped = np.empty(window.events), 0
    running = mean.astype(np.float64)
    kinds: dict[str, Any] = {"dim": dim, "lr": lr, "l2": l2, "optimizer": optimizer}
    for step in range(window.steps):
        at = slice(step * window.batch_size, min(window.events, (step + 1) * window.batch_size))
        user, item = c["user_slots"][at].astype(np.int64), c["item_slots"][at].astype(np.int64)
        events = user.size
        if c["fresh"] is not None:
            new = user[c["fresh"][at] != 0]
            users[new, :dim] = (users[new, :dim] + running).astype(np.float32)
        first = step * K * (1 if loss == "softmax" else window.batch_size)
        count = K if loss == "softmax" else K * events
        negatives = c["negative_slots"][first : first + count].astype(np.int64)
        negatives = negatives if loss == "softmax" else negatives.reshape(events, K)
        offsets = None
        if loss in POINTWISE:
            offsets = users[user, dim] + (0.0 if c["offsets"] is None else c["offsets"][at])
        optional = {name: None if c[name] is None else c[name][at] for name in ("weights", "values")}
        got = loss_grads(loss, users[user, :dim], items, item, negatives, dim=dim, offsets=offsets, **optional)
        losses[at] = got.losses

        slots = np.column_stack([item, np.broadcast_to(negatives, (events, K))])
        slots[:, 1:][slots[:, 1:] == item[:, None]] = -1
        coefs = np.column_stack([got.positive_coefs, got.negative_coefs]).ravel()
        event = np.repeat(np.arange(events), 1 + K)
        sources = users[user, :dim].copy()
        skipped += update_rows(items, slots.ravel(), sources, event, coefs, coefs, **kinds)
        bias = got.positive_coefs if loss in POINTWISE else None
        skipped += update_rows(users, user, got.query_grads, np.arange(events), np.ones(events), bias, **kinds)
        for vector in users[user, :dim].astype(np.float64):
            mean_count += 1
            running += (vector - running) / min(mean_count, MEAN_HORIZON)
    mean[:] = running
    return LearnedWindow(losses, skipped)
