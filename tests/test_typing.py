"""Types and examples: what a user's mypy sees is true, of the package and of the native module; examples run."""

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.machine.backend import native

pytestmark = pytest.mark.timeout(1800)  # without a cache mypy reads all of numpy's stubs, a busy machine slowly
ROOT = Path(__file__).parents[1]
PROGRAM = Path(__file__).parent / "typed_program.py"
STUB = ast.parse((ROOT / "engine" / "_native.pyi").read_text())


# Lines that a type checker must refuse, each of them.
WRONG = [
    "eng.seq + 'a'",
    "eng.topk(1).idss",
    "eng.topk('alice')",
    "eng.topk(['alice'])",
    "eng.topk(1.5)",
    "eng.topk({1})",
    "eng.topk(1, exclude='a')",
    "eng.topk(1, include={'a'})",
    "eng.topk(1, exclude=[{'a'}])",
    "eng.ingest('a', 'b')",
    "eng.ingest([1], ['b'])",
    "eng.ingest(1, 2, position=('clicks', b''), expect='')",
    "eng.similar('a')",
    "eng.score('a', 1)",
    "eng.score(1, [['a']])",
    "eng.vectors('a')",
    "eng.vectors(items=['a'])",
    "eng.history('a')",
    "eng.history([1])",
    "eng.hide('a')",
    "eng.show(['a'])",
    "eng.forget(users='a')",
    "eng.forget(items=['a'])",
    "engine.open('x', mode='w')",
    "engine.open('x', loss='hinge')",
    "engine.open('x', device='tpu')",
    "engine.open(5)",
    "engine.open('x', mode='r').warm",
]


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A python that has the package as it would be installed: only what is packaged, no source tree beside it."""
    home = tmp_path_factory.mktemp("user") / "venv"
    venv.create(home, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    run(sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(site), cwd=ROOT)
    (site / "numpy.pth").write_text(str(Path(np.__file__).parents[1]))
    return home / "bin" / "python"


def checked(python, folder, program):
    """What mypy says of a program in a folder, with what a python has installed."""
    (folder / "program.py").write_text(program)
    options = ["--strict", "--python-executable", str(python), "--config-file", os.devnull]
    options += ["--cache-dir", str(ROOT / ".mypy_cache")]  # numpy's stubs take a while
    command = [sys.executable, "-m", "mypy", *options, "program.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def test_types_are_packaged(installed):
    (package,) = installed.parents[1].glob("lib/python*/site-packages/engine")
    assert (package / "py.typed").is_file()
    assert (package.parent / "rowtide" / "py.typed").is_file()
    assert (package / "_native.pyi").read_bytes() == (ROOT / "engine" / "_native.pyi").read_bytes()


def test_a_users_program_is_strictly_typed(installed, tmp_path):
    assert "Success" in checked(installed, tmp_path, PROGRAM.read_text())
    said = checked(installed, tmp_path, "import engine\neng = engine.open('x')\n" + "\n".join(WRONG))
    found = {int(line) for line in re.findall(r"^program\.py:(\d+): error", said, re.M)}
    assert found == set(range(3, 3 + len(WRONG))), said  # it is not that everything passes


BY_THE_OTHER_NAME = """
from typing import assert_type
import engine
import rowtide
import rowtide.evaluate
from rowtide import Engine, TopK
from rowtide.evaluate import prequential

def learn(eng: Engine) -> TopK:
    eng.ingest(7, 8)
    prequential(eng, [7], [8])
    rowtide.evaluate.prequential(eng, [7], [8])
    return eng.topk(7)

with rowtide.open("x") as eng:
    assert_type(eng, engine.Engine)
    assert_type(learn(eng), engine.TopK)
assert_type(rowtide.__version__, str)
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (BY_THE_OTHER_NAME, "Success"),
        (
            "import rowtide\neng = rowtide.open('x')\neng.seq + 'a'\neng.topk(1).idss\nrowtide.opne('x')\n",
            "Found 3 errors",
        ),
    ],
)
def test_rowtide_is_typed_as_engine_is(installed, tmp_path, program, said):
    assert said in checked(installed, tmp_path, program)


def test_beside_an_own_engine_types_are_unknown_and_nothing_is_refused(installed, tmp_path):
    """A checker looks `engine` up by its name, and finds the project's own."""
    (tmp_path / "engine.py").write_text("speed: int = 9000\n")
    program = "import rowtide\ndef seq(eng: rowtide.Engine) -> int:\n    return int(eng.seq)\n"
    assert "Success" in checked(installed, tmp_path, program)


def test_the_program_uses_the_whole_surface_and_runs(tmp_path):
    text = PROGRAM.read_text()
    methods = [name for name in dir(engine.Engine) if not name.startswith("_")]
    assert [name for name in methods if not re.search(rf"\b(eng|again)\.{name}\b", text)] == []
    assert [name for name in engine.__all__ if not re.search(rf"\b{name}\b", text)] == []
    run(sys.executable, str(PROGRAM), str(tmp_path / "shop"), cwd=ROOT)


def test_the_stub_is_the_native_module(tmp_path):
    """Every binding and no other. The metaclass is pybind11's own, so the classes themselves always differ."""
    allowed = tmp_path / "allowed"
    classes = [node.name for node in STUB.body if isinstance(node, ast.ClassDef)]
    made = [f"{name}.__init__" for name in ("Event", "Learned", "WindowPlaces", "Hot.Copy", "Hot.Changed", "Hold")]
    # The core alone makes some; what an enumeration has besides its values is pybind11's own.
    names = [*classes, "Hot.Copy", "Hot.Changed", *made, r"(KeyedBy|Plan)\.\w+"]
    allowed.write_text("".join(rf"engine\._native\.{name}" + "\n" for name in names))
    options = "--allowlist", str(allowed), "--mypy-config-file", "pyproject.toml"
    run(sys.executable, "-m", "mypy.stubtest", "engine._native", *options, cwd=ROOT)


def functions(body, owner):
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, getattr(owner, node.name))
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name != "__len__":
            yield node, getattr(owner, node.name)


def test_arguments_of_the_stub_are_the_natives():
    """Names, order and defaults; pybind11 tells them in the first line of a docstring, and mypy's test reads none."""
    checked = 0
    for node, what in functions(STUB.body, native):
        signature = re.match(rf"{node.name}\((.*)\) ->", what.__doc__)[1]
        signature = re.sub(r"\[[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*\]", "", signature)  # types may hold commas
        real = [(part.split(":")[0].strip(), "=" in part) for part in signature.split(",") if part.strip()]
        names = [arg.arg for arg in node.args.args]
        least = len(names) - len(node.args.defaults)
        names += [f"*{node.args.vararg.arg}"] if node.args.vararg else []
        assert real == [(name, at >= least and name[0] != "*") for at, name in enumerate(names)], node.name
        checked += 1
    assert checked > 40


EXAMPLES = ["open", "verify", "evaluate.prequential", "TopK", "IngestReport"]
EXAMPLES += [f"Engine.{name}" for name in ("ingest", "topk", "similar", "score", "vectors", "position", "checkpoint")]
EXAMPLES += ["Engine.history", "Engine.hidden", "Engine.positions", "Engine.forget_position", "TopK.to_list"]
EXAMPLES += ["Engine.digest", "Engine.stats", "Engine.backup", "Engine.refresh", "Reader", "Reader.refresh"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_these_have_an_example(name):
    what = engine
    for part in name.split("."):
        what = getattr(what, part)
    assert ">>> " in what.__doc__


def documented():
    """Whatever a user can reach from the package."""
    for name in engine.__all__:
        what = getattr(engine, name)
        yield name, what
        if inspect.isclass(what):
            yield from ((f"{name}.{part}", getattr(what, part)) for part in dir(what) if not part.startswith("_"))
    yield "evaluate.prequential", engine.evaluate.prequential


@pytest.mark.parametrize("name", [name for name, what in documented() if ">>> " in (inspect.getdoc(what) or "")])
def test_examples_run(name, tmp_path, monkeypatch):
    """Each with `engine`, `np` and a new engine `eng` at hand, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (docstring,) = [inspect.getdoc(what) for of, what in documented() if of == name]
    with engine.open(":memory:", dim=8) as eng:
        names = {"engine": engine, "np": np, "eng": eng}
        test = doctest.DocTestParser().get_doctest(docstring, names, name, None, 0)
        said = []
        failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed
    assert not failed, "".join(said)
