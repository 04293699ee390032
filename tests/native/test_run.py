"""Does `make sanitize` fail when it should? Toy programs with a planted mistake each go through its own runner."""

import subprocess
import sys

import pytest

from native import run, sanitized
from native.sanitized import ADDRESS, CXX, THREAD

TOY = """
#include <climits>
#include <cstdlib>
#include <cstring>
#include <thread>
static int shared;
extern "C" int toy(const char* what) {
    volatile int zero = 0;
    if (!std::strcmp(what, "race")) {
        std::thread other([] { ++shared; });
        ++shared;
        other.join();
    } else if (!std::strcmp(what, "heap")) {
        volatile char* bytes = static_cast<char*>(std::malloc(8));
        bytes[8 + zero] = 1;
        std::free(const_cast<char*>(bytes));
    } else if (!std::strcmp(what, "overflow")) {
        zero = INT_MAX + (zero + 1);
    }
    return 0;
}
int main(int, char** argv) { return toy(argv[1]); }
"""
MISTAKES = {ADDRESS: ["heap", "overflow"], THREAD: ["race"]}
# A child that nobody waits for, as a test may have one.
ORPHANING = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
CALLING = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).toy(sys.argv[2].encode())"


@pytest.fixture(scope="module", params=[ADDRESS, THREAD], ids=lambda kind: kind.name)
def toy(request, tmp_path_factory):
    """The kind, and the toy as a program and as a library."""
    kind, here = request.param, tmp_path_factory.mktemp(request.param.name)
    said = subprocess.run([CXX, f"-print-file-name={kind.runtime}"], capture_output=True, text=True, check=True).stdout
    if "/" not in said:
        pytest.skip(f"{CXX} has no {kind.runtime}")
    (here / "toy.cpp").write_text(TOY)
    common = [CXX, "-std=c++20", "-O0", "-g", "-fPIC", "-pthread", *kind.flags, str(here / "toy.cpp"), "-o"]
    for flags in ([str(here / "toy")], [str(here / "toy.so"), "-shared"]):
        subprocess.run([*common, *flags], check=True)
    return kind, here


def parts(toy, monkeypatch, what):
    kind, here = toy
    monkeypatch.setattr(run, "folder", lambda kind: here)
    native = run.part(kind, what, [str(here / "toy"), what], sanitized.environment(kind, python=False))
    call = [sys.executable, "-c", ORPHANING, CALLING, str(here / "toy.so"), what]
    python = run.part(kind, f"{what}_in_a_child", call, sanitized.environment(kind))
    return native, python


def test_a_planted_mistake_fails(toy, monkeypatch):
    for what in MISTAKES[toy[0]]:
        native, python = parts(toy, monkeypatch, what)
        assert run.run_all([native]) == 1
        assert run.run_all([python]) == 1
        assert subprocess.run(python.command, env=python.env, check=False).returncode == 0  # only a report tells


def test_no_mistake_passes(toy, monkeypatch):
    assert run.run_all(parts(toy, monkeypatch, "nothing")) == 0


def test_no_part_is_no_success(monkeypatch):
    assert run.main(["no such part"]) == 1
