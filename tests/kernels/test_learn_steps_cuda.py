"""learn_steps on a GPU: the bits of the host build, whatever the launch. Skipped where there is no GPU.

Under compute-sanitizer run with -k small.
"""

from typing import Any

import engine_steps as steps
import numpy as np
import pytest

from engine.contract.errors import InputError
from engine.contract.losses import LOSSES, OPTIMIZERS, POINTWISE
from engine.kernels.learn_steps import Planner, Slabs, Window, learn_on_device, learn_on_host, learn_steps
from engine.kernels.optimizers import Rule
from engine.machine.backend import cuda_missing, native

pytestmark = pytest.mark.skipif(bool(cuda_missing()), reason=f"needs a GPU: {cuda_missing()}")


def same(what: str, got: Any, want: np.ndarray) -> None:
    got = got.cpu().numpy() if hasattr(got, "cpu") else got
    differ = np.flatnonzero(got.view(np.uint32).ravel() != want.view(np.uint32).ravel())
    assert differ.size == 0, f"{what}: {differ.size} of {want.size} floats differ, the first at {differ[0]}"


def both(
    users: np.ndarray,
    items: np.ndarray,
    window: Window,
    kinds: dict[str, Any],
    mean: np.ndarray,
    count: int,
    **how: Any,
) -> None:
    """Learns the window on the host and on the GPU, and compares all that comes out."""
    import torch

    device = [torch.from_numpy(array.copy()).cuda() for array in (users, items, mean)]
    users, items, mean = users.copy(), items.copy(), mean.copy()
    dim, rule = kinds["dim"], Rule(kinds["optimizer"], kinds["lr"], kinds["l2"])
    want = learn_on_host(Slabs(dim, users, items, mean, count), window, rule)
    got = learn_on_device(Slabs(dim, *device, count), window, rule, **how)
    torch.cuda.synchronize()
    same("losses", got.losses, want.losses)
    same("users", device[0], users)
    same("items", device[1], items)
    same("mean", device[2], mean)
    assert int(got.skipped) == want.skipped


def slab(rng: np.random.Generator, rows: int, dim: int, optimizer: str, width: int | None = None) -> np.ndarray:
    state = native.state_floats(OPTIMIZERS.index(optimizer), dim)
    width = width or -(-(dim + 1 + state) // 8) * 8
    out = np.full((rows, width), np.nan, np.float32)  # what lies behind the rows is nobody's
    out[:, : dim + 1] = rng.normal(size=(rows, dim + 1)) / np.sqrt(dim)
    out[:, dim + 1 : dim + 1 + state] = rng.uniform(0, 1, size=(rows, state))
    return out


def random_window(
    rng: np.random.Generator,
    loss: str,
    batch_size: int,
    negatives: int,
    events: int,
    user_rows: int,
    item_rows: int,
    new: float = 0.0,
) -> Window:
    """Events over existing rows; a share `new` of the users begins in the window."""
    pointwise = loss in POINTWISE
    negatives = 0 if pointwise else negatives
    count = negatives * (-(-events // batch_size) if loss == "softmax" else events)
    users = rng.integers(0, user_rows, size=events)
    fresh = np.zeros(events, np.uint8)
    if new:
        first = np.unique(users, return_index=True)[1]
        fresh[first] = rng.random(first.size) < new
    return Planner(user_rows, item_rows).plan(
        users,
        rng.integers(0, item_rows, size=events),
        rng.integers(-1, item_rows, size=count),
        loss=loss,
        batch_size=batch_size,
        negatives=negatives,
        weights=rng.uniform(0, 2, size=events).astype(np.float32),
        values=rng.integers(0, 2, size=events).astype(np.float32) if pointwise else None,
        offsets=rng.normal(size=events).astype(np.float32) if pointwise else None,
        fresh=fresh if new else None,
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("dim", "batch_size", "negatives"), [(1, 1, 3), (17, 4, 5), (64, 1, 64), (64, 3, 7), (128, 16, 4), (20, 256, 2)]
)
def test_small_from_nothing(loss, optimizer, dim, batch_size, negatives):
    """New users, new items, few rows: the same events as the engine's own path learns in test_learn_steps.py."""
    case = steps.case(loss, optimizer, dim, batch_size, negatives, 500, weighted=dim == 17)
    window = Planner(case.user_rows, case.item_rows).plan(**steps.columns(case))
    both(*steps.slabs(case), window, case.kinds, np.zeros(dim, np.float32), 0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [10, 1_000_000])
@pytest.mark.parametrize(("batch_size", "negatives"), [(1, 64), (4, 64), (16, 20)])
def test_windows_of_thousands_of_steps(loss, rows, batch_size, negatives):
    rng = np.random.default_rng(rows + batch_size)
    users, items = (slab(rng, rows, 64, "adagrad") for _ in range(2))
    window = random_window(rng, loss, batch_size, negatives, 4000 * min(batch_size, 4), rows, rows)
    mean = rng.normal(size=64).astype(np.float32)
    both(users, items, window, {"dim": 64, "lr": 0.1, "l2": 0.0, "optimizer": "adagrad"}, mean, 5000)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("block_threads", [32, 96, 256, 384])
@pytest.mark.parametrize("blocks", [2, 3, 0])
def test_however_it_is_launched(optimizer, block_threads, blocks):
    rng = np.random.default_rng(block_threads)
    users, items = (slab(rng, 300, 64, optimizer) for _ in range(2))
    window = random_window(rng, "softmax", 2, 30, 2000, 300, 300, new=0.5)
    kinds = {"dim": 64, "lr": 0.1, "l2": 0.01, "optimizer": optimizer}
    both(users, items, window, kinds, np.zeros(64, np.float32), 0, block_threads=block_threads, blocks=blocks)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
@pytest.mark.parametrize(
    ("dim", "batch_size", "negatives"), [(64, 256, 256), (512, 16, 40), (4096, 2, 9), (128, 16, 300)]
)
def test_what_does_not_fit_into_shared_memory(loss, dim, batch_size, negatives, each):
    if loss == "bpr":
        negatives = min(negatives, 16)
    rng = np.random.default_rng(dim)
    users, items = (slab(rng, 2000, dim, "adam") for _ in range(2))
    window = random_window(rng, loss, batch_size, negatives, 40 * batch_size - 1, 2000, 2000, new=0.5)
    kinds = {"dim": dim, "lr": 0.01, "l2": 0.01, "optimizer": "adam"}
    both(users, items, window, kinds, np.zeros(dim, np.float32), 7, each=each)


@pytest.mark.parametrize("width", [67, 69, 70, 72])
def test_rows_of_any_width(width):
    rng = np.random.default_rng(width)
    users, items = (slab(rng, 500, 64, "adagrad", width) for _ in range(2))
    window = random_window(rng, "softmax", 1, 64, 1500, 500, 500)
    both(users, items, window, {"dim": 64, "lr": 0.1, "l2": 0.0, "optimizer": "adagrad"}, np.zeros(64, np.float32), 0)


def test_a_row_that_is_not_finite_stays():
    rng = np.random.default_rng(1)
    users, items = (slab(rng, 50, 16, "adagrad") for _ in range(2))
    items[7, 3] = np.inf
    users[4, 2] = 3e38
    users[:, :16] *= 100
    window = random_window(rng, "squared", 2, 0, 200, 50, 50)
    import torch

    device = [torch.from_numpy(array.copy()).cuda() for array in (users, items, np.zeros(16, np.float32))]
    want = learn_on_host(Slabs(16, users, items, np.zeros(16, np.float32), 0), window, Rule("adagrad", 0.1))
    got = learn_on_device(Slabs(16, *device, 0), window, Rule("adagrad", 0.1))
    assert int(got.skipped) == want.skipped > 0
    same("users", device[0], users)
    same("items", device[1], items)


def test_no_events_and_another_stream():
    import torch

    rng = np.random.default_rng(2)
    users, items = (slab(rng, 50, 8, "sgd") for _ in range(2))
    kinds = {"dim": 8, "lr": 0.1, "l2": 0.0, "optimizer": "sgd"}
    both(users, items, random_window(rng, "softmax", 4, 3, 0, 50, 50), kinds, np.ones(8, np.float32), 3)
    with torch.cuda.stream(torch.cuda.Stream()):
        both(users, items, random_window(rng, "bpr", 4, 3, 99, 50, 50), kinds, np.ones(8, np.float32), 3)


def test_refuses_what_does_not_fit():
    import torch

    rng = np.random.default_rng(3)
    window = random_window(rng, "softmax", 1, 3, 5, 50, 50)
    users, items = (torch.from_numpy(slab(rng, 50, 8, "sgd")).cuda() for _ in range(2))
    mean = torch.zeros(8, device="cuda")
    kinds = {"dim": 8, "lr": 0.1, "optimizer": "sgd"}
    for wrong, named in (
        ((users.double(), items, window, mean, 0), "users: wanted a float32"),
        ((users.cpu(), items, window, mean, 0), "users: wanted a contiguous tensor on a GPU"),
        ((users, items.t(), window, mean, 0), "items: wanted a contiguous"),
        ((users[:49], items, window, mean, 0), "users: got 49 rows"),
        ((users, items, window, mean.cpu(), 0), "mean: wanted"),
        ((users, items, window, mean, -1), "mean_count"),
    ):
        with pytest.raises(InputError, match=named):
            learn_steps(*wrong, **kinds)
