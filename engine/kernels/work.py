"""What each kernel must do for a call at the least: bytes to and from memory, flops. README.md's tables, in numbers.

Bytes are true ones: a row that a call names often is read (and written) once, slots and coefficients as often as they
stand there. Flops are those that the result needs, not those that an implementation takes: a score is 2 dim, a
gradient of it for each side 2 dim more. Each function takes the arguments of the kernel of its name and keeps of them
what it has to count; what it returns counts, later. Tensors, or for learn_steps numpy arrays. Any thread.
"""

from typing import Any

from ..machine.marks import Reckoned, Work
from .optimizers import state_floats

__all__ = [
    "copied",
    "draw_negatives",
    "learn_steps",
    "loss_grads",
    "pool_rows",
    "published",
    "rank_ids",
    "score_topk",
    "update_rows",
]

STEP_FLOPS = {"sgd": 2, "adagrad": 4, "adam": 12}  # of one float of a row


def changed_bytes(dim: int, optimizer: str) -> int:
    """Of a row that a step changes: vector, bias, the optimizer's state; without the padding behind them."""
    return 4 * (dim + 1 + state_floats(optimizer, dim))


def _distinct(*slots: Any) -> int:
    """How many rows slots name; -1 is none."""
    import torch

    names = torch.cat([x.reshape(-1) for x in slots]).unique()
    return int((names >= 0).sum())


def pool_rows(rows: Any, slots: Any, offsets: Any, weights: Any, *, dim: int) -> Reckoned:
    keys = slots.numel()
    bags = keys if offsets is None else offsets.numel() - 1
    column = keys * (8 if weights is None else 12) + (0 if offsets is None else 8 * bags)
    flops = 0 if offsets is None else keys * dim * (1 if weights is None else 2)
    return lambda: Work(4 * dim * (_distinct(slots) + bags) + column, flops)


def loss_grads(*arrays: Any, dim: int, query_slots: Any = None, **_: Any) -> Reckoned:
    _, _, _, positives, negatives = arrays
    events, drawn = positives.numel(), 0 if negatives is None else negatives.shape[-1]
    column = events * (8 + 4 + 4 + 4 * drawn + 4 * dim)  # positive; loss, coefficients, gradient
    column += 0 if query_slots is None else 8 * events
    column += 0 if negatives is None else 8 * negatives.numel()
    named = [positives] if negatives is None else [positives, negatives]

    def reckon() -> Work:
        asked = events if query_slots is None else _distinct(query_slots)
        return Work(column + 4 * dim * asked + 4 * (dim + 1) * _distinct(*named), events * (1 + drawn) * 4 * dim)

    return reckon


def update_rows(*arrays: Any, dim: int, optimizer: str = "adagrad", **_: Any) -> Reckoned:
    _, slots, _, source_index, coefs, bias_coefs = arrays
    terms = slots.numel()
    column = terms * (20 if bias_coefs is None or bias_coefs is coefs else 24)

    def reckon() -> Work:
        stepped = _distinct(slots)
        moved = column + 2 * changed_bytes(dim, optimizer) * stepped + 4 * dim * _distinct(source_index)
        return Work(moved, terms * 2 * dim + stepped * STEP_FLOPS[optimizer] * dim)

    return reckon


def learn_steps(
    users: Any, items: Any, window: Any, *_: Any, dim: int, optimizer: str = "adagrad", **__: Any
) -> Reckoned:
    """Rows of each step on their own: the next one may have another block, and its own copy."""

    def reckon() -> Work:
        before = [window.columns[f"{kind}_before"] for kind in ("user", "item", "negative")]
        stepped = sum(int((column != -2).sum()) for column in before)  # -2: named before in the same step
        scores = window.events * (1 + window.negatives)
        moved = 2 * changed_bytes(dim, optimizer) * stepped + window.ints.nbytes + window.events * (4 + 4 * dim)
        return Work(moved, scores * 6 * dim + stepped * STEP_FLOPS[optimizer] * dim)

    return reckon


def score_topk(queries: Any, vectors: Any, biases: Any, *_: Any, **__: Any) -> Reckoned:
    """The catalogue once, whatever the queries."""
    (items, width), (count, dim) = vectors.shape, queries.shape
    return lambda: Work(4 * items * (width + 1), 2 * dim * items * count)


def draw_negatives(known: Any, slots: Any, *, negatives: int, **_: Any) -> Reckoned:
    """A slot is read for each draw, the same one or not."""
    steps = known.numel()
    return lambda: Work(steps * (8 + 8 * negatives))


def rank_ids(ids: Any) -> Reckoned:
    items = ids.numel()
    return lambda: Work(16 * items)


def published(catalogue: Any, ids: Any, ordinals: Any, rows: Any, places: Any) -> Reckoned | None:
    """Items taken over into the catalogue of the device."""
    items, dim = len(ordinals), int(catalogue.dim)
    slots = 16 if places is None else 24  # ordinal, id, place
    return (lambda: Work(items * (slots + 8 + 2 * 4 * (dim + 1)))) if items else None


def copied(tier: Any, rows: Any) -> Reckoned | None:
    """Rows between the tier and RAM, as wide as they are on the device."""
    moved = 4 * len(rows) * int(tier.rows.shape[1])
    return (lambda: Work(moved, host=True)) if moved else None
