"""update_rows in plain numpy, in float64. The truth for tests; slow, and unchecked. Any thread, one at a time per slab.

A sum of float64 is the truth in any order, so the segments that fix the bits of the kernel do not appear here.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ...contract.losses import Optimizer
from ..optimizers import state_floats

EPSILON = 1e-8
BETA1, BETA2 = 0.9, 0.999


def update_rows(
    rows: npt.NDArray[Any],
    slots: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    source_index: npt.NDArray[np.int64],
    coefs: npt.NDArray[Any],
    bias_coefs: npt.NDArray[Any] | None,
    *,
    dim: int,
    lr: float,
    l2: float = 0.0,
    optimizer: Optimizer = "adagrad",
) -> int:
    """Writes `rows` in place and returns the rows left as they were; the arguments are those of the kernel."""
    kept = slots != -1
    touched, row_of_term = np.unique(slots[kept], return_inverse=True)
    coefs = coefs[kept].astype(np.float64)
    grad = np.zeros((touched.size, dim + 1))  # of the vector, and in the last column of the bias
    end = dim + 1 + state_floats(optimizer, dim)
    # Infinities and NaN are expected here; the rows they lead to are left alone below.
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(grad[:, :dim], row_of_term, coefs[:, None] * sources[source_index[kept]].astype(np.float64))
        if bias_coefs is not None:
            np.add.at(grad[:, dim], row_of_term, bias_coefs[kept].astype(np.float64))
        old = rows[touched, :end].astype(np.float64)
        new = old.copy()
        weights, state = new[:, : dim + 1], new[:, dim + 1 :]  # views
        grad += l2 * weights
        if optimizer == "adagrad":
            state[:, 0] += (grad[:, :dim] ** 2).mean(axis=1)
            state[:, 1] += grad[:, dim] ** 2
            sums = np.column_stack([np.repeat(state[:, :1], dim, axis=1), state[:, 1:]])
            weights -= lr * grad / (np.sqrt(sums) + EPSILON)
        elif optimizer == "adam":
            of_bias, ones, of_vector = state[:, 0:2], state[:, 2:4], state[:, 4:]
            first = np.column_stack([of_vector[:, :dim], of_bias[:, 0]])
            second = np.column_stack([of_vector[:, dim:], of_bias[:, 1]])
            first = BETA1 * first + (1 - BETA1) * grad
            second = BETA2 * second + (1 - BETA2) * grad**2
            ones[:] = ones * [BETA1, BETA2] + [1 - BETA1, 1 - BETA2]
            weights -= lr * (first / ones[:, :1]) / (np.sqrt(second / ones[:, 1:]) + EPSILON)
            of_vector[:] = np.column_stack([first[:, :dim], second[:, :dim]])
            of_bias[:] = np.column_stack([first[:, dim], second[:, dim]])
        else:
            weights -= lr * grad
        if bias_coefs is None:
            of_biases = [dim, *{"adagrad": [dim + 2], "adam": [dim + 1, dim + 2], "sgd": []}[optimizer]]
            new[:, of_biases] = old[:, of_biases]
            grad[:, dim] = 0
        new = new.astype(np.float32)
        # float64 holds numbers, and squares of gradients, that float32 does not.
        limits = (grad if optimizer == "sgd" else grad**2).astype(np.float32)
        finite = np.isfinite(new).all(axis=1) & np.isfinite(limits).all(axis=1)
    rows[touched[finite], :end] = new[finite]
    return int((~finite).sum())
