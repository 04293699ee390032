"""The pages of reference have every public call, argument, error, key and option, and no other."""

import inspect
import re

import pytest
from pages import ROOT
from typer.main import get_command

import engine
from engine.cli.app import app
from engine.contract.losses import DEFAULT_LR, DEFAULT_NEGATIVES, LOSSES, OPTIMIZERS

API = (ROOT / "docs" / "reference" / "api.md").read_text()
CLI = (ROOT / "docs" / "reference" / "cli.md").read_text()
MONITORING = (ROOT / "docs" / "operations" / "monitoring.md").read_text()
FAULTS = (ROOT / "docs" / "operations" / "faults.md").read_text()
COMMANDS = get_command(app).commands


def test_the_calls_are_the_public_surface():
    """Both ways: each public name and argument is there, and whatever is there exists."""
    calls = API.split("## Calls\n")[1].split("\n## ")[0]
    methods = {f"eng.{name}" for name in dir(engine.Engine) if not name.startswith("_")}
    functions = {"engine.open", "engine.verify", "engine.evaluate.prequential"}
    named = dict(re.findall(r"`(eng[a-z._]*)(\([^`]*\))?`", calls))
    assert named.keys() == methods | functions
    for name, arguments in named.items():
        what = eval(name, {"engine": engine, "eng": engine.Engine})
        if not callable(what):  # a property
            assert arguments == "", name
            continue
        wanted = [p for p in inspect.signature(what).parameters if p != "self"]
        assert list(re.findall(r"\w+", arguments)) == wanted, name


def test_every_public_name_is_told():
    classes = {"Engine", "Explanation", "IngestReport", "Reader", "TopK", "VerifyReport"}
    assert set(engine.__all__) == {name for name in engine.__all__ if name.endswith("Error")} | classes | {
        "evaluate",
        "open",
        "verify",
    }
    missing = [name for name in engine.__all__ if f"`{name}`" not in API and f"engine.{name}" not in API]
    assert [name for name in missing if name != "Engine"] == []


def test_every_error_has_its_line():
    told = re.findall(r"^\| `(\w+Error)`", FAULTS, re.M)
    assert sorted(told) == sorted(name for name in engine.__all__ if name.endswith("Error"))


def test_the_defaults_of_each_loss_have_their_line():
    guide = (ROOT / "docs" / "guide" / "losses-and-settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+)\b", guide, re.M)
    told = {loss: (dict(zip(OPTIMIZERS, map(float, lr), strict=True)), int(n)) for loss, *lr, n in rows}
    assert told == {loss: (DEFAULT_LR[loss], DEFAULT_NEGATIVES[loss]) for loss in LOSSES}


def test_every_command_has_its_section():
    assert re.findall(r"^## `rowtide (\w+)`", CLI, re.M) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_line(name):
    section = CLI.split(f"## `rowtide {name}`")[1].split("\n## ")[0]
    wanted = {option for p in COMMANDS[name].params if p.param_type_name == "option" for option in p.opts}
    assert set(re.findall(r"^\| `(--?[\w-]+)`", section, re.M)) == wanted - {"--help"}


def keys(stats, before=""):
    for name, value in stats.items():
        if isinstance(value, dict):
            yield from keys(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def test_every_key_of_stats_has_its_line(home):
    with engine.open(home) as eng:
        writers = set(keys(eng.stats()))
    with engine.open(home, mode="r") as reader:
        readers = set(keys(reader.stats()))
    told = [name for row in re.findall(r"^\| (`.*?) \|", MONITORING, re.M) for name in re.findall(r"`([\w.]+)`", row)]
    tables = {"users", "items"}
    told = {f"{table}.{name[6:]}" if name.startswith("TABLE.") else name for name in told for table in tables}
    assert writers | readers == {name for name in told if not name.startswith("DEVICE.")}
