"""draw_negatives in Triton: the core's draws, bit for bit; on a GPU, or in the interpreter."""

import numpy as np
import pytest

from engine.kernels.draw_negatives import draw_negatives
from engine.machine.backend import require_device

torch, DEVICE = require_device()


@pytest.mark.parametrize(
    ("steps", "items", "negatives", "batch_size"),
    [(0, 5, 3, 1), (1, 0, 3, 1), (7, 3, 3, 4), (40, 4, 3, 16), (33, 1000, 64, 1), (5, 70_000, 300, 256)],
)
@pytest.mark.parametrize("seed", [0, 1, 12345, 2**63 - 1])
def test_it_is_the_core(steps, items, negatives, batch_size, seed):
    rng = np.random.default_rng(steps)
    known = np.sort(rng.integers(0, items + 1, steps))
    slots = rng.permutation(2 * items + 1)[:items].astype(np.int32)
    for first_seq in (1, 2**31 - 3, 2**62 - 2**20):
        how = {"seed": seed, "first_seq": first_seq, "batch_size": batch_size, "negatives": negatives}
        got = draw_negatives(torch.from_numpy(known).to(DEVICE), torch.from_numpy(slots).to(DEVICE), **how)
        assert got.dtype == torch.int32
        np.testing.assert_array_equal(got.cpu().numpy(), draw_negatives(known, slots, **how))


def test_it_writes_its_own_and_no_more():
    """Neither behind its end, nor anything that was there."""
    known, slots = torch.full((3,), 50, device=DEVICE), torch.arange(50, dtype=torch.int32, device=DEVICE)
    before = known.clone(), slots.clone()
    drawn = draw_negatives(known, slots, seed=1, first_seq=1, batch_size=1, negatives=7)
    assert drawn.shape == (21,)
    assert torch.equal(known, before[0])
    assert torch.equal(slots, before[1])
    assert ((drawn >= 0) & (drawn < 50)).all()
