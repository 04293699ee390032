"""Files of events: the same rows from every format, conditions, refusals; replays that stop anywhere and go on."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import evaluate
from engine.contract.errors import InputError
from engine.evaluate.popularity import Popularity
from engine.sources import files as columns
from engine.sources import where
from engine.sources.files import Columns, EventFile
from engine.sources.replay import judge_file, learn_file

NAMES = Columns("user", "item")


class Stop(Exception):
    """The process ends here."""


class Shop(Popularity):
    """A popularity engine with positions, that keeps the calls it learned and can end in front of one."""

    def __init__(self, batch_size=1):
        super().__init__(batch_size)
        self.calls, self.positions, self.calls_left = [], {}, None

    def ingest(self, users, items, values=None, *, timestamps=None, durable=True, position=None):
        if self.calls_left is not None:
            if not self.calls_left:
                raise Stop
            self.calls_left -= 1
        assert len(users)
        self.calls.append((users.tolist(), items.tolist(), None if values is None else values.tolist(), durable))
        self.positions[position[0]] = position[1]
        return super().ingest(users, items)

    def position(self, source):
        return self.positions.get(source)


def write(path, data):
    table = pa.table(data)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(r, default=str) + "\n" for r in table.to_pylist()))
    return path


def events(n=100):
    rng = np.random.default_rng(5)
    user, item = rng.integers(0, 9, n).tolist(), rng.integers(0, 20, n).tolist()
    user[3], user[4], item[5], item[n - 1] = None, -1, -1, None
    kind = rng.choice(["purchase", "view", "it's"], n).tolist()
    kind[7] = None
    return {
        "user": user,
        "item": item,
        "kind": kind,
        "qty": rng.integers(-3, 9, n).tolist(),
        "price": rng.uniform(0, 5, n).round(2).tolist(),
        "ts": sorted(rng.integers(0, 500, n).tolist()),
        "basket": [f"b{i // 3}" for i in range(n)],
    }


@pytest.fixture
def small_calls(monkeypatch):
    for module in (evaluate, columns):
        monkeypatch.setattr(module, "CALL_ROWS", 16)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 99, 100])
def test_every_format_gives_the_same_rows_from_any_start(tmp_path, small_calls, suffix, start):
    data = events()
    names = Columns("user", "item", "price", "ts", "basket", "qty > 0")
    file = EventFile(write(tmp_path / f"e{suffix}", data), names)
    blocks = list(file.blocks(start))
    asked = [q > 0 for q in data["qty"]]
    kept = [
        r
        for r in range(start, 100)
        if asked[r] and data["user"][r] not in (None, -1) and data["item"][r] not in (None, -1)
    ]
    assert [b.start for b in blocks] == [start, *range((start // 16 + 1) * 16, 100, 16)][: len(blocks)]
    assert np.concatenate([[], *(b.rows for b in blocks)]).tolist() == kept
    for name, column in [
        ("users", "user"),
        ("items", "item"),
        ("values", "price"),
        ("times", "ts"),
        ("baskets", "basket"),
    ]:
        got = [v for b in blocks for v in getattr(b, name).tolist()]
        assert got == [data[column][r] for r in kept]
    assert sum(b.filtered for b in blocks) == 100 - start - sum(asked[start:])
    assert sum(b.filtered + b.skipped for b in blocks) == 100 - start - len(kept)
    assert file.total() == (100 if suffix == ".parquet" else None)


def test_times_may_be_datetimes_and_ids_dictionaries_or_small(tmp_path):
    data = {
        "user": pa.array([1, 2], pa.uint8()),
        "item": pa.array([5, 6], pa.int32()),
        "ts": pa.array([0, 1], pa.timestamp("us", "UTC")),
    }
    (block,) = EventFile(write(tmp_path / "e.parquet", data), Columns("user", "item", time="ts")).blocks()
    assert block.users.dtype == np.int64
    assert block.times.astype("datetime64[us]").astype(int).tolist() == [0, 1]


CONDITIONS = {
    "kind == 'purchase'": lambda r: r["kind"] == "purchase",
    'kind == "it\'s" and qty>=2': lambda r: r["kind"] == "it's" and r["qty"] >= 2,
    "kind != 'view'": lambda r: r["kind"] not in (None, "view"),
    "kind in ('view', 'purchase') and price < 2.5 and qty != -1": lambda r: (
        r["kind"] in ("view", "purchase") and r["price"] < 2.5 and r["qty"] != -1
    ),
    "qty in [1, 2]": lambda r: r["qty"] in (1, 2),
    "qty > 1.5": lambda r: r["qty"] > 1.5,
    "qty < -1": lambda r: r["qty"] < -1,
    "kind <= 'q'": lambda r: r["kind"] is not None and r["kind"] <= "q",
}


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("text", CONDITIONS)
def test_conditions(text, encoded):
    table = pa.table(events())
    rows = table.to_pylist()
    if encoded:
        table = table.set_column(2, "kind", table["kind"].dictionary_encode())
    assert where.parse(text).mask(table).to_pylist() == [bool(CONDITIONS[text](r)) for r in rows]


def test_conditions_on_times_and_booleans():
    table = pa.table({"ts": pa.array([0, 86_400], pa.timestamp("s")), "ok": [True, False]})
    assert where.parse("ts >= '1970-01-02'").mask(table).to_pylist() == [False, True]
    assert where.parse("ok == True").mask(table).to_pylist() == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kind",
        "kind ==",
        "kind == 'a' or kind == 'b'",
        "not kind == 'a'",
        "1 < qty < 3",
        "'a' == kind",
        "kind == other",
        "kind in 'ab'",
        "kind in ()",
        "kind == ('a',)",
        "kind is None",
        "kind == None",
        "kind == b'a'",
        "kind == 1j",
        "kind in ['a', ['b']]",
        "qty > 1 + open('x')",
        "__import__('os').system('true') == 0",
        "kind == f'{qty}'",
        "lambda: 0",
        "a = 1",
        "(" * 10_000,
    ],
)
def test_other_conditions_are_refused(text):
    with pytest.raises(InputError, match=r"^where: "):
        where.parse(text)


@pytest.mark.parametrize(
    "text", ["kind == 5", "qty == 'many'", "qty in ('a', 'b')", "qty in (1, 'b')", f"qty > {10**30}"]
)
def test_literals_of_another_type_are_refused(text):
    with pytest.raises(InputError, match=r"^where: .*has type"):
        where.parse(text).mask(pa.table(events()))


@given(st.text())
def test_any_text_is_a_condition_or_refused(text):
    try:
        parsed = where.parse(text)
    except InputError:
        return
    assert where.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("name", "text", "wanted", "names"),
    [
        ("e.txt", "user,item\n1,2\n", "file: .*wanted a name", NAMES),
        ("e.parquet", "user,item\n1,2\n", "file: .*cannot be read as parquet", NAMES),
        ("e.csv", "user,thing\n1,2\n", "column: got 'item', wanted one of user, thing", NAMES),
        ("e.csv", "user,item,item\n1,2,3\n", "multiple columns named item", NAMES),
        ("e.csv", "user,item\n1.5,2\n", "column: 'user' has type double; ids must be integers", NAMES),
        ("e.csv", "user,item\n1,sofa\n", "column: 'item' has type string; ids must be integers", NAMES),
        ("e.jsonl", '{"user": "u1", "item": 1}\n', "column: 'user' has type string; ids must be integers", NAMES),
        ("e.csv", "user,item,v\n1,2,3\n1,2,\n", "column: 'v' is null in file row 1", Columns("user", "item", "v")),
        ("e.csv", "user,item,v\n1,2,a\n", "column: 'v' came as value", Columns("user", "item", "v")),
        ("e.csv", "user,item,v\n1,2,a\n", "column: 'v' came as time", Columns("user", "item", time="v")),
        (
            "e.csv",
            "user,item\n1,2\n",
            "column: got 'kind', wanted one of",
            Columns("user", "item", where="kind == 'a'"),
        ),
    ],
)
def test_files_that_are_no_events_are_refused(tmp_path, name, text, wanted, names):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=wanted):
        list(EventFile(tmp_path / name, names).blocks())


def test_a_missing_file_and_ids_too_large(tmp_path):
    with pytest.raises(InputError, match="file: "):
        EventFile(tmp_path / "none.csv", NAMES)
    path = write(tmp_path / "e.parquet", {"user": pa.array([2**63], pa.uint64()), "item": [1]})
    with pytest.raises(InputError, match="int64"):
        list(EventFile(path, NAMES).blocks())


def test_a_late_row_that_does_not_parse_is_an_error_and_not_a_silent_end(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("user,item\n" + "1,2\n" * 400_000 + "one,2\n")
    with pytest.raises(InputError, match="cannot be read after row"):
        list(EventFile(path, NAMES).blocks())


def test_learning_learns_every_event_once_in_order(tmp_path, small_calls):
    data = events()
    file = EventFile(write(tmp_path / "e.parquet", data), Columns("user", "item", "price", "ts"))
    eng = Shop()
    seen = []
    done = learn_file(eng, file, "log", lambda *a: seen.append(a))
    assert (done.resumed, done.rows, done.events, done.skipped, done.filtered) == (0, 100, 96, 4, 0)
    assert [len(c[0]) for c in eng.calls] == [13, 16, 16, 16, 16, 16, 3]
    users = [u for c in eng.calls for u in c[0]]
    assert users == [
        u for u, i in zip(data["user"], data["item"], strict=True) if None not in (u, i) and -1 not in (u, i)
    ]
    assert all(c[3] for c in eng.calls)
    assert seen[-1][:3] == (100, 100, 96)
    again = learn_file(eng, file, "log")
    assert (again.resumed, again.events, again.rows) == (100, 0, 0)


@pytest.mark.parametrize(("judged", "basket"), [(False, None), (True, None), (True, "basket")])
def test_stopped_anywhere_it_goes_on_with_the_same_calls(tmp_path, small_calls, judged, basket):
    names = Columns("user", "item", time="ts", basket=basket, where="kind in ('purchase', 'view')")
    path = write(tmp_path / "e.csv", events() | {"user": [i // 7 for i in range(100)]})

    def run(eng):
        file = EventFile(path, names)
        if judged:
            return judge_file(eng, file, "log", test_share=0.4, k=3)
        return learn_file(eng, file, "log")

    straight = Shop(batch_size=2)
    whole = run(straight)
    assert whole.events > 50
    for calls in range(len(straight.calls)):
        eng = Shop(batch_size=2)
        eng.calls_left = calls
        with pytest.raises(Stop):
            run(eng)
        eng.calls_left = None
        rest = run(eng)
        assert eng.calls == straight.calls
        assert eng.positions == straight.positions
        assert rest.events == sum(len(c[0]) for c in straight.calls[calls:])
        if judged:
            for name in ("report", "popularity"):
                a, b = getattr(rest, name).rows, getattr(whole, name).rows
                cut = len(b["row"]) - len(a["row"])
                assert all(np.array_equal(a[c], b[c][cut:]) for c in a)


@pytest.mark.parametrize("judged", [False, True])
def test_the_engine_stopped_anywhere_has_the_digest_of_a_straight_run(tmp_path, small_calls, monkeypatch, judged):
    path = write(tmp_path / "e.parquet", events())

    def run(directory):
        file = EventFile(path, NAMES)
        with engine.open(directory, dim=8) as eng:
            done = judge_file(eng, file, "log", test_share=0.1) if judged else learn_file(eng, file, "log")
            return eng.digest(), done

    wanted, whole = run(tmp_path / "straight")
    assert whole.events == 96
    ingest, left, runs = engine.Engine.ingest, 0, 0

    def limited(eng, *args, **kwargs):
        nonlocal left
        if not left:
            raise Stop
        left -= 1
        return ingest(eng, *args, **kwargs)

    monkeypatch.setattr(engine.Engine, "ingest", limited)
    while True:
        left, runs = 3, runs + 1
        try:
            digest, done = run(tmp_path / "stopped")
        except Stop:
            continue
        break
    assert digest == wanted
    assert runs > 1
    assert done.events < 96


def test_the_judge_sees_popularity_as_popularity(tmp_path):
    file = EventFile(write(tmp_path / "e.parquet", events()), NAMES)
    done = judge_file(Shop(), file, "log", test_share=0.5, k=(1, 5))
    assert done.report.summary["judged"] == 48
    same = ("all", "new", "judged", "requests")
    assert {n: done.report.summary[n] for n in same} == {n: done.popularity.summary[n] for n in same}


def test_a_position_of_another_file_or_other_columns_is_refused(tmp_path):
    data = events()
    path = write(tmp_path / "e.csv", data)
    file = EventFile(path, Columns("user", "item", where="kind=='view'"))
    position = file.position(7)
    assert file.row_of(None) == 0
    assert file.row_of(position) == 7
    assert EventFile(path, Columns("user", "item", basket="basket", where='kind == "view"')).row_of(position) == 7
    for other in (
        NAMES,
        Columns("item", "user", where="kind=='view'"),
        Columns("user", "item", "qty", where="kind=='view'"),
    ):
        with pytest.raises(InputError, match="another user, item, value or where"):
            EventFile(path, other).row_of(position)
    with pytest.raises(InputError, match="not one of a file"):
        file.row_of(b"short")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match="changed since"):
        EventFile(path, Columns("user", "item", where="kind=='view'")).row_of(position)


@pytest.mark.parametrize("run", [learn_file, judge_file])
def test_times_that_go_back_are_refused(tmp_path, small_calls, run):
    data = events()
    data["ts"][40] = data["ts"][39] - 1
    file = EventFile(write(tmp_path / "e.parquet", data), Columns("user", "item", time="ts"))
    with pytest.raises(InputError, match="row 40 is earlier"):
        run(Shop(), file, "log")


def test_empty_files_are_fine(tmp_path):
    path = write(tmp_path / "e.parquet", {"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64())})
    eng = Shop()
    assert learn_file(eng, EventFile(path, NAMES), "log").events == 0
    assert judge_file(eng, EventFile(path, NAMES), "log").events == 0
    assert not eng.calls


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_bad_test_shares_are_refused(tmp_path, share):
    file = EventFile(write(tmp_path / "e.parquet", events()), NAMES)
    with pytest.raises(InputError, match="test_share"):
        judge_file(Shop(), file, "log", test_share=share)
