"""draw_negatives in plain Python, on integers of any size: the truth for tests; slow, and unchecked."""

from typing import Any

import numpy as np
import numpy.typing as npt

_MASK = 2**64 - 1


def mix64(x: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31


def draw_negatives(
    known: npt.NDArray[Any], slots: npt.NDArray[Any], *, seed: int, first_seq: int, batch_size: int, negatives: int
) -> npt.NDArray[np.int32]:
    """int32 [S * negatives]; the arguments are those of the kernel."""
    drawn = []
    for step, below in enumerate(known.tolist()):
        of_step = mix64(mix64(seed) ^ (first_seq + step * batch_size))
        for k in range(negatives):
            ordinal = mix64((of_step + k) & _MASK) * below >> 64
            if below <= negatives:
                ordinal = k if k < below else -1
            drawn.append(-1 if ordinal < 0 else int(slots[ordinal]))
    return np.array(drawn, np.int32)
