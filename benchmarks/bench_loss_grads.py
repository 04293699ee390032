"""loss_grads, one thread, beside numpy in float32, whose matrix products take all cores. Asserts no times.

1 M rows of 64, ids uniform. For one thread there too, set OPENBLAS_NUM_THREADS=1.
"""

import numpy as np
import pytest

from engine.kernels.loss_grads import loss_grads

DIM, ROWS = 64, 1_000_000


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(scale=0.1, size=(ROWS, 80)).astype(np.float32)


def batch(events, drawn):
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(events, DIM)).astype(np.float32)
    return queries, rng.integers(0, ROWS, size=events), rng.integers(0, ROWS, size=drawn)


@pytest.mark.parametrize(("events", "drawn"), [(1, 64), (16, 256), (256, 256)])
def test_softmax_engine(benchmark, rows, events, drawn):
    queries, positives, negatives = batch(events, drawn)
    benchmark.extra_info["events"] = events
    benchmark(loss_grads, "softmax", queries, rows, positives, negatives, dim=DIM)


@pytest.mark.parametrize(("events", "drawn"), [(1, 64), (16, 256), (256, 256)])
def test_softmax_numpy(benchmark, rows, events, drawn):
    queries, positives, negatives = batch(events, drawn)
    vectors, biases = rows[:, :DIM].copy(), rows[:, DIM].copy()

    def softmax():
        candidates = vectors[negatives]
        positive_vectors = vectors[positives]
        of_positives = np.einsum("bd,bd->b", queries, positive_vectors) + biases[positives]
        gaps = queries @ candidates.T + biases[negatives] - of_positives[:, None]
        gaps[negatives[None, :] == positives[:, None]] = -np.inf
        top = np.maximum(gaps.max(axis=1), 0)
        shares = np.exp(gaps - top[:, None])
        total = np.exp(-top) + shares.sum(axis=1)
        shares /= total[:, None]
        of_positive = -shares.sum(axis=1)
        return top + np.log(total), shares @ candidates + of_positive[:, None] * positive_vectors, of_positive, shares

    benchmark.extra_info["events"] = events
    benchmark(softmax)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("events", [1, 256, 8192])
def test_pairs_engine(benchmark, rows, loss, events):
    queries, positives, _ = batch(events, 0)
    values = (np.arange(events) % 2).astype(np.float32)
    benchmark.extra_info["events"] = events
    benchmark(loss_grads, loss, queries, rows, positives, None, dim=DIM, values=values, offsets=values)


@pytest.mark.parametrize("events", [1, 256, 8192])
def test_bpr_engine(benchmark, rows, events):
    queries, positives, negatives = batch(events, events)
    benchmark.extra_info["events"] = events
    benchmark(loss_grads, "bpr", queries, rows, positives, negatives[:, None], dim=DIM)
