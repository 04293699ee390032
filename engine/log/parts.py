"""Named parts of a log record: columns beyond the standing ones, and operations. FORMAT.md says what each byte is.

A named column is declared here, in `COLUMNS`, and is then written, read and refused where it is not known. Pure
functions over bytes; any thread.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contract.errors import CorruptionError, EngineError, InputError


class Ragged(NamedTuple):
    """A column with any number of elements an event: those of event i are `elements[offsets[i]:offsets[i + 1]]`."""

    offsets: NDArray[np.uint32]  # [N + 1], rising from 0 to the number of elements
    elements: NDArray[Any]


Column = NDArray[Any] | Ragged


class ColumnType(NamedTuple):
    """What a column is made of. `dtype`: one of `_DTYPES`."""

    dtype: str
    ragged: bool = False


COLUMNS: dict[str, ColumnType] = {"sessions": ColumnType("<i8")}
"""Every named column that this release knows. A later one adds its line; records of before do not have it."""

FORGET_POSITION = "forget_position"
"""The one operation that is about a source, and not about ids."""

OPERATIONS = ("hide", "show", "forget", FORGET_POSITION)

_OPERATION = 0  # codes
_RAGGED = 128
_DTYPES = {1: "<i8", 2: "<u8", 3: "<f8", 4: "<i4", 5: "<u4", 6: "<f4", 7: "|u1"}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

_HEAD = struct.Struct("<BBHI")
_OFFSET = np.dtype("<u4")


def encode_operation(name: str) -> list[bytes]:
    """The part that says which operation a record is."""
    return _part(_OPERATION, name)


def encode_columns(columns: Mapping[str, Column], count: int) -> list[Any]:
    """The parts of these columns, one element an event. InputError for a column that is not as `COLUMNS` says."""
    out: list[Any] = []
    for name, column in columns.items():
        kind = COLUMNS.get(name)
        if kind is None:
            raise InputError(f"columns: {name!r}, wanted one of {', '.join(COLUMNS) or 'none'}")
        dtype = np.dtype(kind.dtype)
        code = _CODES[kind.dtype]
        if isinstance(column, Ragged):
            offsets = _checked(name, column.offsets, _OFFSET, count + 1)
            elements = _checked(name, column.elements, dtype, int(offsets[-1]))
            if not kind.ragged or not _rising(offsets):
                raise InputError(f"{name}: wanted {'offsets that rise from 0' if kind.ragged else 'no offsets'}")
            out += _part(code | _RAGGED, name, offsets, elements)
        elif kind.ragged:
            raise InputError(f"{name}: wanted offsets and elements")
        else:
            out += _part(code, name, _checked(name, column, dtype, count))
    return out


def decode_parts(body: bytes, at: int, count: int) -> tuple[str | None, dict[str, Column]]:
    """The operation, if there is one, and the columns of the parts from byte `at` to the end of `body`.

    Raises EngineError for what this release does not know, CorruptionError for what no release writes.
    """
    operation: str | None = None
    columns: dict[str, Column] = {}
    for code, name, data in _parts(body, at):
        if name in columns or name == operation:
            raise CorruptionError(f"a log record with two parts named {name!r}")
        if code == _OPERATION:
            if name not in OPERATIONS:
                raise _unknown(f"operation {name!r}")
            if operation is not None or data:
                raise CorruptionError(f"a log record with more than the operation {name!r}")
            operation = name
        else:
            columns[name] = _column(code, name, data, count)
    return operation, columns


def _column(code: int, name: str, data: memoryview, count: int) -> Column:
    kind = COLUMNS.get(name)
    if kind is None:
        raise _unknown(f"column {name!r}")
    if code != _CODES[kind.dtype] | _RAGGED * kind.ragged:
        raise _unknown(f"column {name!r} of type {code}")
    dtype = np.dtype(kind.dtype)
    if not kind.ragged:
        if len(data) != count * dtype.itemsize:
            raise CorruptionError(f"a log record of {count:,} events with {len(data):,} bytes of {name}")
        return _view(data, dtype)
    start = 4 * (count + 1)
    if len(data) < _padded(start):
        raise CorruptionError(f"a log record of {count:,} events with {len(data):,} bytes of offsets of {name}")
    offsets, rest = _view(data[:start], _OFFSET), data[_padded(start) :]
    if not _rising(offsets) or int(offsets[-1]) * dtype.itemsize != len(rest):
        raise CorruptionError(f"a log record with offsets of {name} that do not fit its {len(rest):,} bytes")
    return Ragged(offsets, _view(rest, dtype))


def _parts(body: bytes, at: int) -> Iterator[tuple[int, str, memoryview]]:
    """(code, name, data) of each part. CorruptionError where one does not end in the record."""
    whole, end = memoryview(body), len(body)
    while at < end:
        code, name_length, zero, length = _HEAD.unpack_from(body, at) if at + _HEAD.size <= end else (0, 0, 0, 0)
        start = at + _padded(_HEAD.size + name_length)
        if not name_length or zero or start + _padded(length) > end:
            raise CorruptionError(f"a log record with a part at byte {at} of its body that cannot be")
        try:
            name = str(whole[at + _HEAD.size : at + _HEAD.size + name_length], "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptionError(f"a log record with a part whose name is no text: {error}") from error
        yield code, name, whole[start : start + length]
        at = start + _padded(length)


def _part(code: int, name: str, *data: NDArray[Any]) -> list[Any]:
    """Head and name in one piece, then the data, each of them padded."""
    text = name.encode()
    length = 0
    pieces: list[Any] = []
    for n, piece in enumerate(data):
        padding = bytes(-piece.nbytes % 8)
        pieces += [piece, padding]
        length += piece.nbytes + (len(padding) if n + 1 < len(data) else 0)
    return [_HEAD.pack(code, len(text), 0, length) + text + bytes(-len(text) % 8), *pieces]


def _checked(name: str, column: NDArray[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if column.dtype != dtype or column.shape != (count,):
        raise InputError(f"{name}: {column.dtype}{list(column.shape)}, a record takes {dtype}[{count}]")
    return column if column.flags.c_contiguous else column.copy()


def _rising(offsets: NDArray[np.uint32]) -> bool:
    return bool(offsets[0] == 0 and (offsets[1:] >= offsets[:-1]).all())


def _view(data: memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)


def _padded(length: int) -> int:
    return (length + 7) & ~7


def _unknown(what: str) -> EngineError:
    return EngineError(f"log record with the {what}, which this release of Rowtide does not know")
