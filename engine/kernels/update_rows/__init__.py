"""update_rows: sums the gradients of equal rows, then takes one optimizer step per row, in place.

Checks its arguments and hands them to the C++ core, or tensors to Triton; `reference.py` says what comes out. Any
thread, one at a time per slab: no other call may read or write the rows meanwhile. The GIL is released while it runs.
"""

from ...contract.arguments import whole_number
from ...contract.arrays import MAX_DIM
from ...contract.losses import OPTIMIZERS, Optimizer
from ...contract.tensors import is_tensor
from ...machine.backend import native, need_triton
from ..checks import F32, I64, apart, floats, integers, rate, rows_in_place, wide_in_place, within
from ..optimizers import state_floats

__all__ = ["update_rows"]


def update_rows(
    rows: F32,
    slots: I64,
    sources: F32,
    source_index: I64,
    coefs: F32,
    bias_coefs: F32 | None,
    *,
    dim: int,
    lr: float,
    l2: float = 0.0,
    optimizer: Optimizer = "adagrad",
) -> int:
    """Learns P gradient terms; returns how many rows refused their step.

    Term p adds coefs[p] * sources[source_index[p]] to the gradient g of row slots[p], and bias_coefs[p] to the gradient
    gb of its bias b. Terms of one row are summed in the order of p, in segments of 64, the segments' sums then in
    order; then l2 * w is added to g, and l2 * b to gb. Each distinct row takes one step:

    adagrad  G += mean over d of g[d]^2     w -= lr * g / (sqrt(G) + 1e-8)
             Gb += gb^2                     b -= lr * gb / (sqrt(Gb) + 1e-8)
    adam     m = 0.9 m + 0.1 g     v = 0.999 v + 0.001 g^2     c1 = 0.9 c1 + 0.1     c2 = 0.999 c2 + 0.001
             w -= lr * (m / c1) / (sqrt(v / c2) + 1e-8), and the bias likewise with the same c1 and c2
    sgd      w -= lr * g           b -= lr * gb

    adagrad: Duchi, Hazan, Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
    with one accumulator per row, the row-wise variant as FBGEMM documents it. adam: Kingma, Ba 2015, "Adam: A Method
    for Stochastic Optimization", algorithm 1, each row on its own: its moments stand still until its next step, and the
    t of its correction counts its own steps (lazy Adam). c1 and c2 are 1 - 0.9^t and 1 - 0.999^t, by the recurrence of
    the moments. Without bias_coefs biases and their state stay as they are. A row whose gradient, its square (not
    for sgd) or state after the step, bias included, is not finite stays as it was, whole, and is counted.

    rows          float32 [R, W], W >= dim + 1 + state_floats(optimizer, dim), C-contiguous, written in place: columns
                  0..dim-1 w, dim b, then the state; adagrad: G, Gb; adam: mb, vb, c1, c2, m [dim], v [dim]; further
                  columns are neither read nor written
    slots         int64 [P], each a row of `rows`; -1: the term is skipped
    sources       float32 [M, dim], not in the memory of `rows`
    source_index  int64 [P], each a row of `sources`
    coefs         float32 [P]
    bias_coefs    float32 [P], may be `coefs` itself; None: biases are not learned
    lr, l2        finite, 0 or more
    optimizer     "adagrad", "adam" or "sgd"

    Tensors: all of them on the device of `rows`, where W is a multiple of 4; `sources` may be wider than dim.

    The bits of a row depend on its own terms alone. Raises InputError, before anything is written; for tensors,
    DeviceError where Triton cannot run.
    """
    dim = whole_number("dim", dim, 1, MAX_DIM)
    rows = rows_in_place(rows, dim, state_floats(optimizer, dim), writable=True)
    slots = integers("slots", slots, "P", like=rows)
    within("slots", slots, -1, rows.shape[0])
    if is_tensor(rows):
        sources = wide_in_place("sources", sources, dim, dim, like=rows)
    else:
        sources = floats("sources", sources, "M", dim)
    source_index = integers("source_index", source_index, len(slots), like=rows)
    within("source_index", source_index, 0, sources.shape[0])
    coefs = floats("coefs", coefs, len(slots), like=rows)
    if bias_coefs is not None:
        bias_coefs = floats("bias_coefs", bias_coefs, len(slots), like=rows)
    apart(rows, sources=sources, coefs=coefs, bias_coefs=bias_coefs)
    lr, l2 = rate("lr", lr), rate("l2", l2)
    terms = slots, sources, source_index, coefs, bias_coefs
    if is_tensor(rows):
        need_triton(rows.device)
        from . import triton_kernel

        return int(triton_kernel.update_rows(rows, *terms, dim=dim, lr=lr, l2=l2, optimizer=optimizer))
    return native.update_rows(OPTIMIZERS.index(optimizer), rows, dim, *terms, lr, l2)
