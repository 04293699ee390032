"""update_rows in plain numpy, in float64. The truth for tests; slow, and unchecked. Any thread, one at a time per slab.

A sum of float64 is the truth in any order, so the segments that fix the bits of the kernel do not appear here.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

EPSILON = 1e-8


def update_rows(
    rows: npt.NDArray[Any],
    slots: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    source_index: npt.NDArray[np.int64],
    coefs: npt.NDArray[Any],
    *,
    dim: int,
    lr: float,
    l2: float = 0.0,
    bias: bool,
) -> int:
    """Writes `rows` in place and returns the rows left as they were; the arguments are those of the kernel."""
    kept = slots != -1
    touched, row_of_term = np.unique(slots[kept], return_inverse=True)
    coefs = coefs[kept].astype(np.float64)
    grad, bias_grad = np.zeros((touched.size, dim)), np.zeros(touched.size)
    # Infinities and NaN are expected here; the rows they lead to are left alone below.
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(grad, row_of_term, coefs[:, None] * sources[source_index[kept]].astype(np.float64))
        np.add.at(bias_grad, row_of_term, coefs)

        state = rows[touched, : dim + 3].astype(np.float64)
        vector, vector_bias, sum_squares, bias_sum_squares = state[:, :dim], *state[:, dim:].T  # views
        grad += l2 * vector
        sum_squares += (grad**2).mean(axis=1)
        vector -= lr * grad / (np.sqrt(sum_squares) + EPSILON)[:, None]
        if bias:
            bias_grad += l2 * vector_bias
            bias_sum_squares += bias_grad**2
            vector_bias -= lr * bias_grad / (np.sqrt(bias_sum_squares) + EPSILON)
        new = state.astype(np.float32)
        finite = np.isfinite(new).all(axis=1)  # a gradient that is not finite shows in its sum of squares
    rows[touched[finite], : dim + 3] = new[finite]
    return int((~finite).sum())
