"""One log record: what a call becomes in the log. Its bytes are encoding.py's.

Also how calls are cut into records, and which events no call can have brought. Any thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..contract.arguments import MAX_EVENTS
from ..contract.arrays import NO_IDS, PADDING, Ids
from ..contract.errors import CorruptionError
from ..contract.events import Events
from .parts import FORGET_POSITION, Column, Ragged


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A run of events [N], N <= 65,536, with what goes with them; or no event, but settings, a position, an operation.

    `first_seq` is the seq of the first event (events count from 1); without events, the seq that the next one will
    have. `position` is (name of a source, how far it was read). Columns are one-dimensional, all of length N.
    `operation` is one of `parts.OPERATIONS`: then `users` and `items` are what it is about, filled up with -1 to the
    same length, and nothing else is there; for "forget_position" only `position` is, with the source and no bytes.
    `columns` are those of `parts.COLUMNS`, as far as these events have them.
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
    columns: dict[str, Column] | None = None

    @property
    def count(self) -> int:
        """Number of events."""
        return 0 if self.operation else len(self.users)

    @property
    def last_seq(self) -> int:
        """Seq of the last event; without events, that of the event before."""
        return self.first_seq + self.count - 1


def require_sound(record: Record) -> None:
    """Raises CorruptionError for events that no engine can have logged, whatever the crc says."""
    floats = [column for column in (record.values, record.weights, record.timestamps) if column is not None]
    for column in (record.columns or {}).values():
        elements = column.elements if isinstance(column, Ragged) else column
        if elements.dtype.kind == "f":
            floats.append(elements)
    # In an operation -1 fills up the shorter column.
    no_id = record.operation is None and ((record.users == -1).any() or (record.items == -1).any())
    if no_id or not all(np.isfinite(c).all() for c in floats):
        raise CorruptionError("a log record holds events that nobody can have given", seq=record.first_seq)
    if record.weights is not None and (record.weights < 0).any():
        raise CorruptionError("a log record holds negative weights", seq=record.first_seq)


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
            columns=None if part.sessions is None else {"sessions": part.sessions},
        )
    if not len(events) and position is not None:
        yield Record(first_seq, batch_size, NO_IDS, NO_IDS, position=position)


def follow_position(positions: dict[str, bytes], record: Record) -> None:
    """Moves the position of the source that a record speaks of, if it speaks of one."""
    if record.position is None:
        return
    source, position = record.position
    if record.operation == FORGET_POSITION:
        positions.pop(source, None)
    else:
        positions[source] = position


def operations(
    kind: str, users: Ids, items: Ids, first_seq: int, batch_size: int, source: str | None = None
) -> Iterator[Record]:
    """One call's operation on ids as records of at most MAX_EVENTS ids a side; or one on a source."""
    if source is not None:
        yield Record(first_seq, batch_size, NO_IDS, NO_IDS, position=(source, b""), operation=kind)
    for start in range(0, max(len(users), len(items)), MAX_EVENTS):
        sides = [column[start : start + MAX_EVENTS] for column in (users, items)]
        n = max(map(len, sides))
        users_part, items_part = (np.pad(side, (0, n - len(side)), constant_values=PADDING) for side in sides)
        yield Record(first_seq, batch_size, users_part, items_part, operation=kind)
