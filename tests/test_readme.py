"""README's example runs as it stands, and its table of the API knows every public call."""

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


def test_every_public_call_is_in_the_table():
    calls = [name for name in vars(engine.Engine) if not name.startswith("_")]
    assert [name for name in calls if f"eng.{name}" not in README] == []
    errors = [name for name in engine.__all__ if name.endswith("Error")]
    assert [name for name in errors if f"`{name}`" not in README and f"engine.{name}" not in README] == []
    assert "engine.verify" in README
    assert "engine.open" in README
