"""Checks of arguments: what a caller passes becomes a plain array or number, or a typed error.

Each message names the argument, what came and what was wanted. InputError is the default; settings and resources pass
ConfigError. Any thread.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import PADDING, Floats, Ids
from .errors import EngineError, InputError
from .tensors import array_of, is_tensor

_INT64 = np.dtype(np.int64)


def describe(x: Any) -> str:
    """What came, in a few words, for a message."""
    if isinstance(x, np.ndarray):
        return f"{x.dtype} array of shape {x.shape}"
    if is_tensor(x):
        return f"{x.dtype} tensor of shape {tuple(x.shape)} on {x.device}"
    if isinstance(x, (list, tuple)):
        return f"{type(x).__name__} of {len(x)}"
    try:
        text = repr(x)
    except Exception:  # the caller's own code, or an integer with too many digits to print
        return type(x).__name__
    return f"{type(x).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def plain_array(name: str, x: Any, wanted: str) -> NDArray[Any]:
    """`x` as an array of whatever type it has: a tensor, or anything that numpy understands."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InputError(f"{name}: got {describe(x)} with masked elements, wanted {wanted}")
    try:
        return array_of(x) if is_tensor(x) else np.asarray(x)
    except MemoryError:
        raise
    except Exception as e:  # whatever the __array__ of an unknown type raises
        raise InputError(f"{name}: got {describe(x)}, wanted {wanted}") from e


def id_array(name: str, x: Any, *, padding: bool = False) -> Ids:
    """Ids of any shape as a C-contiguous int64 array that nobody else holds. -1 only where `padding` allows it."""
    wanted = "integers that fit int64" + ("" if padding else ", none of them -1 (the padding of answers)")
    a = plain_array(name, x, wanted)
    if a.dtype != _INT64:
        if a.size == 0 and a.dtype.kind == "f" and not isinstance(x, np.ndarray):
            a = a.astype(np.int64)  # an empty list has no type of its own
        elif a.dtype.kind not in "iu":
            raise InputError(f"{name}: got {describe(x)}, wanted {wanted}")
        elif a.dtype.kind == "u" and a.size and a.max() > np.iinfo(np.int64).max:
            raise InputError(f"{name}: got {int(a.max())}, wanted {wanted}")
    out = np.array(a, dtype=np.int64, order="C")
    if not padding and out.size and (out == PADDING).any():
        where = f" at position {int(np.flatnonzero(out == PADDING)[0])}" if out.ndim else ""
        raise InputError(f"{name}: got -1{where}, wanted {wanted}")
    return out


def id_column(name: str, x: Any) -> Ids:
    """A scalar or a column of ids as int64[n]."""
    a = id_array(name, x)
    if a.ndim > 1:
        raise InputError(f"{name}: got {describe(a)}, wanted a scalar or a 1-D column")
    return a.reshape(-1)


def query_vectors(name: str, x: Any, dim: int) -> tuple[Floats, bool]:
    """Finite float32 [n, dim], and whether it was one vector [dim]."""
    a = plain_array(name, x, f"finite numbers of shape ({dim},) or (n, {dim})")
    shape = (len(a), dim) if a.ndim == 2 else (dim,)
    return float_array(name, a, shape).reshape(-1, dim), a.ndim == 1


def float_array(name: str, x: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    """Finite numbers of the given shape (a scalar counts as one of shape (1,)), C-contiguous, nobody else's."""
    wanted = f"finite numbers of shape {shape}"
    a = plain_array(name, x, wanted)
    if a.dtype.kind not in "fiu":
        raise InputError(f"{name}: got {describe(x)}, wanted {wanted}")
    if a.ndim == 0:
        a = a.reshape(1)
    if a.shape != shape:
        raise InputError(f"{name}: got shape {a.shape}, wanted {wanted}")
    with np.errstate(over="ignore"):
        out = np.array(a, dtype=dtype, order="C")
    if not np.isfinite(out).all():
        bad = np.flatnonzero(~np.isfinite(out.reshape(-1)))[0]
        raise InputError(f"{name}: got {a.reshape(-1)[bad]} at position {int(bad)}, wanted {wanted}")
    return out


def whole_number(name: str, x: Any, low: int, high: int, error: type[EngineError] = InputError) -> int:
    """An integer from low to high, or `error`; a bool is none."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)) or not low <= x <= high:
        raise error(f"{name}: got {describe(x)}, wanted an integer from {low} to {high}")
    return int(x)


def number(name: str, x: Any, low: float, high: float, error: type[EngineError] = InputError) -> float:
    """A finite number from low to high, or `error`; a bool is none."""
    given = isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)
    try:
        value = float(x) if given else math.nan
    except OverflowError:
        value = math.inf
    if not low <= value <= high:
        raise error(f"{name}: got {describe(x)}, wanted a number >= {low} and <= {high}")
    return value


def choice(name: str, x: Any, choices: tuple[str, ...], error: type[EngineError] = InputError) -> str:
    """One of `choices`, or `error`."""
    if not isinstance(x, str) or x not in choices:
        raise error(f"{name}: got {describe(x)}, wanted one of {', '.join(map(repr, choices))}")
    return str(x)


def flag(name: str, x: Any) -> bool:
    if not isinstance(x, (bool, np.bool_)):
        raise InputError(f"{name}: got {describe(x)}, wanted True or False")
    return bool(x)


MAX_EVENTS = 65_536  # per record

MAX_POSITION_BYTES = 1 << 20

MAX_NAME_BYTES = 0xFFFF  # of a source name, and of the settings as JSON


def check_position(source: str, position: bytes) -> tuple[bytes, bytes]:
    try:
        name = source.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"position: source {source!r} is not text: {error}") from error
    if type(position) is not bytes or len(position) > MAX_POSITION_BYTES or len(name) > MAX_NAME_BYTES:
        raise InputError(
            f"position: a name of {len(name):,} bytes, {len(position):,} of {type(position).__name__}; "
            f"a record takes {MAX_NAME_BYTES:,}, and {MAX_POSITION_BYTES:,} of bytes, at most"
        )
    return name, position


def checked_position(position: Any, events: int) -> tuple[str, bytes] | None:
    """What `ingest` was given as position beside so many events, checked. InputError."""
    if position is None:
        return None
    pair = isinstance(position, tuple) and len(position) == 2
    if not pair or not isinstance(position[0], str) or not isinstance(position[1], (bytes, bytearray)):
        raise InputError(f"position: got {describe(position)}, wanted (source, bytes)")
    if events > MAX_EVENTS:
        raise InputError(
            f"position: got {events} events with it, wanted at most {MAX_EVENTS}: it must stand in one log record"
        )
    check_position(position[0], bytes(position[1]))
    return position[0], bytes(position[1])
