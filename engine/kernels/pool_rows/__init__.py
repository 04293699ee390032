"""pool_rows: the weighted sum of the vectors of each bag of rows.

Checks its arguments and hands them to the C++ core; `reference.py` says what comes out. Reads rows, writes none.
Any thread; the GIL is released while it runs.
"""

import numpy as np

from ...backend import native
from ..arguments import F32, I64, MAX_DIM, floats, integer, integers, offsets_of, rows_in_place, within

__all__ = ["pool_rows"]


def pool_rows(rows: F32, slots: I64, offsets: I64 | None, weights: F32 | None, *, dim: int) -> F32:
    """One vector per bag: the sum of weight times vector over the rows of the bag; an empty bag gives zeros.

    rows     float32 [R, W], W >= dim + 1, C-contiguous; only columns 0..dim-1 are read
    slots    int64 [nnz], each a row of `rows`
    offsets  int64 [B+1]: bag b is slots[offsets[b]:offsets[b+1]]; None: every slot is a bag of its own, B = nnz
    weights  float32 [nnz], or None for ones

    Returns float32 [B, dim]. The bits of a bag's vector depend on that bag alone. Raises InputError.
    """
    dim = integer("dim", dim, 1, MAX_DIM)
    rows = rows_in_place(rows, dim, 0)
    slots = integers("slots", slots, "nnz")
    within("slots", slots, 0, rows.shape[0])
    if offsets is not None:
        offsets = offsets_of("offsets", offsets, "B", slots.size)
    if weights is not None:
        weights = floats("weights", weights, slots.size)
    bags = slots.size if offsets is None else offsets.size - 1
    out = np.empty((bags, dim), dtype=np.float32)
    native.pool_rows(rows, dim, slots, offsets, weights, out)
    return out
