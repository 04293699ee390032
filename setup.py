"""Builds the C++ core, `engine._native`. Everything else stands in pyproject.toml."""

import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

if not sys.platform.startswith("linux"):
    sys.exit("rowtide: the C++ core is built on Linux only")

# -ffp-contract=off: a product and a sum are fused only where the source says fma, so every path gives the same bits.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread"]

native = Pybind11Extension(
    "engine._native",
    sorted(str(p) for p in Path("csrc").glob("*.cpp")),
    depends=sorted(str(p) for p in Path("csrc").glob("*.h")),
    cxx_std=20,
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)

with ParallelCompile(default=2):
    setup(ext_modules=[native], cmdclass={"build_ext": build_ext})
