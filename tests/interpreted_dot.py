"""`tl.dot` of Triton's interpreter, added up in one order.

The interpreter multiplies with numpy's matmul, and BLAS adds up there. With some of BLAS's kernels a row's last bit
depends on the row's place. A GPU gives an entry the same bits in every place, and our laws ask for that.
"""

from typing import Any

import numpy as np


def fixed_order(left: np.ndarray, right: np.ndarray, start: np.ndarray) -> np.ndarray:
    """start + left @ right: an entry depends on its row, its column and its start alone."""
    assert left.dtype == right.dtype == start.dtype == np.float32, "our kernels multiply float32"
    total = start.copy()
    for k in range(left.shape[-1]):
        total += left[..., k, None] * right[..., k, None, :]
    return total


def use_fixed_order() -> None:
    """From now on the interpreter of this process adds up in this order."""
    from triton.runtime import interpreter  # not above: Triton defines kernels when it is imported

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        return interpreter.TensorHandle(fixed_order(a.data, b.data, d.data), d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = create_dot
