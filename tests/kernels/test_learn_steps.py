"""learn_steps beside its reference, and bit for bit beside the engine's own step path."""

from typing import Any

import engine_steps as steps
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import DeviceError, InputError
from engine.contract.losses import LOSSES, OPTIMIZERS
from engine.kernels.learn_steps import Planner, Slabs, learn_on_device, learn_on_host, learn_steps, reference
from engine.kernels.optimizers import Rule
from engine.machine.backend import native

SHAPES = [(1, 1, 3), (17, 4, 5), (64, 1, 64), (64, 3, 7), (128, 16, 4), (20, 256, 2), (33, 70, 70)]
# Threads that take steps; strands of each, whether rows are staged: as the blocks of a GPU work.
TEAMS = [(1, 1, False), (2, 1, False), (4, 1, False), (1, 3, True), (2, 4, True), (2, 3, False)]


def planned(case: steps.Case, **changed: Any) -> Any:
    return Planner(case.user_rows, case.item_rows).plan(**(steps.columns(case) | changed))


def learned(case: steps.Case, window: Any, team: tuple[int, int, bool] = (1, 1, False), start: Any = None) -> Any:
    """Rows of users and items, mean, losses and skipped rows, after the window."""
    users, items = (rows.copy() for rows in start or steps.slabs(case))
    mean = np.zeros(case.dim, np.float32)
    threads, strands, staged = team
    how = {"threads": threads, "strands": strands, "staged": staged}
    got = learn_on_host(Slabs(case.dim, users, items, mean, 0), window, case.rule, **how)
    return users, items, mean, got.losses, np.array([got.skipped])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("dim", "batch_size", "negatives"), SHAPES)
def test_the_bits_of_the_engine(same_bits, loss, optimizer, dim, batch_size, negatives):
    """From no rows at all; new users and items all along, duplicates, masked negatives, a short last step."""
    case = steps.case(loss, optimizer, dim, batch_size, negatives, 301, weighted=dim == 17)
    want = steps.by_the_engine(case)
    window = planned(case)
    for team in TEAMS:
        users, items, mean, losses, skipped = learned(case, window, team)
        same_bits((users, items, mean), (want.users, want.items, want.mean))
        assert skipped[0] == want.skipped == 0
        total = 0.0
        for loss_of_event in losses.tolist():
            total += loss_of_event
        assert total == want.loss


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("dim", "batch_size", "negatives"), SHAPES)
def test_agrees_with_the_reference(close, loss, optimizer, dim, batch_size, negatives):
    lr = 0.05 / batch_size if optimizer == "sgd" else 0.05  # summed gradients of a hot row would blow it up
    case = steps.case(loss, optimizer, dim, batch_size, negatives, min(50 * batch_size, 999), lr=lr)
    window = planned(case)
    got = learned(case, window)
    users, items = steps.slabs(case)
    mean = np.zeros(dim, np.float32)
    want = reference.learn_steps(users, items, window, mean, 0, **case.kinds)
    close("learn_steps", got[:4], (users, items, mean, want.losses))
    assert got[4][0] == want.skipped


@pytest.mark.parametrize("loss", LOSSES)
def test_against_the_reference_from_rows_in_use(make_rows, close, same_bits, loss):
    """What lies behind the rows stays as it was, and so does a row that no event names."""
    rng = np.random.default_rng(3)
    case = steps.case(loss, "adagrad", 20, 4, 6, 120, stream=4, lr=0.05)
    window = planned(case, fresh=None)
    start = make_rows(rng, case.user_rows, 20), make_rows(rng, case.item_rows, 20)
    got = learned(case, window, start=start)
    users, items = (rows.copy() for rows in start)
    mean = np.zeros(20, np.float32)
    want = reference.learn_steps(users, items, window, mean, 0, **case.kinds)
    close("learn_steps", (got[0][:, :23], got[1][:, :23], *got[2:4]), (users[:, :23], items[:, :23], mean, want.losses))
    same_bits((got[0][:, 23:], got[1][:, 23:]), (start[0][:, 23:], start[1][:, 23:]))
    idle = np.setdiff1d(np.arange(case.user_rows), case.users)
    same_bits(got[0][idle], start[0][idle])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    loss=st.sampled_from(LOSSES),
    optimizer=st.sampled_from(OPTIMIZERS),
    dim=st.integers(1, 80),
    batch_size=st.integers(1, 9),
    negatives=st.integers(0, 40),
    events=st.integers(0, 120),
    rows=st.tuples(st.integers(1, 12), st.integers(1, 60)),
    team=st.sampled_from(TEAMS[1:]),
    seed=st.integers(0, 2**32 - 1),
)
def test_law_side_by_side_is_one_after_the_other(
    same_bits, loss, optimizer, dim, batch_size, negatives, events, rows, team, seed
):
    """Any window, cut anywhere into windows, on any team: the bits of one step at a time."""
    changed = {"user_rows": rows[0], "item_rows": rows[1], "stream": seed, "weighted": seed % 2 == 0}
    case = steps.case(loss, optimizer, dim, batch_size, negatives, events, **changed)
    columns = steps.columns(case)
    columns["negative_slots"] = np.random.default_rng(seed).integers(-1, rows[1], size=columns["negative_slots"].size)
    columns["negatives"] = case.negatives
    planner = Planner(*rows)
    whole = learned(case, planner.plan(**columns), team)

    users, items = steps.slabs(case)
    mean, losses, skipped = np.zeros(dim, np.float32), [np.zeros(0, np.float32)], 0
    for first in range(0, events, batch_size):
        end = min(events, first + batch_size)
        per = case.negatives * (1 if loss == "softmax" else batch_size)
        negative_from = first // batch_size * per
        count = case.negatives * (1 if loss == "softmax" else end - first)
        one = {
            name: value[first:end] if isinstance(value, np.ndarray) and name != "negative_slots" else value
            for name, value in columns.items()
        } | {"negative_slots": columns["negative_slots"][negative_from : negative_from + count]}
        got = learn_steps(users, items, planner.plan(**one), mean, first, **case.kinds)
        losses.append(got.losses)
        skipped += got.skipped
    same_bits(whole, (users, items, mean, np.concatenate(losses), np.array([skipped])))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_path_gives_the_same_bits(on_every_path, loss):
    case = steps.case(loss, "adam", 33, 3, 20, 150, weighted=True)
    window = planned(case)
    on_every_path(lambda: learned(case, window)[:4])


@pytest.mark.parametrize("loss", LOSSES)
def test_many_threads_many_times(same_bits, loss):
    """Few rows, where nearly every step waits for the one before, and many, where hardly any does."""
    for rows in (10, 2000):
        case = steps.case(loss, "adagrad", 16, 2, 8, 1500, user_rows=rows, item_rows=rows)
        window = planned(case)
        want = learned(case, window)
        for team in [(2, 1, False), (4, 1, True), (3, 1, False), (4, 1, False)]:
            same_bits(learned(case, window, team), want)


def test_the_order():
    """Worked out by hand: users 0 1 0 2, items 5 6 7 5, negatives below."""
    window = Planner(3, 9).plan(
        np.array([0, 1, 0, 2]),
        np.array([5, 6, 7, 5]),
        np.array([8, 8, 0, -1, 6, 1, 1, 8]),
        negatives=2,
    )
    column = window.columns
    assert column["user_before"].tolist() == [-1, -1, 0, -1]
    assert column["item_before"].tolist() == [-1, -1, -1, 0]
    assert column["negative_before"].tolist() == [-1, -2, -1, -2, 1, -1, 2, 0]
    assert column["negative_next"].tolist() == [2, -1, -1, -1, -1, -1, -1, -1]
    assert (window.steps, window.depth) == (4, 3)


def test_the_order_within_a_step():
    window = Planner(3, 9).plan(
        np.array([0, 1, 0]), np.array([5, 6, 5]), np.array([6, 5, 5]), loss="bpr", batch_size=3, negatives=1
    )
    column = window.columns
    assert column["user_next"].tolist() == [2, -1, -1]
    # References of items: 0 1 2 the positives, 3 4 5 the negatives. Row 5: 0, 4, 2, 5; row 6: 3, 1.
    assert column["item_next"].tolist() == [4, -1, 5]
    assert column["negative_next"].tolist() == [1, 2, -1]
    assert column["item_before"].tolist() == [-1, -2, -2]
    assert column["negative_before"].tolist() == [-1, -2, -2]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 5), rows=st.integers(1, 30), shared=st.booleans())
def test_law_a_planner_names_the_last_step_that_touched_a_row(seed, batch_size, rows, shared):
    """Of each window on its own, however many windows the planner has seen."""
    rng, planner = np.random.default_rng(seed), Planner(rows, rows)
    for _ in range(3):
        n, K = int(rng.integers(0, 40)), int(rng.integers(0, 4))
        count = -(-n // batch_size) if shared else n
        negatives = rng.integers(-1, rows, size=count * K).astype(np.int32)
        users, items = (rng.integers(0, rows, size=n).astype(np.int32) for _ in range(2))
        kinds = {"loss": "softmax" if shared else "bpr", "batch_size": batch_size, "negatives": K}
        got = planner.plan(users, items, negatives, **kinds)
        last: dict[Any, int] = {}
        depth: dict[int, int] = {}
        for step in range(got.steps):
            first, end = step * batch_size, min(n, (step + 1) * batch_size)
            per = K if shared else K * batch_size
            some = slice(step * per, step * per + (K if shared else K * (end - first)))
            names = [("user", slot) for slot in users[first:end]], [("item", slot) for slot in items[first:end]]
            befores = [*got.columns["user_before"][first:end], *got.columns["item_before"][first:end]]
            touched = [*names[0], *names[1], *(("item", slot) for slot in negatives[some] if slot >= 0)]
            befores += list(got.columns["negative_before"][some][negatives[some] >= 0])
            for row, before in zip(touched, befores, strict=True):
                assert before in (last.get(row, -1), -2)
            firsts = [row for row, before in zip(touched, befores, strict=True) if before != -2]
            assert sorted(firsts) == sorted(set(touched))
            depth[step] = 1 + max((depth[last[row]] for row in firsts if row in last), default=0)
            last |= dict.fromkeys(firsts, step)
        assert got.depth == max(depth.values(), default=0)


def test_a_row_that_is_not_finite_stays(same_bits):
    case = steps.case("softmax", "adagrad", 8, 2, 3, 40, user_rows=5, item_rows=6)
    window = planned(case, fresh=None)
    start = steps.slabs(case)
    start[1][:, :8] = np.inf
    got = learned(case, window, start=start)
    same_bits(got[:2], start)
    assert got[4][0] > 0
    for team in TEAMS[1:]:
        assert learned(case, window, team, start=start)[4][0] == got[4][0]


def test_nothing_to_learn(same_bits):
    case = steps.case("softmax", "sgd", 8, 4, 3, 0)
    for team in TEAMS:
        got = learned(case, planned(case), team)
        same_bits(got[:2], steps.slabs(case))
        assert got[3].size == 0
        assert got[4][0] == 0
        assert not got[2].any()


def good(**changed: Any) -> dict[str, Any]:
    case = steps.case("softmax", "adagrad", 8, 2, 3, 10)
    users, items = steps.slabs(case)
    mean = np.zeros(8, np.float32)
    return {
        "users": users,
        "items": items,
        "window": planned(case),
        "mean": mean,
        "mean_count": 0,
        "dim": 8,
        "lr": 0.1,
    } | changed


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"users": np.ones((30, 10), np.float32)}, "rows: got 10 columns, wanted 11"),
        ({"users": np.ones((30, 11), np.float64)}, "rows: got float64"),
        ({"users": np.ones((29, 11), np.float32)}, "users: got 29 rows, but the window was planned for 30"),
        ({"items": np.ones((30, 11), np.float32)}, "items: got 30 rows, but the window was planned for 40"),
        ({"mean": np.zeros(7, np.float32)}, r"mean: got float32 \[7\], wanted float32 \[8\]"),
        ({"mean": np.zeros(16, np.float32)[::2]}, "mean: wanted a contiguous"),
        ({"mean_count": -1}, "mean_count: got int -1, wanted an integer from 0"),
        ({"lr": float("nan")}, "lr: got float nan, wanted a number >= 0"),
        ({"l2": -1.0}, "l2: got float -1.0, wanted a number >= 0"),
        ({"optimizer": "rmsprop"}, "optimizer: got str 'rmsprop'"),
        ({"threads": 0}, "threads: got int 0, wanted an integer from 1 to 256"),
        ({"dim": 0}, "dim: got int 0, wanted an integer from 1 to 4096"),
    ],
)
def test_refuses_and_writes_nothing(changed, named):
    args = good() | changed
    before = args["users"].tobytes(), args["items"].tobytes()
    with pytest.raises(InputError, match=named):
        learn_steps(**args)
    assert (args["users"].tobytes(), args["items"].tobytes()) == before
    learn_steps(**good())


def test_slabs_must_be_apart():
    both = np.ones((70, 11), np.float32)
    with pytest.raises(InputError, match="items: got memory of rows"):
        learn_steps(**good(users=both[:30], items=both[20:60]))
    with pytest.raises(InputError, match="mean: got memory of rows"):
        learn_steps(**good(users=both[:30], items=both[30:], mean=both[1, :8]))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"user_slots": [0, 3]}, "user_slots: got 3, wanted 0 <= value < 3"),
        ({"user_slots": [0, -1]}, "user_slots: got -1"),
        ({"item_slots": [9, 0]}, "item_slots: got 9"),
        ({"negative_slots": [0, 1, -2, 3]}, "negative_slots: got -2, wanted -1 <= value < 9"),
        ({"negative_slots": [0, 1, 9, 3]}, "negative_slots: got 9"),
        ({"negative_slots": [0, 1, 3]}, r"negative_slots: got int(32|64) \[3\], wanted int64 \[4\]"),
        ({"item_slots": [0]}, r"item_slots: got int(32|64) \[1\]"),
        ({"loss": "hinge"}, "loss: got str 'hinge'"),
        ({"batch_size": 257}, "batch_size: got int 257, wanted an integer from 1 to 256"),
        ({"negatives": 1025}, "negatives: got int 1025, wanted an integer from 0 to 1024"),
        ({"loss": "logistic"}, "negatives: got int 2, wanted an integer from 0 to 0"),
        ({"values": np.ones(2, np.float32)}, "values, offsets: wanted with logistic"),
        ({"offsets": np.ones(2, np.float32)}, "values, offsets: wanted with logistic"),
        ({"weights": np.ones(3, np.float32)}, r"weights: got float32 \[3\]"),
        ({"fresh": np.ones(2, np.int8)}, "fresh: wanted a contiguous uint8"),
    ],
)
def test_a_planner_refuses(changed, named, dtype):
    planner = Planner(3, 9)
    fine = {"user_slots": [0, 2], "item_slots": [8, 0], "negative_slots": [0, 1, -1, 3], "negatives": 2}

    def plan(args):
        return planner.plan(**{name: np.array(v, dtype) if isinstance(v, list) else v for name, v in args.items()})

    with pytest.raises(InputError, match=named):
        plan(fine | changed)
    assert plan(fine).columns["item_before"].tolist() == [-1, -1 if changed.get("none") else 0]


def test_native_arguments_are_checked():
    case = steps.case("softmax", "adagrad", 8, 2, 3, 10)
    for name, wrong in (
        ("user_before", 5),
        ("negative_before", 7),
        ("item_next", 5),
        ("user_next", 2),
        ("item_slots", 40),
    ):
        window = planned(case)
        window.columns[name][1] = wrong
        with pytest.raises(ValueError, match="_native: "):
            learned(case, window)
    with pytest.raises(ValueError, match="too many rows"):
        native.StepOrder(2**31, 1)


def test_a_gpu_that_is_not_there():
    """Rows on another device than numpy's: refused by name, whatever this machine has."""
    torch = pytest.importorskip("torch")
    args = good()
    for name in ("users", "items", "mean"):
        args[name] = torch.from_numpy(args[name])
    with pytest.raises((DeviceError, InputError), match=r"cuda: |on a GPU"):
        learn_steps(**args)
    slabs = Slabs(**{name: args[name] for name in Slabs._fields})
    with pytest.raises((DeviceError, InputError)):
        learn_on_device(slabs, args["window"], Rule("adagrad", 0.1))


@pytest.mark.parametrize(
    "case", [(1, 1, 1), (7, 1, 4), (300, 1, 16), (61, 4, 5), (255, 256, 3), (257, 16, 40)], ids=str
)
@pytest.mark.parametrize("rows", [1, 5, 400])
def test_the_order_found_on_a_device_is_the_planners(case, rows):
    torch = pytest.importorskip("torch")
    from engine.kernels.learn_steps.order_on_device import window_on_device
    from engine.machine.backend import require_device

    _, device = require_device()
    events, batch_size, negatives = case
    rng = np.random.default_rng(events)
    count = -(-events // batch_size) * negatives
    slots = [rng.integers(0, rows, n).astype(np.int32) for n in (events, events, count)]
    slots[2][rng.random(count) < 0.1] = -1
    optional = {"weights": rng.random(events).astype(np.float32), "fresh": rng.integers(0, 2, events, dtype=np.uint8)}
    shape = {"batch_size": batch_size, "negatives": negatives}
    want = Planner(rows, rows).plan(*slots, **shape, **optional)
    tensors = [torch.from_numpy(x).to(device) for x in slots]
    moved = {name: torch.from_numpy(x).to(device) for name, x in optional.items()}
    got = window_on_device(*tensors, **shape, user_rows=rows, item_rows=rows, **moved)
    got = got.on(lambda tensor: tensor.cpu().numpy())
    np.testing.assert_array_equal(got.ints, want.ints)
    assert (got.events, got.steps, got.loss, got.user_rows) == (want.events, want.steps, "softmax", rows)
    for name, column in want.columns.items():
        np.testing.assert_array_equal(got.columns[name], column, err_msg=name)
