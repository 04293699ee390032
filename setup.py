"""Builds the C++ core, `engine._native`, and with ROWTIDE_CUDA=1 `engine._cuda`. The rest stands in pyproject.toml."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

# -ffp-contract=off: a product and a sum are fused only where the source says fma, so every path gives the same bits.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread"]
# The same for CUDA: nothing fused, nothing approximated, no number flushed to zero.
CUDA_FLAGS = [
    *("-std=c++20", "-O3", "-fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false"),
    *("--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall", "--threads", "2"),
    *("-gencode", "arch=compute_80,code=sm_80"),
    *("-gencode", "arch=compute_90,code=[sm_90,compute_90]"),
]

NO_COMPILER = """rowtide: no C++20 compiler. Installing from source compiles the C++ core; GCC 12 is known to do.
  Debian, Ubuntu:  apt install g++
  Fedora:          dnf install gcc-c++
  another one:     set CXX
What was tried: """
NO_HEADERS = """rowtide: no Python.h. Compiling the C++ core needs the headers of this Python.
  Debian, Ubuntu:  apt install python3-dev
  Fedora:          dnf install python3-devel
What was tried: """
NO_NVCC = """rowtide: ROWTIDE_CUDA=1 asks for the CUDA kernels, and there is no nvcc.
Install NVIDIA's CUDA toolkit, and put nvcc on PATH or set CUDA_HOME. Without ROWTIDE_CUDA they are left out."""

CUDA = Path("csrc/cuda")
core = sorted(path for path in Path("csrc").rglob("*") if CUDA not in path.parents)
headers = [str(path) for path in core if path.suffix == ".h"]

native = Pybind11Extension(
    "engine._native",
    [str(path) for path in core if path.suffix == ".cpp"],
    depends=headers,
    include_dirs=["csrc"],
    cxx_std=20,
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)
cuda = Pybind11Extension(
    "engine._cuda",
    sorted(str(path) for path in CUDA.glob("*.cpp")),
    depends=[*headers, *sorted(str(path) for path in CUDA.iterdir())],
    cxx_std=20,
    include_dirs=["csrc"],
    libraries=["cudart_static", "dl", "rt"],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)


def cuda_is_asked_for() -> bool:
    asked = os.environ.get("ROWTIDE_CUDA", "")
    if asked not in ("", "0", "1"):
        sys.exit(f"rowtide: ROWTIDE_CUDA: got {asked!r}, wanted 1, or 0 for a build without CUDA")
    return asked == "1"


def find_nvcc() -> Path:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    found = next((place for place in [*places, "nvcc"] if shutil.which(place)), None)
    return Path(str(shutil.which(found))) if found else sys.exit(NO_NVCC)


class BuildExt(build_ext):
    """Says what is missing before it compiles, and compiles the .cu files first."""

    def build_extensions(self) -> None:
        nvcc = find_nvcc() if cuda in self.extensions else None
        self.need("#include <bit>\n#include <span>\nconstexpr auto width = std::bit_width(1u);\n", NO_COMPILER)
        self.need("#include <Python.h>\n", NO_HEADERS)
        if nvcc:
            self.compile_cuda(nvcc)
        super().build_extensions()

    def need(self, source: str, otherwise: str) -> None:
        """Ends with a text, and what the compiler said, unless the compiler takes the source."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.cpp"
            path.write_text(source)
            includes = [f"-I{include}" for include in self.compiler.include_dirs]
            command = [*self.compiler.compiler_so_cxx, "-std=c++20", *includes]
            command += ["-c", str(path), "-o", str(path.with_suffix(".o"))]
            try:
                done = subprocess.run(command, capture_output=True, text=True)
            except OSError as error:
                sys.exit(f"{otherwise}{command[0]}: {error.strerror}")
        if done.returncode:
            sys.exit(f"{otherwise}{' '.join(command)}\n{done.stderr}")

    def compile_cuda(self, nvcc: Path) -> None:
        """Unless what was compiled before is newer than all sources."""
        # What stands in PATH may be a script: nvcc itself knows where it lives.
        said = subprocess.run([nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True).stderr
        home = next(Path(line.split("TOP=", 1)[1].strip()) for line in said.splitlines() if "TOP=" in line).resolve()
        libraries = [home / "lib64", home / "lib", *home.glob("targets/*/lib")]
        includes = [home / "include", *home.glob("targets/*/include")]
        cuda.library_dirs += [str(path) for path in libraries if path.is_dir()]
        cuda.include_dirs += [str(path) for path in includes if path.is_dir()]
        objects = Path("build") / "cuda"
        objects.mkdir(parents=True, exist_ok=True)
        newest = max(Path(path).stat().st_mtime for path in [*cuda.depends, __file__])
        for source in sorted(CUDA.glob("*.cu")):
            target = objects / f"{source.stem}.o"
            if not target.exists() or target.stat().st_mtime < newest:
                command = [str(nvcc), *CUDA_FLAGS, "-Icsrc", "-c", str(source), "-o", str(target)]
                print(" ".join(command), flush=True)
                subprocess.run(command, check=True)
            cuda.extra_objects.append(str(target))


if not sys.platform.startswith("linux"):
    sys.exit("rowtide: the C++ core is built on Linux only")
with ParallelCompile(default=len(os.sched_getaffinity(0))):
    setup(ext_modules=[native, cuda] if cuda_is_asked_for() else [native], cmdclass={"build_ext": BuildExt})
