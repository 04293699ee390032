"""README's example runs as it stands, and its table of the API has every public call with its arguments, no other."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import engine

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shop" / "log").is_dir()


def test_the_table_is_the_public_surface():
    """Both ways: each public name and argument is there, and whatever is there exists."""
    table = "".join(line for line in README.splitlines(keepends=True) if line.startswith("| `eng"))
    methods = {f"eng.{name}" for name in dir(engine.Engine) if not name.startswith("_")}
    calls = {"engine.open", "engine.verify", "engine.evaluate.prequential"}
    named = dict(re.findall(r"`(eng[a-z._]*)(\([^`]*\))?`", table))
    assert named.keys() == methods | calls
    for name, arguments in named.items():
        what = eval(name, {"engine": engine, "eng": engine.Engine})
        if not callable(what):  # a property
            assert arguments == "", name
            continue
        wanted = [p for p in inspect.signature(what).parameters if p != "self"]
        assert list(re.findall(r"\w+", arguments)) == wanted, name


def test_every_public_name_is_told():
    classes = {"Engine", "IngestReport", "Reader", "TopK", "VerifyReport"}
    assert set(engine.__all__) == {name for name in engine.__all__ if name.endswith("Error")} | classes | {
        "evaluate",
        "open",
        "verify",
    }
    missing = [name for name in engine.__all__ if f"`{name}`" not in README and f"engine.{name}" not in README]
    assert [name for name in missing if name != "Engine"] == []
