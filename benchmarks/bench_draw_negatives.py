"""draw_negatives beside numpy's random integers and a take, one thread: 64 of 1 M items a step. Asserts no times."""

import numpy as np

from engine.kernels.draw_negatives import draw_negatives

STEPS, ITEMS, NEGATIVES = 8192, 1_000_000, 64


def test_engine(benchmark):
    known, slots = np.full(STEPS, ITEMS), np.random.default_rng(0).permutation(ITEMS).astype(np.int32)
    benchmark.extra_info["draws"] = STEPS * NEGATIVES
    benchmark(draw_negatives, known, slots, seed=1, first_seq=1, batch_size=1, negatives=NEGATIVES)


def test_numpy(benchmark):
    rng, slots = np.random.default_rng(0), np.random.default_rng(0).permutation(ITEMS).astype(np.int32)
    benchmark.extra_info["draws"] = STEPS * NEGATIVES
    benchmark(lambda: slots[rng.integers(0, ITEMS, STEPS * NEGATIVES)])
