"""draw_negatives: for each of many consecutive steps, the slots of the items that it draws as negatives.

Checks its arguments and hands them to the C++ core, or tensors to Triton; `reference.py` says what comes out, and all
give the same. Nothing is kept: a draw is a function of its seq and its number. Any thread; the GIL is released.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ...contract.arguments import whole_number
from ...contract.errors import InputError
from ...contract.tensors import is_tensor
from ...machine.backend import native, need_triton
from ..checks import I64, integers, within

__all__ = ["draw_negatives"]

MOST = 2**31 - 1  # negatives of a call, and slots


def draw_negatives(
    known: I64, slots: Any, *, seed: int, first_seq: int, batch_size: int, negatives: int
) -> npt.NDArray[np.int32]:
    """The slots of `negatives` items for each of S steps of `batch_size` events, the first of which has `first_seq`.

    Step s draws uniformly among the items with ordinals below known[s], with replacement; where they are no more than
    `negatives`, it takes each of them once, and -1 for the rest. Draw k is `draw_below` of csrc/kernels/draws.h: of the
    seq of the step's first event, by SplitMix64.

    known   int64 [S], items that there were before the step, 0 to N
    slots   int32 [N], of each item by ordinal

    Tensors: both on one device. Returns int32 [S * negatives]. Raises InputError; for tensors, DeviceError where
    Triton cannot run.
    """
    known = integers("known", known, "S", like=known)
    if is_tensor(slots) != is_tensor(known) or (not is_tensor(slots) and not isinstance(slots, np.ndarray)):
        raise InputError(f"slots: got {type(slots).__name__}, wanted what known is, {type(known).__name__}")
    if slots.ndim != 1 or "int32" not in str(slots.dtype):
        raise InputError(f"slots: got {slots.dtype} {list(slots.shape)}, wanted int32 [N]")
    steps = len(known)
    within("known", known, 0, len(slots) + 1)
    negatives = whole_number("negatives", negatives, 1, 2**16)
    whole_number("steps times negatives", steps * negatives, 0, MOST)
    seeds: dict[str, Any] = {
        "seed": whole_number("seed", seed, 0, 2**63 - 1),
        "first_seq": whole_number("first_seq", first_seq, 0, 2**62),
        "batch_size": whole_number("batch_size", batch_size, 1, 2**16),
        "negatives": negatives,
    }
    drawn: npt.NDArray[np.int32]
    if is_tensor(slots):
        need_triton(slots.device)
        from . import triton_kernel

        drawn = triton_kernel.draw_negatives(known, slots.contiguous(), **seeds)
        return drawn
    drawn = np.empty(steps * negatives, np.int32)
    native.draw_negatives(known, np.ascontiguousarray(slots), **seeds, out=drawn)
    return drawn
