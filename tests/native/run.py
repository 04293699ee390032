"""`make sanitize`: the C++ core under AddressSanitizer with UBSan, and under ThreadSanitizer, with and without Python.

    python -m native.run [WORD ...]      the parts whose name has one of the words; all of them without

A part is a process: a C++ program, or pytest over one file or folder. Two parts run side by side. What counts is how
each process ends, and that no process under it has left a report: pytest says "passed" where a sanitizer has ended a
child that nobody waits for. Reports lie in build/<name>/reports.

Under AddressSanitizer runs what reaches C++. Under ThreadSanitizer, which is slow, runs what has threads, the engine's
own (epochs, syncing, ticking) or the test's: what is learned, logged or checked on one thread shows nothing there.
Left out are the crash sweeps, whose shim must be loaded first, files about Triton and the hot tier, which would bring
torch in (bindings/test_native_hot.py has the tier's C++), and the tests named in LEFT_OUT. Some streams are shorter
(laws/test_digest.py). All of it took 44 minutes on two cores that had much else to do, after 11 for the builds.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from native.sanitized import ADDRESS, KINDS, ROOT, THREAD, Kind, build, environment, folder, program

STRESS_SECONDS = {ADDRESS: 15, THREAD: 30}
PROGRAMS = ["stress", "stress_catalogue", "stress_steps"]
# The longest first, so that none of them is left running alone at the end.
TESTS = {
    ADDRESS: [
        "cold",
        "log",
        "kernels",
        "learn",
        "fuzz",
        "bindings",
        "directory",
        "rank",
        "store",
        *(f"laws/test_{stem}.py" for stem in ("bad_input", "damage", "digest", "reader_stress", "removal_laws")),
        *(f"laws/test_{stem}.py" for stem in ("similar_law", "stress", "threads", "tiers", "topk_law")),
        "test_engine.py",
        "test_reader.py",
    ],
    THREAD: [
        *(f"laws/test_{stem}.py" for stem in ("threads", "stress", "digest", "tiers", "similar_law", "reader_stress")),
        "test_engine.py",
        "test_reader.py",
        "store/test_removal.py",
        "directory/test_backup.py",
        "directory/test_recovery.py",
        "cold/test_compaction.py",
        "kernels/test_score_topk.py",
        "kernels/test_learn_steps.py",
    ],
}
LEFT_OUT = ("test_less_address_space",)  # limits the address space, of which AddressSanitizer needs 20 TiB


class Part(NamedTuple):
    kind: Kind
    what: str
    command: list[str]
    env: dict[str, str]
    reports: Path  # a folder of its own

    @property
    def name(self) -> str:
        return f"{self.kind.name} {self.what}"


class Result(NamedTuple):
    name: str
    failed: str  # "" where all is well
    seconds: float
    said: str


def part(kind: Kind, what: str, command: Sequence[str], env: dict[str, str]) -> Part:
    """A process that writes its sanitizer's reports, and those of its children, to files: pytest would swallow them."""
    reports = folder(kind) / "reports" / what.replace("/", ".")
    options = {name: f"{env[name]}:log_path={reports / 'report'}" for name in kind.options}
    return Part(kind, what, list(command), env | options, reports)


def parts() -> list[Part]:
    out = []
    for kind in KINDS.values():
        for name in PROGRAMS:
            command = [str(program(kind, name)), str(STRESS_SECONDS[kind])]
            out.append(part(kind, name, command, environment(kind, python=False)))
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=1200"]
        chosen = [
            "--ignore-glob=*triton*",
            "--ignore-glob=*test_hot*",
            "-k",
            " and ".join(f"not ({what})" for what in LEFT_OUT),
        ]
        for test in TESTS[kind]:
            out.append(part(kind, test, [*pytest, *chosen, str(ROOT / "tests" / test)], environment(kind)))
    return out


def run(part: Part) -> Result:
    """Runs one part and says what it came to, at once where it failed."""
    part.reports.mkdir(parents=True, exist_ok=True)
    for old in part.reports.iterdir():
        old.unlink()
    began = time.monotonic()
    done = subprocess.run(part.command, env=part.env, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    output = done.stdout + done.stderr
    lines = output.strip().splitlines()
    reports = sorted(part.reports.iterdir())
    failed = ", ".join(
        [f"status {done.returncode}"] * (done.returncode != 0)
        + [f"{len(reports)} reports in {part.reports}"] * bool(reports)
    )
    print(f"{part.name}: {failed or 'ok'}, {seconds:.0f} s", flush=True)
    if failed:
        print(
            output[-10_000:], *(report.read_text(errors="replace")[:5000] for report in reports), sep="\n", flush=True
        )
    return Result(part.name, failed, seconds, lines[-1] if lines else "")


def run_all(chosen: Sequence[Part]) -> int:
    """The exit status: 1 if any of them failed, or if there is none."""
    began = time.monotonic()
    with ThreadPoolExecutor(2) as two:
        results = list(two.map(run, chosen))
    print(f"\nsanitize, {time.monotonic() - began:.0f} s:")
    for result in results:
        print(f"  {result.name:34} {result.failed or 'ok':20} {result.seconds:5.0f} s  {result.said}")
    return 1 if not results or any(result.failed for result in results) else 0


def main(words: Sequence[str]) -> int:
    chosen = [part for part in parts() if not words or any(word in part.name for word in words)]
    began = time.monotonic()
    for kind in KINDS.values():
        if any(part.kind is kind for part in chosen):
            build(kind)
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    return run_all(chosen)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
