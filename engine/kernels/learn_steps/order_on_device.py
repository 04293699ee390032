"""The order between the steps of a window, found on a device: what `Planner` finds on the host, for softmax.

A stable sort by row puts the references to each row side by side, in the order in which steps touch them; every
reference then has its predecessor beside it. Nothing waits for the device. Unchecked: slots are those of rows. Any
thread, on its current stream.
"""

import math
from typing import Any

import torch

from . import DEPTH_STEPS, FLOATS, Window, split

_NONE, _AGAIN = -1, -2  # StepLinks of csrc/steps/learn_steps.h


def window_on_device(
    user_slots: Any,
    item_slots: Any,
    negative_slots: Any,
    *,
    batch_size: int,
    negatives: int,
    user_rows: int,
    item_rows: int,
    weights: Any = None,
    fresh: Any = None,
) -> Window:
    """The window that `Planner.plan` makes of the same columns, all of them tensors on one device.

    Its `depth` is an estimate, for rows that are drawn uniformly: it decides how many blocks work at once.
    """
    n, count = user_slots.numel(), negative_slots.numel()
    steps = -(-n // batch_size)
    ints = torch.empty(6 * n + 3 * count, dtype=torch.int32, device=user_slots.device)
    columns = split(ints, n, count)
    columns["user_slots"].copy_(user_slots)
    columns["item_slots"].copy_(item_slots)
    columns["negative_slots"].copy_(negative_slots)
    users = _by_step(columns["user_slots"], steps, batch_size)
    items = torch.cat([_by_step(columns["item_slots"], steps, batch_size), negative_slots.view(steps, negatives)], 1)
    for name, found in zip(("before", "next"), _links(users), strict=True):
        columns[f"user_{name}"].copy_(found.view(-1)[:n])
    before, after = _links(items)
    after[-1] -= (steps * batch_size - n) * (after[-1] >= batch_size)  # negatives count from the last positive
    for name, found in (("before", before), ("next", after)):
        columns[f"item_{name}"].copy_(found[:, :batch_size].reshape(-1)[:n])
        columns[f"negative_{name}"].copy_(found[:, batch_size:].reshape(-1))
    columns |= dict.fromkeys(FLOATS) | {"weights": weights, "fresh": fresh}
    # Two steps share a row with p = (batch_size + negatives)^2 / items; 1 / (e p) run side by side.
    side_by_side = item_rows / (math.e * (batch_size + negatives) ** 2)
    depth = math.ceil(min(steps, DEPTH_STEPS) / max(1.0, side_by_side))
    return Window("softmax", batch_size, negatives, n, depth, user_rows, item_rows, ints, columns)


def _by_step(slots: Any, steps: int, batch_size: int) -> Any:
    """[steps, batch_size], -1 where the last step is short."""
    padded = slots.new_full((steps * batch_size,), -1)
    padded[: slots.numel()] = slots
    return padded.view(steps, batch_size)


def _links(slots: Any) -> tuple[Any, Any]:
    """StepLinks `before` and `next` of references [steps, W] to the rows of one table, in the order of touching."""
    width = slots.shape[1]
    rows, index = torch.sort(slots.reshape(-1), stable=True)
    step = torch.div(index, width, rounding_mode="floor")
    same = (rows[1:] == rows[:-1]) & (rows[1:] >= 0)
    again = same & (step[1:] == step[:-1])
    sorted_before, sorted_next = torch.full_like(index, _NONE), torch.full_like(index, _NONE)
    sorted_before[1:] = torch.where(again, _AGAIN, torch.where(same, step[:-1], _NONE))
    sorted_before[rows < 0] = _AGAIN  # nothing to do for it
    sorted_next[:-1] = torch.where(again, index[1:] - step[1:] * width, _NONE)
    before, after = torch.empty_like(index), torch.empty_like(index)
    before[index], after[index] = sorted_before, sorted_next
    return before.view_as(slots), after.view_as(slots)
