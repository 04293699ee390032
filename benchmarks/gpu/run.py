"""`make gpu`: builds, tests and measures on a machine with a GPU, in under ten minutes, and prints one table last.

Writes benchmarks/results/<device>.csv and <device>-profile.csv. Each section is a module beside this file with
`measure(report)`, run in a process of its own: an error in a kernel ends whatever its process does on the device. One
that is not there is left out; one that fails is told, its lines so far are kept, and the exit code is 1. Uses the
interpreter that it runs under; without lmdb in it, only the kernels are tested. Without a GPU it says so and stops.
"""

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECTIONS = ("rows", "topk", "steps", "ingest", "workloads")
BUILD_SECONDS, TEST_SECONDS, SECTION_SECONDS = 180, 180, 180

sys.path[:0] = [str(HERE), str(ROOT)]

from report import COLUMNS, PROFILE_COLUMNS, Report, slug, table, write  # noqa: E402


def missing() -> str | None:
    """What this machine lacks, in one sentence; None: nothing."""
    if find_spec("torch") is None:
        return "make gpu needs PyTorch with CUDA, and this interpreter has none: set GPU_PYTHON."
    import torch

    if torch.version.cuda is None:
        return (
            f"make gpu needs PyTorch with CUDA, and this interpreter's {torch.__version__} is without: set GPU_PYTHON."
        )
    if not torch.cuda.is_available():
        return "make gpu needs a GPU with CUDA, and PyTorch sees none here."
    if torch.cuda.get_device_capability() < (8, 0):
        return f"make gpu needs a GPU of compute capability 8.0 or more, and {torch.cuda.get_device_name()} has less."
    if find_spec("triton") is None:
        return "make gpu needs Triton, and this interpreter has none."
    return None


def said(command: list[str]) -> str:
    """The first line that a program prints; "unknown" where it does not run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0].strip() if done.returncode == 0 else "unknown"


def origin(copy: float, host_copy: float) -> dict[str, str]:
    """Where numbers come from: a column each, the same in every line."""
    import torch
    import triton

    return {
        "device": torch.cuda.get_device_name(),
        "driver": said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": os.environ.get("ROWTIDE_COMMIT") or said(["git", "describe", "--always", "--dirty"]),
        "copy_gb_per_s": f"{copy / 1e9:.0f}",
        "host_copy_gb_per_s": f"{host_copy / 1e9:.1f}",
    }


def release() -> None:
    """Gives back the device memory that this process holds."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def profiled(calls: Sequence[Callable[[], Any]]) -> dict[str, tuple[float, float]]:
    """For each kernel on the device its launches and its seconds, per call."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for call in calls:
            call()
        torch.cuda.synchronize()
    return {
        event.key: (event.count / len(calls), event.device_time_total / 1e6 / len(calls))
        for event in seen.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    }


def tested(lmdb: bool) -> dict[str, list[str]]:
    """What of the tests makes sense on the device: kernels, and with lmdb the tier. Files by the name of the step."""
    patterns = {"tests of kernels": ["tests/kernels/test_*_triton.py", "tests/kernels/test_*_cuda.py"]}
    if lmdb:
        patterns["tests of the tier"] = ["tests/device/test_hot*.py", "tests/device/test_tile*.py"]
        if find_spec("matplotlib"):
            patterns["tests of the tier"] += ["tests/profiling/test_*.py", "tests/machine/test_marks.py"]
    files = {
        name: sorted(str(path.relative_to(ROOT)) for pattern in chosen for path in ROOT.glob(pattern))
        for name, chosen in patterns.items()
    }
    return {name: paths for name, paths in files.items() if paths}


def step(name: str, command: list[str], limit: float) -> bool:
    """Runs a program to its end, or to `limit` seconds; whether it went well."""
    print(f"--- {name}: {' '.join(command[1:])}", flush=True)
    begin = time.monotonic()
    try:
        well = subprocess.run(command, cwd=ROOT, timeout=limit).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"{name}: cut off after {limit:.0f} s")
        well = False
    print(f"--- {name}: {'well' if well else 'FAILED'}, {time.monotonic() - begin:.0f} s", flush=True)
    return well


def measured(name: str, report: Report, journal: Path, verb: str) -> bool:
    """Runs a section in its own process and takes over its lines; whether it went well, or is not there."""
    if not (HERE / f"{name}.py").exists():
        print(f"--- {name}: not there", flush=True)
        return True
    command = [sys.executable, __file__, "--section", name, verb, str(report.copy), str(journal)]
    well = step(name, command, SECTION_SECONDS)
    report.read(journal)
    return well


def run_section(name: str, verb: str, copy: str, journal: str) -> None:
    report = Report(float(copy), profiled if verb == "measure" else None, Path(journal))
    getattr(import_module(name), verb)(report)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section alone; may be repeated")
    parser.add_argument("--no-build", action="store_true", help="the extension is built")
    parser.add_argument("--section", nargs=4, help=argparse.SUPPRESS)  # in its own process
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument(
        "--variants", action="store_true", help="measure variants of the kernels instead; no results file"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the files go")
    options = parser.parse_args(words)
    if options.section:
        run_section(*options.section)
        return 0
    if lack := missing():
        print(lack, file=sys.stderr)
        return 1

    lmdb = find_spec("lmdb") is not None
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not lmdb:
        print("lmdb is not installed: kernels alone")
        path.append(str(HERE / "without_lmdb"))
        sys.path.append(path[-1])
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.environ["ROWTIDE_CUDA"] = "1"  # for setup.py
    failed = []
    if not options.no_build and not step(
        "build", [sys.executable, "setup.py", "build_ext", "--inplace"], BUILD_SECONDS
    ):
        failed.append("build")
    for name, tests in ({} if options.no_tests else tested(lmdb)).items():
        command = [sys.executable, "-m", "pytest", *tests, "-m", "not interpreter and not heavy", "-W", "default"]
        command += ["--durations=5", "-p", "no:cacheprovider"]
        if "kernels" in name and find_spec("xdist"):  # a tier takes a share of the memory: one at a time
            command += ["-n", "4"]
        if not step(name, command, TEST_SECONDS):
            failed.append(name)

    import timing

    copy, host_copy = timing.copy_bandwidth(), timing.host_copy_bandwidth()
    where = origin(copy, host_copy)
    release()
    print("; ".join(f"{name} {value}" for name, value in where.items()), flush=True)
    report = Report(copy)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or SECTIONS:
            verb = "variants" if options.variants else "measure"
            if not measured(name, report, Path(folder) / name, verb):
                failed.append(name)
    failed += sorted(set(report.failed))
    if report.rows and not options.variants:
        out = options.out / f"{slug(where['device'])}.csv"
        write(out, COLUMNS, report.rows, where)
        write(out.with_name(f"{out.stem}-profile.csv"), PROFILE_COLUMNS, report.profile_rows, where)
        print(f"{len(report.rows)} measurements in {out}")
    print(f"\n{where['device']}, copy {copy / 1e9:.0f} GB/s, from pinned host memory {host_copy / 1e9:.1f} GB/s")
    print(table(report.rows))
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
