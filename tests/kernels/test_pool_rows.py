"""pool_rows beside its reference, and what it promises on its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import InputError
from engine.kernels.pool_rows import pool_rows, reference

DIMS = [1, 2, 15, 16, 17, 33, 64, 100, 257]


def bags(rng, rows, count, longest):
    sizes = rng.integers(0, longest + 1, size=count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    slots = rng.integers(0, rows, size=offsets[-1])
    weights = rng.normal(size=slots.size).astype(np.float32)
    return slots, offsets, weights


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("one_each", [False, True])
def test_agrees_with_the_reference(make_rows, close, dim, weighted, one_each):
    rng = np.random.default_rng(dim)
    rows = make_rows(rng, 50, dim)
    before = rows.tobytes()
    slots, offsets, weights = bags(rng, 50, 40, 7)
    args = (rows, slots, None if one_each else offsets, weights if weighted else None)
    out = pool_rows(*args, dim=dim)
    assert out.dtype == np.float32
    assert out.shape == (slots.size if one_each else 40, dim)
    close("pool_rows", out, reference.pool_rows(*args, dim=dim))
    assert rows.tobytes() == before


def test_known_answer():
    rows = np.array([[1, 2, np.nan, np.nan, np.nan], [10, 20, np.nan, np.nan, np.nan]], dtype=np.float32)
    slots = np.array([0, 1, 1])
    weights = np.array([1, 2, -0.5], dtype=np.float32)
    out = pool_rows(rows, slots, np.array([0, 2, 2, 3]), weights, dim=2)
    np.testing.assert_array_equal(out, [[21, 42], [0, 0], [-5, -10]])


@pytest.mark.parametrize("bag_count", [0, 1, 2, 17])
def test_empty_bags_are_zeros(make_rows, bag_count):
    rows = make_rows(np.random.default_rng(0), 3, 17)
    out = pool_rows(rows, np.zeros(0, dtype=np.int64), np.zeros(bag_count + 1, dtype=np.int64), None, dim=17)
    np.testing.assert_array_equal(out, np.zeros((bag_count, 17)))


def test_nothing_from_no_rows():
    rows = np.zeros((0, 8), dtype=np.float32)
    assert pool_rows(rows, np.zeros(0, dtype=np.int64), None, None, dim=5).shape == (0, 5)


def test_a_bag_of_one_is_the_row_itself(make_rows, same_bits):
    rng = np.random.default_rng(1)
    rows = make_rows(rng, 20, 33)
    slots = rng.integers(0, 20, size=30)
    expected = rows[slots, :33].copy()
    same_bits(pool_rows(rows, slots, None, None, dim=33), expected)
    same_bits(pool_rows(rows, slots, np.arange(31), None, dim=33), expected)
    same_bits(pool_rows(rows, slots, None, np.ones(30, dtype=np.float32), dim=33), expected)


def test_one_row_many_times(make_rows, same_bits):
    rows = make_rows(np.random.default_rng(2), 4, 64)
    rows[3, :64] = np.round(rows[3, :64] * 1024) / 1024  # so that no partial sum is rounded
    slots, offsets = np.full(1024, 3), np.array([0, 1024])
    weights = np.full(1024, 2.0**-10, dtype=np.float32)
    same_bits(pool_rows(rows, slots, offsets, weights, dim=64), rows[3:, :64].copy())
    same_bits(pool_rows(rows, slots, offsets, None, dim=64), rows[3:, :64] * np.float32(1024))


@pytest.mark.parametrize("length", [100, 1000])
def test_long_bags(make_rows, close, length):
    rng = np.random.default_rng(length)
    rows = make_rows(rng, 300, 64)
    slots, offsets = rng.integers(0, 300, size=length), np.array([0, length])
    weights = (rng.normal(size=length) / np.sqrt(length)).astype(np.float32)
    close(
        "pool_rows",
        pool_rows(rows, slots, offsets, weights, dim=64),
        reference.pool_rows(rows, slots, offsets, weights, dim=64),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 70), count=st.integers(0, 12), longest=st.integers(0, 9))
def test_law_a_bag_stands_alone(make_rows, close, same_bits, seed, dim, count, longest):
    rng = np.random.default_rng(seed)
    rows = make_rows(rng, 11, dim)
    slots, offsets, weights = bags(rng, 11, count, longest)
    out = pool_rows(rows, slots, offsets, weights, dim=dim)
    close("pool_rows", out, reference.pool_rows(rows, slots, offsets, weights, dim=dim))
    for b in range(count):
        its = slice(offsets[b], offsets[b + 1])
        alone = pool_rows(rows, slots[its], np.array([0, offsets[b + 1] - offsets[b]]), weights[its], dim=dim)
        same_bits(alone[0], out[b])


def test_strided_slots_and_weights_are_read_as_they_stand(make_rows, same_bits):
    rng = np.random.default_rng(3)
    rows = make_rows(rng, 9, 16)
    slots, weights = rng.integers(0, 9, size=20), rng.normal(size=20).astype(np.float32)
    apart = pool_rows(rows, slots[::2].copy(), None, weights[::-2].copy(), dim=16)
    same_bits(pool_rows(rows, slots[::2], None, weights[::-2], dim=16), apart)


@pytest.mark.parametrize("dim", DIMS)
def test_every_path_gives_the_same_bits(make_rows, on_every_path, dim):
    rng = np.random.default_rng(dim)
    rows = make_rows(rng, 50, dim)
    slots, offsets, weights = bags(rng, 50, 60, 40)
    on_every_path(lambda: pool_rows(rows, slots, offsets, weights, dim=dim))
    on_every_path(lambda: pool_rows(rows, slots, offsets, None, dim=dim))
    on_every_path(lambda: pool_rows(rows, slots, None, weights, dim=dim))


def misaligned(array):
    memory = bytearray(1) + array.tobytes()
    return np.frombuffer(memory, dtype=array.dtype, offset=1).reshape(array.shape)


def test_misaligned_slots_are_copied_and_rows_refused(make_rows, same_bits):
    rows, slots = make_rows(np.random.default_rng(4), 9, 16), np.array([3, 8, 0])
    same_bits(pool_rows(rows, misaligned(slots), None, None, dim=16), pool_rows(rows, slots, None, None, dim=16))
    with pytest.raises(InputError, match="rows: got strides"):
        pool_rows(misaligned(rows), slots, None, None, dim=16)


ROWS = np.zeros((4, 16), dtype=np.float32)
SLOTS = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"dim": 0}, "dim: got int 0, wanted an integer from 1 to 4096"),
        ({"dim": 4097}, "dim: got int 4097"),
        ({"dim": True}, "dim: got bool True, wanted an integer"),
        ({"dim": 2.0}, "dim: got float 2.0, wanted an integer"),
        ({"dim": 16}, "rows: got 16 columns, wanted 17 or more"),
        ({"rows": ROWS.astype(np.float64)}, r"rows: got float64 \[4, 16\], wanted float32"),
        ({"rows": ROWS.tolist()}, "rows: got list"),
        ({"rows": ROWS[0]}, "rows: got float32"),
        ({"rows": ROWS.T.copy().T}, "rows: got strides"),
        ({"rows": np.zeros((4, 20), dtype=np.float32)[:, :16]}, "rows: got strides"),
        ({"slots": np.array([0, 1, 4])}, "slots: got 4, wanted 0 <= value < 4"),
        ({"slots": np.array([-1, 1, 2])}, "slots: got -1"),
        ({"slots": SLOTS.astype(np.int32)}, "slots: got int32"),
        ({"slots": SLOTS.astype(">i8")}, "slots: got >i8"),
        ({"slots": SLOTS[:, None]}, "slots: got int64"),
        ({"offsets": np.zeros(0, dtype=np.int64)}, "offsets: got no offsets"),
        ({"offsets": np.array([0, 2])}, "offsets: got 0 to 2, wanted 0 to 3"),
        ({"offsets": np.array([1, 3])}, "offsets: got 1 to 3"),
        ({"offsets": np.array([0, 2, 1, 3])}, "offsets: got offsets that fall"),
        ({"offsets": [0, 3]}, "offsets: got list"),
        ({"weights": np.ones(2, dtype=np.float32)}, r"weights: got float32 \[2\], wanted float32 \[3\]"),
        ({"weights": np.ones(3)}, "weights: got float64"),
    ],
)
def test_refuses(changed, named):
    args = {"rows": ROWS, "slots": SLOTS, "offsets": None, "weights": None, "dim": 4} | changed
    with pytest.raises(InputError, match=named):
        pool_rows(**args)
