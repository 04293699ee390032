"""Events from a Parquet, CSV or JSON Lines file, in the file's order, in blocks cut at absolute rows, with a place to
go on from.

Responsible for which rows of the file are events, for their columns as numpy arrays, and for what a stored position
says. Not for learning or judging them (replay.py).

Invariants: block boundaries are multiples of CALL_ROWS file rows, wherever reading starts; a row is in exactly one
block. A position is only accepted for the columns that it was made with, and where the rows that it counts as done are
the same; what follows them may have changed or grown. Nothing is written. One thread at a time.
"""

import hashlib
import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.json
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
# File rows done; of how many the contents are compared; digests: the columns' names, the first rows, the compared ones.
_POSITION = struct.Struct("<QQ8s8s16s")
_OLD_POSITION = struct.Struct("<Q8s8s")  # rows done, digests of the file's length and beginning and of the columns
_FIRST_ROWS = 4096  # two files that begin with the same are taken for one
_MOST_NESTED = 2_000  # brackets of a line of JSON that are not closed again; Arrow's parser has no limit but the stack
_ROLES = ("user", "item", "value", "time", "basket")  # of columns, the ids first
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
        if not self.path.exists():
            raise InputError(f"file: {self.path} is not there")
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:  # Arrow takes no other
            raise InputError(f"file: got {str(self.path)!r}, wanted a name in UTF-8") from error
        if self.path.is_dir():
            raise InputError(f"file: {self.path} is a folder")
        try:
            self._data = _read_json(self.path) if kind == "json" else ds.dataset(str(self.path), format=kind)
            there = self._data.schema.names  # fails where names are no UTF-8, as in a compressed file
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise InputError(f"file: {self.path} cannot be read as {kind}: {_line(error)}") from error
        named = [(role, getattr(columns, role)) for role in _ROLES]
        named += [("where", name) for name in (self._where.columns if self._where else ())]
        self._names = sorted({name for _, name in named if name is not None})
        schema = self._data.schema
        for role, name in named:
            if name is not None and len(schema.get_all_field_indices(name)) != 1:
                raise InputError(f"{role}: got {name!r}, wanted one of the columns {', '.join(there)}")
        for role, name in named[:2]:
            kind_of_id = schema.field(name).type
            if not pa.types.is_integer(kind_of_id) and not pa.types.is_null(kind_of_id):
                raise InputError(f"{role}: the column {name!r} has type {kind_of_id}; ids must be integers")
        # The basket is not among them: it decides who is asked when, never what is learned.
        what = (columns.user, columns.item, columns.value, str(self._where) if self._where else None)
        self._column_digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
        self._counted = kind == "parquet"
        self._first_rows = np.empty((0, 0), np.int64)  # what is compared of them
        self._read = {0: _contents().digest()}  # rows: digest of them, wherever a block has ended
        self._learned = 0, 0, self._read[0]  # rows that an earlier run reached; that are compared, and their digest

    def total(self) -> int | None:
        """Rows of the file, where that is known without reading it."""
        return int(self._data.count_rows()) if self._counted else None

    def position(self, row: int) -> bytes:
        """48 bytes that say: file rows [0, row), which have been read, are done, under these columns."""
        compared = max(stop for stop in self._read if stop <= row)
        return _POSITION.pack(row, compared, self._column_digest, self._first(_FIRST_ROWS), self._read[compared])

    def _first(self, rows: int) -> bytes:
        """Digest of the first rows, of so many at most."""
        return bytes(_contents(self._first_rows[:rows].tobytes()).digest()[:8])

    def row_of(self, position: bytes | None) -> int:
        """The row that `position` says to go on at; 0 without one. InputError if it is of other columns.

        `blocks` then raises InputError if the rows before it are not those that were learned.
        """
        if position is None:
            return 0
        if len(position) == _OLD_POSITION.size:
            row, _, columns = _OLD_POSITION.unpack(position)
        elif len(position) == _POSITION.size:
            row, compared, columns, _, digest = _POSITION.unpack(position)
            self._learned = row, compared, digest
        else:
            raise InputError(f"source: the position stored for it has {len(position)} bytes and is not one of a file")
        if columns != self._column_digest:
            raise InputError(f"columns: row {row:,} of {self.path} was reached with another user, item, value or where")
        return int(row)

    def twin(self, positions: Mapping[str, bytes]) -> str | None:
        """The source among these that has learned the first rows of this file under these columns.

        A file that is shorter than what it was compared by is taken for another one.
        """
        known = {name: _POSITION.unpack(x) for name, x in positions.items() if len(x) == _POSITION.size}
        if known:
            next(self.blocks(), None)
        for name, (_, compared, columns, first, _) in known.items():
            if compared and columns == self._column_digest and first == self._first(compared):
                return name
        return None

    def blocks(self, start: int = 0) -> Iterator[EventBlock]:
        """The blocks from file row `start` on. InputError, with the row, for what is no event and cannot be skipped."""
        contents, (reached, learned, digest) = _contents(), self._learned
        stop = 0
        for at, table in self._tables():
            stop = at + table.num_rows
            rows = self._contents(table)
            if at == 0:
                self._first_rows = rows[:_FIRST_ROWS].copy()
            if at <= learned <= stop:
                before = contents.copy()
                before.update(rows[: learned - at].tobytes())
                if before.digest() != digest:
                    raise InputError(
                        f"file: the first {learned:,} rows of {self.path} have changed since they were learned"
                    )
            contents.update(rows.tobytes())
            self._read[stop] = contents.digest()
            if stop > start:
                skip = max(start - at, 0)
                yield self._block(at + skip, table.slice(skip))
        if stop < reached:
            raise InputError(
                f"file: {self.path} has {stop:,} rows, and row {reached:,} was reached; it has changed since"
            )

    def _contents(self, table: Any) -> NDArray[np.int64]:
        """What is learned of each row, as numbers that are compared: user, item, whether it is an event, value."""
        columns = [self._ids(table, "user"), self._ids(table, "item")]
        columns.append((self._kept(table)).astype(np.int64))
        if self.columns.value is not None:
            values = table[self.columns.value]
            try:
                numbers = values.cast(pa.float64()).fill_null(np.nan).to_numpy()
            except pa.ArrowException:
                numbers = np.zeros(table.num_rows)  # no numbers: refused where they are read
            columns.append(numbers.view(np.int64))
        return np.column_stack(columns)

    def _kept(self, table: Any) -> NDArray[np.bool_]:
        """Which rows the condition takes for events."""
        if self._where is None:
            return np.ones(table.num_rows, bool)
        mask: NDArray[np.bool_] = self._where.mask(table).to_numpy()
        return mask

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
        kept = self._kept(table)
        filtered = int(table.num_rows - kept.sum())
        users, items = self._ids(table, "user"), self._ids(table, "item")
        kept &= (users != -1) & (items != -1)
        rows = start + np.flatnonzero(kept)
        skipped = table.num_rows - filtered - len(rows)

        def column(role: str) -> NDArray[Any] | None:
            name = getattr(self.columns, role)
            return None if name is None else _plain(role, name, table[name].filter(pa.array(kept)), rows)

        values, times = column("value"), column("time")
        if values is not None:
            values = _numbers("value", self.columns.value, values, "iufb").astype(np.float64)
        if times is not None:
            times = self._seconds(_numbers("time", self.columns.time, times, "iufM"), start)
        baskets = column("basket")
        stop = start + table.num_rows
        return EventBlock(start, stop, rows, users[kept], items[kept], values, times, baskets, filtered, skipped)

    def _seconds(self, times: NDArray[Any], start: int) -> NDArray[Any]:
        """Times that `ingest` takes."""
        if times.dtype.kind != "M" and self.columns.time_unit != "s":
            times = times / _PER_SECOND[self.columns.time_unit]
        try:
            timestamp_column(times, len(times))
        except InputError as error:
            where = f"time: the column {self.columns.time!r}, from file row {start:,} (counted from 0) on"
            raise InputError(f"{where}: {error}; another time_unit?") from error
        return times

    def _ids(self, table: Any, role: str) -> NDArray[np.int64]:
        name = getattr(self.columns, role)
        try:
            ids: NDArray[np.int64] = table[name].cast(pa.int64()).fill_null(-1).to_numpy()
        except pa.ArrowException as error:
            raise InputError(
                f"{role}: the column {name!r} has ids that do not fit into int64: {_line(error)}"
            ) from error
        return ids


def _plain(role: str, name: str, column: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """A column without nulls as a numpy array."""
    if column.null_count:
        missing = column.is_null().to_numpy()
        row = f"file row {rows[missing.argmax()]:,}, counted from 0"
        raise InputError(f"{role}: the column {name!r} is null in {row}; leave it out with where")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    plain: NDArray[Any] = column.to_numpy()
    return plain


def _numbers(role: str, name: str | None, column: NDArray[Any], kinds: str) -> NDArray[Any]:
    if len(column) and column.dtype.kind not in kinds:
        raise InputError(f"{role}: the column {name!r} holds neither numbers nor times")
    return column


def _contents(rows: bytes = b"") -> Any:
    return hashlib.blake2b(rows, digest_size=16)


def _read_json(path: Path) -> Any:
    """The lines as a dataset. Arrow reads no row of a single line that does not end."""
    if _checked_lines(path):
        return ds.dataset(str(path), format="json")
    line = path.read_bytes()
    return (
        ds.dataset(pyarrow.json.read_json(io.BytesIO(line + b"\n"))) if line else ds.dataset(str(path), format="json")
    )


def _checked_lines(path: Path) -> int:
    """How many lines end. Refuses JSON so deep that Arrow's parser would leave its stack, and the process with it."""
    depth = lines = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            byte = np.frombuffer(chunk, np.uint8)
            opens, closes = (byte == ord("[")) | (byte == ord("{")), (byte == ord("]")) | (byte == ord("}"))
            depths = depth + np.cumsum(opens.astype(np.int32) - closes)
            ends = np.flatnonzero(byte == ord("\n"))  # of lines, each an object of its own
            lines += len(ends)
            depths -= np.repeat(np.append(0, depths[ends]), np.diff(ends, prepend=0, append=len(byte)))
            if depths.max() > _MOST_NESTED:
                raise InputError(f"file: {path} has JSON that is nested more than {_MOST_NESTED:,} deep")
            depth = int(depths[-1])
    return lines


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
