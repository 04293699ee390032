"""Events from a Parquet, CSV or JSON Lines file, in the file's order, in blocks cut at absolute rows, with a place to
go on from.

Responsible for which rows of the file are events, for their columns as numpy arrays, and for what a stored position
says. Not for learning or judging them (replay.py).

Invariants: block boundaries are multiples of CALL_ROWS file rows, wherever reading starts; a row is in exactly one
block. A position is only accepted for the file and the columns that it was made with. Nothing is written. One thread
at a time.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from ..contract.arguments import choice
from ..contract.errors import InputError
from ..contract.times import timestamp_column
from ..evaluate.prequential import CALL_ROWS
from . import where as condition
from .replay import EventBlock

__all__ = ["Columns", "EventFile"]

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}
_FORMATS |= {".jsonl": "json", ".ndjson": "json", ".json": "json"}
_POSITION = struct.Struct("<Q8s8s")  # file rows done, digest of the file's length and beginning, digest of the columns
_HEAD_BYTES = 65_536
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True)
class Columns:
    """Names of the file's columns; `where`: the rows that are events (see where.py), None: all. `time_unit`: of times
    that are numbers, "s", "ms", "us" or "ns"."""

    user: str
    item: str
    value: str | None = None
    time: str | None = None
    basket: str | None = None
    where: str | None = None
    time_unit: str = "s"


class EventFile:
    """A file of events, as a `Source`. The suffix says its format: .parquet .pq .csv .jsonl .ndjson .json (one object a
    line).

    Raises InputError if the file is not there or is not of its format, lacks a named column, or has ids that are not
    integers.
    """

    def __init__(self, path: str | Path, columns: Columns) -> None:
        self.path, self.columns = Path(path), columns
        choice("time_unit", columns.time_unit, tuple(_PER_SECOND))
        self._where = condition.parse(columns.where) if columns.where is not None else None
        kind = _FORMATS.get(self.path.suffix.lower())
        if kind is None:
            raise InputError(f"file: got {self.path}, wanted a name that ends in one of {' '.join(_FORMATS)}")
        try:
            with open(self.path, "rb") as file:
                head = file.read(_HEAD_BYTES)
            self._data = ds.dataset(str(self.path), format=kind)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"file: {self.path} cannot be read as {kind}: {_line(error)}") from error
        named = [columns.user, columns.item, columns.value, columns.time, columns.basket]
        self._names = sorted({n for n in named if n is not None} | set(self._where.columns if self._where else ()))
        schema = self._data.schema
        for name in self._names:
            if len(schema.get_all_field_indices(name)) != 1:
                raise InputError(f"column: got {name!r}, wanted one of {', '.join(schema.names)}")
        for name in (columns.user, columns.item):
            kind_of_id = schema.field(name).type
            if not pa.types.is_integer(kind_of_id) and not pa.types.is_null(kind_of_id):
                raise InputError(f"column: {name!r} has type {kind_of_id}; ids must be integers")
        self._file_digest = _digest(str(self.path.stat().st_size).encode(), head)
        # The basket is not among them: it decides who is asked when, never what is learned.
        what = (columns.user, columns.item, columns.value, str(self._where) if self._where else None)
        self._column_digest = _digest(repr(what).encode())

    def total(self) -> int | None:
        """Rows of the file, where that is known without reading it."""
        return int(self._data.count_rows()) if self._data.format.default_extname == "parquet" else None

    def position(self, row: int) -> bytes:
        """24 bytes that say: file rows [0, row) are done, of this file under these columns."""
        return _POSITION.pack(row, self._file_digest, self._column_digest)

    def row_of(self, position: bytes | None) -> int:
        """The row that `position` says to go on at; 0 without one. InputError if it is of another file or columns."""
        if position is None:
            return 0
        if len(position) != _POSITION.size:
            raise InputError(f"source: the position stored for it has {len(position)} bytes and is not one of a file")
        row, file_digest, column_digest = _POSITION.unpack(position)
        if file_digest != self._file_digest:
            raise InputError(f"file: {self.path} is not the file that row {row:,} was reached in; it has changed since")
        if column_digest != self._column_digest:
            raise InputError(f"columns: row {row:,} of {self.path} was reached with another user, item, value or where")
        return int(row)

    def blocks(self, start: int = 0) -> Iterator[EventBlock]:
        """The blocks from file row `start` on. InputError, with the row, for what is no event and cannot be skipped."""
        for at, table in self._tables():
            stop = at + table.num_rows
            if stop > start:
                skip = max(start - at, 0)
                yield self._block(at + skip, table.slice(skip))

    def _tables(self) -> Iterator[tuple[int, Any]]:
        """(first row, table) cut at multiples of CALL_ROWS."""
        held: list[Any] = []
        at = held_rows = 0
        try:
            for batch in self._data.to_batches(columns=self._names, batch_size=CALL_ROWS):
                while batch.num_rows:
                    part = batch.slice(0, CALL_ROWS - held_rows)
                    batch = batch.slice(part.num_rows)
                    held.append(part)
                    held_rows += part.num_rows
                    if held_rows == CALL_ROWS:
                        yield at, pa.Table.from_batches(held)
                        at, held_rows, held = at + held_rows, 0, []
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"file: {self.path} cannot be read after row {at:,}: {_line(error)}") from error
        if held:
            yield at, pa.Table.from_batches(held)

    def _block(self, start: int, table: Any) -> EventBlock:
        kept = np.ones(table.num_rows, bool)
        if self._where is not None:
            kept = self._where.mask(table).to_numpy()
        filtered = int(table.num_rows - kept.sum())
        users, items = self._ids(table, self.columns.user), self._ids(table, self.columns.item)
        kept &= (users != -1) & (items != -1)
        rows = start + np.flatnonzero(kept)
        skipped = table.num_rows - filtered - len(rows)

        def column(name: str | None) -> NDArray[Any] | None:
            return None if name is None else _plain(name, table[name].filter(pa.array(kept)), rows)

        values, times = column(self.columns.value), column(self.columns.time)
        if values is not None:
            values = _numbers("value", self.columns.value, values, "iufb").astype(np.float64)
        if times is not None:
            times = self._seconds(_numbers("time", self.columns.time, times, "iufM"), start)
        baskets = column(self.columns.basket)
        stop = start + table.num_rows
        return EventBlock(start, stop, rows, users[kept], items[kept], values, times, baskets, filtered, skipped)

    def _seconds(self, times: NDArray[Any], start: int) -> NDArray[Any]:
        """Times that `ingest` takes."""
        if times.dtype.kind != "M" and self.columns.time_unit != "s":
            times = times / _PER_SECOND[self.columns.time_unit]
        try:
            timestamp_column(times, len(times))
        except InputError as error:
            where = f"column: {self.columns.time!r}, from file row {start:,} on"
            raise InputError(f"{where}: {error}; another time_unit?") from error
        return times

    def _ids(self, table: Any, name: str) -> NDArray[np.int64]:
        try:
            ids: NDArray[np.int64] = table[name].cast(pa.int64()).fill_null(-1).to_numpy()
        except pa.ArrowException as error:
            raise InputError(f"column: {name!r} has ids that do not fit into int64: {_line(error)}") from error
        return ids


def _plain(name: str, column: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """A column without nulls as a numpy array."""
    if column.null_count:
        missing = column.is_null().to_numpy()
        raise InputError(f"column: {name!r} is null in file row {rows[missing.argmax()]:,}; leave it out with where")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    plain: NDArray[Any] = column.to_numpy()
    return plain


def _numbers(role: str, name: str | None, column: NDArray[Any], kinds: str) -> NDArray[Any]:
    if len(column) and column.dtype.kind not in kinds:
        raise InputError(f"column: {name!r} came as {role}, but holds neither numbers nor times")
    return column


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).digest()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
