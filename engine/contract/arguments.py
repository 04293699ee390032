"""Checks of arguments: what a caller passes becomes a plain array or number, or a typed error.

Each message names the argument, what came and what was wanted. For a column it names the first bad element and its
place, which is looked for only after a check of the whole column has failed. InputError is the default; settings and
resources pass ConfigError. Any thread.
"""

import math
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import PADDING, Floats, Ids, Mask
from .errors import EngineError, InputError
from .tensors import array_of, is_tensor

_INT64 = np.iinfo(np.int64)


class Wanted(NamedTuple):
    """What a column should be: said of the whole and of one element, and whether an element is so."""

    whole: str
    one: str
    fine: Callable[[Any], bool]


def is_finite(x: Any) -> bool:
    """A number of Python or numpy, but no bool, that is neither NaN nor infinite."""
    try:
        return (_is_integer(x) or isinstance(x, (float, np.floating))) and math.isfinite(x)
    except OverflowError:
        return False


def _is_integer(x: Any) -> bool:
    """To numpy a span of time is one; a bool is one to Python."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, (bool, np.timedelta64))


def _fits(x: Any) -> bool:
    return _is_integer(x) and _INT64.min <= x <= _INT64.max


_PADDED_IDS = Wanted("integers that fit int64", "an int64", _fits)
_IDS = Wanted(
    "integers that fit int64, none of them -1 (the padding of answers)",
    "an int64 but not -1",
    lambda x: _fits(x) and x != PADDING,
)
_NUMBERS = Wanted("a finite number or a column of them", "a finite number", is_finite)


def describe(x: Any) -> str:
    """What came, in a few words, for a message."""
    if isinstance(x, np.ndarray):
        return f"{x.dtype} array of shape {x.shape}"
    if is_tensor(x):
        return f"{x.dtype} tensor of shape {tuple(x.shape)} on {x.device}"
    if isinstance(x, (list, tuple)):
        return f"{type(x).__name__} of {len(x)}"
    text = shown(x)
    return text if text == type(x).__name__ else f"{type(x).__name__} {text}"


def shown(x: Any, most: int = 40) -> str:
    """Its repr on one line, cut to so many characters; its type where it has none."""
    try:
        text = " ".join(line.strip() for line in repr(x).splitlines())
    except Exception:  # the caller's own code, or an integer with too many digits to print
        return type(x).__name__
    return text if len(text) <= most else text[: most - 3] + "..."


def bad_element(name: str, place: tuple[int, ...], x: Any, wanted: str, remark: str = ",") -> InputError:
    """The error for one element of a column: where it stands, what it is, and what was wanted. `place`: () for a
    scalar."""
    if isinstance(x, (np.ndarray, list, tuple)) or is_tensor(x):
        text = describe(x)
    else:  # numpy's repr would name the type, too
        plain = isinstance(x, (np.number, np.bool_, np.datetime64, np.timedelta64))
        text = str(x) if plain else shown(x.item() if isinstance(x, np.character) else x)
    at = f"[{', '.join(map(str, place))}]" if place else ""
    return InputError(f"{name}{at}: got {text}{remark} wanted {wanted}")


def first_place(bad: Mask) -> tuple[int, ...]:
    """The index of the first element that is True."""
    return tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape)))


def wrong_type(name: str, x: Any, wanted: Wanted) -> InputError:
    """The error for a column of a wrong type: for its first element that is not fine, if its elements have types of
    their own or are numbers that are not whole; else for the whole."""
    if not isinstance(x, (list, tuple)) and not is_tensor(x):
        try:
            a = np.asarray(x)  # columns of other libraries, too: their repr has many lines
        except Exception:
            a = np.asarray(None)
        x = a if a.ndim else x
    if isinstance(x, (list, tuple)) or (isinstance(x, np.ndarray) and x.dtype.kind in "OUS"):
        try:
            found = next(((place, element) for place, element in _elements(x) if not wanted.fine(element)), None)
        except Exception:  # the caller's own code, or a list that holds itself
            found = None
        if found is not None:
            return bad_element(name, *found, wanted.one)
    if isinstance(x, np.ndarray) and x.dtype.kind == "f" and not wanted.fine(1.0):
        if (broken := ~np.isfinite(x) | (x != np.trunc(x))).any():
            return bad_element(name, place := first_place(broken), x[place], wanted.one)
        hint = 'its numbers are whole, and .astype("int64") makes integers of them'
        return InputError(f"{name}: got {describe(x)}, wanted {wanted.whole}; {hint}")
    return InputError(f"{name}: got {describe(x)}, wanted {wanted.whole}")


def _elements(x: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """(index, element) of nested lists, arrays and tensors."""
    if isinstance(x, (list, tuple)):
        for at, inner in enumerate(x):
            yield from _elements(inner, (*place, at))
    elif isinstance(x, np.ndarray) or is_tensor(x):
        for inside, inner in np.ndenumerate(array_of(x) if is_tensor(x) else x):
            yield (*place, *inside), inner
    else:
        yield place, x


def plain_array(name: str, x: Any, wanted: Wanted) -> NDArray[Any]:
    """`x` as an array of whatever type it has: a tensor, or anything that numpy understands."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InputError(f"{name}: got {describe(x)} with masked elements, wanted {wanted.whole}")
    try:
        a = array_of(x) if is_tensor(x) else np.asarray(x)
        return _as_a_list(a) if a.dtype.kind == "O" and a.ndim and not isinstance(x, (list, tuple)) else a
    except MemoryError:
        raise
    except Exception as e:  # whatever the __array__ of an unknown type raises
        if _is_plain(x) and not isinstance(e, (TypeError, ValueError, OverflowError)):
            raise  # out of a signal's handler
        raise wrong_type(name, x, wanted) from e


def _is_plain(x: Any) -> bool:
    """Is `x` made of numbers alone, so that no code of the caller's runs where it becomes an array?"""
    if isinstance(x, (list, tuple)):
        return all(type(element) in (int, float) for element in x)
    return type(x) in (int, float) or (type(x) is np.ndarray and x.dtype.kind != "O")


def _as_a_list(a: NDArray[Any]) -> NDArray[Any]:
    """What numpy makes of the elements of an array of objects; the array where they are not all numbers or times."""
    try:
        found = np.asarray(a.tolist())
    except ValueError:  # lists of several lengths
        return a
    return found if found.shape == a.shape and (found.dtype.kind in "iufbM" or not found.size) else a


def id_array(name: str, x: Any, *, padding: bool = False) -> Ids:
    """Ids of any shape as a C-contiguous int64 array that nobody else holds. -1 only where `padding` allows it."""
    wanted = _PADDED_IDS if padding else _IDS
    a = plain_array(name, x, wanted)
    if a.dtype != np.int64:
        if a.size == 0:
            a = np.empty(a.shape, np.int64)  # an empty column has no type of its own, whatever it says
        elif a.dtype.kind not in "iu":
            raise wrong_type(name, x, wanted)
        elif a.dtype.kind == "u" and a.size and a.max() > _INT64.max:
            place = first_place(a > _INT64.max)
            raise bad_element(name, place, a[place], wanted.one)
    out = np.array(a, dtype=np.int64, order="C")
    if not padding and (out == PADDING).any():
        raise bad_element(name, first_place(out == PADDING), PADDING, wanted.one)
    return out


def id_set(name: str, x: Set[Any]) -> Ids:
    """The ids of a set, in no order. -1 may be among them."""
    try:
        ids = id_array(name, list(x), padding=True)
    except InputError:
        ids = None
    if ids is None or ids.ndim != 1:  # a place would say nothing
        bad = next((element for element in x if not _fits(element)), x)
        raise InputError(f"{name}: got {shown(bad)} in a set, wanted int64s")
    return ids


def ids_or_one(name: str, x: Any) -> tuple[Ids, bool]:
    """A scalar or a column of ids as int64 [n], and whether it was a scalar."""
    a = id_array(name, x)
    if a.ndim > 1:
        raise InputError(f"{name}: got {describe(a)}, wanted a scalar or a 1-D column")
    return a.reshape(-1), a.ndim == 0


def id_column(name: str, x: Any) -> Ids:
    """A scalar or a column of ids as int64 [n]."""
    return ids_or_one(name, x)[0]


def id_column_or_set(name: str, x: Any) -> Ids:
    """A scalar, a column or a set of ids as int64 [n]; those of a set rise."""
    return np.sort(id_column(name, id_set(name, x))) if isinstance(x, Set) else id_column(name, x)


def query_vectors(name: str, x: Any, dim: int) -> tuple[Floats, bool]:
    """Finite float32 [n, dim], and whether it was one vector [dim]."""
    a = numbers(name, x)
    if a.ndim not in (1, 2) or a.shape[-1] != dim:
        raise InputError(f"{name}: got shape {a.shape}, wanted finite numbers of shape ({dim},) or (n, {dim})")
    return finite(name, a, np.float32).reshape(-1, dim), a.ndim == 1


def float_column(name: str, x: Any, n: int, dtype: Any = np.float32) -> NDArray[Any]:
    """Finite numbers [n], C-contiguous, nobody else's; a scalar counts for all n."""
    a = numbers(name, x)
    return spread(name, finite(name, a, dtype), n) if a.ndim == 0 else finite(name, spread(name, a, n), dtype)


def spread(name: str, column: NDArray[Any], n: int) -> NDArray[Any]:
    """A column [n] as it is, a scalar n times; InputError for any other shape."""
    if column.ndim == 0:
        return column.reshape(1) if n == 1 else np.full(n, column)
    if column.shape != (n,):
        raise InputError(f"{name}: got shape {column.shape}, wanted a scalar or as many as events ({n})")
    return column


def numbers(name: str, x: Any, wanted: Wanted = _NUMBERS) -> NDArray[Any]:
    """Integers or floats of any shape and width."""
    a = plain_array(name, x, wanted)
    if a.size == 0:
        return np.empty(a.shape)  # as for ids
    if a.dtype.kind not in "fiu":
        raise wrong_type(name, x, wanted)
    return a


def finite(name: str, a: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A copy of `a` as floats of `dtype`, none of them infinite there."""
    with np.errstate(over="ignore"):
        out = np.array(a, dtype=dtype, order="C")
    if not np.isfinite(out).all():
        place = first_place(~np.isfinite(out))
        raise bad_element(name, place, a[place], _NUMBERS.one)
    return out


def whole_number(name: str, x: Any, low: int, high: int, error: type[EngineError] = InputError) -> int:
    """An integer from low to high, or `error`; a bool is none."""
    if not _is_integer(x) or not low <= x <= high:
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


def callback(name: str, x: Any, of: str) -> Any:
    """A function, or None. `of`: its arguments in words. InputError."""
    if x is not None and not callable(x):
        raise InputError(f"{name}: got {describe(x)}, wanted a function of {of}")
    return x


def flag(name: str, x: Any, error: type[EngineError] = InputError) -> bool:
    if not isinstance(x, (bool, np.bool_)):
        raise error(f"{name}: got {describe(x)}, wanted True or False")
    return bool(x)


MAX_EVENTS = 65_536  # per record
