"""update_rows beside numpy, one thread. 1 M rows of 64; ids uniform, and Zipf-like with hot rows. Asserts no times.

Adam's rows are 800 bytes here, the others' 320.
"""

import numpy as np
import pytest

from engine.contract.losses import OPTIMIZERS
from engine.kernels.optimizers import state_floats
from engine.kernels.update_rows import update_rows

DIM, ROWS, LR = 64, 1_000_000, 0.01


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).random((ROWS, 80), dtype=np.float32)


def terms(spread, count):
    rng = np.random.default_rng(1)
    if spread == "uniform":
        slots = rng.integers(0, ROWS, size=count)
    else:
        slots = rng.permutation(ROWS)[np.minimum(rng.zipf(1.05, size=count), ROWS) - 1]
    sources = rng.normal(scale=0.01, size=(count, DIM)).astype(np.float32)
    return slots, sources, np.arange(count), rng.normal(size=count).astype(np.float32)


@pytest.fixture(scope="module", params=OPTIMIZERS)
def slab(request):
    width = max(80, DIM + 1 + state_floats(request.param, DIM) + 3)
    return request.param, np.random.default_rng(0).random((ROWS, width), dtype=np.float32)


@pytest.mark.parametrize("count", [256, 8192])
@pytest.mark.parametrize("spread", ["uniform", "zipf"])
def test_engine(benchmark, slab, spread, count):
    optimizer, rows = slab
    args = terms(spread, count)
    benchmark.extra_info["terms"] = count
    benchmark(update_rows, rows, *args, args[3], dim=DIM, lr=LR, optimizer=optimizer)


@pytest.mark.parametrize("count", [256, 8192])
@pytest.mark.parametrize("spread", ["uniform", "zipf"])
def test_numpy(benchmark, rows, spread, count):
    slots, sources, source_index, coefs = terms(spread, count)
    vectors, biases = rows[:, :DIM].copy(), rows[:, DIM].copy()
    squares, bias_squares = np.zeros(ROWS, np.float32), np.zeros(ROWS, np.float32)

    def adagrad():
        order = np.argsort(slots, kind="stable")
        touched, starts = np.unique(slots[order], return_index=True)
        grads = np.add.reduceat(coefs[order, None] * sources[source_index[order]], starts)
        bias_grads = np.add.reduceat(coefs[order], starts)
        squares[touched] += np.square(grads).mean(axis=1)
        vectors[touched] -= LR * grads / (np.sqrt(squares[touched]) + 1e-8)[:, None]
        bias_squares[touched] += np.square(bias_grads)
        biases[touched] -= LR * bias_grads / (np.sqrt(bias_squares[touched]) + 1e-8)

    benchmark.extra_info["terms"] = count
    benchmark(adagrad)
