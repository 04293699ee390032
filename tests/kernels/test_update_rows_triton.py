"""update_rows of tensors beside its reference: on a GPU where there is one, else in Triton's interpreter."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.contract.errors import InputError
from engine.contract.losses import OPTIMIZERS
from engine.kernels.optimizers import state_floats
from engine.kernels.update_rows import reference, update_rows


def width(optimizer, dim):
    return dim + 1 + state_floats(optimizer, dim)


def terms(rng, rows, dim, count, *, bias=True, sources=8):
    """Arguments behind `rows`; about one term in eight is skipped. The sources are a slab: wider than `dim`."""
    slots = rng.integers(0, rows, size=count)
    slots[rng.random(count) < 0.125] = -1
    slab = np.full((sources, dim + 5), np.nan, np.float32)
    slab[:, :dim] = rng.normal(size=(sources, dim))
    coefs, bias_coefs = rng.normal(size=(2, count)).astype(np.float32)
    return slots, slab, rng.integers(0, sources, size=count), coefs, bias_coefs if bias else None


def on(device, rows, args, **kinds):
    """The rows after the device's update of a copy of them, and how many refused; canaries stand around them."""
    slab, check = device.guarded(rows)
    refused = update_rows(slab, *device.put(args), **kinds)
    check()
    return slab.cpu().numpy(), refused


def expected_of(rows, args, **kinds):
    rows, (slots, sources, *others) = rows.copy(), args
    refused = reference.update_rows(rows, slots, sources[:, : kinds["dim"]], *others, **kinds)
    return rows, refused


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dim", [1, 16, 33, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_agrees_with_the_reference(make_rows, close, same_bits, device, optimizer, dim, bias):
    rng = np.random.default_rng(dim)
    kinds, end = {"dim": dim, "lr": 0.1, "l2": 0.01 * bias, "optimizer": optimizer}, width(optimizer, dim)
    for row_count, count in [(40, 0), (40, 1), (40, 50), (3, 100)]:
        rows, args = make_rows(rng, row_count, dim, end - dim - 1), terms(rng, row_count, dim, count, bias=bias)
        got, refused = on(device, rows, args, **kinds)
        expected, _ = expected_of(rows, args, **kinds)
        assert refused == 0
        close("update_rows", got[:, :end], expected[:, :end])
        same_bits(got[:, end:], rows[:, end:])
        idle = np.setdiff1d(np.arange(row_count), args[0])
        same_bits(got[idle], rows[idle])
        if not bias:
            of_bias = [dim, *{"adagrad": [dim + 2], "adam": [dim + 1, dim + 2], "sgd": []}[optimizer]]
            same_bits(got[:, of_bias], rows[:, of_bias])


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129, 1000, 5000])
def test_all_terms_on_one_row(make_rows, close, same_bits, device, count):
    rng = np.random.default_rng(count)
    rows, (_, sources, source_index, coefs, _) = make_rows(rng, 3, 16), terms(rng, 3, 16, count)
    coefs = np.abs(coefs) / np.sqrt(np.float32(count))
    args, kinds = (np.full(count, 1), sources, source_index, coefs, coefs), {"dim": 16, "lr": 0.1, "l2": 0.1}
    got, refused = on(device, rows, args, **kinds)
    assert refused == 0
    close("update_rows", got[:, :19], expected_of(rows, args, **kinds)[0][:, :19])
    same_bits(got[[0, 2]], rows[[0, 2]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_of_many_terms_side_by_side(make_rows, close, device, optimizer):
    """Runs of every length around the segment's, one behind the other, so that long rows begin and end anywhere."""
    rng = np.random.default_rng(1)
    lengths = np.array([1, 65, 2, 128, 64, 130, 66, 63, 300, 1, 1, 67, 192, 193])
    slots = rng.permutation(np.repeat(np.arange(lengths.size) * 3, lengths))
    end = width(optimizer, 4)
    rows = make_rows(rng, 60, 4, end - 5)
    args = slots, *terms(rng, 60, 4, slots.size)[1:]
    kinds = {"dim": 4, "lr": 0.1, "l2": 0.01, "optimizer": optimizer}
    got, refused = on(device, rows, args, **kinds)
    assert refused == 0
    close("update_rows", got[:, :end], expected_of(rows, args, **kinds)[0][:, :end])


def test_segments_of_64_keep_small_terms(device):
    """2^24 + 1 is 2^24 in float32; a segment of ones after it still counts in full, up to the last bit."""
    count = 64 * 5
    coefs = np.ones(count, np.float32)
    coefs[0], coefs[1:64] = 2.0**24, 0.0
    args = np.zeros(count, np.int64), np.ones((1, 1), np.float32), np.zeros(count, np.int64), coefs, coefs
    got, _ = on(device, np.zeros((1, 4), np.float32), args, dim=1, lr=1.0)
    total = np.float32(2.0**24 + 256)
    np.testing.assert_array_equal(got[0, 2:], [total * total] * 2)


def test_terms_of_a_segment_are_summed_in_their_order(device):
    """1 is lost beside 2^24 and kept after it is gone: the sum tells in which order the terms came."""
    for coefs, total in [([2.0**24, 1, -(2.0**24)], 0.0), ([2.0**24, -(2.0**24), 1], 1.0)]:
        coefs = np.array([9.0, *coefs], np.float32)
        args = np.array([1, 0, 0, 0]), np.ones((1, 1), np.float32), np.zeros(4, np.int64), coefs, coefs
        got, _ = on(device, np.zeros((2, 4), np.float32), args, dim=1, lr=1.0, optimizer="sgd")
        np.testing.assert_array_equal(got[0, :2], [-total, -total])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_row_touched_in_vain_stays(make_rows, same_bits, device, optimizer):
    rows = make_rows(np.random.default_rng(6), 2, 16, state_floats(optimizer, 16))
    args = np.full(2, -1), np.ones((1, 16), np.float32), np.zeros(2, np.int64), np.ones(2, np.float32), None
    got, refused = on(device, rows, args, dim=16, lr=0.1, optimizer=optimizer)
    assert refused == 0
    same_bits(got, rows)


def test_many_terms_may_be_skipped(make_rows, close, device):
    rng = np.random.default_rng(7)
    rows, args = make_rows(rng, 3, 16), terms(rng, 3, 16, 200)
    args[0][rng.permutation(200)[:180]] = -1
    got, refused = on(device, rows, args, dim=16, lr=0.1)
    assert refused == 0
    close("update_rows", got[:, :19], expected_of(rows, args, dim=16, lr=0.1)[0][:, :19])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("wrong", ["source", "coef", "sum", "square", "vector", "bias", "accumulator", "negative"])
@pytest.mark.parametrize("many", [False, True])
def test_what_is_not_finite_leaves_its_row_alone(make_rows, close, same_bits, device, optimizer, wrong, many):
    if optimizer == "sgd" and wrong in ("square", "accumulator", "negative"):
        return  # it squares nothing and keeps nothing
    rng, dim = np.random.default_rng(8), 16
    end = width(optimizer, dim)
    rows = make_rows(rng, 5, dim, end - dim - 1)
    slots, sources, source_index, coefs, _ = terms(rng, 5, dim, 74 if many else 4)
    slots[:], source_index[:] = 2, 1  # with many the wrong row is of several segments
    slots[:4], source_index[:4] = [4, 2, 0, 2], [0, 1, 2, 3]
    if wrong == "source":
        sources[3, dim - 1] = np.nan
    elif wrong == "coef":
        coefs[1] = np.inf
    elif wrong == "sum":
        sources[[1, 3]], coefs[[1, 3]] = 3e38, 1.0
    elif wrong == "square":
        sources[1], coefs[1] = 3e19, 10.0
    elif wrong == "vector":
        rows[2, 0] = -np.inf
    elif wrong == "bias":
        rows[2, dim] = np.inf
    elif wrong == "accumulator":
        rows[2, end - 1] = np.nan
    else:
        rows[2, end - 1 if optimizer == "adam" else dim + 1] = -1e6
    for bias in [False, True]:
        args, kinds = (slots, sources, source_index, coefs, coefs if bias else None), {"dim": dim, "lr": 0.1}
        got, refused = on(device, rows, args, optimizer=optimizer, **kinds)
        assert refused == 1
        same_bits(got[[1, 2, 3]], rows[[1, 2, 3]])
        expected, _ = expected_of(rows, args, optimizer=optimizer, **kinds)
        close("update_rows", got[[0, 4], :end], expected[[0, 4], :end])
        assert (got[[0, 4], :dim] != rows[[0, 4], :dim]).any()


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([3, 16, 36]),
    count=st.integers(0, 200),
    row_count=st.integers(1, 12),
    bias=st.booleans(),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
)
def test_law_a_row_sees_its_own_terms_in_order(
    make_rows, close, same_bits, device, seed, dim, count, row_count, bias, optimizer
):
    """Every run, and the terms of other rows, make no difference, bit for bit."""
    rng = np.random.default_rng(seed)
    rows, end = make_rows(rng, row_count, dim, state_floats(optimizer, dim)), width(optimizer, dim)
    args = slots, sources, *columns = terms(rng, row_count, dim, count, bias=bias)
    slots[rng.random(count) < 0.5] = row_count // 2
    kinds = {"dim": dim, "lr": 0.1, "l2": 0.01, "optimizer": optimizer}
    together, _ = on(device, rows, args, **kinds)
    close("update_rows", together[:, :end], expected_of(rows, args, **kinds)[0][:, :end])
    same_bits(on(device, rows, args, **kinds)[0], together)
    apart = rows
    for its in (slots == row_count // 2, slots != row_count // 2):
        own = slots[its], sources, *(column if column is None else column[its] for column in columns)
        apart, _ = on(device, apart, own, **kinds)
    same_bits(apart, together)


def test_the_state_goes_on_over_many_steps(make_rows, device):
    rng = np.random.default_rng(11)
    expected = make_rows(rng, 6, 16)
    got, kinds = device.put(expected), {"dim": 16, "lr": 0.05, "l2": 1e-3}
    for _ in range(20):
        args = terms(rng, 6, 16, 12)
        update_rows(got, *device.put(args), **kinds)
        expected, _ = expected_of(expected, args, **kinds)
    np.testing.assert_allclose(got.cpu().numpy()[:, :19], expected[:, :19], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("each", [1, 70])
def test_rows_past_2_31_floats(device, each):
    """Rows of one segment and of several."""
    count = 2**31 // 32 + 3
    rows, slots = device.zeros(count, 32), np.repeat([count - 1, 0], each)
    coefs = np.full(slots.size, 1 / each, np.float32)
    args = slots, np.ones((1, 29), np.float32), np.zeros(slots.size, np.int64), coefs, None
    assert update_rows(rows, *device.put(args), dim=29, lr=1.0) == 0
    np.testing.assert_allclose(rows[[0, -1]].cpu().numpy(), [[-1] * 29 + [0, 1, 0]] * 2, rtol=1e-5)
    assert not rows[[1, -2]].cpu().numpy().any()


def test_refuses_and_writes_nothing(device):
    good = {
        "rows": np.ones((5, 16), np.float32),
        "slots": np.array([0, -1]),
        "sources": np.ones((3, 4), np.float32),
        "source_index": np.array([0, 2]),
        "coefs": np.ones(2, np.float32),
        "bias_coefs": np.ones(2, np.float32),
        "dim": 4,
        "lr": 0.1,
    }
    assert update_rows(**device.put(good)) == 0
    for changed, named in [
        ({"slots": np.array([0, 5])}, "slots: got 5, wanted -1 <= value < 5"),
        ({"slots": np.array([0, -2])}, "slots: got -2"),
        ({"slots": np.array([0, 2**63 - 1])}, "slots: got 9223372036854775807"),
        ({"sources": np.ones((3, 3), np.float32)}, "sources: got 3 columns, wanted 4 or more for dim 4"),
        ({"source_index": np.array([0, 3])}, "source_index: got 3, wanted 0 <= value < 3"),
        ({"source_index": np.array([0])}, r"source_index: got int64 \[1\] on c.*, wanted int64 \[2\]"),
        ({"coefs": np.ones(3, np.float32)}, r"coefs: got float32 \[3\]"),
        ({"bias_coefs": np.ones(2)}, "bias_coefs: got float64"),
        ({"optimizer": "adam", "dim": 5}, "rows: got 16 columns, wanted 20 or more for dim 5"),
        ({"rows": np.ones((5, 14), np.float32)}, "rows: got 14 columns, wanted a multiple of 4"),
        ({"lr": -0.1}, "lr: got float -0.1"),
    ]:
        args = device.put(good | changed)
        with pytest.raises(InputError, match=named):
            update_rows(**args)
        assert (args["rows"] == 1).all()
    args = device.put(good)
    for name, part in (("sources", args["rows"]), ("coefs", args["rows"].view(-1)[:2])):
        with pytest.raises(InputError, match=f"{name}: got memory of rows"):
            update_rows(**args | {name: part})
    with pytest.raises(InputError, match="rows: got strides"):
        update_rows(**args | {"rows": device.put(np.ones((16, 5), np.float32)).T})
