"""Builds the C++ core, `engine._native`, and where nvcc is, `engine._cuda`. The rest stands in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

if not sys.platform.startswith("linux"):
    sys.exit("rowtide: the C++ core is built on Linux only")

# -ffp-contract=off: a product and a sum are fused only where the source says fma, so every path gives the same bits.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread"]
# The same for CUDA: nothing fused, nothing approximated, no number flushed to zero.
CUDA_FLAGS = [
    *("-std=c++20", "-O3", "-fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false"),
    *("--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall", "--threads", "2"),
    *("-gencode", "arch=compute_80,code=sm_80"),
    *("-gencode", "arch=compute_90,code=[sm_90,compute_90]"),
]


def find_nvcc() -> Path | None:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return Path(home) / "bin" / "nvcc"
    found = shutil.which("nvcc")
    return Path(found) if found else None


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
modules = [native]

if nvcc := find_nvcc():
    # What stands in PATH may be a script: nvcc itself knows where it lives.
    said = subprocess.run([str(nvcc), "--dryrun", "-c", "none.cu"], capture_output=True, text=True).stderr
    home = next(Path(line.split("TOP=", 1)[1].strip()) for line in said.splitlines() if "TOP=" in line).resolve()
    libraries = [str(path) for path in (home / "lib64", home / "lib", *home.glob("targets/*/lib")) if path.is_dir()]
    includes = [str(path) for path in (home / "include", *home.glob("targets/*/include")) if path.is_dir()]
    modules.append(
        Pybind11Extension(
            "engine._cuda",
            sorted(str(path) for path in CUDA.glob("*.cpp")),
            depends=[*headers, *sorted(str(path) for path in CUDA.iterdir())],
            cxx_std=20,
            include_dirs=["csrc", *includes],
            library_dirs=libraries,
            libraries=["cudart_static", "dl", "rt"],
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
        )
    )


class BuildExt(build_ext):
    """Compiles the .cu files first, unless what they made before is newer than all sources."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        if ext.name == "engine._cuda":
            objects = Path("build") / "cuda"
            objects.mkdir(parents=True, exist_ok=True)
            newest = max(Path(path).stat().st_mtime for path in [*ext.depends, __file__])
            for source in sorted(CUDA.glob("*.cu")):
                target = objects / f"{source.stem}.o"
                if not target.exists() or target.stat().st_mtime < newest:
                    command = [str(nvcc), *CUDA_FLAGS, "-Icsrc", "-c", str(source), "-o", str(target)]
                    print(" ".join(command), flush=True)
                    subprocess.run(command, check=True)
                ext.extra_objects.append(str(target))
        super().build_extension(ext)


with ParallelCompile(default=len(os.sched_getaffinity(0))):
    setup(ext_modules=modules, cmdclass={"build_ext": BuildExt})
