"""update_rows beside its reference, and what it promises on its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import InputError
from engine.contract.losses import OPTIMIZERS
from engine.kernels.optimizers import state_floats
from engine.kernels.update_rows import reference, update_rows

DIMS = [1, 2, 15, 16, 17, 33, 64, 100, 257]


def step(rows, slots, sources, source_index, coefs, *, bias, update=update_rows, **settings):
    """One update whose terms count for the bias too, or for none."""
    return update(rows, slots, sources, source_index, coefs, coefs if bias else None, **settings)


def width(optimizer, dim):
    return dim + 1 + state_floats(optimizer, dim)


def terms(rng, rows, dim, count, sources=8):
    """Arguments behind `rows`; about one term in eight is skipped."""
    slots = rng.integers(0, rows, size=count)
    slots[rng.random(count) < 0.125] = -1
    return (
        slots,
        rng.normal(size=(sources, dim)).astype(np.float32),
        rng.integers(0, sources, size=count),
        rng.normal(size=count).astype(np.float32),
    )


def updated(rows, *args, **settings):
    """The rows after an update of a copy of them."""
    rows = rows.copy()
    assert step(rows, *args, **settings) == 0
    return rows


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_agrees_with_the_reference(make_rows, close, same_bits, optimizer, dim, bias, l2):
    rng = np.random.default_rng(dim)
    kinds, end = {"dim": dim, "lr": 0.1, "l2": l2, "bias": bias, "optimizer": optimizer}, width(optimizer, dim)
    for count in [0, 1, 2, 15, 16, 17, 33, 64, 100, 500]:
        rows = make_rows(rng, 40, dim, end - dim - 1)
        args = terms(rng, 40, dim, count)
        got, expected = rows.copy(), rows.copy()
        assert step(got, *args, **kinds) == 0
        assert step(expected, *args, update=reference.update_rows, **kinds) == 0
        close("update_rows", got[:, :end], expected[:, :end])
        same_bits(got[:, end:], rows[:, end:])
        idle = np.setdiff1d(np.arange(40), args[0])
        same_bits(got[idle], rows[idle])
        if not bias:
            of_bias = [dim, *{"adagrad": [dim + 2], "adam": [dim + 1, dim + 2], "sgd": []}[optimizer]]
            same_bits(got[:, of_bias], rows[:, of_bias])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_bias_may_have_gradients_of_its_own(make_rows, close, optimizer):
    rng = np.random.default_rng(3)
    end = width(optimizer, 16)
    rows, args = make_rows(rng, 4, 16, end - 17), terms(rng, 4, 16, 50)
    got, expected, same = rows.copy(), rows.copy(), rows.copy()
    bias_coefs = rng.normal(size=50).astype(np.float32)
    for update, out in ((update_rows, got), (reference.update_rows, expected)):
        update(out, *args, bias_coefs, dim=16, lr=0.1, optimizer=optimizer)
    close("update_rows", got[:, :end], expected[:, :end])
    step(same, *args, bias=True, dim=16, lr=0.1, optimizer=optimizer)
    np.testing.assert_array_equal(got[:, :16], same[:, :16])
    assert (got[:, 16] != same[:, 16]).all()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_follows_the_textbook_for_100_steps(close, optimizer, l2):
    """Algorithm 1 of Kingma and Ba, written out for a row that has a step only now and then; and plain descent."""
    rng = np.random.default_rng(4)
    dim, lr, count = 20, 0.05, 3
    rows = np.zeros((count, width(optimizer, dim)), np.float32)
    rows[:, : dim + 1] = rng.normal(size=(count, dim + 1))
    theta = rows[:, : dim + 1].astype(np.float64)
    first, second, steps = np.zeros_like(theta), np.zeros_like(theta), np.zeros(count, int)
    for at in range(100):
        due = [row for row in range(count) if at % (row + 1) == 0]
        grads = rng.normal(size=(len(due), dim + 1)).astype(np.float32)
        kinds = {"dim": dim, "lr": lr, "l2": l2, "optimizer": optimizer}
        ones = np.ones(len(due), np.float32)
        assert update_rows(rows, np.array(due), grads[:, :dim], np.arange(len(due)), ones, grads[:, dim], **kinds) == 0
        for row, grad in zip(due, grads + l2 * theta[due], strict=True):
            steps[row] += 1
            if optimizer == "sgd":
                theta[row] -= lr * grad
                continue
            first[row] = 0.9 * first[row] + 0.1 * grad
            second[row] = 0.999 * second[row] + 0.001 * grad**2
            unbiased_first = first[row] / (1 - 0.9 ** steps[row])
            unbiased_second = second[row] / (1 - 0.999 ** steps[row])
            theta[row] -= lr * unbiased_first / (np.sqrt(unbiased_second) + 1e-8)
        np.testing.assert_allclose(rows[:, : dim + 1], theta, rtol=2e-5, atol=2e-5)


def test_known_answer(close):
    rows = np.array([[1, 2, 3, 0, 0], [1, 1, 1, 7, 3]], dtype=np.float32)
    sources = np.array([[3, 4], [1, 0]], dtype=np.float32)
    args = np.array([0, -1, 0, 1]), sources, np.array([0, 0, 1, 1]), np.array([1, 9, -1, 6], dtype=np.float32)
    assert step(rows, *args, dim=2, lr=0.5, bias=True) == 0
    # row 0: g = (3, 4) - (1, 0), G = (4 + 16) / 2; gb = 0.   row 1: g = (6, 0), G = 7 + 18; gb = 6, Gb = 3 + 36
    close(
        "update_rows",
        rows,
        [
            [1 - 0.5 * 2 / np.sqrt(10), 2 - 0.5 * 4 / np.sqrt(10), 3, 10, 0],
            [1 - 0.5 * 6 / 5, 1, 1 - 0.5 * 6 / np.sqrt(39), 25, 39],
        ],
    )


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 129, 1000, 10_000])
def test_all_terms_on_one_row(make_rows, close, count):
    rng = np.random.default_rng(count)
    rows = make_rows(rng, 3, 33)
    _, sources, source_index, _ = terms(rng, 3, 33, count)
    coefs = rng.uniform(0, 1 / np.sqrt(count), size=count).astype(np.float32)
    args = np.full(count, 1), sources, source_index, coefs
    got, expected = rows.copy(), rows.copy()
    kinds = {"dim": 33, "lr": 0.1, "l2": 0.1, "bias": True}
    assert step(got, *args, **kinds) == 0
    step(expected, *args, update=reference.update_rows, **kinds)
    close("update_rows", got[:, :36], expected[:, :36])
    assert got[[0, 2]].tobytes() == rows[[0, 2]].tobytes()


def test_equal_rows_are_summed_before_the_one_step(make_rows, same_bits):
    rng = np.random.default_rng(5)
    rows = make_rows(rng, 2, 17)
    sources = rng.normal(size=(1, 17)).astype(np.float32)
    many = np.full(4, 1), sources, np.zeros(4, np.int64), np.full(4, 0.25, np.float32)
    once = np.full(1, 1), sources, np.zeros(1, np.int64), np.ones(1, np.float32)
    kinds = {"dim": 17, "lr": 0.1, "l2": 0.5, "bias": True}  # l2 too is counted once
    same_bits(updated(rows, *many, **kinds), updated(rows, *once, **kinds))


def test_segments_of_64_keep_small_terms(make_rows):
    """2^24 + 1 is 2^24 in float32; a segment of ones after it still counts in full, up to the last bit."""
    rows = np.zeros((1, 4), np.float32)
    count = 64 * 5
    coefs = np.ones(count, np.float32)
    coefs[0], coefs[1:64] = 2.0**24, 0.0
    args = np.zeros(count, np.int64), np.ones((1, 1), np.float32), np.zeros(count, np.int64), coefs
    assert step(rows, *args, dim=1, lr=1.0, bias=True) == 0
    total = np.float32(2.0**24 + 256)
    np.testing.assert_array_equal(rows[0, 2:], [total * total] * 2)


def test_a_row_touched_in_vain_stays(make_rows, same_bits):
    rows = make_rows(np.random.default_rng(6), 2, 16)
    rows[0, 16:19] = 0.0
    args = np.array([0, 1]), np.ones((1, 16), np.float32), np.zeros(2, np.int64), np.zeros(2, np.float32)
    same_bits(updated(rows, *args, dim=16, lr=0.1, bias=True), rows)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bias", [False, True])
def test_tiny_gradients_make_tiny_steps(bias, optimizer):
    rows = np.zeros((1, 32), np.float32)
    args = np.zeros(1, np.int64), np.full((1, 4), 1e-25, np.float32), np.zeros(1, np.int64), np.ones(1, np.float32)
    assert step(rows, *args, dim=4, lr=0.1, bias=bias, optimizer=optimizer) == 0
    assert (np.abs(rows[0, :4]) <= 1e-17).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("wrong", ["source", "coef", "sum", "square", "vector", "accumulator", "negative"])
@pytest.mark.parametrize("dim", [1, 16, 33])
def test_what_is_not_finite_leaves_its_row_alone(make_rows, close, optimizer, wrong, dim):
    if optimizer == "sgd" and wrong in ("square", "accumulator", "negative"):
        return  # it squares nothing and keeps nothing
    rng = np.random.default_rng(8)
    end = width(optimizer, dim)
    rows = make_rows(rng, 5, dim, end - dim - 1)
    slots, sources, source_index, coefs = np.array([4, 2, 0, 2]), *terms(rng, 5, dim, 4)[1:]
    source_index[:] = [0, 1, 2, 3]
    if wrong == "source":
        sources[3, dim - 1] = np.nan
    elif wrong == "coef":
        coefs[1] = np.inf
    elif wrong == "sum":
        sources[[1, 3]], coefs[[1, 3]] = 3e38, 1.0
    elif wrong == "square":
        sources[1] = 3e19
        coefs[1] = 10.0
    elif wrong == "vector":
        rows[2, 0] = -np.inf
    elif wrong == "accumulator":
        rows[2, end - 1] = np.nan
    else:
        rows[2, end - 1 if optimizer == "adam" else dim + 1] = -1e6
    for bias in [False, True]:
        args, kinds = (slots, sources, source_index, coefs), {"dim": dim, "lr": 0.1, "optimizer": optimizer}
        got, expected = rows.copy(), rows.copy()
        assert step(got, *args, bias=bias, **kinds) == 1
        assert step(expected, *args, bias=bias, update=reference.update_rows, **kinds) == 1
        assert got[[1, 2, 3]].tobytes() == rows[[1, 2, 3]].tobytes()
        close("update_rows", got[[0, 4], :end], expected[[0, 4], :end])
        assert (got[[0, 4], :dim] != rows[[0, 4], :dim]).any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bias_that_is_not_finite_holds_its_vector_back(make_rows, same_bits, optimizer):
    rows = make_rows(np.random.default_rng(9), 2, 16, state_floats(optimizer, 16))
    rows[1, 16] = np.inf
    args = np.array([1]), np.ones((1, 16), np.float32), np.array([0]), np.ones(1, np.float32)
    for bias in [False, True]:
        for update in [update_rows, reference.update_rows]:
            got = rows.copy()
            assert step(got, *args, dim=16, lr=0.1, bias=bias, update=update, optimizer=optimizer) == 1
            same_bits(got, rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 40),
    count=st.integers(0, 200),
    row_count=st.integers(1, 12),
    bias=st.booleans(),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
)
def test_law_a_row_sees_its_own_terms_in_order(make_rows, same_bits, seed, dim, count, row_count, bias, optimizer):
    """Terms of other rows, skipped terms and their places make no difference, bit for bit."""
    rng = np.random.default_rng(seed)
    rows = make_rows(rng, row_count, dim, state_floats(optimizer, dim))
    args = terms(rng, row_count, dim, count)
    slots, sources, source_index, coefs = args
    kinds = {"dim": dim, "lr": 0.1, "l2": 0.01, "bias": bias, "optimizer": optimizer}
    together = updated(rows, *args, **kinds)
    by_row = np.argsort(slots, kind="stable")
    same_bits(updated(rows, slots[by_row], sources, source_index[by_row], coefs[by_row], **kinds), together)
    apart = rows.copy()
    for row in rng.permutation(row_count):
        its = slots == row
        assert step(apart, slots[its], sources, source_index[its], coefs[its], **kinds) == 0
    same_bits(apart, together)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 40), count=st.integers(1, 150), l2=st.sampled_from([0.0, 0.5])
)
def test_law_sums_of_small_fractions_are_exact(close, seed, dim, count, l2):
    """Eighths add up without rounding, so however terms cancel, only the step itself may round."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((3, dim + 3), np.float32)
    rows[:, : dim + 1] = rng.integers(-8, 9, size=(3, dim + 1)) / 8
    sources = (rng.integers(-8, 9, size=(4, dim)) / 8).astype(np.float32)
    coefs = (rng.integers(-8, 9, size=count) / 8).astype(np.float32)
    args = rng.integers(-1, 3, size=count), sources, rng.integers(0, 4, size=count), coefs
    expected = rows.copy()
    step(expected, *args, dim=dim, lr=0.1, l2=l2, bias=True, update=reference.update_rows)
    close("update_rows", updated(rows, *args, dim=dim, lr=0.1, l2=l2, bias=True), expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bias", [False, True])
def test_every_path_gives_the_same_bits(make_rows, on_every_path, optimizer, dim, bias):
    rng = np.random.default_rng(dim)
    kinds = {"dim": dim, "lr": 0.1, "l2": 0.01, "bias": bias, "optimizer": optimizer}
    for row_count, count in [(1, 1), (2, 200), (300, 400)]:
        rows = make_rows(rng, row_count, dim, state_floats(optimizer, dim))
        args = terms(rng, row_count, dim, count)
        on_every_path(lambda rows=rows, args=args: updated(rows, *args, **kinds))


def test_the_state_goes_on_over_many_steps(make_rows, close):
    rng = np.random.default_rng(11)
    got = make_rows(rng, 6, 20)
    expected = got.copy()
    for _ in range(50):
        args = terms(rng, 6, 20, 12)
        step(got, *args, dim=20, lr=0.05, l2=1e-3, bias=True)
        step(expected, *args, dim=20, lr=0.05, l2=1e-3, bias=True, update=reference.update_rows)
    np.testing.assert_allclose(got[:, :23], expected[:, :23], rtol=1e-4, atol=1e-5)  # 50 steps of rounding


def good():
    return {
        "rows": np.ones((5, 16), np.float32),
        "slots": np.array([0, -1]),
        "sources": np.ones((3, 4), np.float32),
        "source_index": np.array([0, 2]),
        "coefs": np.ones(2, np.float32),
        "bias_coefs": np.ones(2, np.float32),
        "dim": 4,
        "lr": 0.1,
    }


def read_only(array):
    array.flags.writeable = False
    return array


SLAB = np.ones((5, 16), np.float32)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rows": SLAB.astype(np.float64)}, "rows: got float64"),
        ({"rows": SLAB.T.copy().T}, "rows: got strides"),
        ({"rows": read_only(SLAB.copy())}, "rows: got a read-only array"),
        ({"rows": SLAB[:, :6].copy()}, "rows: got 6 columns, wanted 7 or more for dim 4"),
        ({"slots": np.array([0, 5])}, "slots: got 5, wanted -1 <= value < 5"),
        ({"slots": np.array([0, -2])}, "slots: got -2"),
        ({"slots": np.array([0, 2**63 - 1])}, "slots: got 9223372036854775807"),
        ({"slots": np.array([0, -(2**63)])}, "slots: got -9223372036854775808"),
        ({"slots": np.array([0.0, 1.0])}, "slots: got float64"),
        ({"sources": np.ones((3, 5), np.float32)}, r"sources: got float32 \[3, 5\], wanted float32 \[M, 4\]"),
        ({"rows": SLAB, "sources": SLAB.reshape(-1, 4)}, "sources: got memory of rows"),
        ({"rows": SLAB, "coefs": SLAB[0, :2]}, "coefs: got memory of rows"),
        ({"source_index": np.array([0, 3])}, "source_index: got 3, wanted 0 <= value < 3"),
        ({"source_index": np.array([0, -1])}, "source_index: got -1"),
        ({"source_index": np.array([0])}, r"source_index: got int64 \[1\], wanted int64 \[2\]"),
        ({"coefs": np.ones(3, np.float32)}, r"coefs: got float32 \[3\], wanted float32 \[2\]"),
        ({"bias_coefs": np.ones(3, np.float32)}, r"bias_coefs: got float32 \[3\], wanted float32 \[2\]"),
        ({"rows": SLAB, "bias_coefs": SLAB[0, :2]}, "bias_coefs: got memory of rows"),
        ({"optimizer": "rmsprop"}, "optimizer: got str 'rmsprop', wanted one of 'adagrad', 'adam', 'sgd'"),
        ({"optimizer": "adam", "dim": 5}, "rows: got 16 columns, wanted 20 or more for dim 5"),
        ({"dim": 4097}, "dim: got int 4097"),
        ({"lr": float("nan")}, "lr: got float nan, wanted a number >= 0"),
        ({"lr": -0.1}, "lr: got float -0.1"),
        ({"lr": None}, "lr: got NoneType None, wanted a number"),
        ({"l2": float("inf")}, "l2: got float inf"),
    ],
)
def test_refuses_and_writes_nothing(changed, named):
    assert update_rows(**good()) == 0
    args = good() | changed
    before = np.array(args["rows"]).tobytes()
    with pytest.raises(InputError, match=named):
        update_rows(**args)
    assert args["rows"].tobytes() == before
