"""The events of a source learned, or judged and learned, from where the last run stopped.

Responsible for what one call to the engine holds and for the position stored with it, so that no row is learned twice
and none is left out, whenever the run ends. Not for reading (files.py), judging (evaluate/) or printing (cli/). A new
source is a module here with one class that is a `Source`, its test, and an option of `rowtide replay`.

Invariants: a call and its position are one record of the log. Calls are cut at the same rows whether interrupted or
not. The engine is called from the caller's thread only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract.errors import InputError
from ..contract.reports import IngestReport
from ..engine import Engine
from ..evaluate.popularity import Popularity
from ..evaluate.prequential import Report, prequential

__all__ = ["EventBlock", "Replayed", "Source", "judge_source", "learn_source"]

# (rows done, rows in all if known, events that this run has learned, mean loss of the call), after every call.
Progress = Callable[[int, int | None, int, float], None]


@dataclass(frozen=True)
class EventBlock:
    """Rows [start, stop) of a source and the N events among them: `rows` int64[N] (which they are), `users`, `items`
    int64[N].

    `values` float64[N]; `times` int64, float64 or datetime64 [N]; `baskets` [N] of any type; None where the source has
    no such column. `filtered`: rows that a condition left out; `skipped`: rows without a user or an item (null or -1).
    """

    start: int
    stop: int
    rows: NDArray[np.int64]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float64] | None
    times: NDArray[Any] | None
    baskets: NDArray[Any] | None
    filtered: int
    skipped: int


class Source(Protocol):
    """Events in an order that never changes, by row from 0 on, with a place to go on from."""

    def total(self) -> int | None:
        """How many rows there are, where that is known without reading them."""

    def position(self, row: int) -> bytes:
        """What to store when rows [0, row) are done."""

    def row_of(self, position: bytes | None) -> int:
        """The row to go on at; 0 without a position. InputError if it is not one of this source."""

    def twin(self, positions: Mapping[str, bytes]) -> str | None:
        """The name among these whose position is of the same events; None where none is."""

    def blocks(self, start: int = 0) -> Iterator[EventBlock]:
        """The rows from `start` on, at most 65,536 a block; cut at the same rows from any start. InputError."""


@dataclass
class Replayed:
    """What a replay did: `resumed` (row it went on at), `rows` (rows read), `again` of them that an earlier run had
    read, `filtered` and `skipped` of all read, `events` (learned), `loss` (mean over the events), `seconds`; and where
    it was judged, the reports."""

    resumed: int
    rows: int = 0
    events: int = 0
    filtered: int = 0
    skipped: int = 0
    again: int = 0
    loss: float = float("nan")
    seconds: float = 0.0
    report: Report | None = None
    popularity: Report | None = None
    _loss_sum: float = field(default=0.0, repr=False)

    def count(self, block: EventBlock) -> None:
        self.rows += block.stop - block.start
        self.again += max(0, min(block.stop, self.resumed) - block.start)
        self.filtered += block.filtered
        self.skipped += block.skipped

    def learned(self, events: int, loss: float) -> None:
        if events:
            self.events += events
            self._loss_sum += loss * events
            self.loss = self._loss_sum / self.events


def learn_source(eng: Engine, source: Source, name: str, progress: Progress | None = None) -> Replayed:
    """Learn the rest of `source`, one durable call a block.

    `name`: what the position is stored under. `progress` counts rows. PositionError if somebody else learns from the
    same source meanwhile.
    """
    began = perf_counter()
    reached, row = _reached(eng, source, name)
    done, total = Replayed(row), source.total()
    last: Any = None
    for block in source.blocks(row):
        done.count(block)
        last = _in_order(last, block)
        if len(block.rows):
            position = (name, source.position(block.stop))
            given = _given(block.values, block.times, slice(None))
            answer = eng.ingest(block.users, block.items, durable=True, position=position, expect=reached, **given)
            reached = position[1]
            done.learned(len(block.rows), answer.loss)
            if progress is not None:
                progress(block.stop, total, done.events, answer.loss)
    done.seconds = perf_counter() - began
    return done


def judge_source(
    eng: Engine,
    source: Source,
    name: str,
    *,
    test_share: float = 0.2,
    k: int | Sequence[int] = (1, 10, 20),
    progress: Progress | None = None,
) -> Replayed:
    """Judge the last `test_share` of the events row by row, or request by request where there is a basket, and learn
    all.

    Live popularity is judged on the same rows. The events that an earlier run learned are not judged again, but count
    as had. All columns are held in memory. `progress` is called after every call with (events done, events in all,
    loss of the call). Calls are not synced one by one: they survive the end of the process at once, and the end of
    power when the engine is closed.
    """
    if not 0 < test_share <= 1:
        raise InputError(f"test_share: got {test_share}, wanted more than 0 and at most 1")
    began = perf_counter()
    reached, row = _reached(eng, source, name)
    done, blocks, last = Replayed(row), [], None
    for block in source.blocks():
        last = _in_order(last, block)
        blocks.append(block)
        done.count(block)
    if not blocks:
        return done
    rows, users, items, values, times, baskets = (
        _joined([getattr(b, of) for b in blocks]) for of in ("rows", "users", "items", "values", "times", "baskets")
    )
    assert rows is not None
    assert users is not None
    assert items is not None
    resume = int(np.searchsorted(rows, row))

    def learn(start: int, stop: int) -> IngestReport:
        nonlocal reached
        position = (name, source.position(int(rows[stop - 1]) + 1))
        part = slice(start, stop)
        given = _given(values, times, part)
        answer = eng.ingest(users[part], items[part], durable=False, position=position, expect=reached, **given)
        reached = position[1]
        done.learned(stop - start, answer.loss)
        if progress is not None:
            progress(stop, len(users), done.events, answer.loss)
        return answer

    common: dict[str, Any] = {"baskets": baskets, "k": k, "warmup": 1 - test_share, "resume": resume, "values": values}
    done.report = prequential(eng, users, items, times, ingest=learn, **common)
    popularity = Popularity(int(eng.settings["batch_size"]))
    popularity.ingest(users[:resume], items[:resume], None if values is None else values[:resume])
    done.popularity = prequential(popularity, users, items, **common)
    done.seconds = perf_counter() - began
    return done


def _reached(eng: Engine, source: Source, name: str) -> tuple[bytes | None, int]:
    """The position stored for a source, and the row that it says to go on at."""
    position = eng.position(name)
    if position is None and (twin := source.twin(eng.positions())) is not None:
        raise InputError(f"source: {name!r} begins with the events of {twin!r}, which were learned; go on as {twin!r}")
    return position, source.row_of(position)


def _given(values: NDArray[Any] | None, times: NDArray[Any] | None, part: slice) -> dict[str, Any]:
    """The columns beside the ids, where the source has them."""
    given = {} if values is None else {"values": values[part]}
    return given if times is None else given | {"timestamps": times[part]}


def _in_order(last: Any, block: EventBlock) -> Any:
    """The block's last time, after a check that none goes back behind the one above it or behind `last`."""
    times = block.times
    if times is None or not len(times):
        return last
    above = np.concatenate([times[:1] if last is None else np.asarray([last]), times[:-1]])
    if not (times >= above).all():
        row = block.rows[int((~(times >= above)).argmax())]
        what = f"row {row:,}, counted from 0, is earlier than the one above it, or has no time"
        raise InputError(f"time: {what}; sort the rows by time")
    return times[-1]


def _joined(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [p for p in parts if p is not None]
    return np.concatenate(present) if present else None
