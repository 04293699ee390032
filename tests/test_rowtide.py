"""`rowtide` and `engine` are one package, and `rowtide` is ours even where a project has an `engine` of its own.

Each program runs in a process of its own, in a folder that its imports see first.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parents[1]
STUB = ROOT / "rowtide" / "evaluate.pyi"


@pytest.fixture
def run(tmp_path):
    """Runs a program as a file of the folder; returns what it printed."""

    def go(program, *words, **environment):
        (tmp_path / "program.py").write_text(program)
        command = words or ["program.py"]
        done = subprocess.run(
            [sys.executable, "-W", "error", *command], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return go


@pytest.fixture(params=["file", "package"])
def shadowed(request, tmp_path):
    """The folder has an `engine` of its own."""
    own = tmp_path / ("engine.py" if request.param == "file" else "engine/__init__.py")
    own.parent.mkdir(exist_ok=True)
    own.write_text("speed = 9000\n")
    return own


ONE_PACKAGE = """
assert rowtide is engine and rowtide.open is engine.open
import rowtide.evaluate, rowtide.rank.ranker, rowtide.sources.where
from rowtide.evaluate import prequential
from rowtide import device
import engine.rank.ranker, engine.evaluate.prequential, engine.sources.where, engine.device
assert rowtide.rank.ranker is engine.rank.ranker
assert rowtide.evaluate is engine.evaluate and prequential is engine.evaluate.prequential
assert device is engine.device and rowtide.sources.where is engine.sources.where
assert engine.rank.ranker.__spec__.name == engine.rank.ranker.__name__ == "engine.rank.ranker"
import sys
for name, module in list(sys.modules.items()):
    if name.split(".")[0] == "rowtide":
        assert module is sys.modules["engine" + name.removeprefix("rowtide")], name
"""


@pytest.mark.parametrize("imports", ["import rowtide, engine", "import engine, rowtide"])
def test_one_package_by_two_names(run, imports):
    run(imports + ONE_PACKAGE)


@pytest.mark.parametrize("first", ["rowtide.evaluate", "rowtide.rank.ranker", "rowtide.machine.backend"])
def test_the_first_import_may_name_a_module(run, first):
    run(f"import {first}, engine\n{ONE_PACKAGE}")


def test_every_module_is_loaded_once(run):
    run("""
import pkgutil, sys, rowtide, engine
needs_an_extra = "triton", "device", "profiling", "_cuda", "__main__"
names = [found.name for found in pkgutil.walk_packages(rowtide.__path__, "rowtide.")]
names = [name for name in names if not any(part in name for part in needs_an_extra)]
assert len(names) > 60
for name in names:
    __import__(name)
    assert sys.modules[name] is sys.modules["engine" + name.removeprefix("rowtide")], name
""")


@pytest.mark.parametrize("first", ["rowtide.evaluate.prequential", "rowtide"])
def test_a_function_stays_where_a_module_has_its_name(run, first):
    """Importing the module again by its second name must not put it in the function's place."""
    run(f"""
import {first}, engine
from rowtide.evaluate.prequential import Report
import rowtide.evaluate.prequential
assert engine.evaluate.Report is Report and callable(engine.evaluate.prequential)
""")


def test_a_module_that_is_not_there(run):
    run("""
try:
    import rowtide.nothing
except ModuleNotFoundError as e:
    assert e.name == "rowtide.nothing", e
else:
    raise AssertionError
""")


def test_threads_that_import_at_once_get_one_package(run):
    run("""
import sys, threading
sys.setswitchinterval(1e-6)
start, seen = threading.Barrier(8), []
def look(name):
    start.wait()
    seen.append(__import__(name, fromlist=["Engine"]))
threads = [threading.Thread(target=look, args=(("rowtide", "engine")[n % 2],)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert {module.Engine for module in seen} == {seen[0].Engine} and len(seen) == 8
import rowtide, engine
assert rowtide is engine
""")


def test_a_thread_that_came_too_early_has_the_same_names(run):
    """Importing importlib.abc is what the package does first: it is not whole then, but in sys.modules."""
    run("""
import sys, importlib.abc
del sys.modules["importlib.abc"]
class Early:
    def find_spec(name, path=None, target=None):
        if name == "importlib.abc":
            seen.append(sys.modules["rowtide"])
seen = []
sys.meta_path.insert(0, Early)
import rowtide, engine
assert rowtide is engine and seen[0] is not engine
assert seen[0].open is engine.open and seen[0].rank is engine.rank
""")


SHADOWED = """
import rowtide
from rowtide.evaluate import prequential
import rowtide.rank.ranker, rowtide.machine.backend
assert rowtide.evaluate.prequential is prequential
with rowtide.open(":memory:", dim=8) as eng:
    eng.ingest([7, 8], [100, 101])
    ids, scores = eng.topk(7, k=1)
    assert len(ids) == 1 and type(eng).__module__ == "rowtide.engine"
    try:
        eng.ingest("x", 1)
    except rowtide.InputError:
        pass
import engine, sys
assert engine.speed == 9000 and not hasattr(engine, "open")
assert [name for name in sys.modules if name.startswith("engine.")] == []
"""


@pytest.mark.parametrize("before", ["", "import engine\n"])
def test_a_projects_own_engine_stays_its_own(run, shadowed, before):
    run(before + SHADOWED)


def test_the_projects_own_engine_may_import_rowtide(run, tmp_path):
    (tmp_path / "engine.py").write_text("import rowtide\nspeed = 9000\nmodel = rowtide.open(':memory:', dim=8)\n")
    run("import engine\nassert engine.model.seq == 0 and engine.speed == 9000")
    run("", "engine.py")


@pytest.mark.parametrize("stands", ["None", "types.ModuleType('engine')"])
def test_whatever_is_registered_as_engine_stays(run, stands):
    """A test double has no spec; None says that the import is refused."""
    run(f"""
import sys, types
sys.modules["engine"] = own = {stands}
import rowtide.evaluate
assert rowtide.open and rowtide.evaluate.prequential and sys.modules["engine"] is own
""")


def test_threads_that_import_at_once_beside_an_own_engine(run, shadowed):
    run("""
import sys, threading
sys.setswitchinterval(1e-6)
start, seen = threading.Barrier(8), []
def look():
    start.wait()
    import rowtide
    seen.append(rowtide.Engine)
threads = [threading.Thread(target=look) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(seen) == 8 and len(set(seen)) == 1
""")


PICKLED = """
import copy, pickle, rowtide
error = rowtide.CorruptionError("bad", file="f", offset=3, seq=4)
again = pickle.loads(pickle.dumps(error))
assert type(again) is rowtide.CorruptionError and str(again) == str(error) and again.offset == 3
with rowtide.open(":memory:", dim=8) as eng:
    report = eng.ingest([7, 8], [100, 101])
    found = eng.topk(7, k=2)
for value in (report, found):
    again = pickle.loads(pickle.dumps(value))
    assert type(again) is type(value) and repr(again) == repr(value)
"""


def test_errors_and_reports_can_be_pickled(run):
    run(PICKLED)


def test_errors_and_reports_can_be_pickled_beside_an_own_engine(run, shadowed):
    run(PICKLED)


def test_reloading(run, shadowed):
    run("import importlib, rowtide\nassert importlib.reload(rowtide) is rowtide and rowtide.open and rowtide.evaluate")


def test_reloading_by_both_names(run):
    run("import importlib, rowtide, engine\nassert importlib.reload(rowtide) is engine and rowtide.open")


@pytest.mark.parametrize("name", ["rowtide", "engine"])
def test_the_package_is_the_command(run, name):
    assert "replay" in run("", "-m", name, "--help")


def test_a_module_may_be_the_program(run):
    run("", "-m", "rowtide.cli.app")


COMMAND = """
from rowtide.cli.app import main
main()
"""


def test_the_command_beside_an_own_engine(run, shadowed):
    assert "replay" in run("", "-m", "rowtide", "--help")
    assert "replay" in run(COMMAND, "program.py", "--help")


def test_the_process_that_the_demo_kills_beside_an_own_engine(run, tmp_path):
    (tmp_path / "engine.py").write_text("speed = 9000\n")
    program = "from rowtide.cli.demo import Console, Path, _kill\n_kill(Console(), Path('killed'), 7)"
    assert "nothing acknowledged was lost" in run(program)


def test_type_checkers_see_every_public_name():
    """The names stand once more in rowtide/, since a checker cannot run what finds them."""
    (shim, stub) = (ast.parse(path.read_text()) for path in (ROOT / "rowtide" / "__init__.py", STUB))
    (block,) = [node for node in shim.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for body, module, names in (
        (block.body, "engine", {*engine.__all__, "__version__"}),
        (stub.body, "engine.evaluate", set(engine.evaluate.__all__)),
    ):
        imported = [(node.module, alias) for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert {name for name, _ in imported} == {module}
        assert {alias.name for _, alias in imported} == {alias.asname for _, alias in imported} == names
