"""What of `make gpu` needs no GPU: the report, its files and table, what is told when something is missing or fails."""

import csv
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.machine.backend import interpreted
from engine.machine.marks import Work
from engine.profiling import roofline
from engine.profiling import trace as profiling
from engine.profiling.roofline import Roofs

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"


def load(folder, monkeypatch):
    """run.py of a folder as a module; what it adds to the path is gone afterwards."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(os, "environ", os.environ.copy())
    spec = importlib.util.spec_from_file_location("gpu_run", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch):
    return load(GPU, monkeypatch)


@pytest.fixture
def report(run):
    return run.Report(copy=2e12)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA A100-SXM4-40GB", "nvidia-a100-sxm4-40gb"),
        ("  Tesla/T4 (x2) ", "tesla-t4-x2"),
    ],
)
def test_a_device_names_its_file(run, device, name):
    assert run.slug(device) == name


def test_a_row_is_a_fraction_of_the_copy_and_beside_its_peer(report):
    report("gather", "d 64", 1e-3, 1e9, "torch", 3e-3, "4 ms in a paper", note="n")
    row = report.rows[0]
    assert row["gb_per_s"] == pytest.approx(1000)
    assert row["of_copy"] == pytest.approx(0.5)
    assert row["times_peer"] == pytest.approx(3)
    report("steps", "one", 0.5, None)
    assert {name for name, value in report.rows[1].items() if value is not None} == {"kernel", "shape", "seconds"}


def test_a_profile_has_each_kernel_of_a_call(run):
    report = run.Report(1e12, lambda calls: {"scan": (1, 3e-3), "search": (2, 1e-3)})
    report("topk", "n", 4e-3, 2e9, calls=[print])
    report("topk", "not profiled", 4e-3, 2e9)
    first, second = report.profile_rows
    assert (first["device_kernel"], first["calls"], first["share"]) == ("scan", 1, 0.75)
    assert (second["device_kernel"], second["calls"], second["share"]) == ("search", 2, 0.25)
    assert first["of_copy"] == pytest.approx(0.5)


def test_a_profile_that_fails_loses_no_measurement(run, capsys):
    def broken(calls):
        raise RuntimeError("planted")

    report = run.Report(1e12, broken)
    report("topk", "n", 4e-3, 2e9, calls=[print])
    assert len(report.rows) == 1
    assert report.failed == ["profile of topk"]
    assert "planted" in capsys.readouterr().err


def test_files_hold_every_number_and_where_it_comes_from(run, report, tmp_path):
    report("gather", "1,000 x 64", 0.000123456789, 1e9, "torch", 2e-3)
    report("steps", "one", 0.5, None)
    out = tmp_path / "new" / "device.csv"
    run.write(out, run.COLUMNS, report.rows, {"device": "a, b", "commit": "c"})
    with out.open(newline="") as f:
        first, second = csv.DictReader(f)
    assert list(first) == [*run.COLUMNS, "device", "commit"]
    assert first["seconds"] == "0.000123457"
    assert first["shape"] == "1,000 x 64"
    assert (first["device"], second["commit"]) == ("a, b", "c")
    assert (second["bytes"], second["peer"], second["of_copy"]) == ("", "", "")


def test_the_table_is_in_columns(run, report):
    report("gather", "d 64", 2e-3, 1e9, "torch", 3.5, published="0.59 ms")
    report("a_long_name_of_a_kernel", "d 1", 5.5e-6, None)
    head, first, second = run.table(report.rows).splitlines()
    assert first.index("d 64") == second.index("d 1") == head.index("shape")
    assert first.split() == ["gather", "d", "64", "2", "ms", "500", "25%", "torch", "3.5", "s", "1750.00", "0.59", "ms"]
    assert second.split() == ["a_long_name_of_a_kernel", "d", "1", "5.5", "us"]
    assert first.index("0.59 ms") == head.index("published, not measured here")
    assert run.table([]).startswith("kernel")


@pytest.mark.parametrize(
    ("cuda", "there", "says"),
    [(None, False, "is without"), ("13.0", False, "sees none here"), ("13.0", True, "capability 8.0")],
)
def test_says_in_one_sentence_what_is_missing(run, monkeypatch, capsys, cuda, there, says):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old one")
    assert run.main([]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_the_build_is_with_cuda(run, monkeypatch):
    monkeypatch.setattr(run, "missing", lambda: None)
    monkeypatch.setenv("ROWTIDE_CUDA", "0")
    monkeypatch.setenv("PYTHONPATH", "")
    built = {}

    def step(name, command, limit):
        built[name] = os.environ["ROWTIDE_CUDA"]
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run.main([])
    assert built == {"build": "1"}


def test_make_gpu_says_it_too():
    """As a program, with a PyTorch that sees no GPU, whatever is here."""
    done = subprocess.run(
        [sys.executable, GPU / "run.py"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("make gpu needs")


@pytest.mark.parametrize("words", [["--only", "nothing"], ["--fast"], ["--out"]])
def test_refuses_arguments_that_it_does_not_know(run, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(words)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


FINE = "def measure(report):\n    report('fine', 's', 1.0, 1e9)\n"


@pytest.mark.parametrize("broken", ["pass", "raise ValueError('planted')", "import os; os.abort()"])
def test_from_end_to_end(monkeypatch, capsys, tmp_path, broken):
    """All but the device: the table comes last, files are there, the exit code tells, and nothing measured is lost."""
    folder = tmp_path / "benchmarks" / "gpu"
    folder.mkdir(parents=True)
    for name in ("run.py", "report.py"):
        (folder / name).write_text((GPU / name).read_text())
    (folder / "rows.py").write_text(f"def measure(report):\n    report('begun', 's', 1.0, 1e9)\n    {broken}\n")
    (folder / "topk.py").write_text(FINE)
    run = load(folder, monkeypatch)
    monkeypatch.setattr(run, "missing", lambda: None)
    monkeypatch.setattr(run, "origin", lambda copy, host: {"device": "A B 1", "commit": "c"})
    fake = SimpleNamespace(copy_bandwidth=lambda: 2e9, host_copy_bandwidth=lambda: 1e9)
    monkeypatch.setitem(sys.modules, "timing", fake)
    well = broken == "pass"
    assert run.main(["--no-build", "--no-tests", "--out", str(tmp_path / "out")]) == (0 if well else 1)
    lines = capsys.readouterr().out.splitlines()
    table = lines[-2:] if well else lines[-3:-1]
    assert [line.split() for line in table] == [[name, "s", "1", "s", "1", "50%"] for name in ("begun", "fine")]
    assert well or lines[-1] == "FAILED: rows"
    assert "--- steps: not there" in lines
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-b-1.csv", "a-b-1-profile.csv"}


@pytest.mark.parametrize(
    ("source", "limit", "well"), [("", 60, True), ("1 / 0", 60, False), ("while 1: 0", 0.5, False)]
)
def test_a_step_that_fails_or_hangs_is_told(run, capsys, source, limit, well):
    assert run.step("try", [sys.executable, "-c", source], limit) == well
    assert f"try: {'well' if well else 'FAILED'}" in capsys.readouterr().out


def test_tests_are_those_of_the_device(run):
    (found,) = run.tested(lmdb=False).values()
    assert "tests/kernels/test_score_topk_triton.py" in found
    assert all(name.startswith("tests/kernels/") for name in found)
    assert run.tested(lmdb=True)["tests of kernels"] == found


def test_workloads_are_profiled_and_give_lines(run, report, monkeypatch, capsys):
    """Without a GPU there is the profile's table and no line: nothing was measured."""
    section = importlib.import_module("workloads")
    tiny = {"items": 40, "users": 20, "dim": 4, "events": 16, "queries": 1}
    monkeypatch.setattr(section, "WORKLOADS", [section.Workload(kind="topk", **tiny)])
    section.measure(report)
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    assert head.split()[:4] == ["range", "/", "kernel", "calls"]
    assert any(row.split()[:2] == ["score_topk", "1"] for row in rows)
    if interpreted():
        assert report.rows == []
        assert all("not measured" in row for row in rows)


def test_what_a_workload_measured_is_a_line(run, report, monkeypatch):
    section = importlib.import_module("workloads")
    rows = (
        profiling.Row("rank", None, 2, 1e-3, 5e-3),
        profiling.Row("score_topk", None, 2, 1e-3, 4e-3, Work(4 * 10**9), 2e12),
        profiling.Row("score_topk", "scan_rows", 2, None, 4e-3),
        profiling.Row("load", None, 4, 1e-3, 4e-3, Work(10**8, host=True), 5e10),
    )
    workload = section.Workload(kind="topk")
    found = profiling.Profile(workload, "a GPU", True, Roofs(2e12, 5e10, None), rows, Path("gone"))
    monkeypatch.setattr(section, "WORKLOADS", [workload])
    monkeypatch.setattr(section, "profile", lambda workload, folder: found)
    section.measure(report)
    score, load = report.rows
    assert (score["kernel"], score["seconds"], score["bytes"]) == ("engine, topk: score_topk", 2e-3, 2e9)
    assert (score["of_copy"], score["note"]) == (pytest.approx(0.5), "2 calls")
    assert (load["bytes"], load["of_copy"], load["note"]) == (None, None, "4 calls, 25.0 GB/s to or from the host")


def test_bandwidths_are_measured_in_one_place(run):
    """And those of the engine's own profile are the same."""
    timing = importlib.import_module("timing")
    assert timing.copy_bandwidth is roofline.copy_bandwidth
    assert timing.host_copy_bandwidth is roofline.host_copy_bandwidth


def test_kernels_do_without_lmdb():
    """Where it is not installed: what stands in lets the kernels be imported, and opens nothing."""
    program = (
        "import lmdb; assert 'without_lmdb' in lmdb.__file__; import engine.kernels.score_topk, engine\n"
        "try: engine.open('x')\n"
        "except AttributeError: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": str(GPU / "without_lmdb")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "refused\n", done.stderr
    assert not (Path(__file__).parents[1] / "x").exists()
