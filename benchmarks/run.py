"""Runs the benchmarks and writes benchmarks/results/<machine>.csv: `make bench`, or `benchmarks/run.py -k ingest`.

One line a measurement: what, median and spread in seconds, the rates that the benchmark noted, and where it comes from:
machine, commit, versions. Nothing else should run on the machine meanwhile.
"""

import csv
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent


def machine() -> str:
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1]
            break
    cores = len(os.sched_getaffinity(0))
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{cpu.strip()} {cores} cores").strip("-").lower()


def commit() -> str:
    describe = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or "unknown"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        files = sorted(str(p) for p in HERE.glob("bench_*.py"))
        options = ["-q", "--benchmark-only", "-p", "no:cacheprovider", "--override-ini=timeout=0"]
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *files, *options, f"--benchmark-json={report}", *sys.argv[1:]],
            cwd=HERE.parent,
        )
        if run.returncode or not report.exists():
            return run.returncode or 1
        benchmarks = json.loads(report.read_text())["benchmarks"]
    where = {
        "machine": machine(),
        "commit": commit(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "lmdb": version("lmdb"),
    }
    rows = [
        {
            "benchmark": b["fullname"].removeprefix("benchmarks/"),
            "median_s": f"{b['stats']['median']:.6g}",
            "iqr_s": f"{b['stats']['iqr']:.2g}",
            "min_s": f"{b['stats']['min']:.6g}",
            "rounds": b["stats"]["rounds"],
            "notes": "; ".join(f"{k}={v}" for k, v in b["extra_info"].items()),
            **where,
        }
        for b in benchmarks
    ]
    out = HERE / "results" / f"{where['machine']}.csv"
    out.parent.mkdir(exist_ok=True)
    kept = []
    if out.exists():  # a partial run replaces its own lines
        measured = {row["benchmark"] for row in rows}
        with out.open(newline="") as f:
            kept = [row for row in csv.DictReader(f) if row["benchmark"] not in measured]
    with out.open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(sorted(kept + rows, key=lambda row: row["benchmark"]))
    print(f"{len(rows)} measurements in {out.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
