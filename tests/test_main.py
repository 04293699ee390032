"""The command line over a small engine of counts: what it calls, prints, refuses; and the demo's shop."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine
from engine import __main__ as command
from engine import backend, demo
from engine.errors import BusyError, CorruptionError, InputError
from engine.popularity import Popularity


@dataclass(frozen=True)
class Verified:
    records: int = 12_345


class Counts(Popularity):
    """An engine of counts that keeps what it was opened with."""

    def __init__(self, path, **settings):
        super().__init__(settings.get("batch_size", 1))
        self.settings |= settings
        self.path, self.positions, self.seq = path, {}, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ingest(self, users, items, values=None, *, timestamps=None, durable=True, position=None):
        if position:
            self.positions[position[0]] = position[1]
        self.seq += len(users)
        super().ingest(users, items)
        return SimpleNamespace(loss=0.25)

    def position(self, source):
        return self.positions.get(source)

    def topk(self, users, k, *, exclude=None, exclude_seen=False):
        if np.ndim(users):
            return super().topk(users, k, exclude=exclude)
        lists = super().topk(np.array([users]), k)
        count = int((lists.ids[0] != -1).sum())
        return SimpleNamespace(ids=lists.ids[0], scores=lists.scores[0], counts=count, seq=self.seq)

    def stats(self):
        return {"rows": {"users": 4_000, "items": 7}, "bit_exact": True}


@pytest.fixture
def counts(monkeypatch):
    """`engine.open` by path, the same engine again for the same path."""
    opened = {}

    def open_counts(path, **settings):
        Path(path).mkdir(exist_ok=True)
        (Path(path) / "log").touch()
        return opened.setdefault(str(path), Counts(path, **settings))

    monkeypatch.setattr(engine, "open", open_counts, raising=False)
    monkeypatch.setattr(engine, "verify", lambda path: Verified(), raising=False)
    monkeypatch.setattr(backend, "describe", lambda: {"native": "avx2", "cuda": "no driver"}, raising=False)
    return opened


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; (status, stdout, stderr)."""
    monkeypatch.setattr(command.out, "_width", 200)
    monkeypatch.setattr(command.err, "_width", 200)

    def go(*words):
        monkeypatch.setattr(sys, "argv", ["rowtide", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            command.main()
        said = capsys.readouterr()
        code = end.value.code
        if isinstance(code, str):
            return 1, said.out, said.err + code
        return code or 0, said.out, said.err

    return go


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.parquet"
    user, item = [1, 2, None, 1, 2, 1, -1, 2, 1, 2], [5, 5, 5, 6, 5, 5, 5, 7, 8, 5]
    kind = ["buy"] * 9 + ["view"]
    pq.write_table(pa.table({"u": user, "i": item, "kind": kind, "b": [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]}), path)
    return path


def test_replay_learns_and_goes_on(run, counts, log, tmp_path):
    words = (
        "replay",
        log,
        "--path",
        tmp_path / "d",
        "--user",
        "u",
        "--item",
        "i",
        "--where",
        "kind == 'buy'",
        "--lr",
        0.5,
    )
    status, out, _ = run(*words)
    assert status == 0
    assert "10 rows read: 1 left out by where, 2 without user or item skipped" in out
    assert re.search(r"7 events learned in .* mean loss 0.2500, seq 7", out)
    (eng,) = counts.values()
    assert eng.settings == {"batch_size": 1, "lr": 0.5}
    assert list(eng.positions) == [str(log.resolve())]
    status, out, _ = run(*words)
    assert status == 0
    assert "went on at file row 10" in out
    assert eng.seq == 7
    status, _, said = run(*words[:7], "i")
    assert status == 1
    assert re.fullmatch(r"rowtide: InputError: columns: row 10 of .* was reached with another .*", said.strip())


def test_replay_judges(run, counts, log, tmp_path):
    words = ("replay", log, "--path", tmp_path / "d", "--user", "u", "--item", "i", "--source", "shop", "--evaluate")
    status, out, _ = run(*words, "--test-share", 0.5, "-k", 1, "-k", 2, "--csv", tmp_path / "rows.csv", "--basket", "b")
    assert status == 0
    assert "4 judged rows written" in out
    assert re.search(r"all: 4 +│ hit_rate@1 +│ +0.5000 +│ +0.5000", out)
    assert re.search(r"item new to the user: 2 +│ ndcg@2", out)
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 5
    (eng,) = counts.values()
    assert list(eng.positions) == ["shop"]
    status, out, _ = run(*words)
    assert status == 0
    assert "only the remaining 0 rows were judged" in out


@pytest.mark.parametrize("option", ["--basket", "--csv"])
def test_options_that_would_do_nothing_are_refused(run, counts, log, tmp_path, option):
    status, _, said = run("replay", log, "--path", tmp_path / "d", "--user", "u", "--item", "i", option, "b")
    assert (status, said.strip()) == (1, "rowtide: InputError: basket, csv: only --evaluate uses them")
    assert not counts


def test_topk_info_verify(run, counts, log, tmp_path):
    path = tmp_path / "d"
    run("replay", log, "--path", path, "--user", "u", "--item", "i")
    status, out, _ = run("topk", path, 1, "-k", 9)
    assert status == 0
    assert "user 1 at seq 8" in out
    assert re.search(r"1 +│ 5 +│ 5.0000", out)
    assert re.search(r"4 +│ ", out)
    assert not re.search(r"5 +│ +-1", out)
    status, out, _ = run("info", path)
    assert status == 0
    for words in (r"cuda +│ no driver", r"rows.users +│ 4,000", r"bit_exact +│ True", r"batch_size +│ 1"):
        assert re.search(words, out)
    status, out, _ = run("info")
    assert status == 0
    assert "rows.users" not in out
    status, out, _ = run("verify", path)
    assert status == 0
    assert re.search(r"records +│ 12,345", out)


@pytest.mark.parametrize("words", [("topk", "{}", "5"), ("info", "{}"), ("verify", "{}")])
def test_looking_at_nothing_makes_nothing(run, counts, tmp_path, words):
    missing = tmp_path / "typo"
    status, _, said = run(*(w.format(missing) for w in words))
    assert status == 1
    assert "is not the directory of an engine" in said
    assert not missing.exists()
    assert not counts


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (BusyError("another process\nwrites it"), "rowtide: BusyError: another process writes it"),
        (
            CorruptionError("bad record", file="log", offset=3),
            "rowtide: CorruptionError: bad record (file log, offset 3)",
        ),
    ],
)
@pytest.mark.parametrize("words", [("topk", "{}", "5"), ("info", "{}"), ("verify", "{}")])
def test_errors_are_one_line(run, counts, monkeypatch, tmp_path, words, error, line):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(engine, "open", refuse, raising=False)
    monkeypatch.setattr(engine, "verify", refuse, raising=False)
    (tmp_path / "log").touch()
    status, _, said = run(*(w.format(tmp_path) for w in words))
    assert (status, said.strip()) == (1, line)


def test_a_bad_command_line_is_status_2(run):
    assert run("topk")[0] == 2
    assert run("replay", "x", "--path", "y")[0] == 2


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_so(missing):
    code = f"import sys, runpy; sys.modules['{missing}'] = None; runpy.run_module('engine', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'rowtide[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_pyarrow_it_says_so(run, counts, log, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("engine.sources")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, said = run("replay", log, "--path", "d", "--user", "u", "--item", "i")
    assert status == 1
    assert "pip install 'rowtide[cli]'" in said


def test_import_engine_leaves_the_extras_alone():
    code = "import sys, engine, engine.evaluate; print({'typer', 'rich', 'pyarrow', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_shop_is_seeded_and_everything_arrives_all_along():
    shop, same, other = demo.Shop.made(6_000, 3), demo.Shop.made(6_000, 3), demo.Shop.made(6_000, 4)
    assert np.array_equal(shop.users, same.users)
    assert np.array_equal(shop.items, same.items)
    assert not np.array_equal(shop.items, other.items)
    assert len(shop.users) == len(shop.items) == 6_000
    for column in (shop.users, shop.items):
        _, first = np.unique(column, return_index=True)
        assert all((first // 1_000 == n).any() for n in range(6))
    top = [set(np.argsort(np.bincount(half))[-20:]) for half in np.split(shop.items, 2)]
    assert len(top[0] & top[1]) < 18


def test_the_demo_keeps_out_of_a_full_directory(tmp_path):
    (tmp_path / "thesis").touch()
    with pytest.raises(InputError, match="keep"):
        demo.run(command.out, keep=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]
