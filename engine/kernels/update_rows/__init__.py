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
    order; then l2 * w is added to g, and l2 * b to gb. Each distinct row takes one step, as contract/losses.py has it.

    Without bias_coefs biases and their state stay as they are. A row whose gradient, its square (not for sgd) or state
    after the step, bias included, is not finite stays as it was, whole, and is counted.

    rows          float32 [R, W], W >= dim + 1 + state_floats(optimizer, dim), C-contiguous, written in place: columns
                  0..dim-1 w, dim b, then the state; further columns are neither read nor written
    slots         int64 [P], each a row of `rows`; -1: the term is skipped
    sources       float32 [M, dim], not in the memory of `rows`
    source_index  int64 [P], each a row of `sources`
    coefs         float32 [P]
    bias_coefs    float32 [P], may be `coefs` itself; None: biases are not learned
    lr, l2        finite, 0 or more
    optimizer     one of contract.losses.OPTIMIZERS

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
