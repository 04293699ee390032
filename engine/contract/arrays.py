"""The array types that cross the public surface, and what pads answers. Constants alone."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
RowBytes = NDArray[np.uint8]
"""Rows as they are stored, uint8 [N, bytes of a row]."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with defaults, as from 3.13 on; type checkers know it by themselves

    IdsT = TypeVar("IdsT", default=Ids)
    ScoresT = TypeVar("ScoresT", default=Floats)
else:
    from typing import TypeVar

    IdsT, ScoresT = TypeVar("IdsT"), TypeVar("ScoresT")

PADDING = -1

MAX_DIM = 4096  # floats of a vector

NO_IDS: Ids = np.empty(0, np.int64)
