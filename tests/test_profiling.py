"""Profiling: marks that cost nothing and break nothing, work reckoned as by hand, who launched what, the roofline.

Without a GPU the workloads run in Triton's interpreter, where every number of a device must be "not measured"; what
makes numbers out of a GPU's trace is tested on traces written by hand.
"""

import errno
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import engine
from engine import backend, profiling, ranges, roofline
from engine.errors import EngineError, InputError
from engine.kernels import work
from engine.kernels.learn_steps import Planner
from engine.profiling import Profile, Row, Workload, attributed, cells, profile, reckoned, rows_of
from engine.ranges import Watch, Work, marked, watching
from engine.roofline import Point, Roofs, roof

PNG = b"\x89PNG\r\n\x1a\n"
INTERPRETED = backend.interpreted()


class Nvtx:
    def __init__(self):
        self.said, self.depth = [], 0

    def range_push(self, name):
        self.said.append(("  " * self.depth) + name)
        self.depth += 1

    def range_pop(self):
        self.depth -= 1


@pytest.fixture
def watch(monkeypatch):
    """A watch whose NVTX writes down what it is told."""
    made = Watch(nvtx=False)
    made._nvtx = Nvtx()
    return made


@marked("inner", lambda n: (lambda: Work(n, 2 * n)) if n else None)
def inner(n):
    if n > 9:
        raise ValueError("planted")
    return n


@marked("outer")
def outer(*numbers):
    """Its docstring."""
    return [inner(n) for n in numbers]


def test_nothing_is_marked_while_nobody_watches(monkeypatch):
    def never(*_, **__):
        raise AssertionError("a range was made")

    monkeypatch.setattr(torch.profiler, "record_function", never)
    monkeypatch.setattr(Watch, "range", never)
    assert outer(1, 2) == [1, 2]
    assert (outer.__name__, outer.__doc__) == ("outer", "Its docstring.")


def test_ranges_nest_and_work_adds_up(watch):
    with watching(watch):
        assert outer(3, 0, 4) == [3, 0, 4]  # nothing to do for 0: no range
    assert outer(5) == [5]
    assert watch._nvtx.said == ["rowtide.outer", "  rowtide.inner", "  rowtide.inner"]
    assert [name for name, _ in watch.calls] == ["outer", "inner", "inner"]
    assert reckoned(watch.calls) == {"inner": Work(7, 14)}


def test_ranges_end_with_an_exception(watch):
    with watching(watch):
        with pytest.raises(ValueError, match="planted"):
            outer(10)
        assert watch._nvtx.depth == 0
        outer()
    assert watch._nvtx.said == ["rowtide.outer", "  rowtide.inner", "rowtide.outer"]
    with pytest.raises(ZeroDivisionError), watching(watch):
        raise ZeroDivisionError
    assert ranges._watch is None


def test_one_profile_at_a_time(watch):
    with watching(watch):
        with pytest.raises(EngineError, match="another profile"), watching(watch):
            pass
        outer()
    assert len(watch.calls) == 1


def test_a_watch_that_keeps_nothing():
    watch = Watch(nvtx=False, keep=False)
    with watching(watch):
        outer(1)
    assert watch.calls == []


def test_ranges_change_no_bit():
    rng, digests = np.random.default_rng(0), []
    users, items = rng.integers(0, 30, 200), rng.integers(0, 20, 200)
    for watched in (nullcontext(), watching(Watch(nvtx=False))):
        with watched, engine.open(":memory:", dim=4, device="cuda", batch_size=4, hot_bytes=60_000) as eng:
            eng.ingest(users, items)
            digests.append(eng.digest())
    assert digests[0] == digests[1]


def slots(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


# By hand, for dim 4: a vector is 16 bytes, with its bias 20; a slot 8, a coefficient 4.
def test_the_work_of_bags():
    rows = torch.zeros(9, 8)
    gather = work.pool_rows(rows, slots(3, 1, 3), None, None, dim=4)
    assert gather() == Work(2 * 16 + 3 * 8 + 3 * 16)
    bags = work.pool_rows(rows, slots(3, 1, 3), slots(0, 2, 3), torch.ones(3), dim=4)
    assert bags() == Work(2 * 16 + 3 * (8 + 4) + 2 * (8 + 16), 3 * 2 * 4)


def test_the_work_of_gradients():
    rows = torch.zeros(9, 8)
    users, positives = slots(0, 0, 1), slots(2, 3, 2)
    event = 8 + 8 + 4 + 4 + 16  # both slots; loss, coefficient, gradient
    found = work.loss_grads("logistic", rows, rows, positives, None, dim=4, query_slots=users)()
    assert found == Work(3 * event + 2 * 16 + 2 * 20, 3 * 4 * 4)
    shared = work.loss_grads("softmax", rows, rows, positives, slots(3, 4, -1, 4), dim=4, query_slots=users)()
    assert shared == Work(3 * (event + 4 * 4) + 4 * 8 + 2 * 16 + 3 * 20, 3 * 5 * 4 * 4)
    own = work.loss_grads("bpr", torch.zeros(3, 4), rows, positives, slots(3, 4, 5).view(3, 1), dim=4)()
    assert own == Work(3 * (event - 8 + 4) + 3 * 8 + 3 * 16 + 4 * 20, 3 * 2 * 4 * 4)


@pytest.mark.parametrize(("optimizer", "state", "flops"), [("sgd", 0, 2), ("adagrad", 2, 4), ("adam", 12, 12)])
def test_the_work_of_updates(optimizer, state, flops):
    coefs = torch.ones(5)
    terms = slots(7, 7, -1, 2, 7), torch.zeros(3, 4), slots(0, 1, 1, 1, 0), coefs, coefs
    found = work.update_rows(torch.zeros(9, 20), *terms, dim=4, lr=0.1, optimizer=optimizer)()
    row = 4 * (4 + 1 + state)
    assert found == Work(5 * 20 + 2 * 2 * row + 2 * 16, 5 * 2 * 4 + 2 * flops * 4)


def test_the_work_of_steps():
    """Two steps of two events, two negatives each: the first has rows u0 u1, i2 i3; the second u0, i2 i4."""
    users, items, negatives = (np.array(x) for x in ([0, 1, 0, 0], [2, 2, 4, 4], [2, 3, 2, -1]))
    window = Planner(5, 6).plan(users, items, negatives, batch_size=2, negatives=2)
    found = work.learn_steps(None, None, window, None, 0, dim=4, lr=0.1)()
    ints = 4 * (3 * (4 + 4) + 3 * 4)
    assert found == Work(7 * 2 * 28 + ints + 4 * (4 + 16), 4 * 3 * 6 * 4 + 7 * 4 * 4)


def test_the_work_of_ranking_and_moving():
    assert work.score_topk(torch.zeros(3, 5), torch.zeros(100, 16), torch.zeros(100), None, 10)() == Work(
        100 * (64 + 4), 3 * 100 * 10
    )
    assert work.rank_ids(slots(1, 2, 3))() == Work(48)
    rows, catalogue = torch.zeros(6, 8), SimpleNamespace(dim=4)
    assert work.published(catalogue, slots(1, 2), slots(0, 1), rows, None)() == Work(2 * (16 + 20 + 20 + 8))
    assert work.published(catalogue, slots(1, 2), slots(0, 1), rows, slots(0, 1))() == Work(2 * (24 + 20 + 20 + 8))
    assert work.published(catalogue, slots(), slots(), rows, None) is None
    assert work.copied(SimpleNamespace(rows=rows), [1, 2, 3])() == Work(3 * 32, host=True)
    assert work.copied(SimpleNamespace(rows=rows), []) is None


def span(name, ts, dur, cat="user_annotation", tid=1, **args):
    return {"ph": "X", "name": name, "cat": cat, "pid": 9, "tid": tid, "ts": ts, "dur": dur, "args": args}


def launched(kernel, at, seconds, number, tid=1, cat="kernel"):
    """A launch and what it launched, long after: on the device it runs when it may."""
    return [
        span("cuLaunchKernelEx", at, 1, "cuda_driver", tid, correlation=number),
        span(kernel, at + 5_000, seconds * 1e6, cat, 77, correlation=number),
    ]


TRACE = [
    span("rowtide.outer", 100, 100),
    span("rowtide.inner", 120, 20),
    span("rowtide.inner", 150, 20),
    span("rowtide.other", 110, 50, tid=2),
    span("user's own", 100, 1000),
    span("rowtide.outer", 100, 900, "gpu_user_annotation", 77),
    {"ph": "M", "name": "process_name", "pid": 9, "args": {}},
    *launched("step_rows", 125, 0.25, 1),
    *launched("step_rows", 155, 0.5, 2),
    *launched("sort", 145, 2.0, 3),
    *launched("scan", 125, 4.0, 4, tid=2),
    *launched("Memcpy HtoD", 300, 8.0, 5, cat="gpu_memcpy"),
]


def test_kernels_belong_to_the_innermost_range_of_their_launch():
    found = attributed(TRACE)
    assert {name: dict(seen.seconds) for name, seen in found.items()} == {
        "outer": {"sort": 2.0},
        "inner": {"step_rows": 0.75},
        "other": {"scan": 4.0},
        "(no range)": {"Memcpy HtoD": 8.0},
    }
    assert found["inner"].launches["step_rows"] == found["inner"].calls == 2
    assert found["inner"].host_seconds == pytest.approx(40e-6)
    assert found["outer"].host_seconds == pytest.approx(100e-6)
    assert attributed(reversed(TRACE)) == found


def test_rows_are_fractions_of_the_copy_that_they_stand_for():
    needed = {"inner": Work(3 * 10**9, 6 * 10**9), "other": Work(10**9, host=True)}
    rows = list(rows_of(attributed(TRACE), needed, Roofs(8e9, 1e9, 1e12), True))
    assert [(row.range, row.kernel) for row in rows] == [
        *(("(no range)", None), ("(no range)", "Memcpy HtoD"), ("other", None), ("other", "scan")),
        *(("outer", None), ("outer", "sort"), ("inner", None), ("inner", "step_rows")),
    ]
    by_range = {row.range: row for row in rows if row.kernel is None}
    assert (by_range["inner"].rate, by_range["inner"].of_copy) == (pytest.approx(4e9), pytest.approx(0.5))
    assert by_range["other"].of_copy == pytest.approx(0.25)
    assert (by_range["outer"].rate, by_range["outer"].of_copy) == (None, None)
    found = Profile(Workload(kind="topk"), "a GPU", True, Roofs(8e9, 1e9, 1e12), tuple(rows), None)
    assert found.points == [Point("inner", 2.0, pytest.approx(8e9))]
    table = cells(found)
    assert {len(row) for row in table} == {len(profiling.HEAD)}
    assert table[6] == ("inner", "2", "0.040", "750.000", "3,000,000,000", "4", "50%")
    assert table[7] == ("  step_rows", "2", "", "750.000", "", "", "")
    assert table[2][-2:] == ("0", "25% (host)")


def test_what_was_not_measured_is_called_so():
    """Whatever a trace may hold: in the interpreter there are no numbers of a device."""
    rows = list(rows_of(attributed(TRACE), {"inner": Work(10, 10)}, Roofs(), False))
    assert {(row.kernel, row.device_seconds, row.rate, row.of_copy) for row in rows} == {(None, None, None, None)}
    found = Profile(Workload(kind="topk"), "interpreter", False, Roofs(), tuple(rows), None)
    (inner,) = [row for row in cells(found) if row[0] == "inner"]
    assert inner == ("inner", "2", "0.040", "not measured", "10", "not measured", "not measured")
    assert found.points == [Point("inner", 1.0, None)]
    assert Roofs().said() == "copy not measured; copy from the host not measured; float32 products not measured"


def test_the_roof_is_memory_then_arithmetic():
    assert roof(0.5, 4e12, 5e13) == 2e12
    assert roof(12.5, 4e12, 5e13) == roof(1e9, 4e12, 5e13) == 5e13
    assert roof(1e3, 4e12, None) == 4e15


def test_roofs_count_bytes_and_flops(monkeypatch):
    """As if each call took half a second, on the CPU."""
    during = []

    def half_a_second(call):
        call()
        during.append(torch.get_float32_matmul_precision())
        return 0.5

    def here(make):
        return lambda *size, device=None, pin_memory=None, **kind: make(*size, **kind)

    for name in ("randn", "empty"):
        monkeypatch.setattr(torch, name, here(getattr(torch, name)))
    monkeypatch.setattr(roofline, "_seconds", half_a_second)
    assert roofline.copy_bandwidth(1024) == 4096  # read and written
    assert roofline.host_copy_bandwidth(1024) == 2048
    torch.set_float32_matmul_precision("high")
    try:
        assert roofline.products(16) == 2 * 2 * 16**3
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert during[-1] == "highest"


@pytest.mark.parametrize("roofs", [Roofs(), Roofs(4e12), Roofs(4e12, 5e10, 5e13)])
@pytest.mark.parametrize("points", [[], [Point("a", 0.5, 1e12), Point("b", 9.0, 2e13)], [Point("c", 2.0, None)]])
def test_the_picture_is_a_png(tmp_path, roofs, points):
    roofline.draw(points, roofs, "a title", tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["items", "users", "events", "queries", "at_once", "k"])
@pytest.mark.parametrize("value", [0, -1, 2**40, 1.5, None, True])
def test_sizes_that_no_workload_has(name, value):
    with pytest.raises(InputError, match=f"^{name}: got "):
        Workload(kind="topk", **{name: value})


def test_a_workload_that_is_none():
    with pytest.raises(InputError, match=r"^workload: got 'all', wanted one of ingest, topk, mixed"):
        Workload(kind="all")


def test_only_so_many_users_are_asked_for():
    assert Workload(kind="topk", queries=2**8, at_once=2**16).queries == 256
    with pytest.raises(InputError, match=r"^queries, at_once: got 1048576 x 65536 = \d+ users .* at most 16777216 "):
        Workload(kind="topk", queries=2**20, at_once=2**16)


def test_settings_and_folders_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(engine.ConfigError, match=r"^loss: "):
        profile(Workload(kind="ingest", loss="hinge"), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^out: got "):
        profile(Workload(kind="ingest"), tmp_path / "file" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["trace.json", "roofline.png", None])
def test_files_that_cannot_be_written_are_refused_before_anything_runs(monkeypatch, tmp_path, name):
    monkeypatch.setattr(profiling, "_engine", None)
    folder = Path("/proc/self") if name is None else tmp_path
    if name is not None:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"^out: got {folder}, wanted a directory where trace.json and roofline.png "):
        profile(Workload(kind="ingest"), folder)
    assert [path.name for path in tmp_path.iterdir()] == ([] if name is None else [name])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, number):
    (tmp_path / "roofline.png").write_text("before")

    def write():
        with profiling.writing(tmp_path / "roofline.png") as fresh:
            fresh.write_text("half")
            raise OSError(number, "planted")

    with pytest.raises(engine.StorageFullError if number == errno.ENOSPC else InputError, match=r"out: "):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("roofline.png", "before")]


@pytest.mark.parametrize("run", [lambda w, path: profile(w, path), lambda w, path: profiling.run_marked(w)])
def test_without_a_gpu_it_says_so(monkeypatch, tmp_path, run):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(engine.DeviceError, match="device: got 'cuda', but no CUDA device"):
        run(Workload(kind="ingest"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


SMALL = {"items": 40, "users": 30, "dim": 4, "events": 32, "queries": 2, "at_once": 2, "k": 3}
SMALL |= {"batch_size": 4, "hot_bytes": 2 * 32 * 80}  # 80 rows of a table, ten more than a step can need
CASES = {
    "ingest": (
        {"items": 400},
        {"ingest": 1, "learn_steps": None, "load": None, "copy_back": None, "learn": None, "place": None},
    ),
    "topk": ({}, {"topk": 2, "rank": 2, "score_topk": 2}),
    "mixed": ({}, {"ingest": 1, "topk": 2, "score_topk": 2, "learn_steps": None, "show": None}),
    "ingest by row kernels": (
        {"loss": "logistic", "batch_size": 300, "events": 40, "hot_bytes": None},
        {"ingest": 1, "loss_grads": 1, "update_rows": 2, "pool_rows": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_workload_is_profiled(tmp_path, case):
    more, wanted = CASES[case]
    found = profile(Workload(kind=case.split()[0], **(SMALL | more)), tmp_path / "new")
    trace = json.loads((tmp_path / "new" / "trace.json").read_text())
    named = [event for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    by_range = {row.range: row for row in found.rows if row.kernel is None}
    for name, calls in wanted.items():
        times = sum(event["name"] == f"rowtide.{name}" for event in named)
        assert times == by_range[name].calls > 0
        assert calls in (None, times)
    assert len({event["tid"] for event in named}) == (2 if case == "mixed" else 1)  # the writer's thread too
    if "score_topk" in wanted:
        assert by_range["score_topk"].work == Work(2 * 40 * 4 * 17, 2 * 40 * 2 * 2 * 4)
    assert found.measured != INTERPRETED
    if INTERPRETED:
        assert {row.device_seconds for row in found.rows} == {None}
        assert {row[3] for row in cells(found)} == {"not measured"}
        assert found.roofs == Roofs()
    else:
        assert all(by_range[name].device_seconds > 0 for name in wanted if by_range[name].work)
        assert min(found.roofs.copy, found.roofs.host_copy, found.roofs.flops) > 0
    roofline.draw(found.points, found.roofs, case, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("left", [None, '{"traceEvents": [', "{}"])
def test_a_trace_that_torch_could_not_write_is_an_error(monkeypatch, tmp_path, left):
    """It only logs that; what an earlier run wrote is no answer, and stays."""

    def export(_, path):
        Path(f"{path}.tmp").touch()
        if left is not None:
            Path(path).write_text(left)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
    before = json.dumps({"traceEvents": TRACE})
    (tmp_path / "trace.json").write_text(before)
    with pytest.raises(EngineError, match=r"^out: got .*, but torch could not write trace.json"):
        profile(Workload(kind="topk", **SMALL), tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("trace.json", before)]


def test_what_a_step_moves_is_reckoned_from_what_it_named(tmp_path):
    """logistic, a step of all its events: each distinct user and item once, whatever the draw."""
    shape = SMALL | {"loss": "logistic", "batch_size": 8, "events": 8, "users": 1, "items": 1, "hot_bytes": None}
    found = profile(Workload(kind="ingest", **shape), tmp_path)
    (steps,) = [row for row in found.rows if row.range == "learn_steps"]
    assert steps.work == Work(2 * 2 * 28 + 4 * 6 * 8 + 8 * (4 + 16), 8 * 6 * 4 + 2 * 4 * 4)


def test_an_error_of_the_writer_comes_out():
    def broken(*_):
        raise ValueError(f"planted in {threading.current_thread().name}")

    asked = []
    eng = SimpleNamespace(ingest=marked("x")(broken), topk=marked("x")(lambda users, k: asked.append(k)))
    run = profiling._passes(eng, Workload(kind="mixed", **SMALL))
    with pytest.raises(ValueError, match="planted in ThreadPool"):
        run()
    assert asked == [3, 3]


def test_an_interrupt_ends_the_writer_after_its_call(monkeypatch):
    monkeypatch.setattr(profiling, "_CALL", 4)
    calls, asked = [], threading.Event()

    def ingest(*_):
        asked.wait()
        calls.append(1)
        time.sleep(0.02)

    def topk(*_):
        asked.set()
        raise KeyboardInterrupt

    eng = SimpleNamespace(ingest=marked("x")(ingest), topk=marked("x")(topk))
    run = profiling._passes(eng, Workload(kind="mixed", **(SMALL | {"events": 800})))
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(calls) < 200


def test_memory_does_not_grow_with_events():
    most = []

    def ingest(users, items, _):
        assert len(users) == len(items) <= 65_536
        most.append(tracemalloc.get_traced_memory()[1])
        if len(most) == 3:
            raise InterruptedError

    eng = SimpleNamespace(ingest=marked("x")(ingest), topk=marked("x")(lambda *_: None))
    tracemalloc.start()
    try:
        run = profiling._passes(eng, Workload(kind="ingest", **(SMALL | {"events": 2**24})))
        with pytest.raises(InterruptedError):
            run()
    finally:
        tracemalloc.stop()
    assert most[-1] < 8 * 2**20


def test_the_two_passes_draw_otherwise_and_the_same_for_a_seed():
    def drawn(seed):
        seen = []
        eng = SimpleNamespace(ingest=marked("x")(lambda *x: seen.append(x[:2])), topk=marked("x")(lambda *_: None))
        run = profiling._passes(eng, Workload(kind="ingest", seed=seed, **SMALL))
        run(), run()
        return np.array(seen)

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_it_needs_neither_rich_nor_matplotlib():
    """Where there is a GPU there may be torch and numpy alone."""
    code = "import sys\nfor name in ('rich', 'typer', 'matplotlib'): sys.modules[name] = None\n"
    code += "import engine.profiling, engine.roofline; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_rows_know_their_kernels():
    assert Row("a", None, 1, 1.0, 0.0, Work(1)).rate is None  # nothing ran: no rate
