"""score_topk beside its reference, and what it promises on its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import InputError
from engine.kernels.score_topk import padded, reference, score_topk
from engine.kernels.tolerances import TOLERANCES

DIMS = [1, 2, 15, 16, 17, 33, 64, 100, 257]


def catalogue(rng, items, dim, *, whole=False):
    """vectors, biases, ids. `whole`: small whole numbers, so that scores are exact and ties are many."""
    vectors = np.zeros((items, padded(dim)), np.float32)
    vectors[:, :dim] = rng.integers(-2, 3, size=(items, dim)) if whole else rng.normal(size=(items, dim)) / np.sqrt(dim)
    biases = rng.integers(-2, 3, size=items) if whole else rng.normal(size=items)
    ids = rng.permutation(10 * items)[:items] - 5 * items
    return vectors, biases.astype(np.float32), ids


def draw_queries(rng, count, dim, *, whole=False):
    return (rng.integers(-2, 3, size=(count, dim)) if whole else rng.normal(size=(count, dim))).astype(np.float32)


def draw_positions(rng, queries, items, share):
    chosen = [np.nonzero(rng.random(items) < share)[0] for _ in range(queries)]
    offsets = np.concatenate([[0], np.cumsum([c.size for c in chosen])]).astype(np.int64)
    return np.concatenate([*chosen, np.zeros(0, np.int64)]).astype(np.int64), offsets


def assert_exact(got, expected):
    for part, want in zip(got, expected, strict=True):
        np.testing.assert_array_equal(part, want)


def assert_best(got, queries, vectors, biases, ids, k, allowed=None):
    """`got` is a right answer up to rounding: scores are true, in order, and nothing better was left out."""
    best_ids, scores, counts = got
    assert (best_ids.dtype, scores.dtype, counts.dtype) == (np.int64, np.float32, np.int64)
    rule = TOLERANCES["score_topk"]
    truth = reference.score_items(queries, vectors, biases)
    position = {int(i): p for p, i in enumerate(ids)}
    for q, row in enumerate(truth):
        may = np.ones(len(ids), bool) if allowed is None else allowed[q]
        assert counts[q] == min(k, may.sum())
        real = slice(0, counts[q])
        at = np.array([position[int(i)] for i in best_ids[q, real]], dtype=np.int64)
        assert np.unique(at).size == at.size
        assert may[at].all()
        np.testing.assert_allclose(scores[q, real], row[at], rtol=rule.relative, atol=rule.absolute)
        assert (np.lexsort((best_ids[q, real], -scores[q, real])) == np.arange(counts[q])).all()
        left = may.copy()
        left[at] = False
        if left.any() and at.size:
            assert row[left].max() <= scores[q, real][-1] + rule.absolute + rule.relative * abs(scores[q, real][-1])
        assert (best_ids[q, counts[q] :] == -1).all()
        assert np.isneginf(scores[q, counts[q] :]).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_agrees_with_the_reference(dim, count):
    rng = np.random.default_rng(dim)
    for items, k in [(0, 3), (1, 1), (2, 5), (15, 15), (33, 10), (1000, 1), (1000, 100)]:
        table = catalogue(rng, items, dim)
        queries = draw_queries(rng, count, dim)
        got = score_topk(queries, *table, k)
        assert [a.shape for a in got] == [(count, k), (count, k), (count,)]
        assert_best(got, queries, *table, k)


@pytest.mark.parametrize("dim", DIMS)
def test_is_exact_with_ties(dim):
    """Whole numbers: the scores are exact, so ids, order and ties must be the reference's to the last one."""
    rng = np.random.default_rng(dim)
    for items, k in [(1, 1), (17, 17), (300, 10), (3000, 50)]:
        table = catalogue(rng, items, dim, whole=True)
        queries = draw_queries(rng, 9, dim, whole=True)
        exclude, include = draw_positions(rng, 9, items, 0.3), draw_positions(rng, 9, items, 0.5)
        for kinds in [{}, {"exclude": exclude}, {"include": include}, {"exclude": exclude, "include": include}]:
            assert_exact(score_topk(queries, *table, k, **kinds), reference.score_topk(queries, *table, k, **kinds))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 40),
    items=st.integers(0, 400),
    count=st.integers(0, 20),
    k=st.integers(1, 60),
    shares=st.tuples(*[st.sampled_from([None, 0.0, 0.02, 0.5, 1.0])] * 2),
    threads=st.integers(1, 3),
)
def test_law_exact_under_any_filter(same_bits, seed, dim, items, count, k, shares, threads):
    rng = np.random.default_rng(seed)
    table = catalogue(rng, items, dim, whole=True)
    queries = draw_queries(rng, count, dim, whole=True)
    exclude, include = (None if s is None else draw_positions(rng, count, items, s) for s in shares)
    kinds = {"exclude": exclude, "include": include}
    got = score_topk(queries, *table, k, **kinds, threads=threads)
    assert_exact(got, reference.score_topk(queries, *table, k, **kinds))
    same_bits(score_topk(queries, *table, k, **kinds), got)


def assert_cosines(got, queries, vectors, ids, k):
    """`got` is right up to rounding, ties and all: nothing with a higher cosine was left out."""
    truth = reference.cosine_items(queries, vectors, None)
    position = {int(i): p for p, i in enumerate(ids)}
    for q, row in enumerate(truth):
        best_ids, scores = got[0][q], got[1][q]
        at = [position[int(i)] for i in best_ids]
        assert len(set(at)) == len(at) == got[2][q] == min(k, len(ids))
        np.testing.assert_allclose(scores, row[at], rtol=0, atol=TOLERANCES["score_topk"].absolute)
        assert (np.abs(scores) <= 1).all()
        assert (np.lexsort((best_ids, -scores)) == np.arange(len(at))).all()
        if len(at) < len(ids):
            left = np.delete(row, at)
            assert left.max() <= scores[-1] + TOLERANCES["score_topk"].absolute


@pytest.mark.parametrize("dim", DIMS)
def test_cosine_agrees_with_the_reference(dim, same_bits):
    rng = np.random.default_rng(dim)
    for items in (1, 7, 8, 9, 500):
        vectors, biases, ids = catalogue(rng, items, dim)
        queries = draw_queries(rng, 5, dim)
        vectors[items // 2] = 0
        queries[2] = 0
        got = score_topk(queries, vectors, biases, ids, min(items, 40), cosine=True)
        assert_cosines(got, queries, vectors, ids, 40)
        assert (got[0][2] == np.sort(ids)[: got[0].shape[1]]).all()  # of a query of zeros: all equal
        for threads in (2, 3):
            same_bits(score_topk(queries, vectors, biases, ids, min(items, 40), cosine=True, threads=threads), got)
        alone = score_topk(queries[1:2], vectors, biases, ids, min(items, 40), cosine=True)
        same_bits(alone, tuple(part[1:2] for part in got))


def test_cosine_of_any_finite_vector(same_bits):
    """Squares that leave float32 on either side, down to a single smallest number and up to the largest."""
    rng = np.random.default_rng(8)
    vectors, biases, ids = catalogue(rng, 300, 20)
    queries = draw_queries(rng, 6, 20)
    plain = score_topk(queries, vectors, biases, ids, 300, cosine=True)
    power = rng.integers(-110, 110, 300)
    same_bits(
        score_topk(queries, vectors * (2.0 ** power[:, None]).astype(np.float32), biases, ids, 300, cosine=True), plain
    )
    same_bits(score_topk(queries * np.float32(2.0**100), vectors, biases, ids, 300, cosine=True), plain)
    least, most = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    vectors[:4, :20] = 0
    vectors[0, 3], vectors[1, 3], vectors[2, :20], vectors[3, :20] = least, most, most, -most
    queries[0] = 0
    queries[0, 3] = least
    queries[1] = most
    got = score_topk(queries, vectors, biases, ids, 300, cosine=True)
    assert_cosines(got, queries, vectors, ids, 300)
    assert got[1][0][:2].tolist() == [1, 1]
    assert got[1][1][0] == pytest.approx(1)
    assert got[1][1][-1] == pytest.approx(-1)


def test_cosine_knows_no_nan(same_bits):
    vectors, biases, ids = catalogue(np.random.default_rng(3), 40, 5)
    vectors[7, 2], vectors[8, 0], vectors[9, :5] = np.nan, np.inf, -np.inf
    for query in ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0]):
        got = score_topk(np.array([query], np.float32), vectors, biases, ids, 40, cosine=True)
        assert got[2][0] == 37
        assert not {ids[7], ids[8], ids[9]} & set(got[0][0].tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 40),
    items=st.integers(0, 200),
    shares=st.tuples(*[st.sampled_from([None, 0.02, 0.5])] * 2),
)
def test_law_filters_of_cosine(same_bits, seed, dim, items, shares):
    """With filters it is the unfiltered list with what they leave."""
    rng = np.random.default_rng(seed)
    vectors, biases, ids = catalogue(rng, items, dim, whole=True)
    queries = draw_queries(rng, 4, dim, whole=True)
    exclude, include = (None if s is None else draw_positions(rng, 4, items, s) for s in shares)
    whole = score_topk(queries, vectors, biases, ids, max(1, items), cosine=True)
    got = score_topk(queries, vectors, biases, ids, 5, cosine=True, exclude=exclude, include=include)
    for q in range(4):
        left = set(ids.tolist())
        if include is not None:
            left &= set(ids[include[0][include[1][q] : include[1][q + 1]]].tolist())
        if exclude is not None:
            left -= set(ids[exclude[0][exclude[1][q] : exclude[1][q + 1]]].tolist())
        keep = np.isin(whole[0][q], list(left))
        n = got[2][q]
        assert n == min(5, len(left))
        assert got[0][q, :n].tolist() == whole[0][q][keep][:5].tolist()
        assert got[1][q, :n].tolist() == whole[1][q][keep][:5].tolist()


def test_order_is_score_down_then_id_up():
    vectors = np.zeros((4, 16), np.float32)
    biases = np.array([1, 2, 2, 2], np.float32)
    ids = np.array([-9, 5, -(2**63), 2**63 - 1])
    got = score_topk(np.zeros((1, 3), np.float32), vectors, biases, ids, 3)
    assert_exact(got, ([[-(2**63), 5, 2**63 - 1]], [[2, 2, 2]], [3]))


def test_equal_ids_and_equal_scores(same_bits):
    vectors, biases, ids = np.zeros((50, 16), np.float32), np.full(50, 0.5, np.float32), np.full(50, 7)
    got = score_topk(np.ones((2, 5), np.float32), vectors, biases, ids, 60)
    np.testing.assert_array_equal(got[2], [50, 50])
    np.testing.assert_array_equal(got[0][:, :50], np.full((2, 50), 7))
    np.testing.assert_array_equal(got[1][:, :50], np.full((2, 50), 0.5))


def test_signed_zeros_tie():
    ids = np.array([4, 3, 2, 1])
    biases = np.array([0.0, -0.0, 0.0, -0.0], np.float32)
    got = score_topk(np.zeros((1, 2), np.float32), np.zeros((4, 16), np.float32), biases, ids, 4)
    np.testing.assert_array_equal(got[0], [[1, 2, 3, 4]])


@pytest.mark.parametrize("items", [5, 700])
def test_nan_is_never_returned_and_infinity_is_a_score(items):
    rng = np.random.default_rng(items)
    vectors, biases, ids = catalogue(rng, items, 20)
    biases[0], biases[1], biases[2], biases[3:] = np.nan, -np.inf, np.inf, np.nan
    vectors[3:5, 0] = [np.nan, np.inf]
    got = score_topk(np.ones((1, 20), np.float32), vectors, biases, ids, 4)
    assert_exact(got, ([[ids[2], ids[1], -1, -1]], [[np.inf, -np.inf, -np.inf, -np.inf]], [2]))


def test_a_query_of_nan_gets_nothing_and_harms_no_other(same_bits):
    rng = np.random.default_rng(2)
    table = catalogue(rng, 100, 33)
    queries = draw_queries(rng, 8, 33)
    expected = score_topk(queries, *table, 5)
    queries[3, 32] = np.nan
    got = score_topk(queries, *table, 5)
    assert_exact([part[3] for part in got], ([-1] * 5, [-np.inf] * 5, 0))
    others = np.arange(8) != 3
    same_bits(tuple(part[others] for part in got), tuple(part[others] for part in expected))


@pytest.mark.parametrize("dim", [1, 16, 33, 64, 100])
def test_no_bit_depends_on_company_threads_or_filters(same_bits, dim):
    """A score is a function of its query and item: not of the batch, the split of work, or what else was asked for."""
    rng = np.random.default_rng(dim)
    table = catalogue(rng, 5000, dim)
    queries = draw_queries(rng, 67, dim)
    together = score_topk(queries, *table, 10)
    for threads in [2, 3, 8]:
        same_bits(score_topk(queries, *table, 10, threads=threads), together)
    for q in [0, 1, 31, 63, 64, 66]:
        same_bits(score_topk(queries[q : q + 1], *table, 10), tuple(part[q : q + 1] for part in together))
    same_bits(score_topk(queries[5:18], *table, 10), tuple(part[5:18] for part in together))
    same_bits(score_topk(queries, *table, 25)[1][:, :10], together[1])
    every = np.tile(np.arange(5000), 67), np.arange(68) * 5000
    same_bits(score_topk(queries, *table, 10, include=every), together)
    none = np.zeros(0, np.int64), np.zeros(68, np.int64)
    same_bits(score_topk(queries, *table, 10, exclude=none), together)
    order = rng.permutation(5000)
    same_bits(score_topk(queries, *(part[order] for part in table), 10), together)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_few_queries_share_out_the_items(same_bits, threads):
    """Enough work for four threads, in two queries: each scans a part of the items, and none may fall between."""
    rng = np.random.default_rng(6)
    items, dim = 70_001, 128
    vectors, biases, ids = catalogue(rng, items, dim)
    borders = np.arange(threads + 1) * items // threads
    best = np.concatenate([borders[:-1], borders[1:] - 1])
    biases[best] = 1e4
    queries = draw_queries(rng, 2, dim)
    exclude = np.arange(7, 20_007), np.array([0, 20_000, 20_000])  # of the first query alone
    got = score_topk(queries, vectors, biases, ids, 300, exclude=exclude)
    assert {*ids[best].tolist()} == {*got[0][1, : len(best)].tolist()}
    assert got[2].tolist() == [300, 300]
    same_bits(score_topk(queries, vectors, biases, ids, 300, exclude=exclude, threads=threads), got)


def test_excluded_wins_over_included():
    rng = np.random.default_rng(4)
    table = catalogue(rng, 10, 3)
    include, exclude = (np.array([2, 5, 7]), np.array([0, 3])), (np.array([5]), np.array([0, 1]))
    got = score_topk(draw_queries(rng, 1, 3), *table, 5, include=include, exclude=exclude)
    assert got[2][0] == 2
    assert set(got[0][0, :2]) == {table[2][2], table[2][7]}


def test_a_large_catalogue_with_filters(same_bits):
    rng = np.random.default_rng(5)
    items = 20_000
    table = catalogue(rng, items, 24)
    queries = draw_queries(rng, 5, 24)
    exclude, include = draw_positions(rng, 5, items, 0.2), draw_positions(rng, 5, items, 0.01)
    allowed = np.zeros((5, items), bool)
    for q in range(5):
        allowed[q, include[0][include[1][q] : include[1][q + 1]]] = True
        allowed[q, exclude[0][exclude[1][q] : exclude[1][q + 1]]] = False
    got = score_topk(queries, *table, 300, exclude=exclude, include=include)
    assert_best(got, queries, *table, 300, allowed)
    same_bits(score_topk(queries, *table, 300, exclude=exclude, include=include, threads=2), got)


@pytest.mark.parametrize("dim", DIMS)
def test_every_path_gives_the_same_bits(on_every_path, dim):
    rng = np.random.default_rng(dim)
    table = catalogue(rng, 2500, dim)
    for count in [1, 3, 16, 65]:
        queries = draw_queries(rng, count, dim)
        exclude, include = draw_positions(rng, count, 2500, 0.2), draw_positions(rng, count, 2500, 0.3)
        on_every_path(lambda q=queries: score_topk(q, *table, 20))
        on_every_path(lambda q=queries: score_topk(q, *table, 20, cosine=True))
        on_every_path(lambda q=queries, e=exclude, i=include: score_topk(q, *table, 20, exclude=e, include=i))


def good():
    return {
        "queries": np.zeros((2, 20), np.float32),
        "vectors": np.zeros((6, 32), np.float32),
        "biases": np.zeros(6, np.float32),
        "ids": np.arange(6),
        "k": 3,
        "exclude": (np.array([1, 5, 0]), np.array([0, 2, 3])),
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"queries": np.zeros(20, np.float32)}, r"queries: got float32 \[20\], wanted float32 \[Q, dim\]"),
        ({"queries": np.zeros((2, 20))}, "queries: got float64"),
        ({"queries": np.zeros((2, 0), np.float32)}, "queries' columns: got int 0"),
        ({"vectors": np.zeros((6, 20), np.float32)}, r"vectors: got float32 \[6, 20\], wanted float32 \[N, 32\]"),
        ({"vectors": np.zeros((6, 32), np.float32, order="F")}, "vectors: got strides"),
        ({"biases": np.zeros(5, np.float32)}, r"biases: got float32 \[5\], wanted float32 \[6\]"),
        ({"ids": np.arange(6, dtype=np.int32)}, "ids: got int32"),
        ({"k": 0}, "k: got int 0, wanted an integer from 1 to"),
        ({"k": 1.5}, "k: got float 1.5, wanted an integer"),
        ({"threads": 0}, "threads: got int 0"),
        ({"exclude": np.array([1])}, "exclude: got ndarray, wanted a pair"),
        ({"exclude": (np.array([1]), np.array([0, 1]))}, r"exclude offsets: got int64 \[2\], wanted int64 \[3\]"),
        ({"exclude": (np.array([6]), np.array([0, 1, 1]))}, "exclude positions: got 6, wanted 0 <= value < 6"),
        ({"exclude": (np.array([2, 1]), np.array([0, 2, 2]))}, "exclude positions: got values out of order"),
        ({"include": (np.array([2, 2]), np.array([0, 2, 2]))}, "include positions: got values out of order or twice"),
        ({"include": (np.array([1]), np.array([0, 1, 2]))}, "include offsets: got 0 to 2, wanted 0 to 1"),
        ({"include": (np.array([1, 2]), np.array([0, 3, 2]))}, "include offsets: got offsets that fall"),
    ],
)
def test_refuses(changed, named):
    assert score_topk(**good())[0].shape == (2, 3)
    with pytest.raises(InputError, match=named):
        score_topk(**(good() | changed))
