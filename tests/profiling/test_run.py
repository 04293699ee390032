"""Profiles of workloads: what runs, what is written, what is refused first.

Without a GPU the workloads run in Triton's interpreter, where every number of a device must be "not measured".
"""

import errno
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import engine
from engine.contract.errors import EngineError, InputError
from engine.machine import backend
from engine.machine.marks import Work, marked
from engine.profiling import roofline
from engine.profiling import run as profiling
from engine.profiling.roofline import Roofs
from engine.profiling.run import profile
from engine.profiling.trace import Workload, cells

PNG = b"\x89PNG\r\n\x1a\n"
INTERPRETED = backend.interpreted()


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
    roofline.plot(found.points, found.roofs, case, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("left", [None, '{"traceEvents": [', "{}"])
def test_a_trace_that_torch_could_not_write_is_an_error(monkeypatch, tmp_path, left):
    """It only logs that; what an earlier run wrote is no answer, and stays."""

    def export(_, path):
        Path(f"{path}.tmp").touch()
        if left is not None:
            Path(path).write_text(left)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
    before = json.dumps({"traceEvents": [{"name": "an earlier run"}]})
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
    code += "import engine.profiling.run, engine.profiling.roofline; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
