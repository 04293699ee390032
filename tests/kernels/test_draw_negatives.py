"""draw_negatives in the C++ core: the reference's draws, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import InputError
from engine.kernels.draw_negatives import draw_negatives, reference

SHAPE = {"seed": 3, "first_seq": 17, "batch_size": 2, "negatives": 5}


def case(rng, steps, items):
    """Items come as steps go by; slots are any."""
    known = np.sort(rng.integers(0, items + 1, steps))
    return known, rng.permutation(2 * items + 1)[:items].astype(np.int32)


@given(
    st.integers(0, 2**32),
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 6, 40, 70_000]),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**62 - 2**20),
    st.integers(1, 300),
    st.integers(1, 9),
)
def test_it_is_the_reference(entropy, steps, items, seed, first_seq, batch_size, negatives):
    known, slots = case(np.random.default_rng(entropy), steps, items)
    how = {"seed": seed, "first_seq": first_seq, "batch_size": batch_size, "negatives": negatives}
    np.testing.assert_array_equal(draw_negatives(known, slots, **how), reference.draw_negatives(known, slots, **how))


def test_draws_are_uniform_and_differ_from_step_to_step():
    drawn = draw_negatives(np.full(4000, 10), np.arange(10, dtype=np.int32), **(SHAPE | {"negatives": 8}))
    counts = np.bincount(drawn, minlength=10)
    assert counts.sum() == 32_000
    assert abs(counts - 3200).max() < 5 * np.sqrt(3200)
    assert len({tuple(step) for step in drawn.reshape(-1, 8)}) > 3900


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": np.array([1.0])}, "known"),
        ({"known": np.array([-1])}, "known"),
        ({"known": np.array([8])}, "known"),
        ({"slots": np.arange(7)}, "slots: got int64"),
        ({"slots": [1, 2]}, "slots: got list"),
        ({"slots": np.zeros((7, 1), np.int32)}, "slots"),
        ({"seed": -1}, "seed"),
        ({"first_seq": -1}, "first_seq"),
        ({"batch_size": 0}, "batch_size"),
        ({"negatives": 0}, "negatives"),
        ({"negatives": 2.5}, "negatives"),
    ],
    ids=str,
)
def test_what_is_refused(change, message):
    arguments = {"known": np.array([0, 7]), "slots": np.arange(7, dtype=np.int32)} | SHAPE | change
    with pytest.raises(InputError, match=message):
        draw_negatives(arguments.pop("known"), arguments.pop("slots"), **arguments)
