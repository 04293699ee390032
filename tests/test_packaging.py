"""What a package says of itself, what `make` says of its targets, and how wheels are made."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("wheels_build", ROOT / "wheels" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_version_is_known_once():
    said = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[-1] == engine.__version__
    assert "version" not in PROJECT["project"]
    assert re.search(rf"^## {re.escape(engine.__version__)} - ", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_licence():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "Copyright The Rowtide authors" in text


def test_make_says_what_each_target_does():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    said = subprocess.run(["make", "-s"], cwd=ROOT, env=kept, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split()
    assert [line.split()[:2] for line in said.splitlines()] == [["make", target] for target in targets]
    assert all(len(line.split()) > 2 for line in said.splitlines())
    told = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in targets if not re.search(rf"`make {target}\b", told)] == []


def test_hooks_run_what_make_lint_runs():
    """From the same .venv, so in the same versions, and without downloads."""
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"entry: (\S+)", text)
    assert text.count("language: system") == len(entries) > 0
    assert "repo: local" in text
    assert text.count("repo:") == 1
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)[1].replace("$(VENV)", ".venv")
    assert set(entries) == {line.split()[0] for line in lint.splitlines()}


def test_an_interpreter_that_is_missing_is_told_in_a_line(tmp_path):
    here = tmp_path / "python3.77"
    here.symlink_to(sys.executable)
    refused = tmp_path / "python3.78"  # as pyenv's is, of a version that it has not
    refused.write_text("#!/bin/sh\nexit 127\n")
    refused.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "wheels/build.py", "python3.77", "python3.78", "python3.79"],
        cwd=ROOT, env=os.environ | {"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    said = (
        "make wheel: no python3.78, no python3.79 on PATH or among pyenv's; install it, or take those that are here: "
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f'{said}make wheel PYTHONS="python3.77"\n')


def test_interpreters_of_pyenv_are_found(build, tmp_path, monkeypatch):
    python = tmp_path / "versions" / "3.77.1" / "bin" / "python3.77"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert build.find("python3.77") == str(python)
    assert build.find(sys.executable) == sys.executable
    assert build.find("python3.78") is None


def test_avx_outside_of_its_functions_is_found(build):
    lines = [
        "0000000000001000 <avx2::(anonymous namespace)::pool_rows(long)>:",
        "    1000:\tvaddps (%rdi),%ymm0,%ymm1",
        "0000000000002000 <void sort<long>(long*)>:",
        "    2000:\tmovups (%rdi),%xmm0",
        "    2004:\tret",
        "0000000000003000 <crc32c(void const*)>:",
        "    3000:\tvmovdqu (%rdi),%xmm0",
        "0000000000004000 <void fill<long>(avx_like*)>:",
        "    4000:\tvmovaps %zmm0,(%rdi)",
    ]
    assert build.beyond_baseline(lines) == {"crc32c(void const*)", "void fill<long>(avx_like*)"}
    assert build.beyond_baseline(lines[:5]) == set()


def test_wheels_are_made_for_every_version_that_is_named():
    named = re.search(r"^PYTHONS \?= (.*)$", MAKEFILE, re.M)[1].split()
    classifiers = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert named == [f"python{version}" for version in classifiers]
