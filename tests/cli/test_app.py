"""The command line: what it does, prints and refuses; and the demo."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from other_process import other_process

import engine
from engine.cli import app as command
from engine.cli import demo
from engine.contract.errors import CorruptionError, InputError
from engine.machine import backend


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


def learn(log, directory, *more):
    return ("replay", log, "--path", directory, "--user", "u", "--item", "i", *more)


@pytest.mark.parametrize(("loss", "optimizer"), [("logistic", "adam"), ("squared", "sgd")])
def test_replay_learns_values(run, tmp_path, loss, optimizer):
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 2, 400) if loss == "logistic" else rng.integers(1, 6, 400)
    log = tmp_path / "log.parquet"
    pq.write_table(pa.table({"u": rng.integers(0, 20, 400), "i": rng.integers(0, 30, 400), "stars": ratings}), log)
    words = learn(log, tmp_path / "d", "--loss", loss, "--optimizer", optimizer, "--dim", 4)
    assert run(*words)[0] == 1  # no values
    words = (*words, "--value", "stars", "--evaluate")
    status, out, _ = run(*words)
    assert status == 0
    assert re.search(r"mean loss of the judged rows, each before it was learned: \d\.\d{4}", out)
    assert f"all: {(ratings[320:] > 0).sum()}" in out
    with engine.open(tmp_path / "d") as eng, engine.open(":memory:", loss=loss, optimizer=optimizer, dim=4) as plain:
        columns = pq.read_table(log)
        plain.ingest(*(columns[name].to_numpy() for name in ("u", "i", "stars")))
        assert eng.score(3, 4) == plain.score(3, 4)
        assert eng.seq == 400


def test_replay_learns_where_it_is_told_to(run, log, tmp_path):
    found = set()
    for device in ("cpu", "auto", "cuda"):
        words = learn(log, tmp_path / device, "--where", "kind == 'buy'", "--dim", 8, "--device", device)
        assert run(*words)[0] == 0
        with engine.open(tmp_path / device) as eng:
            found.add(eng.digest())
    assert len(found) == 1
    status, _, said = run(*learn(log, tmp_path / "none", "--device", "gpu"))
    assert status == 1
    assert "ConfigError: --device: got str 'gpu', wanted one of" in said


def test_replay_learns_and_goes_on(run, log, tmp_path):
    words = learn(log, tmp_path / "d", "--where", "kind == 'buy'", "--lr", 0.5, "--dim", 8)
    status, out, _ = run(*words)
    assert status == 0
    assert "10 rows read: 1 left out by where, 2 without user or item skipped" in out
    assert re.search(r"7 events learned in .* mean loss \d\.\d{4}, seq 7", out)
    with engine.open(tmp_path / "d") as eng:
        assert (eng.seq, eng.settings["lr"], eng.settings["dim"]) == (7, 0.5, 8)
        assert eng.position(str(log.resolve())) is not None
        digest = eng.digest()
    status, out, _ = run(*words)
    assert status == 0
    assert "went on at file row 10" in out
    assert "0 events learned" in out
    status, _, said = run(*learn(log, tmp_path / "d"))
    assert status == 1
    assert re.fullmatch(r"rowtide: InputError: columns: row 10 of .* was reached with another .*", said.strip())
    with engine.open(tmp_path / "d") as eng:
        assert eng.digest() == digest


def test_replay_judges(run, log, tmp_path):
    words = learn(log, tmp_path / "d", "--source", "shop", "--evaluate")
    status, out, _ = run(*words, "--test-share", 0.5, "-k", 1, "-k", 2, "--csv", tmp_path / "rows.csv", "--basket", "b")
    assert status == 0
    assert "4 judged rows written" in out
    assert re.search(r"all: 4 +│ hit_rate@1 +│ +\d\.\d{4} +│ +0.5000", out)
    assert re.search(r"item new to the user: 2 +│ ndcg@2", out)
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 5
    with engine.open(tmp_path / "d") as eng:
        assert eng.seq == 8
        assert eng.position("shop") is not None
    status, out, _ = run(*words)
    assert status == 0
    assert "only the remaining 0 rows were judged" in out
    assert "10 rows read, 10 of them again: 0 left out by where, 2 without user or item skipped" in out
    assert run(*learn(log, ":memory:", "--evaluate"))[0] == 0


REFUSED = [
    (("--loss", "logistic"), "--value: got None, wanted 0 or 1 for each event"),
    (("--time", "b", "--time-unit", "ns", "--loss", "squared", "--value", "kind"), "--value: the column 'kind' holds"),
    (("--time", "i"), "--time: row "),
]


@pytest.mark.parametrize(("words", "wanted"), REFUSED)
@pytest.mark.parametrize("evaluate", [(), ("--evaluate",)])
def test_a_replay_that_is_refused_leaves_no_directory(run, tmp_path, words, wanted, evaluate):
    """Else its settings would be fixed for the next try."""
    log, path = tmp_path / "log.csv", tmp_path / "d"
    log.write_text("u,i,b,kind\n1,6,0,x\n2,5,1,y\n")
    status, _, said = run(*learn(log, path, *words, *evaluate))
    assert (status, f"rowtide: InputError: {wanted}" in said) == (1, True), said
    assert not path.exists()
    with engine.open(path, dim=8) as eng:
        eng.ingest(7, 8)
    assert run(*learn(log, path, *words, *evaluate))[0] == 1
    with engine.open(path) as eng:
        assert eng.seq == 1  # what another run has made stays


def test_a_replay_that_is_interrupted_says_how_to_go_on(run, log, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("engine.sources.replay.learn_source", interrupted)
        status, out, said = run(*learn(log, tmp_path / "d"))
    assert (status, out, said) == (130, "", "rowtide: interrupted; run the same command to go on\n")
    assert run(*learn(log, tmp_path / "d"))[0] == 0


def test_a_file_that_is_not_there_is_said(run, tmp_path):
    status, _, said = run(*learn(tmp_path / "clicks.parquet", tmp_path / "d"))
    assert (status, said) == (1, f"rowtide: InputError: FILE: {tmp_path / 'clicks.parquet'} is not there")
    assert not (tmp_path / "d").exists()


def test_info_shows_positions_and_hidden_items(run, tmp_path):
    with engine.open(tmp_path / "d", dim=8) as eng:
        eng.ingest([1, 2], [3, 4], position=("clicks", b"41\xff"))
        eng.hide([3, 9])
    out = run("info", tmp_path / "d")[1]
    assert re.search(r"hidden_items +│ 2", out)
    assert re.search(r"clicks +│ '41\\\\xff'", out)
    found = json.loads(run("info", tmp_path / "d", "--json")[1])
    assert (found["positions"], found["stats"]["hidden_items"]) == ({"clicks": "41\\xff"}, 2)


@pytest.mark.parametrize("option", ["--basket", "--csv"])
def test_options_that_would_do_nothing_are_refused(run, log, tmp_path, option):
    status, _, said = run(*learn(log, tmp_path / "d", option, "b"))
    assert (status, said.strip()) == (1, "rowtide: InputError: --basket, --csv: only --evaluate uses them")
    assert not (tmp_path / "d").exists()


def test_topk_info_verify(run, log, tmp_path):
    path = tmp_path / "d"
    run(*learn(log, path))
    with engine.open(path) as eng:
        ids, scores = eng.topk(1, 9)
    status, out, _ = run("topk", path, 1, "-k", 9)
    assert status == 0
    assert "user 1 at seq 8" in out
    listed = re.findall(r"│ (\d+) +│ (-?\d+) +│ (-?\d\.\d{4}) +│", out)
    assert listed == [(str(r + 1), str(ids[r]), f"{scores[r]:.4f}") for r in range(4)]
    status, out, _ = run("topk", path, 1, "--exclude-seen")
    assert re.findall(r"│ \d+ +│ (-?\d+) +│", out) == ["7"]
    status, out, _ = run("info", path)
    assert status == 0
    for words in ("triton +│ ", r"users\.rows +│ 2", r"bit_exact +│ True", r"batch_size +│ 1"):
        assert re.search(words, out)
    status, out, _ = run("info")
    assert status == 0
    assert "users.rows" not in out
    status, out, _ = run("verify", path)
    assert status == 0
    assert re.search(r"seq +│ 8", out)


@pytest.mark.parametrize("words", [("topk", "{}", "5"), ("info", "{}"), ("verify", "{}")])
def test_looking_at_nothing_makes_nothing(run, tmp_path, words):
    missing = tmp_path / "typo"
    status, _, said = run(*(w.format(missing) for w in words))
    assert status == 1
    assert "wanted the directory of an engine" in said
    assert not missing.exists()


def test_beside_a_writer(run, log, tmp_path):
    path = tmp_path / "d"
    with engine.open(path) as eng:
        eng.ingest([1, 2], [3, 4])
        for words in (("topk", path, 1), ("info", path), learn(log, path)):
            status, _, said = run(*words)
            assert status == 1
            assert re.fullmatch(r"rowtide: BusyError: [^\n]+", said.strip())
        # From another process, as it would be: LMDB opens a file once in each.
        done = subprocess.run([sys.executable, "-m", "engine", "verify", path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def writer(tmp_path):
    """(process, directory): the epoch is at seq 2, the log at seq 3; ids as long as they get."""
    path = tmp_path / "d"
    with other_process() as process:
        process(f"eng = engine.open({str(path)!r}, dim=8, seed=3, epoch_seconds=1e9)")
        process("eng.ingest([1, 1], [2**63 - 1, -(2**63)]).seq, eng.checkpoint(), eng.ingest(1, 5).seq")
        yield process, path


READING = [("info", "{}"), ("topk", "{}", "1"), ("verify", "{}"), ("backup", "{}", "{}-2")]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("words", READING)
def test_looking_changes_nothing_and_says_what_it_saw(run, writer, contents, words, killed):
    process, path = writer
    pid = process("__import__('os').getpid()")
    if killed:
        process.kill()
    before = contents(path)
    status, out, said = run(*(word.format(path) for word in words))
    assert (status, said) == (0, "")
    checked = "The last epoch is at seq 2. The log, checked too, goes on to seq 3; "
    assert (checked if words[0] == "verify" else "This is the last epoch, at seq 2. The log goes on to seq 3; ") in out
    assert ("no process that can be seen writes it." if killed else f"process {pid} writes it.") in out
    assert contents(path) == before
    if not killed:
        assert process("eng.ingest(1, 6).seq") == 4


@pytest.mark.parametrize("words", READING)
def test_looking_at_a_whole_directory_has_no_more_to_say(run, tmp_path, words):
    with engine.open(tmp_path / "d", dim=8) as eng:
        eng.ingest([1, 2], [3, 4])
    status, out, _ = run(*(word.format(tmp_path / "d") for word in words))
    assert status == 0
    assert "last epoch" not in out


def test_json_is_one_object_with_whole_ids(run, writer):
    process, path = writer
    pid = process("__import__('os').getpid()")

    def read(*words):
        status, out, said = run(*words, "--json")
        assert (status, said) == (0, "")
        return json.loads(out)

    at = {"directory": str(path), "seq": 2, "log_seq": 3, "writer_pid": pid}
    found = read("topk", path, 1)
    assert found.keys() == {"user", "items"} | at.keys()
    assert found == found | at | {"user": 1}
    assert {one["item"] for one in found["items"]} == {2**63 - 1, -(2**63)}
    assert all(type(one["score"]) is float for one in found["items"])
    found = read("info", path)
    assert found == found | at
    assert found.keys() == {"python", "backends", "settings", "stats", "positions"} | at.keys()
    assert (found["settings"]["dim"], found["stats"]["items"]["rows"]) == (8, 2)
    assert read("info").keys() == {"python", "backends"}
    found = read("verify", path)
    assert (found["directory"], found["seq"], found["lmdb_seq"]) == (str(path), 3, 2)
    assert read("backup", path, f"{path}-2") == at | {"backup": f"{path}-2"}
    with engine.open(f"{path}-2") as copy:
        assert copy.seq == 2


def test_a_score_that_is_no_number_is_null_in_json(run, writer, monkeypatch):
    plain = engine.Reader.topk

    def endless(self, *args, **how):
        found = plain(self, *args, **how)
        found.scores[0] = np.inf
        return found

    monkeypatch.setattr(engine.Reader, "topk", endless)
    assert json.loads(run("topk", writer[1], 1, "--json")[1])["items"][0]["score"] is None


def test_a_narrow_terminal_cuts_off_no_id(run, writer, monkeypatch):
    monkeypatch.setattr(command.out, "_width", 20)
    out = run("topk", writer[1], 1)[1]
    assert "│ 9223372036854775807  │" in out
    assert "│ -9223372036854775808 │" in out
    assert command.out.width == 20
    for words in (("info", writer[1]), ("verify", writer[1])):
        assert "…" not in run(*words)[1]


def test_a_csv_file_with_no_directory_is_refused_before_anything_is_learned(run, log, tmp_path):
    words = learn(log, tmp_path / "d", "--evaluate", "--csv", tmp_path / "no" / "rows.csv")
    status, _, said = run(*words)
    assert status == 1
    assert re.fullmatch(r"rowtide: InputError: --csv: got .*rows\.csv, wanted a file in a directory .*", said.strip())
    assert not (tmp_path / "d").exists()
    (tmp_path / "rows.csv").mkdir()
    status, _, said = run(*learn(log, tmp_path / "d", "--evaluate", "--csv", tmp_path / "rows.csv"))
    assert status == 1
    assert re.search(r"rowtide: EngineError: .*rows\.csv: .*Is a directory", said)


def test_errors_are_one_line(run, monkeypatch, tmp_path):
    def refuse(path):
        raise CorruptionError("bad\nrecord", file="log", offset=3)

    engine.open(tmp_path / "d").close()
    monkeypatch.setattr(command, "verify_model", refuse)
    status, _, said = run("verify", tmp_path / "d")
    assert (status, said.strip()) == (1, "rowtide: CorruptionError: bad record (file log, offset 3)")


def test_the_version(run):
    assert run("--version") == (0, f"rowtide {engine.__version__}\n", "")


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


def test_without_pyarrow_it_says_so(run, log, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("engine.sources")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, said = run(*learn(log, "d"))
    assert status == 1
    assert "pip install 'rowtide[cli]'" in said


def test_import_engine_leaves_the_extras_alone():
    code = "import sys, engine, engine.evaluate; print({'typer', 'rich', 'pyarrow', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


TINY = ("--items", 40, "--users", 20, "--dim", 4, "--events", 16, "--queries", 1)


def test_profile(run, tmp_path):
    status, out, _ = run("profile", "--workload", "mixed", *TINY, "--out", tmp_path / "p")
    assert status == 0
    assert re.search(r"score_topk +1 +[\d.,]+ .* 2,720 ", out)
    assert re.search(r"learn_steps +1 +[\d.,]+ ", out)
    assert "-: not measured\n" in out or not backend.interpreted()
    assert (tmp_path / "p" / "trace.json").stat().st_size > 1_000
    assert (tmp_path / "p" / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_profile_fits_80_columns(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command.out, "_width", 80)
    status, out, _ = run("profile", "--workload", "mixed", *TINY, "--out", tmp_path)
    assert status == 0
    for name in ("ingest", "topk", "score_topk", "learn_steps"):
        assert re.search(rf"\n {name} +1 +[\d,.]+ +(-|[\d,.]+)[ \d,.%-]*\n", out), out


@pytest.mark.parametrize("name", ["trace.json", "roofline.png"])
def test_profile_says_what_it_cannot_write(run, tmp_path, name):
    (tmp_path / name).mkdir()
    status, out, said = run("profile", "--workload", "ingest", *TINY, "--out", tmp_path)
    assert (status, out) == (1, "")
    assert said.startswith(f"rowtide: InputError: --out: got {tmp_path}, wanted ")
    assert f"{name} is a directory" in said


def test_profile_without_matplotlib_or_with_ranges_only(run, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, _ = run("profile", "--workload", "ingest", *TINY, "--out", tmp_path / "p")
    assert status == 0
    assert "pip install 'rowtide[profile]'" in out
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["trace.json"]
    assert run("profile", "--workload", "ingest", *TINY, "--out", tmp_path / "q", "--ranges-only")[:2] == (0, "")
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--workload", "all"), "InputError: --workload: got str 'all'"),
        (("--workload", "topk", "--items", 0), "InputError: --items: got int 0"),
        (("--workload", "topk", "--loss", "l1"), "ConfigError: --loss: got str 'l1'"),
    ],
)
def test_profile_refuses(run, tmp_path, words, says):
    status, _, said = run("profile", *words, "--out", tmp_path / "p")
    assert status == 1
    assert said.startswith(f"rowtide: {says}")
    assert run("profile")[0] == run("profile", "--workload", "topk", "--items", "x")[0] == 2


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


def test_the_demo_runs(run, tmp_path):
    status, out, _ = run("demo", "--events", 2_000, "--keep", tmp_path / "kept")
    assert status == 0
    assert "the same digest" in out
    assert "clicks" in out
    assert "nothing acknowledged was lost, nothing was learned twice" in out
    assert engine.verify(tmp_path / "kept" / "shop").seq == 2_001


def test_the_demo_keeps_out_of_a_full_directory(tmp_path):
    (tmp_path / "thesis").touch()
    with pytest.raises(InputError, match="keep"):
        demo.run(command.out, keep=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]
