"""The model: plans and learns the windows of one record, and keeps what strangers get.

Wraps csrc/learn/learner.h, which learns one micro-batch after the other. Says what it needs, rows or room, and calls
nobody for it. The writer's thread only, but for `mean` and `base`, which any thread may read.
"""

import math
from dataclasses import dataclass

from ..contract.arrays import Floats, Ids
from ..contract.losses import LOSSES, OPTIMIZERS
from ..contract.reports import IngestReport
from ..contract.settings import Settings
from ..machine.backend import native


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
    return native.LearnSettings(loss, optimizer, s.lr, s.l2, s.negatives, s.batch_size, s.seed)
