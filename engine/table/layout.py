"""How wide a row is in RAM and in LMDB, and where its vector and its bias stand. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Floats, RowBytes
from ..contract.losses import OPTIMIZERS
from ..machine.backend import native

MOST_ROWS = 2**31  # of one table


def vector_floats(dim: int, optimizer: str) -> int:
    """Floats of a row that has a vector: the vector, its bias, the optimizer's state."""
    return dim + 1 + native.state_floats(OPTIMIZERS.index(optimizer), dim)


def item_floats(dim: int, optimizer: str, neighbours: int) -> int:
    """Floats of an item's row: as a user's, then its neighbours."""
    return vector_floats(dim, optimizer) + native.neighbour_floats(neighbours)


def warm_row_bytes(floats: int) -> int:
    """RAM of one row of so many floats, with its share of the index and the bookkeeping."""
    return native.warm_row_bytes(floats)


def stored_row_bytes(floats: int) -> int:
    """Bytes of one such row in LMDB."""
    return native.stored_row_bytes(floats)


def vectors_of(rows: RowBytes, dim: int) -> Floats:
    """The vectors of stored rows, float32 [n, dim]."""
    vectors: NDArray[np.float32] = np.ascontiguousarray(rows[:, : 4 * dim]).view(np.float32)
    return vectors


def biases_of(rows: RowBytes, dim: int) -> Floats:
    """The biases of stored rows, float32 [n]."""
    biases: NDArray[np.float32] = np.ascontiguousarray(rows[:, 4 * dim : 4 * dim + 4]).view(np.float32).reshape(-1)
    return biases
