"""How the Triton kernels over rows are cut into tiles, and what of them is compiled ahead of time.

Not for arithmetic, and imports neither torch nor triton. Pure functions, any thread.
"""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One kernel with the types of its arguments and its constants, as `triton.compile` wants them."""

    shape: str  # for the table: what the constants stand for
    kernel: Any  # what triton.jit made
    types: dict[str, str]  # by argument, such as "*fp32"
    constants: dict[str, Any]  # by argument; None where an optional tensor is not given
    warps: int
    vectors: bool = True  # rows are read 16 bytes a lane


def power_of_two(n: int) -> int:
    """The least power of two that is n or more."""
    return 1 << max(n - 1, 0).bit_length()


def tile_of(dim: int, floats: int) -> tuple[int, int]:
    """Columns and rows of a tile of about `floats`: a power of two that holds `dim`, and how many rows fit."""
    block = power_of_two(dim)
    return block, max(1, floats // block)
