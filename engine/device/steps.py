"""Learning on a device: one planned window, from the places of its rows to what the host has to know of it.

Responsible for which kernels learn a window there, and for what comes back. Not for which rows it names
(csrc/learn/learner.h), nor for where they live (the tiers that it is given). Small steps go to learn_steps, all of a
window in one launch and with the CPU's own bits; large micro-batches to the row kernels, one micro-batch after the
other, within their tolerances of the CPU. Which of the two follows from the settings alone. One window is under way
while the next one is planned and its rows come; what the host knows of a window without its results is marked once it
is launched. The writer's thread, with the device's turn.
"""

from collections.abc import Callable
from typing import Any, Protocol

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
from ..machine.backend import native
from ..machine.marks import marked
from .copies import Transfers

_MEAN_HORIZON = 4096  # events over which the running mean forgets
_LEAST_DRAWS = 1 << 14  # for which the device is asked: below that, looking them up takes the host less than launches
_SEGMENT = 64  # events whose vectors are summed at a time for the mean


class Tier(Protocol):
    """A table's rows on the device, as far as learning needs them."""

    native: Any
    rows: Any
    drawn: Any  # what the device has to know to name rows by itself, of items

    def place(self) -> None: ...

    def settle(self) -> None: ...

    def collect(self) -> None: ...


_Results = Callable[[], list[NDArray[Any]]]  # waits for: losses [n], the mean after them, how many steps were refused


def in_steps(batch_size: int, negatives: int) -> bool:
    """Do these settings make steps that are small enough for learn_steps?"""
    return batch_size <= MAX_BATCH and negatives <= MAX_NEGATIVES


class DeviceSteps:
    def __init__(self, torch: Any, device: Any, transfers: Transfers, users: Tier, items: Tier) -> None:
        self._torch = torch
        self._device = device
        self._transfers = transfers
        self._users = users
        self._items = items
        self._planner: Planner | None = None
        self._mean: Any = None  # of the windows under way, on the device; None: the learner's
        self._flying: tuple[Any, _Results] | None = None  # the learner and the window under way
        self._landed = 0.0, 0  # losses and refused steps that no report has yet

    def prepare(self, learner: Any, settings: Settings, planned: Any, batch_size: int, events: int) -> None:
        """Before a window of at most so many events is planned: decides who draws its negatives."""
        draws = -(-events // batch_size) * settings.negatives
        native.draw_on_device(learner, self._items.native if draws >= _LEAST_DRAWS else None)
        if not native.may_draw(learner, planned, events):
            self._items.collect()

    @marked("learn")
    def learn(
        self,
        learner: Any,
        settings: Settings,
        planned: Any,
        batch_size: int,
        start: int,
        columns: tuple[Ids, Ids, NDArray[np.float32] | None, NDArray[np.float32] | None],
        first_seq: int,
    ) -> tuple[int, float, int, int, int, int, int]:
        """Has the window learned that was planned from event `start` of a record, and waits for the one before.

        Returns what `Learner.learn` does, with losses and refused steps of the window before.
        """
        _, _, values, weights = columns
        native.fill_fresh(learner, planned)
        self._users.place()
        self._items.place()
        hot = self._users.native, self._items.native
        *places, fresh, offsets = native.device_refs(learner, planned, *columns, *hot)
        refs: list[Any] = places
        known = native.known_items(learner)
        part = slice(start, start + len(fresh))
        window = {
            "weights": None if weights is None else weights[part],
            "values": None if values is None else values[part],
            "offsets": offsets if settings.loss in POINTWISE else None,
        }
        launch = self._steps if in_steps(batch_size, settings.negatives) else self._batches
        with self._transfers.computing("learning"):
            if len(known):
                refs[2] = self._draw(known, settings, batch_size, first_seq + start)
            if self._mean is None:
                self._mean = self._transfers.send(learner.mean)
            results = launch(settings, batch_size, refs, fresh, window, self._mean, learner.mean_count)
        events, _, new_users, new_items, _, warm, cold = native.device_marked(
            learner, planned, *columns, first_seq, *hot
        )
        self.land()
        self._flying = learner, results
        loss, skipped = self._reported()
        return events, loss, new_users, new_items, skipped, warm, cold

    def _draw(self, known: Ids, settings: Settings, batch_size: int, first_seq: int) -> Any:
        """The places of a window's negatives, an int32 tensor: drawn, and remembered as named, on the device."""
        drawn = draw_negatives(
            self._transfers.send(known),
            self._items.drawn.slots,
            seed=settings.seed,
            first_seq=first_seq,
            batch_size=batch_size,
            negatives=settings.negatives,
        )
        self._items.drawn.name(drawn, len(self._items.rows))
        return drawn

    def finish(self) -> tuple[int, float, int, int, int, int, int]:
        """Waits for the window under way, and for what left the device: RAM is all that it should be, and the mean."""
        self.land()
        loss, skipped = self._reported()
        self._mean = None
        self._users.settle()
        self._items.settle()
        return 0, loss, 0, 0, skipped, 0, 0

    @property
    def under_way(self) -> bool:
        return self._flying is not None

    def land(self) -> None:
        """Waits for the window under way: the learner's mean is right then. Any thread, with the turn."""
        if self._flying is None:
            return
        learner, results = self._flying
        with self._transfers.computing("learning"):
            losses, mean, skipped = results()
        learner.mean = mean
        self._flying = None
        self._landed = self._landed[0] + float(losses.sum(dtype=np.float64)), self._landed[1] + int(skipped)

    def _reported(self) -> tuple[float, int]:
        """The losses, summed, and refused steps of the windows that have landed since the last time."""
        landed, self._landed = self._landed, (0.0, 0)
        return landed

    def _steps(
        self,
        settings: Settings,
        batch_size: int,
        refs: list[Any],
        fresh: NDArray[np.uint8],
        window: dict[str, Any],
        mean: Any,
        mean_count: int,
    ) -> _Results:
        users, items = self._users.rows, self._items.rows
        planned = self._ordered(settings, batch_size, refs, fresh if fresh.any() else None, window)
        rule: dict[str, Any] = {
            "dim": settings.dim,
            "lr": settings.lr,
            "l2": settings.l2,
            "optimizer": settings.optimizer,
        }
        if self._device.type == "cpu":  # Triton's interpreter: the same steps in C++
            learned = learn_steps(users.numpy(), items.numpy(), planned, mean.numpy(), mean_count, **rule)
            arrays = [learned.losses, mean.numpy().copy(), np.array(learned.skipped)]
            return lambda: arrays
        learned = learn_steps(users, items, planned, mean, mean_count, **rule)
        return self._transfers.report(learned.losses, mean, learned.skipped)

    def _ordered(
        self,
        settings: Settings,
        batch_size: int,
        refs: list[Any],
        fresh: NDArray[np.uint8] | None,
        window: dict[str, Any],
    ) -> Window:
        """The window with its steps in order, where it is learned: found there if its negatives are there, too."""
        users, items = self._users.rows, self._items.rows
        shape: dict[str, Any] = {"batch_size": batch_size, "negatives": settings.negatives}
        if not isinstance(refs[2], np.ndarray):
            rest = {"weights": window["weights"], "fresh": fresh}
            shape |= {name: None if x is None else self._transfers.send(x) for name, x in rest.items()}
            shape |= {"user_rows": len(users), "item_rows": len(items)}
            found = window_on_device(self._transfers.send(refs[0]), self._transfers.send(refs[1]), refs[2], **shape)
            return found if self._device.type != "cpu" else found.on(_numpy)
        if self._planner is None or (self._planner.user_rows, self._planner.item_rows) != (len(users), len(items)):
            self._planner = Planner(len(users), len(items))
        shape |= {"fresh": fresh, **window}
        planned = self._planner.plan(*refs, loss=settings.loss, **shape)
        return planned if self._device.type == "cpu" else planned.on(self._transfers.send)

    def _batches(
        self,
        settings: Settings,
        batch_size: int,
        refs: list[Any],
        fresh: NDArray[np.uint8],
        window: dict[str, Any],
        mean: Any,
        mean_count: int,
    ) -> _Results:
        places = [self._transfers.send(x) if isinstance(x, np.ndarray) else x.long() for x in refs]
        arguments = {name: None if x is None else self._transfers.send(x) for name, x in window.items()}
        torch = self._torch
        users, items, dim = self._users.rows, self._items.rows, settings.dim
        step: dict[str, Any] = {"dim": dim, "lr": settings.lr, "l2": settings.l2, "optimizer": settings.optimizer}
        shared = settings.loss == "softmax"
        losses = torch.empty(len(fresh), dtype=torch.float32, device=self._device)
        skipped = torch.zeros((), dtype=torch.int64, device=self._device)
        for number, begin in enumerate(range(0, len(fresh), batch_size)):
            end = min(begin + batch_size, len(fresh))
            events, k = end - begin, settings.negatives
            user, positive = places[0][begin:end], places[1][begin:end]
            of = {name: None if x is None else x[begin:end] for name, x in arguments.items()}
            new = np.flatnonzero(fresh[begin:end])
            if len(new):
                rows = user[self._transfers.send(new)]
                users[rows, :dim] += mean
            if of["offsets"] is not None:
                of["offsets"] = of["offsets"] + users[user, dim]
            if not k:
                negative = None
            elif shared:
                negative = places[2][number * k : (number + 1) * k]
            else:
                negative = places[2][begin * k : end * k].view(events, k)
            found = loss_grads(settings.loss, users, items, positive, negative, dim=dim, query_slots=user, **of)
            losses[begin:end], query_grads, positive_coefs, negative_coefs = found
            slots, coefs, source = positive, positive_coefs, user
            if negative is not None:
                each = negative.expand(events, k) if shared else negative
                each = torch.where(each == positive[:, None], -1, each)  # the positive itself is no negative
                slots = torch.cat([positive[:, None], each], 1).reshape(-1)
                coefs = torch.cat([positive_coefs[:, None], negative_coefs], 1).reshape(-1)
                source = user[:, None].expand(events, 1 + k).reshape(-1)
            skipped += update_rows(items, slots, users, source, coefs, coefs, **step)
            ones = torch.ones(events, dtype=torch.float32, device=self._device)
            index = torch.arange(events, device=self._device)
            bias = positive_coefs if settings.loss in POINTWISE else None
            skipped += update_rows(users, user, query_grads, index, ones, bias, **step)
            self._move_mean(mean, user, mean_count + begin)
        return self._transfers.report(losses, mean, skipped)

    def _move_mean(self, mean: Any, user: Any, count: int) -> None:
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
            self._transfers.send(offsets),
            self._transfers.send(weights.astype(np.float32)),
            dim=len(mean),
        )
        mean.mul_(float(left[0])).add_(sums.sum(0))


def _numpy(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array
