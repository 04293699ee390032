"""Files whose modes forbid to write: for root they forbid nothing, so root's right to write is laid down for a while.

The right to read stays. So nothing depends on whether the folders above a test's, or above the code's, are closed.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = 0x20080522  # of the layout: three masks, for what is in effect, what may be, what programs inherit; twice
WRITE_ANYTHING = 1 << 1  # CAP_DAC_OVERRIDE

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, masks: ctypes.Array[ctypes.c_uint32]) -> None:
    if getattr(_libc, function)((ctypes.c_uint32 * 2)(VERSION, 0), masks):
        raise OSError(ctypes.get_errno(), function)


@contextmanager
def modes_bind_root() -> Iterator[None]:
    """In the block modes say what this thread, and those that it starts, may write."""
    masks = (ctypes.c_uint32 * 6)()
    _call("capget", masks)
    before = masks[0]
    masks[0] = before & ~WRITE_ANYTHING
    _call("capset", masks)
    try:
        yield
    finally:
        masks[0] = before
        _call("capset", masks)
