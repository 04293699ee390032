"""How wide a row is in RAM and in LMDB, and how many rows a budget has room for. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from ..contract.losses import OPTIMIZERS
from ..machine.backend import native

Rows = NDArray[np.uint8]

_MOST_ROWS = 2**31


def row_bytes(dim: int, optimizer: str) -> int:
    """RAM of one warm row, with its share of the index and the bookkeeping."""
    return int(native.row_bytes(dim, OPTIMIZERS.index(optimizer)))


def stored_bytes(dim: int, optimizer: str) -> int:
    """Bytes of one row in LMDB."""
    return int(native.stored_bytes(dim, OPTIMIZERS.index(optimizer)))


def capacities(dim: int, optimizer: str, warm_bytes: int | None) -> tuple[int, int, int]:
    """What `warm_bytes` has room for: rows of users, rows of items (7/16 each), bytes of history (1/8). None: all."""
    if warm_bytes is None:
        return _MOST_ROWS, _MOST_ROWS, 2**62
    rows = max(1, min(_MOST_ROWS, warm_bytes * 7 // 16 // row_bytes(dim, optimizer)))
    return rows, rows, warm_bytes // 8
