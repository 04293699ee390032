"""The model: learns one record, window by window, and keeps what strangers get.

Wraps csrc/learn/learner.h, which runs the steps. The writer's thread only, but for `mean`, which any thread may read.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Floats, Ids
from ..contract.errors import ConfigError, CorruptionError
from ..contract.losses import LOSSES, OPTIMIZERS
from ..contract.settings import Settings
from ..machine.backend import native

_READY, _FETCH, _BLOCKED = 0, 1, 2


@dataclass(slots=True)
class Learned:
    """What was learned, summed over windows; `loss` is a sum over events."""

    events: int = 0
    loss: float = 0.0
    new_users: int = 0
    new_items: int = 0
    skipped: int = 0
    warm: int = 0
    cold: int = 0
    unlearned: int = 0

    def add(self, events: int, loss: float, users: int, items: int, skipped: int, warm: int, cold: int) -> None:
        self.events += events
        self.loss += loss
        self.new_users += users
        self.new_items += items
        self.skipped += skipped
        self.warm += warm
        self.cold += cold


_Columns = tuple[Ids, Ids, NDArray[np.float32] | None, NDArray[np.float32] | None]


class Steps(Protocol):
    """What learns a planned window in the place of the CPU, and may be at it while the next one is planned."""

    def learn(
        self,
        learner: Any,
        settings: Settings,
        planned: Any,
        batch_size: int,
        start: int,
        columns: _Columns,
        first_seq: int,
    ) -> tuple[int, float, int, int, int, int, int]: ...

    def finish(self) -> tuple[int, float, int, int, int, int, int]: ...

    def land(self) -> None: ...

    @property
    def under_way(self) -> bool: ...

    def prepare(self, learner: Any, settings: Settings, planned: Any, batch_size: int, events: int) -> None: ...


class Model:
    def __init__(self, settings: Settings, users: Any, items: Any, catalogue: Any, history: Any):
        """The four are the native parts; the model changes them and owns none."""
        self._learner: Any = native.Learner(users, items, catalogue, history)
        self._capacity = min(users.capacity, items.capacity)
        self._hot: tuple[int, int] | None = None  # rows that a device has room for, bytes of one
        self._steps: Steps | None = None
        self._turn: AbstractContextManager[None] = nullcontext()
        self.settings = settings

    def learn_on(self, steps: Steps, turn: AbstractContextManager[None], rows: int, row_bytes: int) -> None:
        """Has a device learn, with room for so many rows of each table; `turn` is taken for each window."""
        self._steps, self._turn, self._hot = steps, turn, (rows, row_bytes)
        native.limit_windows(self._learner, rows, rows)

    def require_room(self, settings: Settings, batch_size: int | None = None) -> None:
        """Raises ConfigError for settings whose micro-batches need more rows than there is room for."""
        require_room(settings, self._capacity, batch_size)
        if self._hot:
            require_room(settings, self._hot[0], batch_size, self._hot[1])

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self._native = native_settings(settings)

    @property
    def mean(self) -> Floats:
        """The running mean of the users' vectors, float32 [dim]: what a stranger is ranked with."""
        if self._steps:
            with self._turn:
                self._steps.land()
        mean: Floats = self._learner.mean
        return mean

    @property
    def base(self) -> float:
        """The score of a pair of which nothing is known: what all scores of logistic and squared add to. Else 0."""
        return float(native.base_score(LOSSES.index(self._settings.loss), *self.value_sums))

    @property
    def value_sums(self) -> tuple[float, float]:
        """Over the events so far: the sum of weight x value, and of weight."""
        sums: tuple[float, float] = self._learner.value_sums
        return sums

    @property
    def mean_count(self) -> int:
        return int(self._learner.mean_count)

    @property
    def totals(self) -> tuple[int, int]:
        """Rows of users and of items as of the last learned window."""
        return int(self._learner.learned_users), int(self._learner.learned_items)

    def restore(self, mean: Floats, count: int, users: int, items: int, value_sums: tuple[float, float]) -> None:
        """At opening: the state that an epoch saved."""
        self._learner.value_sums = value_sums
        self._learner.mean = mean
        self._learner.mean_count = count
        self._learner.restore_totals(users, items)

    def removed(self, users: int, items: int) -> None:
        """So many rows left the tables."""
        self._learner.removed(users, items)

    def learn(
        self,
        users: Ids,
        items: Ids,
        values: NDArray[np.float32] | None,
        weights: NDArray[np.float32] | None,
        *,
        first_seq: int,
        batch_size: int,
        deliver: Callable[[Ids, Ids], None],
        make_room: Callable[[int], None],
        into: Learned,
    ) -> None:
        """Learns consecutive events, in micro-batches of `batch_size`.

        deliver(user ids, item ids) brings rows in from LMDB; make_room(seq) ends an epoch at that seq, so that rows can
        leave RAM. On a device the last window may still be under way afterwards: `finish`.
        """
        settings = self._native
        if batch_size != self._settings.batch_size:
            settings = native_settings(self._settings.changed({"batch_size": batch_size}))
        self.require_room(self._settings, batch_size)
        learner = self._learner
        columns: _Columns = users, items, values, weights
        start = 0
        while start < len(users):
            with self._turn:
                if self._steps:
                    self._steps.prepare(learner, self._settings, settings, batch_size, len(users) - start)
                while (state := learner.plan(settings, users, items, weights, first_seq, start)) == _FETCH:
                    deliver(learner.missing_users, learner.missing_items)
                    if not learner.delivered():
                        raise CorruptionError("an item of the catalogue has no row in LMDB", seq=first_seq + start)
                if state == _BLOCKED:
                    learned = None
                elif self._steps is None:
                    learned = learner.learn(settings, *columns, first_seq)
                else:
                    learned = self._steps.learn(
                        learner, self._settings, settings, batch_size, start, columns, first_seq
                    )
            if learned is None:
                self.finish(into)
                make_room(first_seq + start - 1)  # without the turn: an epoch takes long
                continue
            start += learned[0]
            into.add(*learned)

    @property
    def under_way(self) -> bool:
        """Has a device a window that nobody has waited for?"""
        return self._steps is not None and self._steps.under_way

    def finish(self, into: Learned) -> None:
        """Waits for what a device has under way: from here on rows may be removed and saved, and the mean is right."""
        if self._steps:
            with self._turn:
                into.add(*self._steps.finish())


def native_settings(s: Settings, batch_size: int | None = None) -> Any:
    loss, optimizer = LOSSES.index(s.loss), OPTIMIZERS.index(s.optimizer)
    return native.LearnSettings(loss, optimizer, s.lr, s.l2, s.negatives, batch_size or s.batch_size, s.seed)


def require_room(
    settings: Settings, capacity: int, batch_size: int | None = None, hot_row_bytes: int | None = None
) -> None:
    """Raises ConfigError if the tables can't hold the rows of one micro-batch, for a micro-batch is never split.

    `hot_row_bytes`: of a row, where the tables are those of a device."""
    s = native_settings(settings, batch_size)
    needed = max(s.users_needed, s.items_needed)
    if needed > capacity:
        if hot_row_bytes:
            what, wanted = "hot_bytes", 2 * needed * hot_row_bytes
        else:
            row = native.row_bytes(settings.dim, OPTIMIZERS.index(settings.optimizer))
            what, wanted = "warm_bytes", -(-needed * row * 16 // 7)
        raise ConfigError(
            f"{what}: room for {capacity} rows of a table, but a micro-batch of batch_size "
            f"{batch_size or settings.batch_size} with negatives {settings.negatives} can need {needed}; wanted at "
            f"least {wanted} bytes"
        )
