"""The Triton kernels of score_topk beside the reference: in the interpreter on a CPU, as they are on a GPU.

In the interpreter tiles, groups and turns are tiny, so that a few hundred items have many of each.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_score_topk import assert_best, assert_exact, catalogue, draw_queries

from engine.contract.errors import InputError
from engine.kernels.score_topk import padded, reference, triton_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MANY = 1 if DEVICE == "cpu" else 60  # times as many items where they cost nothing


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Also: arithmetic beyond int32 is an error in the interpreter."""
    if DEVICE == "cpu":
        from triton.runtime import interpreter

        options = interpreter.InterpreterOptions(debug=True, sanitize_overflow=True)
        monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
        for name, value in {"TILE": 4, "FANOUT": 4, "PART": 128, "SEARCHED": 8}.items():
            monkeypatch.setattr(triton_kernel, name, value)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh memory holds what would be returned at once: the highest scores and keys."""
    empty = torch.empty

    def filled(*args, **kwargs):
        made = empty(*args, **kwargs)
        return made.fill_(torch.inf if made.is_floating_point() else torch.iinfo(made.dtype).max)

    monkeypatch.setattr(torch, "empty", filled)


def on_device(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE) for array in arrays]


def bits_of(allowed):
    """bool [Q, N] as words int32 [Q, ceil(N / 32)]."""
    padding = np.zeros((len(allowed), -allowed.shape[1] % 32), bool)
    return np.packbits(np.concatenate([allowed, padding], 1), axis=1, bitorder="little").view(np.int32)


def best(queries, vectors, biases, ids, k, allowed=None, **kwargs):
    """What the kernels find. Up to eight queries are scored by rows, other even numbers in tiles, odd ones by torch."""
    if allowed is not None:
        (kwargs["allowed"],) = on_device(bits_of(allowed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_kernel, "PRODUCTS", len(queries) % 2 == 1)
        found = triton_kernel.score_topk(*on_device(queries, vectors, biases, ids), k, **kwargs)
    return tuple(part.cpu().numpy() for part in found)


def expected(queries, vectors, biases, ids, k, allowed=None):
    if allowed is None:
        return reference.score_topk(queries, vectors, biases, ids, k)
    allowed = np.broadcast_to(allowed, (len(queries), len(ids)))
    positions = np.nonzero(allowed)[1].astype(np.int64)
    include = positions, np.concatenate([[0], np.cumsum(allowed.sum(1))]).astype(np.int64)
    return reference.score_topk(queries, vectors, biases, ids, k, include=include)


@pytest.mark.parametrize("filtered", ["all", "each", "for all", "none left"])
@pytest.mark.parametrize(
    ("count", "items", "dim", "k"),
    [
        (1, 1, 1, 1),
        (1, 300, 20, 4),
        (3, 97, 33, 2),
        (8, 40, 16, 20),
        (9, 65, 17, 12),
        (10, 65, 17, 3),
        (1, 300, 16, 40),
        (2, 30, 16, 50),
    ],
)
def test_is_exact_with_ties(count, items, dim, k, filtered):
    """Whole numbers: the scores are exact, so ids, order and ties must be the reference's to the last one."""
    rng = np.random.default_rng(items)
    table = catalogue(rng, items * MANY, dim, whole=True)
    queries = draw_queries(rng, count, dim, whole=True)
    rows = {"all": 0, "each": count, "for all": 1, "none left": count}[filtered]
    allowed = rng.random((rows, len(table[2]))) < (0 if filtered == "none left" else 0.3) if rows else None
    assert_exact(best(queries, *table, k, allowed), expected(queries, *table, k, allowed))


@pytest.mark.parametrize(("count", "dim", "k"), [(1, 100, 4), (4, 15, 3), (11, 33, 10), (70, 16, 12)])
def test_agrees_with_the_reference(count, dim, k):
    rng = np.random.default_rng(dim)
    table = catalogue(rng, 60 * MANY, dim)
    queries = draw_queries(rng, count, dim)
    allowed = rng.random((count, 60 * MANY)) < 0.7
    assert_best(best(queries, *table, k, allowed), queries, *table, k, allowed)


@settings(
    max_examples=15 if DEVICE == "cpu" else 100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([3, 16, 35]),
    items=st.integers(0, 80),
    count=st.sampled_from([1, 2, 9, 10]),
    k=st.sampled_from([1, 2, 4, 9, 30]),
    share=st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]),
)
def test_law_exact_under_any_filter(seed, dim, items, count, k, share):
    rng = np.random.default_rng(seed)
    table = catalogue(rng, items * MANY, dim, whole=True)
    queries = draw_queries(rng, count, dim, whole=True)
    allowed = None if share is None else rng.random((count, len(table[2]))) < share
    assert_exact(best(queries, *table, k, allowed), expected(queries, *table, k, allowed))


@pytest.mark.parametrize(("count", "k"), [(1, 3), (1, 20), (11, 20), (12, 20)])
def test_many_turns(monkeypatch, count, k):
    """Queries and items in turns: the best of each are joined."""
    monkeypatch.setattr(triton_kernel, "SPAN", 1)  # one group of tiles a turn
    monkeypatch.setattr(triton_kernel, "MOST_QUERIES", 10)
    rng = np.random.default_rng(k)
    items = 40 if DEVICE == "cpu" else 9000
    table = catalogue(rng, items, 16, whole=True)
    queries = draw_queries(rng, count, 16, whole=True)
    allowed = rng.random((count, items)) < 0.8
    assert_exact(best(queries, *table, k, allowed), expected(queries, *table, k, allowed))


@pytest.mark.parametrize("k", [4, 40])
def test_the_best_lie_in_as_many_tiles(k):
    """One good item in each tile: k tiles must be looked at, no fewer."""
    rng = np.random.default_rng(k)
    at = np.arange(50 * triton_kernel.TILE)
    biases = np.where(at % triton_kernel.TILE == 1, 1 + at, -at).astype(np.float32)
    table = np.zeros((at.size, 16), np.float32), biases, rng.permutation(at)
    queries = np.zeros((1, 16), np.float32)
    assert_exact(best(queries, *table, k), expected(queries, *table, k))


@pytest.mark.parametrize(("count", "k"), [(1, 2), (9, 10), (10, 2), (1, 10)])
def test_what_lies_behind_the_end_does_not_count(count, k):
    """All scores are below 0, which is what a masked row would have."""
    rng = np.random.default_rng(0)
    items = 21 * MANY
    vectors, _, ids = catalogue(rng, items, 16, whole=True)
    table = vectors, np.arange(items, dtype=np.float32) - 5000, ids
    queries = np.zeros((count, 16), np.float32)
    assert_exact(best(queries, *table, k), expected(queries, *table, k))


@pytest.mark.parametrize("count", [1, 9, 10])
def test_equal_scores_come_in_order_of_ids(count):
    """All equal, and more of them than k in every tile: position must not decide."""
    rng = np.random.default_rng(count)
    items = 60 * MANY
    ids = rng.permutation(np.concatenate([[-(2**63), 2**63 - 1], np.arange(items - 2) * 2**50 - 2**60]))
    for k in (4, 12) if count == 1 else (12,):
        got = best(
            np.ones((count, 3), np.float32), np.zeros((items, 16), np.float32), np.ones(items, np.float32), ids, k
        )
        assert_exact(got, ([np.sort(ids)[:k]] * count, np.ones((count, k)), [k] * count))


def test_signed_zeros_tie(monkeypatch):
    """The interpreter's sums are never -0.0, so the products are given here."""
    monkeypatch.setattr(torch, "mm", lambda queries, vectors, out: out.fill_(-0.0))
    biases = np.where(np.arange(20) % 2, 0.0, -0.0).astype(np.float32)
    got = best(np.zeros((9, 16), np.float32), np.zeros((20, 16), np.float32), biases, np.arange(20)[::-1], 12)
    assert_exact(got, ([np.arange(12)] * 9, np.zeros((9, 12)), [12] * 9))


def test_equal_ids_and_zeros():
    biases = np.where(np.arange(50) % 2, 0.0, -0.0).astype(np.float32)
    got = best(np.zeros((1, 16), np.float32), -np.ones((50, 16), np.float32), biases, np.arange(50)[::-1] // 3, 60)
    assert_exact(got[:1], ([[*(np.arange(50) // 3), *[-1] * 10]],))
    assert got[2][0] == 50


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter multiplies by numpy
@pytest.mark.parametrize("count", [1, 9, 10])
def test_nan_is_never_returned_and_infinity_is_a_score(count):
    vectors, biases, ids = catalogue(np.random.default_rng(1), 70, 20)
    biases[0], biases[1], biases[2], biases[3:] = np.nan, -np.inf, np.inf, np.nan
    vectors[3:5, 0] = [np.nan, np.inf]
    got = best(np.ones((count, 20), np.float32), vectors, biases, ids, 4)
    row = [ids[2], ids[1], -1, -1], [np.inf, -np.inf, -np.inf, -np.inf], 2
    assert_exact(got, ([row[0]] * count, [row[1]] * count, [row[2]] * count))


@pytest.mark.parametrize("count", [3, 10])
def test_no_bit_depends_on_the_other_queries(count, same_bits):
    rng = np.random.default_rng(7)
    table = catalogue(rng, 24 * MANY, 20)
    queries = draw_queries(rng, count, 20)
    together = best(queries, *table, 4)
    same_bits(best(queries, *table, 4), together)
    order = rng.permutation(count)
    same_bits(best(queries[order], *table, 4), tuple(part[order] for part in together))
    others = draw_queries(rng, count, 20)
    others[1], others[0, 5] = queries[1], np.nan
    got = best(others, *table, 4)
    same_bits(tuple(part[1] for part in got), tuple(part[1] for part in together))
    assert_exact([part[0] for part in got], ([-1] * 4, [-np.inf] * 4, 0))
    order = rng.permutation(len(table[2]))
    same_bits(best(queries, *(part[order] for part in table), 4), together)


def test_up_to_eight_queries_are_as_one(same_bits):
    rng = np.random.default_rng(3)
    table = catalogue(rng, 30 * MANY, 16)
    queries = draw_queries(rng, 5, 16)
    together = best(queries, *table, 4)
    for q in range(5):
        same_bits(best(queries[q : q + 1], *table, 4), tuple(part[q : q + 1] for part in together))


def test_a_ranking_that_was_kept(same_bits):
    rng = np.random.default_rng(3)
    table = catalogue(rng, 50, 16)
    queries = draw_queries(rng, 1, 16)
    ranking = triton_kernel.rank_ids(on_device(table[2])[0])
    assert ranking.ranks.tolist() == np.argsort(np.argsort(table[2])).tolist()
    same_bits(best(queries, *table, 4, ranking=ranking), best(queries, *table, 4))


@pytest.mark.parametrize(("count", "items"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_to_do(count, items):
    got = best(np.zeros((count, 3), np.float32), *catalogue(np.random.default_rng(0), items, 3), 2)
    assert_exact(got, (np.full((count, 2), -1), np.full((count, 2), -np.inf), np.zeros(count)))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {"queries": torch.zeros(2, 20, dtype=torch.float64)},
            r"queries: got torch.float64 \[2, 20\], wanted contiguous",
        ),
        ({"queries": np.zeros((2, 20), np.float32)}, "queries: got ndarray, wanted a tensor"),
        ({"queries": torch.zeros(2, 4097)}, "queries' columns: got 4097"),
        ({"vectors": torch.zeros(6, 20)}, r"vectors: got torch.float32 \[6, 20\]"),
        ({"vectors": torch.zeros(32, 6).T}, "vectors: got"),
        ({"vectors": torch.zeros(6 * 32 + 1)[1:].view(6, 32)}, "vectors: got memory that is not aligned"),
        ({"biases": torch.zeros(5)}, r"biases: got torch.float32 \[5\]"),
        ({"ids": torch.zeros(6, dtype=torch.int32)}, "ids: got torch.int32"),
        ({"k": 0}, "k: got 0, wanted 1 or more"),
        ({"k": 2.0}, "k: got 2.0"),
        ({"allowed": torch.zeros(3, 1, dtype=torch.int32)}, "allowed: got 3 rows, wanted 1 or 2"),
        ({"allowed": torch.zeros(2, 2, dtype=torch.int32)}, r"allowed: got torch.int32 \[2, 2\]"),
        ({"ids": torch.zeros(6, dtype=torch.int64, device="meta")}, "wanted all on cpu"),
    ],
)
def test_refuses(changed, named):
    given = {
        "queries": torch.zeros(2, 20),
        "vectors": torch.zeros(6, 32),
        "biases": torch.zeros(6),
        "ids": torch.arange(6),
        "k": 3,
    }
    with pytest.raises(InputError, match=named):
        triton_kernel.score_topk(**given | changed)


def test_a_catalogue_as_wide_as_they_come():
    rng = np.random.default_rng(0)
    dim = 300
    assert padded(dim) > triton_kernel.PART // triton_kernel.TILE
    table = catalogue(rng, 20, dim)
    for count in (1, 2):
        queries = draw_queries(rng, count, dim)
        assert_best(best(queries, *table, 4), queries, *table, 4)
