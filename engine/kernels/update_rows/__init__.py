"""update_rows: sums the gradients of equal rows, then takes one optimizer step per row, in place.

Checks its arguments and hands them to the C++ core; `reference.py` says what comes out. Any thread, one at a time per
slab: no other call may read or write the rows meanwhile. The GIL is released while it runs.
"""

from ...backend import native
from ..arguments import F32, I64, MAX_DIM, apart, floats, integer, integers, rate, rows_in_place, within

__all__ = ["update_rows"]


def update_rows(
    rows: F32,
    slots: I64,
    sources: F32,
    source_index: I64,
    coefs: F32,
    *,
    dim: int,
    lr: float,
    l2: float = 0.0,
    bias: bool,
) -> int:
    """Learns P gradient terms by row-wise Adagrad; returns how many rows refused their step.

    Term p adds coefs[p] * sources[source_index[p]] to the gradient g of row slots[p], and coefs[p] to the gradient gb
    of its bias if `bias`. Terms of one row are summed in the order of p, in segments of 64, the segments' sums then in
    order. Each distinct row takes one step:

        g += l2 * w     G += mean over d of g[d]^2     w -= lr * g / (sqrt(G) + 1e-8)
        gb += l2 * b    Gb += gb^2                     b -= lr * gb / (sqrt(Gb) + 1e-8)      (if `bias`)

    That is Adagrad (Duchi, Hazan, Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization") with one accumulator per row, the row-wise variant as FBGEMM documents it. A row whose gradient, or
    state after the step, bias included, is not finite stays as it was, whole, and is counted.

    rows          float32 [R, W], W >= dim + 3, C-contiguous, written in place: columns 0..dim-1 w, dim b, dim+1 G,
                  dim+2 Gb; further columns are neither read nor written
    slots         int64 [P], each a row of `rows`; -1: the term is skipped
    sources       float32 [M, dim], not in the memory of `rows`
    source_index  int64 [P], each a row of `sources`
    coefs         float32 [P]
    lr, l2        finite, 0 or more

    The bits of a row depend on its own terms alone. Raises InputError, before anything is written.
    """
    dim = integer("dim", dim, 1, MAX_DIM)
    rows = rows_in_place(rows, dim, writable=True)
    slots = integers("slots", slots, "P")
    within("slots", slots, -1, rows.shape[0])
    sources = floats("sources", sources, "M", dim)
    apart("sources", sources, rows)
    source_index = integers("source_index", source_index, slots.size)
    within("source_index", source_index, 0, sources.shape[0])
    coefs = floats("coefs", coefs, slots.size)
    apart("coefs", coefs, rows)
    lr, l2 = rate("lr", lr), rate("l2", l2)
    return native.update_rows(rows, dim, slots, sources, source_index, coefs, lr, l2, bool(bias))
