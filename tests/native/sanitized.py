"""The C++ core built under a sanitizer, beside the usual build and without touching it.

    build/<name>/python/engine/   the package: links to engine/, and a _native of its own
    build/<name>/<program>        C++ programs of tests/native, without Python

`build(kind)` makes what is out of date. `environment(kind)` is what a Python process needs to run on that package: it
is found first (PYTHONPATH, and no current directory before it), and the sanitizer's runtime is loaded before Python.
"""

import ast
import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[2]
NATIVE = Path(__file__).parent
CORE = ROOT / "csrc"
CXX = os.environ.get("CXX", "g++")
COVERED = ("disk/check_pages", "disk/seal", "disk/crc32c")  # what fuzz_pages follows branch by branch


@dataclass(frozen=True, eq=False)
class Kind:
    """A build: what the compiler is told, and what its programs find in their environment."""

    name: str
    flags: tuple[str, ...]
    runtime: str  # what Python must load first
    programs: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    python_options: dict[str, str] = field(default_factory=dict)  # instead, where the program is Python


# g++'s UBSan writes to stderr alone, but sets AddressSanitizer's log_path: it aborts, and the latter reports that.
_UBSAN = "print_stacktrace=1:halt_on_error=1:abort_on_error=1"
_ASAN = (
    "halt_on_error=1:exitcode=66:handle_abort=1:"
    "detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1"
)
_TSAN = "halt_on_error=1:exitcode=66:second_deadlock_stack=1"

ADDRESS = Kind(
    "asan",
    # vptr looks into type information that pybind11's hidden classes do not share with libpython.
    ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"),
    "libasan.so",
    ("stress", "stress_catalogue", "stress_steps", "fuzz_pages"),
    {"ASAN_OPTIONS": _ASAN + ":detect_leaks=1", "UBSAN_OPTIONS": _UBSAN},
    # Python keeps what it made until its end, so leaks are looked for in the C++ programs.
    {"ASAN_OPTIONS": _ASAN + ":detect_leaks=0", "UBSAN_OPTIONS": _UBSAN, "PYTHONMALLOC": "malloc"},
)
THREAD = Kind(
    "tsan",
    # Fences are not understood; the only one that counts stands behind loads that are left out (csrc/memory/seqlock.h).
    ("-fsanitize=thread", "-Wno-tsan"),
    "libtsan.so",
    ("stress", "stress_catalogue", "stress_steps"),
    {"TSAN_OPTIONS": _TSAN},
    # numpy's BLAS, which the core never calls, hands work to its threads in ways that are not understood.
    {"TSAN_OPTIONS": f"{_TSAN}:suppressions={NATIVE / 'tsan.supp'}", "OPENBLAS_NUM_THREADS": "1"},
)
KINDS = {kind.name: kind for kind in (ADDRESS, THREAD)}


def folder(kind: Kind) -> Path:
    return ROOT / "build" / kind.name


def program(kind: Kind, name: str) -> Path:
    return folder(kind) / name


def environment(kind: Kind, python: bool = True) -> dict[str, str]:
    out = dict(os.environ)
    if not python:
        return out | kind.options
    # libstdc++ too: Python has none, and the runtime must find what throws exceptions when it starts.
    found = [
        subprocess.run([CXX, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in (kind.runtime, "libstdc++.so.6")
    ]
    return out | {
        "PYTHONPATH": str(folder(kind) / "python"),
        "PYTHONSAFEPATH": "1",
        "LD_PRELOAD": " ".join(found),
        **kind.python_options,
    }


def build(kind: Kind) -> None:
    """Compiles what is older than its source, or than any header; two compilers at a time."""
    out = folder(kind)
    package = out / "python" / "engine"
    package.mkdir(parents=True, exist_ok=True)
    (out / "objects").mkdir(exist_ok=True)
    for link in package.iterdir():
        if link.is_symlink():
            link.unlink()
    for source in (ROOT / "engine").iterdir():
        if not source.name.startswith(("_native.c", "__pycache__")):
            (package / source.name).symlink_to(source)

    headers = [*CORE.rglob("*.h"), *NATIVE.glob("*.h")]
    newest = max(path.stat().st_mtime for path in [*headers, Path(__file__)])
    core = sorted(path for path in CORE.rglob("*.cpp") if CORE / "cuda" not in path.parents)
    programs = [NATIVE / f"{name}.cpp" for name in kind.programs]

    def compiled(job: tuple[Path, bool]) -> Path:
        source, covered = job
        target = out / "objects" / f"{source.parent.name}.{source.stem}{'.covered' if covered else ''}.o"
        if not target.exists() or target.stat().st_mtime < max(newest, source.stat().st_mtime):
            cover = ["-fsanitize-coverage=trace-pc"] if covered else []
            _run(CXX, *_compiler_flags(kind), *cover, "-c", str(source), "-o", str(target))
        return target

    covered = [CORE / f"{stem}.cpp" for stem in COVERED] if "fuzz_pages" in kind.programs else []
    jobs = [*((source, False) for source in [*core, *programs]), *((source, True) for source in covered)]
    with ThreadPoolExecutor(2) as two:
        objects = dict(zip(jobs, two.map(compiled, jobs), strict=True))
    _link(
        kind,
        package / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}",
        [objects[source, False] for source in core],
        "-shared",
    )
    plain = [objects[source, False] for source in core if source.parent.name != "bindings"]
    for source in programs:
        others = [objects[s, True] for s in covered] if source.stem == "fuzz_pages" else plain
        _link(kind, program(kind, source.stem), [objects[source, False], *others])


def _link(kind: Kind, target: Path, objects: list[Path], *flags: str) -> None:
    if not target.exists() or target.stat().st_mtime < max(o.stat().st_mtime for o in objects):
        _run(CXX, *kind.flags, *flags, "-pthread", *map(str, objects), "-o", str(target))


def _compiler_flags(kind: Kind) -> list[str]:
    """setup.py's own, less optimized: a sanitizer reports what the compiler has left."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (usual,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "FLAGS"
    )
    include = [f"-I{path}" for path in (CORE, pybind11.get_include(), sysconfig.get_paths()["include"])]
    return [*usual, "-std=c++20", "-O1", "-g", "-fno-omit-frame-pointer", "-fPIC", *include, *kind.flags]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
