"""One log record as bytes, and back. FORMAT.md says what each byte is.

Writes version 2, and reads version 1, too. Pure functions over bytes: no file, no state, any thread. Whether a record
stands in the right place, order and directory is judged in segment.py. Decoded columns are read-only views of the bytes
that they were decoded from.
"""

import json
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contract.arguments import MAX_EVENTS
from ..contract.errors import CorruptionError, EngineError, InputError
from ..contract.positions import MAX_NAME_BYTES, MAX_POSITION_BYTES, check_position
from ..machine.backend import native
from .parts import FORGET_POSITION, OPERATIONS, decode_parts, encode_columns, encode_operation
from .record import Record

HEADER_BYTES = 64
MAX_RECORD_BYTES = 1 << 25  # of any version

MAGIC = b"\x89RTL"
VERSION = 2
_UNSIGNED = struct.Struct("<HHIQQQQIIQ")  # the header without magic and crc
_HEADER = struct.Struct("<4sI" + _UNSIGNED.format[1:])
_CRC = struct.Struct("<I")
_TEXT_LENGTHS = struct.Struct("<IHH")  # of position, source, settings

_VALUES, _WEIGHTS, _TIMESTAMPS, _POSITION, _SETTINGS, _OPERATION, _COLUMNS = 1, 2, 4, 8, 16, 32, 256
_TEXTS = _POSITION | _SETTINGS
_PARTS = _OPERATION | _COLUMNS
_OPERATIONS_OF_1 = {32: "hide", 64: "show", 128: "forget"}  # version 1 had bits for them, and no named parts
_ANY_OPERATION = 224  # of either version
_KNOWN = {1: 255, VERSION: _VALUES | _WEIGHTS | _TIMESTAMPS | _TEXTS | _PARTS}
# Of the standing columns, by the bits of those that are not always there.
_EVENT_BYTES = [16 + 4 * bool(b & _VALUES) + 4 * bool(b & _WEIGHTS) + 8 * bool(b & _TIMESTAMPS) for b in range(8)]
_I64 = np.dtype("<i8")
_F64 = np.dtype("<f8")
_F32 = np.dtype("<f4")


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
    last: int  # the directory's id; in version 1 the lengths of texts

    @property
    def directory_id(self) -> int | None:
        """Of the directory that the log belongs to; version 1 did not say."""
        return None if self.version == 1 else self.last

    @property
    def events(self) -> int:
        """Number of events: an operation has entries, but no event."""
        return 0 if self.columns & _ANY_OPERATION else self.entries

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


def encode_record(record: Record, *, directory_id: int, offset: int, synced_bytes: int, synced_seq: int) -> bytes:
    """The record as it will stand at `offset` of its segment, in the log of directory `directory_id`.

    `synced_bytes` (of that segment) and `synced_seq` are what is known durable now. Raises InputError when a part is
    too long, a column has another length than `users` or another dtype than int64 (ids), float32 (values, weights),
    float64 (timestamps), its own (named ones), or settings are not names with finite numbers, or something goes with an
    operation.
    """
    count = len(record.users)
    if count > MAX_EVENTS:
        raise InputError(f"users: {count:,} events, a record takes {MAX_EVENTS:,} at most")
    parts: list[Any] = [_column("users", record.users, _I64, count), _column("items", record.items, _I64, count)]
    size = HEADER_BYTES + 16 * count
    columns = 0
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
    if record.position is not None or record.settings is not None:
        bits, texts = _encode_texts(record)
        columns |= bits
        parts.append(texts)
        size += len(texts)
    if padding := -size % 8:
        parts.append(bytes(padding))
        size += padding
    if record.operation is not None or record.columns is not None:
        bits, named = _encode_parts(record, columns)
        columns |= bits
        parts += named
        size += sum(memoryview(part).nbytes for part in named)
        if size > MAX_RECORD_BYTES:
            raise InputError(f"columns: {size:,} bytes, a record takes {MAX_RECORD_BYTES:,} at most")
    try:
        unsigned = _UNSIGNED.pack(
            VERSION, columns, size, offset, synced_bytes, record.first_seq, synced_seq, count, record.batch_size,
            directory_id,
        )  # fmt: skip
    except struct.error as error:
        raise InputError(f"first_seq {record.first_seq!r}, batch_size {record.batch_size!r}: {error}") from error
    crc: int = native.crc32c(unsigned)
    for part in parts:
        crc = native.crc32c(part, crc)
    return b"".join((MAGIC, _CRC.pack(crc), unsigned, *parts))


def _encode_texts(record: Record) -> tuple[int, bytes]:
    """Bits, and lengths, source, position and settings in one piece."""
    bits, source, position, settings = 0, b"", b"", b""
    if record.position is not None:
        bits = _POSITION
        source, position = check_position(*record.position)
    if record.settings is not None:
        bits |= _SETTINGS
        settings = _settings_to_json(record.settings)
    return bits, _TEXT_LENGTHS.pack(len(position), len(source), len(settings)) + source + position + settings


def _encode_parts(record: Record, columns: int) -> tuple[int, list[Any]]:
    """Bits, and the named parts; `columns`: what else the record has."""
    if record.operation is not None:
        of_source = record.operation == FORGET_POSITION
        if of_source and (len(record.users) or record.position is None or record.position[1]):
            raise InputError(f"operation: {record.operation!r}, wanted a source, no position and no ids")
        if columns != of_source * _POSITION or record.columns is not None or record.operation not in OPERATIONS:
            raise InputError(f"operation: {record.operation!r}, wanted one of {', '.join(OPERATIONS)} and nothing else")
        return _OPERATION, encode_operation(record.operation)
    named = encode_columns(record.columns or {}, len(record.users))
    return _COLUMNS if named else 0, named


def parse_header(head: bytes, offset: int) -> Header | None:
    """The header in `head`, or None if no record can begin so at `offset`. Its crc is not looked at: see `is_whole`."""
    if len(head) != HEADER_BYTES or not head.startswith(MAGIC):
        return None
    header = Header._make(_HEADER.unpack(head))
    if not HEADER_BYTES <= header.length <= MAX_RECORD_BYTES or header.length % 8:
        return None
    # The rest means this only in known versions. A whole record of a later version must not pass for a torn one.
    return None if header.version in _KNOWN and header.offset != offset else header


def is_whole(header: Header, head: bytes, body: bytes) -> bool:
    """Whether `body` has the length and, with `head`, the crc that the header says."""
    whole: bool = native.crc32c(body, native.crc32c(head[8:])) == header.crc
    return whole and len(body) == header.length - HEADER_BYTES


def require_readable(header: Header, body: bytes) -> None:
    """Raises EngineError if a whole record is of a version, or has a part, that this release does not know.

    CorruptionError if its parts do not add up.
    """
    if header.version not in _KNOWN:
        raise EngineError(f"log record of version {header.version}; this release of Rowtide reads versions 1 and 2")
    columns, count = header.columns, header.entries
    if unknown := columns & ~_KNOWN[header.version]:
        raise EngineError(f"log record with the parts {unknown:#x}, which this release of Rowtide does not know")
    end = count * _EVENT_BYTES[columns & 7]
    named = columns & _PARTS and header.version == VERSION
    position, operation = 0, None
    if columns & _TEXTS or header.version == 1:
        end, position, source, settings = _text_lengths(header, body, end)
        end += position + source + settings
        absent = ((position or source) and not columns & _POSITION) or (settings and not columns & _SETTINGS)
        if absent or position > MAX_POSITION_BYTES:
            raise CorruptionError("a log record with texts that cannot be")
    end = (end + 7) & ~7
    if count > MAX_EVENTS or end > len(body) or (end < len(body) and not named):
        raise CorruptionError(f"a log record of {count:,} entries whose parts do not add up to its length")
    if named:
        operation, found = decode_parts(body, end, count)
        if bool(operation) != bool(columns & _OPERATION) or bool(found) != bool(columns & _COLUMNS):
            raise CorruptionError("a log record with other named parts than its header speaks of")
    if columns & _ANY_OPERATION:
        of_source = operation == FORGET_POSITION
        alone = columns in _OPERATIONS_OF_1 if header.version == 1 else columns == _OPERATION | of_source * _POSITION
        if not alone or (of_source and (count or position)):
            raise CorruptionError("a log record of an operation with more than that")


def decode_record(header: Header, body: bytes) -> Record:
    """The record of a whole and readable header and body. CorruptionError if its texts are not what we write."""
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
    position = settings = operation = named = None
    if columns & _TEXTS:
        at, position, settings = _decode_texts(header, body, at)
    if header.version == 1:
        operation = _OPERATIONS_OF_1.get(columns)
    elif columns & _PARTS:
        operation, named = decode_parts(body, (at + 7) & ~7, count)
    return Record(
        *(header.first_seq, header.batch_size, users, items, values, weights, timestamps, position, settings),
        *(operation, named or None),
    )


def _text_lengths(header: Header, body: bytes, at: int) -> tuple[int, int, int, int]:
    """Where the texts start, and the lengths of position, source and settings. `at`: the end of the columns."""
    if header.version == 1:
        return at, header.last & 0xFFFFFFFF, header.last >> 32 & 0xFFFF, header.last >> 48
    start = at + _TEXT_LENGTHS.size
    return (start, *_TEXT_LENGTHS.unpack_from(body, at)) if start <= len(body) else (start, 0, 0, 0)


def _decode_texts(
    header: Header, body: bytes, at: int
) -> tuple[int, tuple[str, bytes] | None, dict[str, float | int] | None]:
    """Where the texts end, the position, the settings."""
    at, position_length, source_length, settings_length = _text_lengths(header, body, at)
    middle = at + source_length
    end = middle + position_length
    try:
        position = (body[at:middle].decode(), body[middle:end]) if header.columns & _POSITION else None
        settings = _settings_from_json(body[end : end + settings_length]) if header.columns & _SETTINGS else None
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"log record with unreadable text: {error}", seq=header.first_seq) from error
    return end + settings_length, position, settings


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
