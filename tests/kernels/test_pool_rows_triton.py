"""pool_rows of tensors beside its reference: on a GPU where there is one, else in Triton's interpreter."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.contract.errors import DeviceError, InputError
from engine.kernels.pool_rows import pool_rows, reference

DIMS = [1, 2, 16, 33, 64, 100, 257]


def bags(rng, rows, count, longest):
    sizes = rng.integers(0, longest + 1, size=count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    slots = rng.integers(0, rows, size=offsets[-1])
    return slots, offsets, rng.normal(size=slots.size).astype(np.float32)


@pytest.mark.parametrize("dim", DIMS)
def test_agrees_with_the_reference(make_rows, close, device, dim):
    rng = np.random.default_rng(dim)
    rows = make_rows(rng, 50, dim)
    slots, offsets, weights = bags(rng, 50, 21, 7)
    slab, check = device.guarded(rows)
    for args in [(slots, None, None), (slots, None, weights), (slots, offsets, None), (slots, offsets, weights)]:
        out = pool_rows(slab, *device.put(args), dim=dim)
        assert str(out.dtype) == "torch.float32"
        assert out.device == slab.device
        close("pool_rows", out.cpu().numpy(), reference.pool_rows(rows, *args, dim=dim))
    assert slab.cpu().numpy().tobytes() == rows.tobytes()
    check()


def test_known_answer(device):
    nan = [np.nan] * 5
    rows = np.array([[1, 2, 4, *nan], [10, 20, 40, *nan]], dtype=np.float32)
    args = rows, np.array([0, 1, 1]), np.array([0, 2, 2, 3]), np.array([1, 2, -0.5], dtype=np.float32)
    out = pool_rows(*device.put(args), dim=3)
    np.testing.assert_array_equal(out.cpu().numpy(), [[21, 42, 84], [0, 0, 0], [-5, -10, -20]])


@pytest.mark.parametrize("bag_count", [0, 1, 17])
def test_empty_bags_are_zeros(make_rows, device, bag_count):
    args = make_rows(np.random.default_rng(0), 3, 16), np.zeros(0, np.int64), np.zeros(bag_count + 1, np.int64), None
    out = pool_rows(*device.put(args), dim=16)
    np.testing.assert_array_equal(out.cpu().numpy(), np.zeros((bag_count, 16)))
    assert pool_rows(*device.put((args[0][:0], args[1], None, None)), dim=16).shape == (0, 16)


def test_a_bag_of_one_is_the_row_itself(make_rows, same_bits, device):
    rng = np.random.default_rng(1)
    rows, slots = make_rows(rng, 20, 33), rng.integers(0, 20, size=30)
    for offsets, weights in [(None, None), (np.arange(31), None), (None, np.ones(30, np.float32))]:
        got = pool_rows(*device.put((rows, slots, offsets, weights)), dim=33)
        same_bits(got.cpu().numpy(), rows[slots, :33].copy())


def test_one_row_many_times(make_rows, same_bits, device):
    rows = make_rows(np.random.default_rng(2), 4, 64)
    rows[3, :64] = np.round(rows[3, :64] * 1024) / 1024  # so that no partial sum is rounded
    args = rows, np.full(1024, 3), np.array([0, 1024]), np.full(1024, 2.0**-10, np.float32)
    same_bits(pool_rows(*device.put(args), dim=64).cpu().numpy(), rows[3:, :64].copy())


def test_a_long_bag(make_rows, close, device):
    rng = np.random.default_rng(3)
    rows, slots = make_rows(rng, 300, 64), rng.integers(0, 300, size=1000)
    args = rows, slots, np.array([0, 0, 1000]), (rng.normal(size=1000) / 30).astype(np.float32)
    close("pool_rows", pool_rows(*device.put(args), dim=64).cpu().numpy(), reference.pool_rows(*args, dim=64))


def test_what_is_not_finite_stays_in_its_bags(make_rows, device):
    rows = make_rows(np.random.default_rng(4), 4, 16)
    rows[1, 3], rows[2, 5] = np.nan, np.inf
    args = rows, np.array([0, 1, 2, 3]), np.array([0, 1, 2, 3, 4]), None
    for offsets in (args[2], None):
        out = pool_rows(*device.put((rows, args[1], offsets, None)), dim=16).cpu().numpy()
        np.testing.assert_array_equal(out, rows[:, :16])


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([3, 16, 36]),
    count=st.integers(0, 12),
    longest=st.integers(0, 9),
)
def test_law_a_bag_stands_alone(make_rows, close, same_bits, device, seed, dim, count, longest):
    rng = np.random.default_rng(seed)
    rows = make_rows(rng, 11, dim)
    slots, offsets, weights = bags(rng, 11, count, longest)
    args = rows, slots, offsets, weights
    out = pool_rows(*device.put(args), dim=dim).cpu().numpy()
    close("pool_rows", out, reference.pool_rows(*args, dim=dim))
    for b in range(0, count, 5):
        its = slice(offsets[b], offsets[b + 1])
        one = rows, slots[its], np.array([0, offsets[b + 1] - offsets[b]]), weights[its]
        same_bits(pool_rows(*device.put(one), dim=dim).cpu().numpy()[0], out[b])


def test_strided_slots_are_read_as_they_stand(make_rows, same_bits, device):
    rng = np.random.default_rng(5)
    rows, slots = device.put(make_rows(rng, 9, 16)), device.put(rng.integers(0, 9, size=20))
    apart = pool_rows(rows, slots[::2].contiguous(), None, None, dim=16)
    same_bits(pool_rows(rows, slots[::2], None, None, dim=16).cpu().numpy(), apart.cpu().numpy())


def test_rows_past_2_31_floats(device):
    count = 2**31 // 32 + 3
    rows = device.zeros(count, 32)
    rows[-1], rows[0] = 5.0, 7.0
    slots = device.put(np.array([count - 1, 0]))
    out = pool_rows(rows, slots, None, None, dim=31)
    assert out.cpu().tolist() == [[5.0] * 31, [7.0] * 31]
    assert pool_rows(rows, slots, device.put(np.array([0, 2])), None, dim=31).cpu().tolist() == [[12.0] * 31]


SLAB, SLOTS = np.zeros((4, 16), dtype=np.float32), np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"dim": 16}, "rows: got 16 columns, wanted 17 or more"),
        ({"rows": SLAB.astype(np.float64)}, r"rows: got float64 \[4, 16\] on c.*, wanted float32 \[N, W\] on c"),
        ({"rows": SLAB[:, :15].copy()}, "rows: got 15 columns, wanted a multiple of 4 on a device"),
        ({"slots": np.array([0, 1, 4])}, "slots: got 4, wanted 0 <= value < 4"),
        ({"slots": np.array([-1, 1, 2])}, "slots: got -1"),
        ({"slots": SLOTS.astype(np.int32)}, r"slots: got int32 \[3\] on c.*, wanted int64 \[nnz\] on c"),
        ({"offsets": np.zeros(0, dtype=np.int64)}, "offsets: got no offsets"),
        ({"offsets": np.array([1, 3])}, "offsets: got 1 to 3, wanted 0 to 3"),
        ({"offsets": np.array([0, 2, 1, 3])}, "offsets: got offsets that fall"),
        ({"weights": np.ones(2, dtype=np.float32)}, r"weights: got float32 \[2\] on c.*, wanted float32 \[3\]"),
    ],
)
def test_refuses(device, changed, named):
    args = {"rows": SLAB, "slots": SLOTS, "offsets": None, "weights": None, "dim": 4} | changed
    with pytest.raises(InputError, match=named):
        pool_rows(**device.put(args))


def test_refuses_what_is_elsewhere_or_not_in_rows_of_its_own(device):
    slab, slots = device.put(SLAB), device.put(SLOTS)
    with pytest.raises(InputError, match=r"slots: got int64 \[3\], wanted int64 \[nnz\] on c"):
        pool_rows(slab, SLOTS, None, None, dim=4)
    with pytest.raises(InputError, match=r"slots: got int64 \[3\] on c.*, wanted int64 \[nnz\]$"):
        pool_rows(SLAB, slots, None, None, dim=4)
    with pytest.raises(InputError, match=r"rows: got strides \(1, 4\); wanted C-contiguous"):
        pool_rows(device.put(SLAB[:, :4].copy()).T, slots, None, None, dim=3)
    flat = device.zeros(65)
    with pytest.raises(InputError, match="rows: got memory that is not aligned"):
        pool_rows(flat[1:].view(4, 16), slots, None, None, dim=4)
    if device.name != "cpu":
        with pytest.raises(DeviceError, match="got tensors on cpu, wanted the current device cuda"):
            pool_rows(slab.cpu(), slots.cpu(), None, None, dim=4)
