"""Whole micro-batches against plain numpy: draws, new rows, kernels' references, running mean, seqs and counts."""

import numpy as np
import pytest

import engine
from engine.kernels.loss_grads.reference import loss_grads
from engine.kernels.optimizers import state_floats
from engine.kernels.tolerances import TOLERANCES
from engine.kernels.update_rows.reference import update_rows

DIM = 8
MASK = 2**64 - 1


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def noise(seed, table, id):
    words = [mix64((mix64(mix64(seed ^ (table << 56)) ^ (id & MASK)) + d) & MASK) >> 32 for d in range(DIM)]
    return np.array(words, np.uint32).view(np.int32) * np.float32(2.0**-31)


class Plain:
    """The model of csrc/learn/learner.h, as its comments and docs/how-it-works/learning.md tell it."""

    def __init__(self, loss, optimizer, lr, l2, negatives, batch_size, seed):
        self.loss, self.k, self.batch_size, self.seed = loss, negatives, batch_size, seed
        self.step = {"dim": DIM, "lr": lr, "l2": l2, "optimizer": optimizer}
        self.pointwise = loss in ("logistic", "squared")
        self.rows = np.zeros((500, DIM + 1 + state_floats(optimizer, DIM)), np.float32)
        self.users, self.items = {}, {}  # id -> slot; items get slots in order of first sight, so slot order is ordinal
        self.ordinals = []
        self.used = 0
        self.mean, self.seen, self.seq = np.zeros(DIM, np.float32), 0, 0
        self.value_sum = self.value_weight = 0.0

    def slot(self, table, id, start):
        if id not in table:
            table[id] = self.used
            self.rows[self.used, :DIM] = start
            self.used += 1
            if table is self.items:
                self.ordinals.append(table[id])
        return table[id]

    def draw(self, seq, before):
        if before <= self.k:
            return [self.ordinals[n] if n < before else -1 for n in range(self.k)]
        words = [mix64((mix64(mix64(self.seed) ^ seq) + n) & MASK) for n in range(self.k)]
        return [self.ordinals[(word * before) >> 64] for word in words]

    def base(self):
        """The mean of the values so far, as a rating or as log odds with half an event of each kind beforehand."""
        if self.loss == "squared":
            return self.value_sum / self.value_weight if self.value_weight else 0.0
        ones, zeros = self.value_sum + 0.5, self.value_weight - self.value_sum + 0.5
        return np.log(ones / zeros) if self.loss == "logistic" else 0.0

    def ingest(self, users, items, values, weights):
        losses = []
        for start in range(0, len(users), self.batch_size):
            u, i = users[start : start + self.batch_size], items[start : start + self.batch_size]
            before = len(self.ordinals)
            user_slots = np.array([self.slot(self.users, x, self.mean + 0.01 * noise(self.seed, 1, x)) for x in u])
            item_slots = np.array([self.slot(self.items, x, 0.05 * noise(self.seed, 2, x)) for x in i])
            seqs = [self.seq + 1] if self.loss == "softmax" else range(self.seq + 1, self.seq + 1 + len(u))
            drawn = np.array([self.draw(seq, before) for seq in seqs], np.int64)
            negatives = drawn[0] if self.loss == "softmax" else drawn
            queries = self.rows[user_slots, :DIM].copy()
            w = weights[start : start + self.batch_size]
            pair = {}
            if self.pointwise:
                negatives, v = None, values[start : start + self.batch_size]
                pair = {"values": v, "offsets": self.base() + self.rows[user_slots, DIM].astype(np.float64)}
                self.value_sum += float(w.astype(np.float64) @ v)
                self.value_weight += float(w.astype(np.float64).sum())
            grads = loss_grads(self.loss, queries, self.rows, item_slots, negatives, dim=DIM, weights=w, **pair)
            each = np.broadcast_to(drawn, (len(u), self.k))
            terms = np.column_stack([item_slots, np.where(each == item_slots[:, None], -1, each)])
            coefs = np.column_stack([grads.positive_coefs, grads.negative_coefs]).astype(np.float32)
            event = np.repeat(np.arange(len(u)), self.k + 1)
            coefs = coefs.reshape(-1)
            update_rows(self.rows, terms.reshape(-1), queries, event, coefs, coefs, **self.step)
            ones, order = np.ones(len(u), np.float32), np.arange(len(u))
            of_bias = grads.positive_coefs if self.pointwise else None
            update_rows(self.rows, user_slots, grads.query_grads.astype(np.float32), order, ones, of_bias, **self.step)
            for slot in user_slots:  # as the step left them
                self.seen += 1
                self.mean += np.float32(1 / min(self.seen, 4096)) * (self.rows[slot, :DIM] - self.mean)
            self.seq += len(u)
            losses.extend(grads.losses)
        return float(np.mean(losses))


@pytest.mark.parametrize(("negatives", "batch_size"), [(1, 1), (4, 1), (3, 4), (1, 50), (20, 7), (5, 64)])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_a_stream_is_ranked_as_numpy_learns_it(loss, negatives, batch_size, l2):
    follow(loss, "adagrad", negatives, batch_size, l2, lr=0.1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("loss", ["softmax", "bpr", "logistic", "squared"])
@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_loss_with_every_optimizer(loss, optimizer, batch_size, weighted):
    lr = {"adagrad": 0.1, "adam": 0.01, "sgd": 0.01}[optimizer]
    follow(loss, optimizer, 3 if loss in ("softmax", "bpr") else 0, batch_size, 0.01, lr, weighted)


def follow(loss, optimizer, negatives, batch_size, l2, lr, weighted=False):
    rng = np.random.default_rng(negatives * 100 + batch_size)
    settings = {"lr": lr, "l2": l2, "negatives": negatives, "batch_size": batch_size, "seed": 5, "optimizer": optimizer}
    plain = Plain(loss, **settings)
    with engine.open(":memory:", dim=DIM, loss=loss, **settings) as eng:
        for n in (30, 1, 130):
            # Few ids: rows that several events of a micro-batch share, and ones that only one names.
            users, items = rng.integers(-3, 40, n) * 7 + 3, (rng.zipf(1.3, n) % 60) * 1_000_003
            values = rng.normal(3, 1, n) if loss == "squared" else rng.integers(0, 2, n)
            values = values.astype(np.float32)
            weights = rng.uniform(0, 2, n).astype(np.float32) if weighted else np.ones(n, np.float32)
            given = {"values": values if plain.pointwise else None, "weights": weights if weighted else None}
            report = eng.ingest(users, items, **given)
            expected = plain.ingest(users.tolist(), items.tolist(), values, weights)
            assert report.loss == pytest.approx(expected, rel=1e-3)
        # Rounding grows from step to step, in both.
        tolerance = {"rtol": 1e3 * TOLERANCES["update_rows"].relative, "atol": 1e3 * TOLERANCES["update_rows"].absolute}
        ids = list(plain.users)
        np.testing.assert_allclose(eng.vectors(users=ids), plain.rows[list(plain.users.values()), :DIM], **tolerance)
        ids = list(plain.items)
        np.testing.assert_allclose(eng.vectors(items=ids), plain.rows[list(plain.items.values()), :DIM], **tolerance)
        biases = plain.rows[list(plain.items.values()), DIM]
        stranger = eng.topk(10**15, k=len(ids))
        item_vectors = plain.rows[list(plain.items.values()), :DIM]
        scores = item_vectors @ plain.mean + biases + plain.base()
        np.testing.assert_allclose(stranger.scores, np.sort(scores)[::-1], **tolerance)
        user = plain.rows[next(iter(plain.users.values()))]
        scores = item_vectors @ user[:DIM] + biases + plain.base() + user[DIM]
        np.testing.assert_allclose(eng.score(next(iter(plain.users)), ids), scores, **tolerance)
