"""The model: plans and learns the windows of one record, and keeps what strangers get.

Wraps csrc/learn/learner.h, which learns one micro-batch after the other. Says what it needs, rows or room, and calls
nobody for it. The writer's thread only, but for `mean` and `base`, which any thread may read.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Floats, Ids
from ..contract.losses import LOSSES, OPTIMIZERS
from ..contract.reports import IngestReport
from ..contract.settings import Settings
from ..log.record import Record
from ..machine.backend import native
from ..table.layout import vector_floats


@dataclass(slots=True)
class Tally:
    """What the windows of a call came to; `loss` is a sum over events, `unlearned` those that admission kept out,
    `waits` how often every row in RAM was dirty."""

    events: int = 0
    loss: float = 0.0
    new_users: int = 0
    new_items: int = 0
    skipped: int = 0
    warm: int = 0
    cold: int = 0
    unlearned: int = 0
    waits: int = 0

    def add(self, window: native.Learned) -> None:
        self.events += window.events
        self.loss += window.loss
        self.new_users += window.new_users
        self.new_items += window.new_items
        self.skipped += window.skipped
        self.warm += window.warm
        self.cold += window.cold

    def report(self, seq: int, seconds: float) -> IngestReport:
        """Of a call that ended at `seq`."""
        return IngestReport(
            events=self.events + self.unlearned,
            seq=seq,
            loss=self.loss / self.events if self.events else math.nan,
            new_users=self.new_users,
            new_items=self.new_items,
            seconds=seconds,
            found={"warm": self.warm, "cold": self.cold, "made": self.new_users + self.new_items},
            unlearned=self.unlearned,
        )

    def land(self, loss: float, skipped: int) -> None:
        """Losses and refused steps of windows whose other numbers were added before."""
        self.loss += loss
        self.skipped += skipped


@dataclass(frozen=True, slots=True)
class Moments:
    """When requests come, and in which session, as `native_times` and `native_marks` have them: one for all, or one for
    each. None: at the log's own time; in each user's last session."""

    times: NDArray[np.uint32] | None = None
    marks: NDArray[np.uint32] | None = None

    def cut(self, part: slice) -> "Moments":
        """Those of some requests."""
        return Moments(*(x if x is None or len(x) == 1 else x[part] for x in (self.times, self.marks)))


@dataclass(frozen=True, slots=True)
class Sequence:
    """The sequence model as of one moment: how a user's history counts in a list."""

    settings: native.LearnSettings
    gate: int
    """An item that fewer known users have had ranks behind all others, but for who has had it or is near to it."""
    neighbours_at: int
    """The float of an item's row at which its neighbours begin."""
    weights: Floats
    clock: tuple[int, ...]

    @classmethod
    def of(cls, settings: Settings, weights: Floats, clock: tuple[int, ...]) -> "Sequence | None":
        """None where the settings have no sequence model."""
        if not settings.sequence:
            return None
        at = vector_floats(settings.dim, settings.optimizer)
        return cls(native_settings(settings), settings.gate, at, weights, clock)

    @property
    def now(self) -> int:
        """The log's own time as `native_times` has it, 0 where no event had one: the middle one of the latest 15 events
        that had. So a few events of a wrong clock move it for nobody."""
        return sorted(self.clock)[(len(self.clock) - 1) // 2] if self.clock else 0

    def look(self, histories: list[bytes], more: Ids | None, offsets: Ids | None, moments: "Moments") -> native.Looks:
        """What histories say, of each at its moment. more, offsets: items that each has had besides, by then; None:
        nothing."""
        n = len(histories)
        times = np.full(n, self.now, np.uint32) if moments.times is None else _for_each(moments.times, n)
        marks = None if moments.marks is None else _for_each(moments.marks, n)
        return native.Looks(self.settings, self.weights, histories, more, offsets, times, marks)


class Model:
    def __init__(self, settings: Settings, learner: native.Learner):
        self.learner = learner
        self.settings = settings

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self._native = native_settings(settings)

    def settings_for(self, batch_size: int) -> Settings:
        """The settings in force, with the batch size of a log record, which replay may find to be another one."""
        return (
            self._settings
            if batch_size == self._settings.batch_size
            else self._settings.changed({"batch_size": batch_size})
        )

    def native_settings(self, settings: Settings) -> native.LearnSettings:
        """Those in force, or some of `settings_for`, as the C++ core takes them."""
        return self._native if settings is self._settings else native_settings(settings)

    @property
    def mean(self) -> Floats:
        """The running mean of the users' vectors, float32 [dim]: what a stranger is ranked with."""
        return self.learner.mean

    @property
    def base(self) -> float:
        """The score of a pair of which nothing is known: what all scores of pointwise losses add to. Else 0."""
        return native.base_score(LOSSES.index(self._settings.loss), *self.value_sums)

    @property
    def value_sums(self) -> tuple[float, float]:
        """Over the events so far: the sum of weight x value, and of weight."""
        return self.learner.value_sums

    @property
    def mean_count(self) -> int:
        return self.learner.mean_count

    def restore(self, mean: Floats, count: int, value_sums: tuple[float, float]) -> None:
        """At opening: the state that an epoch saved."""
        self.learner.value_sums = value_sums
        self.learner.mean = mean
        self.learner.mean_count = count

    def shared(self) -> dict[str, Any]:
        """What the sequence model keeps beside rows, by the names that `State` has for it."""
        if not self.learner.recent_events:
            return {}  # it is as it begins
        return {
            "weights": self.learner.global_weights.tobytes(),
            "recent": self.learner.recent.tobytes(),
            "recent_events": self.learner.recent_events,
            "clock": tuple(self.learner.clock),
        }

    def restore_shared(
        self, weights: bytes, recent: bytes, recent_events: int, clock: tuple[int, ...], ordinals: int
    ) -> None:
        """The mirror of `shared`; `ordinals`: of the catalogue."""
        if weights:
            self.learner.global_weights = np.frombuffer(weights, np.float32)
        self.learner.restore_recent(np.frombuffer(recent, np.uint32), recent_events, ordinals)
        self.learner.clock = list(clock)

    @property
    def sequence(self) -> Sequence | None:
        """What lists need of the sequence model, as of now; None where there is none."""
        return Sequence.of(self._settings, self.learner.global_weights, tuple(self.learner.clock))

    def rows_removed(self) -> None:
        """Rows left the tables."""
        self.learner.rows_removed()

    def plan(self, settings: Settings, events: native.EventColumns, start: int) -> native.Plan:
        """Plans a window of consecutive micro-batches from event `start` on: ready to be learned; or rows are `wanted`
        from LMDB; or every row in RAM is dirty, and an epoch must end. Then plan again."""
        return self.learner.plan(self.native_settings(settings), events, start)

    @property
    def wanted(self) -> list[Ids]:
        """Of a plan that needs them: the ids to be looked up in LMDB, by table."""
        return self.learner.wanted

    def delivered(self) -> bool:
        """What LMDB has of `wanted` is in RAM. False: an item of the catalogue has no row there."""
        return self.learner.delivered()

    def learn(self, settings: Settings, events: native.EventColumns) -> native.Learned:
        """Learns the planned window."""
        return self.learner.learn(self.native_settings(settings), events)


def native_settings(s: Settings) -> native.LearnSettings:
    """What the C++ core takes of the settings."""
    loss, optimizer = LOSSES.index(s.loss), OPTIMIZERS.index(s.optimizer)
    return native.LearnSettings(
        *(loss, optimizer, s.lr, s.l2, s.negatives, s.batch_size, s.seed),
        *(s.bag, bool(s.repeats), s.session_gap, s.recent_negatives, s.own_negatives, s.neighbours, s.gate_events),
    )


def native_events(record: Record, part: slice) -> native.EventColumns:
    """Some events of a record, as the C++ core takes them."""
    sessions = (record.columns or {}).get("sessions")
    return native.EventColumns(
        record.users[part],
        record.items[part],
        None if record.values is None else record.values[part],
        None if record.weights is None else record.weights[part],
        record.first_seq + part.start,
        None if record.timestamps is None else native_times(record.timestamps[part]),
        None if not isinstance(sessions, np.ndarray) else native_marks(sessions[part]),
    )


def _for_each(x: NDArray[np.uint32], n: int) -> NDArray[np.uint32]:
    return np.ascontiguousarray(np.broadcast_to(x, n))


def native_times(timestamps: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Whole seconds since 1970, and one more, for 0 says that a time is not known."""
    return np.minimum(timestamps + 1, 2**32 - 1).astype(np.uint32)


def native_marks(sessions: Ids) -> NDArray[np.uint32]:
    """Not 0, which says that there is no mark; ids that are near each other differ."""
    folded = sessions.view(np.uint64)
    return (1 + (folded ^ (folded >> np.uint64(32)) * np.uint64(0x9E3779B1)) % np.uint64(2**32 - 1)).astype(np.uint32)
