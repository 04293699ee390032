"""topk and similar through the public API: 10 k, 100 k and 1 M items, 1 and 64 queries, one thread, beside faiss
IndexFlatIP.

faiss gets the same item vectors, with the bias as one more coordinate, and the same users' vectors; for similar all of
them divided by their norms beforehand, which the engine works out in its pass. Both return exact lists. Engine and
faiss run in turn in this process; compare medians of one run only.
"""

import numpy as np
import pytest

import engine

DIM, K = 64, 10


@pytest.fixture(scope="module", params=[10_000, 100_000, 1_000_000], ids=lambda n: f"{n} items")
def shop(request):
    n = request.param
    with engine.open(":memory:", dim=DIM, loss="bpr", batch_size=8192) as eng:
        ids = np.arange(n)
        eng.ingest(ids % 10_000, ids)
        yield n, eng


@pytest.mark.parametrize("users", [1, 64])
def test_engine(benchmark, shop, users):
    n, eng = shop
    who = np.arange(users)
    benchmark.extra_info["items"] = n
    answer = benchmark(lambda: eng.topk(who, K))
    assert (answer.counts == K).all()


@pytest.mark.parametrize("users", [1, 64])
def test_faiss(benchmark, shop, users):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is an extra: peers")
    n, eng = shop
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(DIM + 1)
    ids = np.arange(n)
    vectors = eng.vectors(items=ids)
    user = eng.vectors(users=np.arange(users))
    # the bias is what the score has beyond the product of the vectors
    biases = eng.score(0, ids) - vectors @ eng.vectors(users=0)[0]
    index.add(np.hstack([vectors, biases[:, None]]).astype(np.float32))
    queries = np.hstack([user, np.ones((users, 1), np.float32)])
    benchmark.extra_info["items"] = n
    _, found = benchmark(lambda: index.search(queries, K))
    ours = eng.topk(np.arange(users), K).ids
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ours, found, strict=True)]) > K - 0.5  # rounding may swap ties


@pytest.mark.parametrize("queries", [1, 64])
def test_similar(benchmark, shop, queries):
    n, eng = shop
    which = np.arange(queries)
    benchmark.extra_info["items"] = n
    answer = benchmark(lambda: eng.similar(which, K))
    assert (answer.counts == K).all()


@pytest.mark.parametrize("queries", [1, 64])
def test_similar_faiss(benchmark, shop, queries):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is an extra: peers")
    n, eng = shop
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(DIM)
    vectors = eng.vectors(items=np.arange(n))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.add(vectors)
    benchmark.extra_info["items"] = n
    _, found = benchmark(lambda: index.search(vectors[:queries], K + 1))  # an item finds itself, too
    ours = eng.similar(np.arange(queries), K).ids
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ours, found, strict=True)]) > K - 0.5  # rounding may swap ties
