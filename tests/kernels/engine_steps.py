"""The engine's own step path, and the same events as a window: what `learn_steps` must agree with bit for bit.

Ids are slots: user u has row u, item i has row i. Both sides begin with no rows at all, so that new users and items,
the running mean, draws of negatives and the base of pointwise scores are all in it.
"""

from typing import Any, NamedTuple

import numpy as np

from engine.contract.losses import LOSSES, OPTIMIZERS, POINTWISE
from engine.kernels.optimizers import Rule
from engine.machine.backend import native

U64 = np.uint64


def mix64(x: Any) -> Any:
    x = (np.asarray(x, U64) + U64(0x9E3779B97F4A7C15)).astype(U64)
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


def noise(seed: int, table: int, ids: Any, dim: int) -> np.ndarray:
    """float32 [len(ids), dim], uniform over [-1, 1), as csrc/kernels/draws.h."""
    with np.errstate(over="ignore"):
        x = mix64(
            mix64(mix64(U64(seed ^ table << 56)) ^ np.asarray(ids).astype(U64))[:, None] + np.arange(dim, dtype=U64)
        )
    return (x >> U64(32)).astype(np.uint32).view(np.int32).astype(np.float32) * np.float32(2.0**-31)


def draws(seed: int, seq: int, count: int, below: int) -> list[int]:
    with np.errstate(over="ignore"):
        x = mix64(mix64(mix64(U64(seed)) ^ U64(seq)) + np.arange(count, dtype=U64))
    return [int(value) * below >> 64 for value in x]


class Case(NamedTuple):
    loss: str
    optimizer: str
    dim: int
    batch_size: int
    negatives: int
    users: np.ndarray  # slots, in order of events
    items: np.ndarray
    user_rows: int
    item_rows: int
    weights: np.ndarray | None
    values: np.ndarray | None
    lr: float = 0.1
    l2: float = 0.01
    seed: int = 5

    @property
    def kinds(self) -> dict[str, Any]:
        return {"dim": self.dim, "lr": self.lr, "l2": self.l2, "optimizer": self.optimizer}

    @property
    def rule(self) -> Rule:
        return Rule(self.optimizer, self.lr, self.l2)

    @property
    def width(self) -> int:
        return self.dim + 1 + native.state_floats(OPTIMIZERS.index(self.optimizer), self.dim)


def case(loss: str, optimizer: str, dim: int, batch_size: int, negatives: int, n: int, **changed: Any) -> Case:
    """n events over `user_rows` x `item_rows` ids, half of them of an eighth of the ids."""
    user_rows, item_rows = changed.pop("user_rows", 30), changed.pop("item_rows", 40)
    rng = np.random.default_rng(changed.pop("stream", 0))
    few = rng.integers(0, 2, size=(2, n)) == 0
    users = rng.integers(0, np.where(few[0], max(1, user_rows // 8), user_rows))
    items = rng.integers(0, np.where(few[1], max(1, item_rows // 8), item_rows))
    weights = rng.uniform(0, 2, size=n).astype(np.float32) if changed.pop("weighted", False) else None
    values = None
    if loss in POINTWISE:
        values, negatives = rng.integers(0, 2 if loss == "logistic" else 6, size=n).astype(np.float32), 0
    return Case(
        loss, optimizer, dim, batch_size, negatives, users, items, user_rows, item_rows, weights, values, **changed
    )


class Rows(NamedTuple):
    users: np.ndarray
    items: np.ndarray
    mean: np.ndarray
    loss: float
    skipped: int


def by_the_engine(c: Case) -> Rows:
    """Rows that never were stay as `slabs` has them."""
    users, items = (native.Warm(c.width, 4096, ordinals) for ordinals in (False, True))
    catalogue, n = native.Catalogue(c.dim), c.users.size
    history = native.History(users, 2**24)
    learner = native.Learner(users, items, catalogue, history)
    settings = native.LearnSettings(
        LOSSES.index(c.loss), OPTIMIZERS.index(c.optimizer), c.lr, c.l2, c.negatives, c.batch_size, c.seed
    )
    events = native.EventColumns(c.users.astype(np.int64), c.items.astype(np.int64), c.values, c.weights, 1)
    at, loss, skipped = 0, 0.0, 0
    while at < n:
        assert learner.plan(settings, events, at) == native.Plan.ready
        got = learner.learn(settings, events)
        at, loss, skipped = at + got.events, loss + got.loss, skipped + got.skipped
    out = slabs(c)
    for table, slab in ((users, out[0]), (items, out[1])):
        found, rows = table.peek(np.arange(slab.shape[0]))
        slab[found] = rows[found].reshape(-1, table.stored_bytes)[:, : 4 * c.width].copy().view(np.float32)
    return Rows(*out, learner.mean, loss, skipped)


def slabs(c: Case) -> tuple[np.ndarray, np.ndarray]:
    """New rows: noise, to which a user's first event adds the mean."""
    users, items = (np.zeros((rows, c.width), np.float32) for rows in (c.user_rows, c.item_rows))
    users[:, : c.dim] = np.float32(0.01) * noise(c.seed, 1, np.arange(c.user_rows), c.dim)
    items[:, : c.dim] = np.float32(0.05) * noise(c.seed, 2, np.arange(c.item_rows), c.dim)
    return users, items


def columns(c: Case) -> dict[str, Any]:
    """What a planner is given for the case: negatives as the engine draws them, new users, offsets."""
    n, known, ordinal = c.users.size, [], {}
    seen: set[int] = set()
    fresh, negatives, offsets = np.zeros(n, np.uint8), [], np.zeros(n, np.float32)
    value_sum = value_weight = 0.0
    for first in range(0, n, c.batch_size):
        events = range(first, min(n, first + c.batch_size))
        before = len(known)
        base = native.base_score(LOSSES.index(c.loss), value_sum, value_weight)
        for e in events:
            fresh[e] = c.users[e] not in seen
            seen.add(c.users[e])
            if c.items[e] not in ordinal:
                ordinal[c.items[e]] = len(known)
                known.append(int(c.items[e]))
            offsets[e] = base
            if c.values is not None:
                weight = 1.0 if c.weights is None else float(c.weights[e])
                value_sum, value_weight = value_sum + weight * float(c.values[e]), value_weight + weight
        for e in events[:1] if c.loss == "softmax" else events:
            if before <= c.negatives:
                drawn = [k if k < before else -1 for k in range(c.negatives)]
            else:
                drawn = draws(c.seed, e + 1, c.negatives, before)
            negatives += [known[k] if k >= 0 else -1 for k in drawn]
    return {
        "user_slots": c.users,
        "item_slots": c.items,
        "negative_slots": np.array(negatives, np.int64),
        "loss": c.loss,
        "batch_size": c.batch_size,
        "negatives": c.negatives,
        "weights": c.weights,
        "values": c.values,
        "offsets": offsets if c.loss in POINTWISE else None,
        "fresh": fresh,
    }
