"""pool_rows in plain numpy, summed in float64. The truth for tests; slow, and unchecked. Any thread."""

from typing import Any

import numpy as np
import numpy.typing as npt


def pool_rows(
    rows: npt.NDArray[Any],
    slots: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64] | None,
    weights: npt.NDArray[Any] | None,
    *,
    dim: int,
) -> npt.NDArray[np.float64]:
    """float64 [B, dim]; the arguments are those of the kernel."""
    if offsets is None:
        offsets = np.arange(slots.size + 1)
    if weights is None:
        weights = np.ones(slots.size)
    terms = rows[slots, :dim].astype(np.float64) * weights.astype(np.float64)[:, None]
    bag_of_term = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    out = np.zeros((offsets.size - 1, dim))
    np.add.at(out, bag_of_term, terms)
    return out
