"""`make sanitize`: the C++ core under AddressSanitizer with UBSan, and under ThreadSanitizer, with and without Python.

The two builds run side by side. What counts is how each process ends: pytest says "passed" where a sanitizer has ended
the process with its own status, or a child of it. Reports lie in build/<name>/reports.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from native.sanitized import ADDRESS, ROOT, THREAD, Kind, build, environment, folder, program

STRESS_SECONDS = {ADDRESS: 20, THREAD: 40}
# What reaches C++, but the crash sweeps, whose shim must be loaded first, and what is long for other reasons.
ADDRESS_TESTS = [
    "kernels",
    "learn",
    "log",
    "table",
    "fuzz",
    "test_bad_input.py",
    "test_damage.py",
    "test_digest.py",
    "test_directory.py",
    "test_engine.py",
    "test_native_arguments.py",
    "test_recovery.py",
    "test_threads.py",
    "test_tiers.py",
    "test_topk_law.py",
]
# What has threads.
THREAD_TESTS = ["kernels/test_score_topk.py", "test_digest.py", "test_engine.py", "test_threads.py", "test_tiers.py"]
# It limits the address space, of which AddressSanitizer needs 20 TiB.
NO_ROOM = "test_less_address_space_gives_a_smaller_map"
TESTS = {ADDRESS: ADDRESS_TESTS, THREAD: THREAD_TESTS}


class Result(NamedTuple):
    what: str
    status: int
    seconds: float
    said: str


def run(kind: Kind, what: str, command: list[str], env: dict[str, str]) -> Result:
    began = time.monotonic()
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    lines = output.strip().splitlines()
    result = Result(f"{kind.name} {what}", done.returncode, time.monotonic() - began, lines[-1] if lines else "")
    print(f"{result.what}: {'passed' if not done.returncode else f'status {done.returncode}'}", flush=True)
    if done.returncode:
        print(output[-10_000:], flush=True)
    return result


def everything(kind: Kind) -> list[Result]:
    reports = folder(kind) / "reports"
    reports.mkdir(exist_ok=True)
    for old in reports.iterdir():
        old.unlink()
    env = environment(kind)
    name = "ASAN_OPTIONS" if kind is ADDRESS else "TSAN_OPTIONS"
    env[name] += f":log_path={reports / 'report'}"  # pytest would swallow them
    stress = [str(program(kind, "stress")), str(STRESS_SECONDS[kind])]
    tests = [str(ROOT / "tests" / test) for test in TESTS[kind]]
    pytest = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-o", "timeout=1200", *tests]
    if kind is ADDRESS:
        pytest += ["-k", f"not {NO_ROOM}"]
    out = [run(kind, "stress", stress, environment(kind, python=False)), run(kind, "pytest", pytest, env)]
    for report in sorted(reports.iterdir()):
        print(f"{report}:\n{report.read_text()[:5000]}", flush=True)
    if any(reports.iterdir()):  # of a child whose end nobody looked at
        out.append(Result(f"{kind.name} reports", 1, 0.0, f"{len(list(reports.iterdir()))} in {reports}"))
    return out


def main() -> int:
    began = time.monotonic()
    for kind in (ADDRESS, THREAD):
        build(kind)
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    with ThreadPoolExecutor(2) as two:
        results = [result for part in two.map(everything, (ADDRESS, THREAD)) for result in part]
    print(f"\nsanitize, {time.monotonic() - began:.0f} s:")
    for result in results:
        verdict = "ok" if result.status == 0 else f"FAILED, status {result.status}"
        print(f"  {result.what:14} {verdict:20} {result.seconds:5.0f} s  {result.said}")
    return max((1 for result in results if result.status), default=0)


if __name__ == "__main__":
    raise SystemExit(main())
