"""The array types that cross the public surface, and what pads answers. Constants alone."""

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
RowBytes = NDArray[np.uint8]
"""Rows as they are stored, uint8 [N, bytes of a row]."""


class HasArray(Protocol):
    """What numpy makes an array of: arrays, tensors, columns of other libraries."""

    def __array__(self) -> NDArray[Any]: ...


IdsLike = SupportsIndex | HasArray | Sequence[SupportsIndex | HasArray | Sequence[SupportsIndex]]
"""Ids as a caller may pass them: one, a column, or a table; a text is none. Said as far as type checkers can see."""

IdsOrSet = IdsLike | Set[SupportsIndex]
"""Ids where their order does not matter."""

FilterLike = IdsLike | Set[SupportsIndex] | Sequence[IdsLike | Set[SupportsIndex]] | None
"""What `exclude` and `include` may be: the same or a set, for all or one for each."""

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
