"""score_topk beside faiss' IndexFlatIP, one thread: the best 10 of 10 k, 100 k and 1 M items of 64. Asserts no times.

faiss has no bias: the engine's items carry one here, faiss' do not. Ties apart, both are exact.
"""

import warnings

import numpy as np
import pytest

from engine.kernels.score_topk import score_topk

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its generated bindings
        import faiss
except ImportError:
    faiss = None

DIM, K = 64, 10
SIZES = [10_000, 100_000, 1_000_000]


@pytest.fixture(scope="module", params=SIZES)
def vectors(request):
    return np.random.default_rng(0).normal(size=(request.param, DIM)).astype(np.float32)


@pytest.fixture(params=[1, 64])
def queries(request):
    return np.random.default_rng(1).normal(size=(request.param, DIM)).astype(np.float32)


def test_engine(benchmark, vectors, queries):
    items = len(vectors)
    biases, ids = np.random.default_rng(2).normal(size=items).astype(np.float32), np.arange(items)
    benchmark(score_topk, queries, vectors, biases, ids, K)


@pytest.mark.skipif(faiss is None, reason="faiss is not installed")
def test_faiss(benchmark, vectors, queries):
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    benchmark(index.search, queries, K)
