"""Learning on a device: one planned window, whose rows have come, to what the host has to know of it.

Responsible for which kernels learn a window there, and for what comes back. Not for which rows it names
(csrc/learn/learner.h), nor for how they come there (device.py). Small steps go to learn_steps, all of a window in one
launch and with the CPU's own bits; large micro-batches to the row kernels, one micro-batch after the other, within
their tolerances of the CPU. Which of the two follows from the settings alone. One window is under way while the next
one is planned and its rows come; what the host knows of a window without its results is marked once it is launched.
The writer's thread, with the device's turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Ids
from ..contract.losses import POINTWISE
from ..contract.settings import Settings
from ..kernels.draw_negatives.triton_kernel import draw_negatives
from ..kernels.learn_steps import MAX_BATCH, MAX_NEGATIVES, Planner, Window, learn_steps
from ..kernels.learn_steps.order_on_device import window_on_device
from ..kernels.loss_grads.triton_kernel import loss_grads
from ..kernels.pool_rows.triton_kernel import pool_rows
from ..kernels.update_rows.triton_kernel import update_rows
from ..learn.model import Model
from ..machine.backend import native
from ..machine.marks import marked
from .copies import Copies
from .drawn import Drawn
from .hot import HotTier

_MEAN_HORIZON = 4096  # events over which the running mean forgets
_LEAST_DRAWS = 1 << 14  # for which the device is asked: below that, looking them up takes the host less than launches
_SEGMENT = 64  # events whose vectors are summed at a time for the mean


_Results = Callable[[], list[NDArray[Any]]]  # waits for: losses [n], the mean after them, how many steps were refused


class Landed(NamedTuple):
    """Of windows that have been waited for: their losses, summed, and how many steps were refused."""

    loss: float
    skipped: int


@dataclass(frozen=True, slots=True)
class _Launch:
    """A window as kernels take it. Places of users and positives [n], and of negatives, which may be on the device
    already; `fresh` [n]: 1 at a new user's first event; `columns`: weights, values, offsets [n] or None."""

    settings: Settings
    users: Ids
    items: Ids
    negatives: Any
    fresh: NDArray[np.uint8]
    columns: dict[str, NDArray[np.float32] | None]
    mean_count: int

    @property
    def rule(self) -> dict[str, Any]:
        """What the kernels that step rows are told."""
        s = self.settings
        return {"dim": s.dim, "lr": s.lr, "l2": s.l2, "optimizer": s.optimizer}


def in_steps(batch_size: int, negatives: int) -> bool:
    """Do these settings make steps that are small enough for learn_steps?"""
    return batch_size <= MAX_BATCH and negatives <= MAX_NEGATIVES


class DeviceSteps:
    def __init__(self, copies: Copies, users: HotTier, items: HotTier, drawn: Drawn) -> None:
        """`drawn`: what the device has to know to name items by itself."""
        self._torch = copies.torch
        self._device = copies.device
        self._copies = copies
        self._users = users
        self._items = items
        self._drawn = drawn
        self._planner: Planner | None = None
        self._mean: Any = None  # of the windows under way, on the device; None: the learner's
        self._flying: tuple[native.Learner, _Results] | None = None  # the learner and the window under way
        self._landed = Landed(0.0, 0)  # what nobody has been told yet

    def prepare(self, model: Model, settings: Settings, events: int) -> None:
        """Before a window of at most so many events is planned: decides who draws its negatives."""
        learner, planned = model.learner, model.native_settings(settings)
        draws = -(-events // settings.batch_size) * settings.negatives
        native.draw_on_device(learner, self._items.native if draws >= _LEAST_DRAWS else None)
        if not native.may_draw(learner, planned, events):
            self._items.collect()

    @marked("learn")
    def learn(self, model: Model, settings: Settings, events: native.EventColumns, start: int) -> native.Learned:
        """Has the window learned that was planned from event `start` on; waits for the one before. Its rows are here.

        Losses and refused steps come in later: `landed`.
        """
        learner = model.learner
        planned = learner, model.native_settings(settings), events, self._users.native, self._items.native
        places = native.window_places(*planned)
        part = slice(start, start + len(places.fresh))
        columns = {
            "weights": None if events.weights is None else events.weights[part],
            "values": None if events.values is None else events.values[part],
            "offsets": places.offsets if settings.loss in POINTWISE else None,
        }
        known = native.known_items(learner)
        with self._copies.computing("learning"):
            negatives: Any = places.negatives
            if len(known):
                negatives = self._draw(known, settings, events.first_seq + start)
            if self._mean is None:
                self._mean = self._copies.send(learner.mean)
            launch = _Launch(
                *(settings, places.users, places.items, negatives, places.fresh, columns),
                learner.mean_count,
            )
            small = in_steps(settings.batch_size, settings.negatives)
            results = self._steps(launch) if small else self._batches(launch)
        learned = native.device_marked(*planned)
        self.land()
        self._flying = learner, results
        return learned

    def _draw(self, known: Ids, settings: Settings, first_seq: int) -> Any:
        """The places of a window's negatives, an int32 tensor: drawn, and remembered as named, on the device."""
        drawn = draw_negatives(
            self._copies.send(known),
            self._drawn.slots,
            seed=settings.seed,
            first_seq=first_seq,
            batch_size=settings.batch_size,
            negatives=settings.negatives,
        )
        self._drawn.name(drawn, len(self._items.rows))
        return drawn

    def finish(self) -> None:
        """Waits for the window under way, and for what left the device: RAM is all that it should be, and the mean."""
        self.land()
        self._mean = None
        self._users.settle()
        self._items.settle()

    @property
    def under_way(self) -> bool:
        return self._flying is not None

    def land(self) -> None:
        """Waits for the window under way: the learner's mean is right then. Any thread, with the turn."""
        if self._flying is None:
            return
        learner, results = self._flying
        with self._copies.computing("learning"):
            losses, mean, skipped = results()
        learner.mean = mean
        self._flying = None
        loss = self._landed.loss + float(losses.sum(dtype=np.float64))
        self._landed = Landed(loss, self._landed.skipped + int(skipped))

    def landed(self) -> Landed:
        """The windows that have landed since the last time."""
        landed, self._landed = self._landed, Landed(0.0, 0)
        return landed

    # --- small steps

    def _steps(self, launch: _Launch) -> _Results:
        users, items, mean = self._users.rows, self._items.rows, self._mean
        window = self._ordered(launch)
        if self._device.type == "cpu":  # Triton's interpreter: the same steps in C++
            learned = learn_steps(users.numpy(), items.numpy(), window, mean.numpy(), launch.mean_count, **launch.rule)
            arrays = [learned.losses, mean.numpy().copy(), np.array(learned.skipped)]
            return lambda: arrays
        learned = learn_steps(users, items, window, mean, launch.mean_count, **launch.rule)
        return self._copies.report(learned.losses, mean, learned.skipped)

    def _ordered(self, launch: _Launch) -> Window:
        """The window with its steps in order, where it is learned: found there if its negatives are there, too."""
        users, items, send = self._users.rows, self._items.rows, self._copies.send
        fresh = launch.fresh if launch.fresh.any() else None
        shape: dict[str, Any] = {"batch_size": launch.settings.batch_size, "negatives": launch.settings.negatives}
        if not isinstance(launch.negatives, np.ndarray):
            rest = {"weights": launch.columns["weights"], "fresh": fresh}
            shape |= {name: None if x is None else send(x) for name, x in rest.items()}
            shape |= {"user_rows": len(users), "item_rows": len(items)}
            found = window_on_device(send(launch.users), send(launch.items), launch.negatives, **shape)
            return found if self._device.type != "cpu" else found.on(_numpy)
        if self._planner is None or (self._planner.user_rows, self._planner.item_rows) != (len(users), len(items)):
            self._planner = Planner(len(users), len(items))
        shape |= {"fresh": fresh, **launch.columns}
        places = launch.users, launch.items, launch.negatives
        planned = self._planner.plan(*places, loss=launch.settings.loss, **shape)
        return planned if self._device.type == "cpu" else planned.on(send)

    # --- large micro-batches

    def _batches(self, launch: _Launch) -> _Results:
        torch, send = self._torch, self._copies.send
        refs = launch.users, launch.items, launch.negatives
        places = [send(x) if isinstance(x, np.ndarray) else x.long() for x in refs]
        columns = {name: None if x is None else send(x) for name, x in launch.columns.items()}
        n = len(launch.fresh)
        losses = torch.empty(n, dtype=torch.float32, device=self._device)
        skipped = torch.zeros((), dtype=torch.int64, device=self._device)
        for begin in range(0, n, launch.settings.batch_size):
            part = slice(begin, min(begin + launch.settings.batch_size, n))
            of = {name: None if x is None else x[part] for name, x in columns.items()}
            losses[part], refused = self._batch(launch, places, of, part)
            skipped += refused
        return self._copies.report(losses, self._mean, skipped)

    def _batch(self, launch: _Launch, places: list[Any], of: dict[str, Any], part: slice) -> tuple[Any, Any]:
        """One micro-batch, events `part` of the window: losses, and steps refused."""
        torch, users, items, dim = self._torch, self._users.rows, self._items.rows, launch.settings.dim
        user, positive = places[0][part], places[1][part]
        events = len(user)
        new = np.flatnonzero(launch.fresh[part])
        if len(new):
            users[user[self._copies.send(new)], :dim] += self._mean
        if of["offsets"] is not None:
            of["offsets"] = of["offsets"] + users[user, dim]
        negative = _negatives_of(launch, places[2], part)
        loss = launch.settings.loss
        found = loss_grads(loss, users, items, positive, negative, dim=dim, query_slots=user, **of)
        losses, query_grads, positive_coefs, negative_coefs = found
        slots, coefs, source = positive, positive_coefs, user
        if negative is not None:
            k = launch.settings.negatives
            each = negative.expand(events, k)
            each = torch.where(each == positive[:, None], -1, each)  # the positive itself is no negative
            slots = torch.cat([positive[:, None], each], 1).reshape(-1)
            coefs = torch.cat([positive_coefs[:, None], negative_coefs], 1).reshape(-1)
            source = user[:, None].expand(events, 1 + k).reshape(-1)
        skipped = update_rows(items, slots, users, source, coefs, coefs, **launch.rule)
        ones = torch.ones(events, dtype=torch.float32, device=self._device)
        index = torch.arange(events, device=self._device)
        bias = positive_coefs if loss in POINTWISE else None
        skipped = skipped + update_rows(users, user, query_grads, index, ones, bias, **launch.rule)
        self._move_mean(user, launch.mean_count + part.start)
        return losses, skipped

    def _move_mean(self, user: Any, count: int) -> None:
        """mean += rate x (vector - mean) for one event after the other, as one weighted sum of their vectors."""
        events = len(user)
        rates = 1.0 / np.minimum(np.arange(count + 1, count + events + 1), _MEAN_HORIZON)
        left = np.cumprod(1.0 - rates[::-1])[::-1]  # of what was there before each event
        weights = rates * np.append(left[1:], 1.0)
        offsets = np.append(np.arange(0, events, _SEGMENT), events)
        # Sums of segments first, then theirs: a sum of one thread would take as long as the step.
        sums = pool_rows(
            self._users.rows,
            user,
            self._copies.send(offsets),
            self._copies.send(weights.astype(np.float32)),
            dim=len(self._mean),
        )
        self._mean.mul_(float(left[0])).add_(sums.sum(0))


def _negatives_of(launch: _Launch, places: Any, part: slice) -> Any:
    """Of one micro-batch: places [K], shared by its events, or [events, K]; None for losses without negatives."""
    k = launch.settings.negatives
    if not k:
        return None
    if launch.settings.loss == "softmax":
        number = part.start // launch.settings.batch_size
        return places[number * k : (number + 1) * k]
    return places[part.start * k : part.stop * k].view(-1, k)


def _numpy(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array
