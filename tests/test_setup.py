"""What setup.py says where something is missing, what it compiles, and what the sdist holds.

Compilers are scripts here, which say what they were given and make nothing; one heavy test has nvcc compile.
"""

import os
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tools(tmp_path):
    """The only folder on PATH."""
    path = tmp_path / "tools"
    path.mkdir()
    return path


def script(path, text="exit 0"):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def build(tools, tmp_path):
    """Runs build_ext; (whether it went well, what it said)."""

    def go(**environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "ROWTIDE"))}
        command = [sys.executable, "setup.py", "build_ext", "-b", tmp_path / "lib", "-t", tmp_path / "temp", "--force"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=kept | {"PATH": str(tools)} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode == 0, done.stderr

    return go


@pytest.fixture
def compilers(tools):
    """What a build is told so that it compiles with a script."""
    one = script(tools / "compiler")
    return {"CC": one, "CXX": one, "LDSHARED": one, "LDCXXSHARED": one}


def test_no_compiler(build, tools):
    missing = str(tools / "g++")
    well, said = build(CC=missing, CXX=missing)
    assert not well
    for part in ("no C++20 compiler", "apt install g++", "dnf install gcc-c++", missing):
        assert part in said


def test_a_compiler_that_is_too_old(build, compilers, tools):
    script(tools / "compiler", "echo unknown option -std=c++20 >&2; exit 1")
    well, said = build(**compilers)
    assert not well
    assert "no C++20 compiler" in said
    assert "unknown option -std=c++20" in said


def test_no_headers_of_python(build, compilers, tools):
    grep = shutil.which("grep")
    script(
        tools / "compiler",
        f'for word; do case $word in *small.cpp) ! {grep} -q Python.h "$word" || exit 1;; esac; done',
    )
    well, said = build(**compilers)
    assert not well
    assert "no Python.h" in said
    assert "apt install python3-dev" in said


def test_cuda_is_left_out_unless_it_is_asked_for(build, compilers, tools, tmp_path):
    """Also where nvcc is."""
    script(tools / "nvcc", f"echo > {tmp_path / 'asked'}")
    for asked in ("", "0"):
        assert build(**compilers, ROWTIDE_CUDA=asked, CUDA_HOME=str(tmp_path)) == (True, "")
        assert not (tmp_path / "asked").exists()


def test_cuda_without_nvcc(build, compilers, tmp_path):
    for home in ("", str(tmp_path / "nowhere")):
        well, said = build(**compilers, ROWTIDE_CUDA="1", CUDA_HOME=home)
        assert not well
        assert "no nvcc" in said
        assert "CUDA_HOME" in said


def test_cuda_is_asked_for_by_1(build, compilers):
    well, said = build(**compilers, ROWTIDE_CUDA="yes")
    assert (well, said) == (False, "rowtide: ROWTIDE_CUDA: got 'yes', wanted 1, or 0 for a build without CUDA\n")


@pytest.fixture(scope="module")
def cuda_library(tmp_path_factory):
    lib = tmp_path_factory.mktemp("cuda")
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "-b", lib, "-t", lib / "temp"],
        cwd=ROOT, env=os.environ | {"ROWTIDE_CUDA": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (library,) = (lib / "engine").glob("_cuda*.so")
    return library


def by_nvcc(test):
    missing = shutil.which("nvcc") is None
    return pytest.mark.heavy(pytest.mark.timeout(3600)(pytest.mark.skipif(missing, reason="needs nvcc")(test)))


@by_nvcc
def test_cuda_is_built_for_the_gpus_that_it_is_for(cuda_library):
    """Machine code (2) for sm_80 and sm_90, PTX (1) for what comes later, as the headers in the file say."""
    data, magic, found = cuda_library.read_bytes(), struct.pack("<I", 0xBA55ED50), set()
    at = data.find(magic)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", data, at + 6)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, entry)
            found.add((kind, *struct.unpack_from("<I", data, entry + 28)))
            entry += header + size
        at = data.find(magic, end)
    assert found == {(2, 80), (2, 90), (1, 90)}


@by_nvcc
def test_cuda_can_be_imported_without_its_libraries(cuda_library):
    """CUDA's runtime is inside, and finds the driver only when it is asked for."""
    needed = subprocess.run(["ldd", cuda_library], capture_output=True, text=True, check=True).stdout
    assert not [line for line in needed.splitlines() if "cuda" in line.split("=>")[0]]
    program = f"import importlib.util as u; s = u.spec_from_file_location('_cuda', {str(cuda_library)!r})"
    program += "; m = u.module_from_spec(s); s.loader.exec_module(m); assert isinstance(m.missing(), str)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_sdist_has_what_a_build_needs_and_no_more(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    name = f"rowtide-{engine.__version__}"
    with tarfile.open(tmp_path / f"{name}.tar.gz") as packed:
        found = {member.name.removeprefix(f"{name}/") for member in packed if member.isfile()}
    found = {path for path in found if not path.startswith("rowtide.egg-info/")}
    alone = {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "MANIFEST.in",
        "pyproject.toml",
        "setup.py",
        "PKG-INFO",
        "setup.cfg",
    }
    packaged = {".py", ".pyi", ".md", ".typed"}
    wanted = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    wanted += [path for path in (ROOT / "engine").rglob("*") if path.suffix in packaged]
    wanted += [path for path in (ROOT / "rowtide").rglob("*") if path.suffix in packaged]
    assert found == {*alone, *(str(path.relative_to(ROOT)) for path in wanted)}
