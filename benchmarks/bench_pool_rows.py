"""pool_rows beside numpy's take, one thread. 1 M rows of 64, far beyond the caches; ids uniform. Asserts no times."""

import numpy as np
import pytest

from engine.kernels.pool_rows import pool_rows

DIM, ROWS, BAGS = 64, 1_000_000, 8192


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).random((ROWS, 80), dtype=np.float32)


@pytest.mark.parametrize("bag", [1, 10])
def test_engine(benchmark, rows, bag):
    slots = np.random.default_rng(1).integers(0, ROWS, size=BAGS * bag)
    offsets = None if bag == 1 else np.arange(BAGS + 1) * bag
    benchmark.extra_info["rows"] = slots.size
    benchmark(pool_rows, rows, slots, offsets, None, dim=DIM)


@pytest.mark.parametrize("bag", [1, 10])
def test_numpy_take(benchmark, rows, bag):
    vectors = rows[:, :DIM].copy()
    slots = np.random.default_rng(1).integers(0, ROWS, size=BAGS * bag)
    benchmark.extra_info["rows"] = slots.size
    if bag == 1:
        benchmark(np.take, vectors, slots, axis=0)
    else:
        benchmark(lambda: np.take(vectors, slots, axis=0).reshape(BAGS, bag, DIM).sum(axis=1))
