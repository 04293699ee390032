"""pool_rows: the weighted sum of the vectors of each bag of rows.

Checks its arguments and hands them to the C++ core, or tensors to Triton; `reference.py` says what comes out. Reads
rows, writes none. Any thread; the GIL is released while it runs.
"""

import numpy as np

from ...contract.arguments import whole_number
from ...contract.arrays import MAX_DIM
from ...contract.tensors import is_tensor
from ...machine.backend import native, need_triton
from ..checks import F32, I64, floats, integers, offsets_of, rows_in_place, within

__all__ = ["pool_rows"]


def pool_rows(rows: F32, slots: I64, offsets: I64 | None, weights: F32 | None, *, dim: int) -> F32:
    """One vector per bag: the sum of weight times vector over the rows of the bag; an empty bag gives zeros.

    rows     float32 [R, W], W >= dim + 1, C-contiguous; only columns 0..dim-1 are read
    slots    int64 [nnz], each a row of `rows`
    offsets  int64 [B+1]: bag b is slots[offsets[b]:offsets[b+1]]; None: every slot is a bag of its own, B = nnz
    weights  float32 [nnz], or None for ones

    Tensors: all of them on the device of `rows`, where W is a multiple of 4.

    Returns float32 [B, dim]. The bits of a bag's vector depend on that bag alone. Raises InputError; for tensors,
    DeviceError where Triton cannot run.
    """
    dim = whole_number("dim", dim, 1, MAX_DIM)
    rows = rows_in_place(rows, dim, 0)
    slots = integers("slots", slots, "nnz", like=rows)
    within("slots", slots, 0, rows.shape[0])
    if offsets is not None:
        offsets = offsets_of("offsets", offsets, "B", len(slots), like=rows)
    if weights is not None:
        weights = floats("weights", weights, len(slots), like=rows)
    if is_tensor(rows):
        need_triton(rows.device)
        from . import triton_kernel

        pooled: F32 = triton_kernel.pool_rows(rows, slots, offsets, weights, dim=dim)
        return pooled
    bags = slots.size if offsets is None else offsets.size - 1
    out = np.empty((bags, dim), dtype=np.float32)
    native.pool_rows(rows, dim, slots, offsets, weights, out)
    return out
