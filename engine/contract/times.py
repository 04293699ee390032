"""Times: what `timestamps` may be, as Unix seconds. Any thread."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import (
    Wanted,
    bad_element,
    describe,
    finite,
    first_place,
    is_finite,
    numbers,
    plain_array,
    spread,
    wrong_type,
)
from .errors import InputError

_NAME = "timestamps"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
_RECENT = datetime(1990, 1, 1, tzinfo=UTC).timestamp()
_UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_MOST_YEARS = 290_000  # numpy's seconds reach much further
_BELOW_MICROSECONDS = ("ps", "fs", "as")  # numpy cannot say their year, and none reaches beyond 1970


_TEXT = "Unix seconds, datetime64 or datetimes, from 1970 to 2199"
_WANTED = Wanted(_TEXT, _TEXT, lambda x: isinstance(x, datetime) or is_finite(x))


def timestamp_column(x: Any, n: int) -> NDArray[np.float64]:
    """Unix seconds [n] of a column, or of one time for all. InputError for what is no time from 1970 to 2199.

    Takes numbers; datetime64 of any unit; Python's datetimes, and columns of pandas. A time without a zone is UTC.
    """
    a = _array(x)
    if a.dtype.kind == "M":
        seconds = _of_datetime64(a)
    elif a.dtype.kind == "O":
        seconds = _of_datetimes(a)
    else:
        seconds = finite(_NAME, numbers(_NAME, a if a.dtype.kind in "fiu" or not a.size else x, _WANTED), np.float64)
    if seconds.size and not (seconds.min() >= 0 and seconds.max() < _END):
        place = first_place((seconds < 0) | (seconds >= _END))
        raise _out_of_range(place, a[place], float(seconds[place]))
    return spread(_NAME, seconds, n)


def _array(x: Any) -> NDArray[Any]:
    try:
        zone = x.dtype.tz  # a column of pandas, which numpy would make a datetime of Python for each element
    except Exception:
        return plain_array(_NAME, x, _WANTED)
    try:
        return np.asarray(x, None if zone is None else "datetime64[us]")  # in UTC
    except Exception as e:
        raise InputError(f"{_NAME}: got {describe(x)}, wanted {_WANTED.one}") from e


def _of_datetime64(a: NDArray[Any]) -> NDArray[np.float64]:
    if (none := np.isnat(a)).any():
        raise bad_element(_NAME, first_place(none), np.datetime64("NaT"), _WANTED.one)
    if np.datetime_data(a.dtype)[0] not in _BELOW_MICROSECONDS:
        years = a.astype("datetime64[Y]").astype(np.int64)  # since 1970; microseconds would overflow far off
        if (far := (years < 0) | (years >= 230)).any():
            place = first_place(far)
            near = -_MOST_YEARS < years[place] < _MOST_YEARS
            raise _out_of_range(
                place, a[place], float(a[place].astype("datetime64[s]").astype(np.int64)) if near else 0
            )
    seconds: NDArray[np.float64] = a.astype("datetime64[us]").astype(np.int64) / 1e6
    return seconds


def _of_datetimes(a: NDArray[Any]) -> NDArray[np.float64]:
    microseconds = np.empty(a.shape, np.int64)
    for place, element in np.ndenumerate(a):
        if not isinstance(element, datetime):
            raise wrong_type(_NAME, a, _WANTED)
        since = _microseconds(element)
        if since is None:
            raise bad_element(_NAME, place, element, _WANTED.one)
        microseconds[place] = since
    return microseconds / 1e6


def _microseconds(x: datetime) -> int | None:
    """Since 1970; None of what is no moment."""
    try:
        aware = x if x.utcoffset() is not None else x.replace(tzinfo=UTC)
        since = (aware - _EPOCH) // timedelta(microseconds=1)
    except Exception:  # a zone is the caller's own code
        return None
    return since if isinstance(since, int) else None  # pandas' NaT is a datetime, and gives NaN


def _out_of_range(place: tuple[int, ...], x: Any, seconds: float) -> InputError:
    """With a hint, where another unit makes a likely time of it."""
    for unit, factor in _UNITS.items():
        if _RECENT <= seconds / factor < _END:
            day = datetime.fromtimestamp(seconds / factor, UTC).date()
            return bad_element(_NAME, place, x, "Unix seconds", f", which is {day} in {unit};")
    return bad_element(_NAME, place, x, _WANTED.one)
