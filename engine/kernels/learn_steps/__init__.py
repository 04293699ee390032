"""Many consecutive small optimizer steps in one call, at the bits of one step after the other.

Responsible for the contract below and for checking it. `Planner` finds which steps share rows; a `Window` holds what a
window of steps refers to; `learn_steps` learns it: the C++ core where the rows are numpy arrays, on `threads`
threads, the CUDA extension where they are tensors of torch on a GPU, in one launch on the current stream.
`reference.py` says what comes out. All give the same bits as the engine's own step, whatever the threads. Any thread,
one at a time per slab and per planner; the GIL is released while C++ runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...contract.arguments import choice, whole_number
from ...contract.arrays import MAX_DIM
from ...contract.errors import DeviceError, InputError
from ...contract.losses import LOSSES, OPTIMIZERS, POINTWISE
from ...contract.tensors import is_tensor
from ...machine.backend import cuda, cuda_missing, native
from ...machine.marks import marked
from .. import work
from ..checks import F32, apart, floats, integers, rate, rows_in_place, within
from ..optimizers import Rule, state_floats

__all__ = ["MAX_BATCH", "MAX_NEGATIVES", "LearnedWindow", "Planner", "Slabs", "Window", "learn_steps"]

MAX_BATCH, MAX_NEGATIVES, MAX_ROWS = 256, 1024, 2**31 - 2
DEPTH_STEPS = 8192  # csrc/steps/step_order.h
SLOTS = ("user_slots", "user_before", "user_next", "item_slots", "item_before", "item_next")
NEGATIVES = ("negative_slots", "negative_before", "negative_next")
FLOATS = ("weights", "values", "offsets", "fresh")


@dataclass(frozen=True, eq=False)
class Window:
    """What a planner made of n events: columns by name, numpy arrays or tensors on one device, or None.

    *_slots, *_before, *_next int32; weights, values, offsets float32 [n]; fresh uint8 [n]. `depth` is the length of
    the longest chain of steps of which each shares a row with the one before, among the first 8,192.
    """

    loss: str
    batch_size: int
    negatives: int
    events: int
    depth: int
    user_rows: int
    item_rows: int
    ints: Any  # the int32 columns one after the other, so that they move in one piece
    columns: dict[str, Any]

    @property
    def steps(self) -> int:
        return -(-self.events // self.batch_size)

    @property
    def side_by_side(self) -> float:
        """About how many steps can run at once."""
        return min(self.steps, DEPTH_STEPS) / max(1, self.depth)

    def on(self, send: Callable[[npt.NDArray[Any]], Any]) -> "Window":
        """The same window with its columns where `send` brings an array: tensors of a GPU."""
        ints = send(self.ints)
        columns = split(ints, self.events, len(self.columns["negative_slots"]))
        for name in FLOATS:
            column = self.columns[name]
            columns[name] = None if column is None else send(column)
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Window(**(fields | {"ints": ints, "columns": columns}))


class LearnedWindow(NamedTuple):
    """`losses`, float32 [n], one an event; `skipped`, the rows left as they were. On a GPU both are tensors there."""

    losses: Any
    skipped: Any


class Slabs(NamedTuple):
    """What a window is learned into: rows of users and items with vectors of `dim`, and the running mean of users."""

    dim: int
    users: Any
    items: Any
    mean: Any
    mean_count: int  # events in the mean before the window


class Planner:
    """Finds the order between steps over two tables, window after window. Keeps 8 bytes for each of their rows."""

    def __init__(self, user_rows: int, item_rows: int) -> None:
        self.user_rows = whole_number("user_rows", user_rows, 0, MAX_ROWS)
        self.item_rows = whole_number("item_rows", item_rows, 0, MAX_ROWS)
        self._order = native.StepOrder(self.user_rows, self.item_rows)

    def plan(
        self,
        user_slots: npt.NDArray[Any],
        item_slots: npt.NDArray[Any],
        negative_slots: npt.NDArray[Any] | None = None,
        *,
        loss: str = "softmax",
        batch_size: int = 1,
        negatives: int = 0,
        weights: F32 | None = None,
        values: F32 | None = None,
        offsets: F32 | None = None,
        fresh: npt.NDArray[np.uint8] | None = None,
    ) -> Window:
        """A window of n events, learned `batch_size` at a step; the last step may be short.

        user_slots      int32 or int64 [n], rows of the users' slab
        item_slots      int32 or int64 [n], rows of the items' slab
        negative_slots  int32 or int64; softmax [steps * K], shared by the events of a step; bpr [n * K]; logistic and
                        squared: none, K = 0. -1 is no negative; one that is its event's positive is masked
        weights         float32 [n], 0 or more; None for ones
        values          float32 [n], logistic: 0 or 1; squared: ratings; else None
        offsets         float32 [n], what an event's score adds before the user's bias, as far as it depends on the
                        values alone; pointwise losses; None for zeros
        fresh           uint8 [n], 1 at the first event of a user who is new in that step: its row holds noise, to
                        which the running mean is added when the step begins; None where nobody is new

        About 5 ns a reference. Raises InputError.
        """
        choice("loss", loss, LOSSES)
        batch_size = whole_number("batch_size", batch_size, 1, MAX_BATCH)
        negatives = whole_number("negatives", negatives, 0, 0 if loss in POINTWISE else MAX_NEGATIVES)
        n = int(np.size(user_slots))
        whole_number("events", n, 0, MAX_ROWS)
        count = negatives * (-(-n // batch_size) if loss == "softmax" else n)
        ints = np.empty(6 * n + 3 * count, np.int32)
        columns = split(ints, n, count)
        if negative_slots is None:
            negative_slots = np.zeros(0, np.int32)
        columns["user_slots"][:] = _slots("user_slots", user_slots, n, 0, self.user_rows)
        columns["item_slots"][:] = _slots("item_slots", item_slots, n, 0, self.item_rows)
        columns["negative_slots"][:] = _slots("negative_slots", negative_slots, count, -1, self.item_rows)
        for name, column in (("weights", weights), ("values", values), ("offsets", offsets)):
            columns[name] = None if column is None else floats(name, column, n)
        if (loss in POINTWISE) != (values is not None) or (offsets is not None and loss not in POINTWISE):
            wanted = " and ".join(POINTWISE)
            raise InputError(f"values, offsets: wanted with {wanted}, and only there; loss is {loss!r}")
        columns["fresh"] = fresh
        if fresh is not None and not (
            isinstance(fresh, np.ndarray)
            and fresh.dtype == np.uint8
            and fresh.shape == (n,)
            and fresh.flags.c_contiguous
        ):
            raise InputError(f"fresh: wanted a contiguous uint8 [{n}]")
        depth = self._order.find(LOSSES.index(loss), batch_size, negatives, *(columns[name] for name in _ORDERED))
        if depth < 0:
            for name, low, rows in (
                ("user_slots", 0, self.user_rows),
                ("item_slots", 0, self.item_rows),
                ("negative_slots", -1, self.item_rows),
            ):
                within(name, columns[name].astype(np.int64), low, rows)
        return Window(loss, batch_size, negatives, n, depth, self.user_rows, self.item_rows, ints, columns)


_ORDERED = (
    *("user_slots", "item_slots", "negative_slots", "user_before", "user_next", "item_before", "item_next"),
    *("negative_before", "negative_next"),
)


@marked("learn_steps", work.learn_steps)
def learn_steps(
    users: Any,
    items: Any,
    window: Window,
    mean: Any,
    mean_count: int,
    *,
    dim: int,
    lr: float,
    l2: float = 0.0,
    optimizer: str = "adagrad",
    threads: int = 1,
) -> LearnedWindow:
    """Learns a window in place, step after step as the engine does, or as if so.

    A step takes the gradients of its loss at the rows as they are (`loss_grads`; the score of pointwise losses
    adds the event's offset plus the user's bias), then each distinct item row has one step of the optimizer, and each
    distinct user row (`update_rows`): terms of one row in the order of events. Users' biases are learned by logistic
    and squared only. After each event, in order, mean += (vector of its user after the step - mean) / min(count, 4096),
    where count is `mean_count` plus the events so far.

    users, items  float32 [U, W], [I, W'], W and W' >= dim + 1 + state_floats(optimizer, dim), as many rows as the
                  window was planned for, C-contiguous, written in place; two slabs apart. numpy, or tensors on one GPU
    window        of a Planner; for a GPU on that device already (`Window.on`), else it is copied there
    mean          float32 [dim], in place, where the rows are
    mean_count    events in it so far; afterwards it is mean_count + n
    lr, l2        finite, 0 or more
    threads       1 to 256, on the CPU

    Raises InputError before anything is written, and DeviceError.
    """
    dim = whole_number("dim", dim, 1, MAX_DIM)
    choice("optimizer", optimizer, OPTIMIZERS)
    lr, l2 = rate("lr", lr), rate("l2", l2)
    mean_count = whole_number("mean_count", mean_count, 0, 2**62)
    threads = whole_number("threads", threads, 1, 256)
    rule = Rule(optimizer, lr, l2)
    if is_tensor(users):
        return learn_on_device(Slabs(dim, users, items, mean, mean_count), window, rule)
    state = state_floats(optimizer, dim)
    users = rows_in_place(users, dim, state, writable=True)
    items = rows_in_place(items, dim, state, writable=True)
    _fits(users, items, window)
    apart(users, items=items)
    if not isinstance(mean, np.ndarray) or not mean.flags.writeable or not mean.flags.c_contiguous:
        raise InputError("mean: wanted a contiguous array that may be written")
    mean = floats("mean", mean, dim)
    apart(users, mean=mean)
    apart(items, mean=mean)
    return learn_on_host(Slabs(dim, users, items, mean, mean_count), window, rule, threads=threads)


def learn_on_host(
    slabs: Slabs, window: Window, rule: Rule, *, threads: int = 1, strands: int = 1, staged: bool = False
) -> LearnedWindow:
    """`learn_steps` in C++, unchecked. `strands`, `staged`: as a GPU's blocks would work, for tests."""
    losses = np.empty(window.events, np.float32)
    vectors = np.empty((window.events, slabs.dim), np.float32)
    columns: dict[str, Any] = {name: window.columns[name] for name in (*_ORDERED, *FLOATS)}
    skipped = native.learn_steps(
        loss=LOSSES.index(window.loss),
        optimizer=OPTIMIZERS.index(rule.optimizer),
        lr=rule.lr,
        l2=rule.l2,
        batch_size=window.batch_size,
        negatives=window.negatives,
        **slabs._asdict(),
        **columns,
        losses=losses,
        vectors=vectors,
        threads=threads,
        strands=strands,
        staged=staged,
    )
    return LearnedWindow(losses, skipped)


def learn_on_device(
    slabs: Slabs, window: Window, rule: Rule, *, block_threads: int = 0, blocks: int = 0, each: bool = False
) -> LearnedWindow:
    """`learn_steps` on a GPU. `block_threads`, `blocks`: 0 for what suits. `each`: a launch for each step."""
    import torch

    if missing := cuda_missing():
        raise DeviceError(f"cuda: {missing}")
    dim, users, items, mean, mean_count = slabs
    state = state_floats(rule.optimizer, dim)
    device = users.device
    for name, rows in (("users", users), ("items", items)):
        if not is_tensor(rows) or rows.dtype != torch.float32 or rows.dim() != 2 or rows.device != device:
            raise InputError(f"{name}: wanted a float32 tensor [rows, W] on the GPU of users")
        if not rows.is_cuda or not rows.is_contiguous() or rows.shape[1] < dim + 1 + state:
            raise InputError(f"{name}: wanted a contiguous tensor on a GPU with {dim + 1 + state} columns or more")
    if not is_tensor(mean) or mean.dtype != torch.float32 or tuple(mean.shape) != (dim,) or mean.device != device:
        raise InputError(f"mean: wanted a float32 tensor [{dim}] on the GPU of users")
    _fits(users, items, window)
    if not is_tensor(window.ints):
        window = window.on(lambda array: torch.from_numpy(array).to(device))
    n = window.events
    with torch.cuda.device(device):
        losses = torch.empty(n, dtype=torch.float32, device=device)
        vectors = torch.empty(n * dim, dtype=torch.float32, device=device)
        columns = {name: 0 if column is None else column.data_ptr() for name, column in window.columns.items()} | {
            "loss": LOSSES.index(window.loss),
            "optimizer": OPTIMIZERS.index(rule.optimizer),
            "lr": rule.lr,
            "l2": rule.l2,
            "n": n,
            "batch_size": window.batch_size,
            "negatives": window.negatives,
            "dim": dim,
            "users": users.data_ptr(),
            "items": items.data_ptr(),
            "user_width": users.shape[1],
            "item_width": items.shape[1],
            "mean": mean.data_ptr(),
            "mean_count": mean_count,
            "losses": losses.data_ptr(),
            "vectors": vectors.data_ptr(),
        }
        try:
            *_, size = cuda.plan_steps(columns, window.depth, block_threads, blocks)
            workspace = torch.empty(size, dtype=torch.uint8, device=device)
            stream = torch.cuda.current_stream(device).cuda_stream
            cuda.learn_steps(columns, window.depth, block_threads, blocks, workspace.data_ptr(), size, stream, each)
        except RuntimeError as why:
            raise DeviceError(f"learn_steps: {why}") from why
    return LearnedWindow(losses, workspace[:8].view(torch.int64)[0])


def split(ints: Any, n: int, count: int) -> dict[str, Any]:
    """The columns of a window of n events with `count` negatives, as parts of one array or tensor."""
    parts = {name: ints[i * n : (i + 1) * n] for i, name in enumerate(SLOTS)}
    return parts | {name: ints[6 * n + i * count : 6 * n + (i + 1) * count] for i, name in enumerate(NEGATIVES)}


def _slots(name: str, value: Any, count: int, low: int, rows: int) -> npt.NDArray[Any]:
    """int32 as they are, for their range shows when they are ordered; int64 in range."""
    if isinstance(value, np.ndarray) and value.dtype == np.int32 and value.shape == (count,):
        return value
    slots = integers(name, value, count)
    within(name, slots, low, rows)
    return slots


def _fits(users: Any, items: Any, window: Window) -> None:
    for name, rows, wanted in (("users", users, window.user_rows), ("items", items, window.item_rows)):
        if rows.shape[0] != wanted:
            raise InputError(f"{name}: got {rows.shape[0]} rows, but the window was planned for {wanted}")
