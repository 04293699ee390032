"""One log record as bytes, and back. FORMAT.md says what each byte is.

Pure functions over bytes: no file, no state, any thread. Whether a record stands in the right place and order is
judged in segment.py. Decoded columns are read-only views of the bytes that they were decoded from.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contract.arguments import MAX_EVENTS, MAX_NAME_BYTES, MAX_POSITION_BYTES, check_position
from ..contract.arrays import NO_IDS, PADDING, Ids
from ..contract.errors import CorruptionError, EngineError, InputError
from ..contract.events import Events
from ..machine.backend import native

HEADER_BYTES = 64
MAX_RECORD_BYTES = HEADER_BYTES + 32 * MAX_EVENTS + MAX_POSITION_BYTES + 2 * MAX_NAME_BYTES + 8

MAGIC = b"\x89RTL"
VERSION = 1
_UNSIGNED = struct.Struct("<HHIQQQQIIIHH")  # the header without magic and crc
_HEADER = struct.Struct("<4sI" + _UNSIGNED.format[1:])
_CRC = struct.Struct("<I")

_VALUES, _WEIGHTS, _TIMESTAMPS, _POSITION, _SETTINGS = 1, 2, 4, 8, 16
_OPERATIONS = {"hide": 32, "show": 64, "forget": 128}
_OPERATION = 224  # any of them
_ALL_COLUMNS = 255
_I64 = np.dtype("<i8")
_F64 = np.dtype("<f8")
_F32 = np.dtype("<f4")


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A run of events [N], N <= 65,536, with what goes with them; or no event, but settings, a position, an operation.

    `first_seq` is the seq of the first event (events count from 1); without events, the seq that the next one will
    have. `position` is (name of a source, how far it was read). Columns are one-dimensional, all of length N.
    `operation` is "hide", "show" or "forget": then `users` and `items` are what it is about, filled up with -1 to the
    same length, and nothing else is there.
    """

    first_seq: int
    batch_size: int
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    timestamps: NDArray[np.float64] | None = None
    position: tuple[str, bytes] | None = None
    settings: dict[str, float | int] | None = None
    operation: str | None = None

    @property
    def count(self) -> int:
        """Number of events."""
        return 0 if self.operation else len(self.users)

    @property
    def last_seq(self) -> int:
        """Seq of the last event; without events, that of the event before."""
        return self.first_seq + self.count - 1


class Header(NamedTuple):
    """The first 64 bytes of a record, field by field as FORMAT.md has them."""

    magic: bytes
    crc: int
    version: int
    columns: int
    length: int
    offset: int
    synced_bytes: int
    first_seq: int
    synced_seq: int
    entries: int
    batch_size: int
    position_length: int
    source_length: int
    settings_length: int

    @property
    def events(self) -> int:
        """Number of events: an operation has entries, but no event."""
        return 0 if self.columns & _OPERATION else self.entries

    @property
    def last_seq(self) -> int:
        """Seq of the last event; without events, that of the event before."""
        return self.first_seq + self.events - 1

    @property
    def reach(self) -> int:
        """The highest state, as a seq, that still lacks something of this record: replay after a lower one needs it.

        A record without events counts as far as the event that it stands before: it may have come after a state at
        `first_seq - 1` was saved.
        """
        return max(self.first_seq, self.last_seq)


def encode_record(record: Record, *, offset: int, synced_bytes: int, synced_seq: int) -> bytes:
    """The record as it will stand at `offset` of its segment.

    `synced_bytes` (of that segment) and `synced_seq` are what is known durable now. Raises InputError when a part is
    too long, a column has another length than `users` or another dtype than int64 (ids), float32 (values, weights),
    float64 (timestamps), or settings are not names with finite numbers, or something goes with an operation.
    """
    count = len(record.users)
    if count > MAX_EVENTS:
        raise InputError(f"users: {count:,} events, a record takes {MAX_EVENTS:,} at most")
    parts: list[Any] = [_column("users", record.users, _I64, count), _column("items", record.items, _I64, count)]
    size = HEADER_BYTES + 16 * count
    columns = position_length = source_length = settings_length = 0
    if record.timestamps is not None:
        columns |= _TIMESTAMPS
        parts.append(_column("timestamps", record.timestamps, _F64, count))
        size += 8 * count
    if record.values is not None:
        columns |= _VALUES
        parts.append(_column("values", record.values, _F32, count))
        size += 4 * count
    if record.weights is not None:
        columns |= _WEIGHTS
        parts.append(_column("weights", record.weights, _F32, count))
        size += 4 * count
    if record.position is not None:
        columns |= _POSITION
        source, position = check_position(*record.position)
        source_length, position_length = len(source), len(position)
        parts += (source, position)
        size += source_length + position_length
    if record.settings is not None:
        columns |= _SETTINGS
        text = _settings_to_json(record.settings)
        settings_length = len(text)
        parts.append(text)
        size += settings_length
    if record.operation is not None:
        if columns or record.operation not in _OPERATIONS:
            raise InputError(
                f"operation: {record.operation!r}, wanted one of {', '.join(_OPERATIONS)} and nothing else"
            )
        columns = _OPERATIONS[record.operation]
    if padding := -size % 8:
        parts.append(bytes(padding))
        size += padding
    try:
        unsigned = _UNSIGNED.pack(
            VERSION, columns, size, offset, synced_bytes, record.first_seq, synced_seq, count, record.batch_size,
            position_length, source_length, settings_length,
        )  # fmt: skip
    except struct.error as error:
        raise InputError(f"first_seq {record.first_seq!r}, batch_size {record.batch_size!r}: {error}") from error
    crc: int = native.crc32c(unsigned)
    for part in parts:
        crc = native.crc32c(part, crc)
    return b"".join((MAGIC, _CRC.pack(crc), unsigned, *parts))


def parse_header(head: bytes, offset: int) -> Header | None:
    """The header in `head`, or None if no record can begin so at `offset`. Its crc is not looked at: see `is_whole`."""
    if len(head) != HEADER_BYTES or not head.startswith(MAGIC):
        return None
    header = Header._make(_HEADER.unpack(head))
    if not HEADER_BYTES <= header.length <= MAX_RECORD_BYTES or header.length % 8:
        return None
    # The rest means this only in version 1. A whole record of a later version must not pass for a torn one.
    if header.version == VERSION and (header.offset != offset or header.length != _length(header)):
        return None
    return header


def is_whole(header: Header, head: bytes, body: bytes) -> bool:
    """Whether `body` has the length and, with `head`, the crc that the header says.

    Raises EngineError if it does, but the record is of a version that this release cannot read.
    """
    if len(body) != header.length - HEADER_BYTES or native.crc32c(body, native.crc32c(head[8:])) != header.crc:
        return False
    if header.version != VERSION:
        raise EngineError(f"log record of version {header.version}; this release of Rowtide reads version {VERSION}")
    return True


def decode_record(header: Header, body: bytes) -> Record:
    """The record of a whole header and body. Raises CorruptionError if its texts are not what encode_record writes."""
    count, columns, at = header.entries, header.columns, 16 * header.entries
    users, items = _view(body, _I64, count, 0), _view(body, _I64, count, 8 * count)
    timestamps = values = weights = None
    if columns & _TIMESTAMPS:
        timestamps = _view(body, _F64, count, at)
        at += 8 * count
    if columns & _VALUES:
        values = _view(body, _F32, count, at)
        at += 4 * count
    if columns & _WEIGHTS:
        weights = _view(body, _F32, count, at)
        at += 4 * count
    position = settings = None
    try:
        if columns & _POSITION:
            middle = at + header.source_length
            end = middle + header.position_length
            position = (body[at:middle].decode(), body[middle:end])
            at = end
        if columns & _SETTINGS:
            settings = _settings_from_json(body[at : at + header.settings_length])
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"log record with unreadable text: {error}", seq=header.first_seq) from error
    operation = next((name for name, bit in _OPERATIONS.items() if columns == bit), None)
    return Record(
        *(header.first_seq, header.batch_size, users, items, values, weights, timestamps, position, settings),
        operation,
    )


def require_sound(record: Record) -> None:
    """Raises CorruptionError for events that no engine can have logged, whatever the crc says."""
    floats = [column for column in (record.values, record.weights, record.timestamps) if column is not None]
    # In an operation -1 fills up the shorter column.
    no_id = record.operation is None and ((record.users == -1).any() or (record.items == -1).any())
    if no_id or not all(np.isfinite(c).all() for c in floats):
        raise CorruptionError("a log record holds events that nobody can have given", seq=record.first_seq)
    if record.weights is not None and (record.weights < 0).any():
        raise CorruptionError("a log record holds negative weights", seq=record.first_seq)


def _length(header: Header) -> int:
    """What the parts of a version 1 record add up to; 0 if no such record can be."""
    columns = header.columns
    texts = header.source_length + header.position_length
    if columns & ~_ALL_COLUMNS or header.entries > MAX_EVENTS or header.position_length > MAX_POSITION_BYTES:
        return 0
    if columns & _OPERATION and columns not in _OPERATIONS.values():
        return 0
    if (texts and not columns & _POSITION) or (header.settings_length and not columns & _SETTINGS):
        return 0
    width = 16 + 8 * bool(columns & _TIMESTAMPS) + 4 * bool(columns & _VALUES) + 4 * bool(columns & _WEIGHTS)
    return (HEADER_BYTES + width * header.entries + texts + header.settings_length + 7) & ~7


def _column(name: str, column: NDArray[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if column.dtype != dtype or column.shape != (count,):
        raise InputError(f"{name}: {column.dtype}{list(column.shape)}, a record takes {dtype}[{count}]")
    return column if column.flags.c_contiguous else column.copy()


def _view(body: bytes, dtype: np.dtype[Any], count: int, at: int) -> NDArray[Any]:
    return np.frombuffer(body, dtype, count, at) if count else np.empty(0, dtype)


def _settings_to_json(settings: dict[str, float | int]) -> bytes:
    if not all(type(name) is str and type(value) in (int, float) for name, value in settings.items()):
        raise InputError(f"settings: {settings!r}, wanted names with numbers")
    try:
        text = json.dumps(settings, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    except ValueError as error:
        raise InputError(f"settings: {settings!r}: {error}") from error
    if len(text) > MAX_NAME_BYTES:
        raise InputError(f"settings: {len(text):,} bytes, a record takes {MAX_NAME_BYTES:,} at most")
    return text


def _settings_from_json(text: bytes) -> dict[str, float | int]:
    settings = json.loads(text)
    if not isinstance(settings, dict) or not all(type(value) in (int, float) for value in settings.values()):
        raise ValueError("settings are not names with numbers")
    return settings


def records(events: Events, first_seq: int, batch_size: int, position: tuple[str, bytes] | None) -> Iterator[Record]:
    """One call's events as records of at most MAX_EVENTS; a position alone, without events, is a record too."""
    for start in range(0, len(events), MAX_EVENTS):
        part = events.cut(start, start + MAX_EVENTS)
        yield Record(
            first_seq + start,
            batch_size,
            part.users,
            part.items,
            values=part.values,
            weights=part.weights,
            timestamps=part.timestamps,
            position=position,
        )
    if not len(events) and position is not None:
        yield Record(first_seq, batch_size, NO_IDS, NO_IDS, position=position)


def operations(kind: str, users: Ids, items: Ids, first_seq: int, batch_size: int) -> Iterator[Record]:
    """One call's operation on ids as records of at most MAX_EVENTS ids a side."""
    for start in range(0, max(len(users), len(items)), MAX_EVENTS):
        sides = [column[start : start + MAX_EVENTS] for column in (users, items)]
        n = max(map(len, sides))
        users_part, items_part = (np.pad(side, (0, n - len(side)), constant_values=PADDING) for side in sides)
        yield Record(first_seq, batch_size, users_part, items_part, operation=kind)
