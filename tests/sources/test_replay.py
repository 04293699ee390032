"""Replays that stop anywhere and go on, of files and of any other source."""

import numpy as np
import pyarrow as pa
import pytest
from event_files import NAMES, events, write

import engine
from engine.contract.errors import InputError
from engine.evaluate.popularity import Popularity
from engine.sources.files import Columns, EventFile
from engine.sources.replay import EventBlock, judge_source, learn_source


class Stop(Exception):
    """The process ends here."""


class Shop(Popularity):
    """A popularity engine with positions, that keeps the calls it learned and can end in front of one."""

    def __init__(self, batch_size=1):
        super().__init__(batch_size)
        self.calls, self.stored, self.calls_left = [], {}, None

    def ingest(self, users, items, values=None, *, timestamps=None, durable=True, position=None, expect=...):
        if self.calls_left is not None:
            if not self.calls_left:
                raise Stop
            self.calls_left -= 1
        assert len(users)
        assert expect == self.stored.get(position[0])
        self.calls.append((users.tolist(), items.tolist(), None if values is None else values.tolist(), durable))
        self.stored[position[0]] = position[1]
        return super().ingest(users, items)

    def position(self, source):
        return self.stored.get(source)

    def positions(self):
        return dict(self.stored)


def test_learning_learns_every_event_once_in_order(tmp_path, small_calls):
    data = events()
    file = EventFile(write(tmp_path / "e.parquet", data), Columns("user", "item", "price", "ts"))
    eng = Shop()
    seen = []
    done = learn_source(eng, file, "log", lambda *a: seen.append(a))
    assert (done.resumed, done.rows, done.events, done.skipped, done.filtered) == (0, 100, 96, 4, 0)
    assert [len(c[0]) for c in eng.calls] == [13, 16, 16, 16, 16, 16, 3]
    users = [u for c in eng.calls for u in c[0]]
    assert users == [
        u for u, i in zip(data["user"], data["item"], strict=True) if None not in (u, i) and -1 not in (u, i)
    ]
    assert all(c[3] for c in eng.calls)
    assert seen[-1][:3] == (100, 100, 96)
    again = learn_source(eng, file, "log")
    assert (again.resumed, again.events, again.rows) == (100, 0, 0)


@pytest.mark.parametrize(("judged", "basket"), [(False, None), (True, None), (True, "basket")])
def test_stopped_anywhere_it_goes_on_with_the_same_calls(tmp_path, small_calls, judged, basket):
    names = Columns("user", "item", time="ts", basket=basket, where="kind in ('purchase', 'view')")
    path = write(tmp_path / "e.csv", events() | {"user": [i // 7 for i in range(100)]})

    def run(eng):
        file = EventFile(path, names)
        if judged:
            return judge_source(eng, file, "log", test_share=0.4, k=3)
        return learn_source(eng, file, "log")

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
        assert eng.stored == straight.stored
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
            done = judge_source(eng, file, "log", test_share=0.1) if judged else learn_source(eng, file, "log")
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
    done = judge_source(Shop(), file, "log", test_share=0.5, k=(1, 5))
    assert done.report.summary["judged"] == 48
    same = ("all", "new", "judged", "requests")
    assert {n: done.report.summary[n] for n in same} == {n: done.popularity.summary[n] for n in same}


@pytest.mark.parametrize("run", [learn_source, judge_source])
def test_times_that_go_back_are_refused(tmp_path, small_calls, run):
    data = events()
    data["ts"][40] = data["ts"][39] - 1
    file = EventFile(write(tmp_path / "e.parquet", data), Columns("user", "item", time="ts"))
    with pytest.raises(InputError, match="row 40, counted from 0, is earlier"):
        run(Shop(), file, "log")


def test_empty_files_are_fine(tmp_path):
    path = write(tmp_path / "e.parquet", {"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64())})
    eng = Shop()
    assert learn_source(eng, EventFile(path, NAMES), "log").events == 0
    assert judge_source(eng, EventFile(path, NAMES), "log").events == 0
    assert not eng.calls


class Listed:
    """A source that is neither a file nor anything of the engine's: rows of a list, in blocks of four."""

    def __init__(self, rows):
        self.rows = np.array(rows)

    def total(self):
        return len(self.rows)

    def position(self, row):
        return str(row).encode()

    def row_of(self, position):
        return int(position or 0)

    def twin(self, positions):
        return None

    def blocks(self, start=0):
        while start < len(self.rows):
            stop = min(len(self.rows), start // 4 * 4 + 4)
            users, items = self.rows[start:stop].T
            yield EventBlock(start, stop, np.arange(start, stop), users, items, None, None, None, 0, 0)
            start = stop


@pytest.mark.parametrize("run", [learn_source, judge_source])
def test_any_source_is_replayed(run):
    rows = [(user, user * 7 % 5) for user in range(30)]
    with engine.open(":memory:", dim=4) as straight, engine.open(":memory:", dim=4) as eng:
        straight.ingest(*zip(*rows, strict=True), position=("list", b"30"))
        assert run(eng, Listed(rows[:18]), "list").events == 18
        again = run(eng, Listed(rows), "list")
        assert (again.resumed, again.events, eng.position("list")) == (18, 12, b"30")
        assert eng.digest() == straight.digest()


@pytest.mark.parametrize("run", [learn_source, judge_source])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_whose_learned_rows_changed_is_refused_and_one_that_grew_goes_on(tmp_path, small_calls, run, suffix):
    data = events()
    names = Columns("user", "item", "price", where="qty > 0")
    path, eng = tmp_path / f"e{suffix}", Shop()
    write(path, {name: column[:60] for name, column in data.items()})
    first = run(eng, EventFile(path, names), "log").events
    changes = {"user": 5, "item": 5, "price": 0.25, "qty": -1}
    for name, other in changes.items():
        calls, row = len(eng.calls), next(r for r in range(40, 60) if data["qty"][r] > 0 and data[name][r] != other)
        write(path, data | {name: [*data[name][:row], other, *data[name][row + 1 :]]})
        with pytest.raises(InputError, match=r"rows of .* have changed since they were learned"):
            run(eng, EventFile(path, names), "log")
        assert len(eng.calls) == calls
    write(path, {name: column[:50] for name, column in data.items()})
    with pytest.raises(InputError, match=r"has 50 rows, and row .* was reached"):
        run(eng, EventFile(path, names), "log")
    write(path, data)
    assert run(eng, EventFile(path, names), "log").events > 0
    straight = Shop()
    assert run(straight, EventFile(path, names), "log").events == first + sum(len(c[0]) for c in eng.calls) - first
    assert [u for c in eng.calls for u in c[0]] == [u for c in straight.calls for u in c[0]]


@pytest.mark.parametrize("run", [learn_source, judge_source])
def test_the_same_events_under_another_name_are_not_learned_twice(tmp_path, small_calls, run):
    data = events()
    names, eng = Columns("user", "item"), Shop()
    path, copy = write(tmp_path / "e.csv", data), write(tmp_path / "copy.parquet", data)
    eng.stored["other"] = b"48 bytes that are no position of a file at all.."
    run(eng, EventFile(path, names), "first")
    calls = len(eng.calls)
    with pytest.raises(InputError, match="'second' begins with the events of 'first', which were learned"):
        run(eng, EventFile(copy, names), "second")
    assert len(eng.calls) == calls
    assert run(eng, EventFile(copy, Columns("user", "item", where="qty > 1")), "third").events > 0


@pytest.mark.parametrize("run", [learn_source, judge_source])
@pytest.mark.parametrize("rows", [10, 40])
def test_an_export_that_grew_is_known_under_another_name(tmp_path, small_calls, run, rows):
    data = events()
    data["user"][3:6] = data["item"][3:6] = [1, 2, 3]
    short = write(tmp_path / "0900.csv", {name: column[:rows] for name, column in data.items()})
    grown, eng = write(tmp_path / "1000.csv", data), Shop()
    run(eng, EventFile(short, NAMES), "0900")
    calls = len(eng.calls)
    with pytest.raises(InputError, match="'1000' begins with the events of '0900', which were learned"):
        run(eng, EventFile(grown, NAMES), "1000")
    assert len(eng.calls) == calls
    assert run(eng, EventFile(grown, NAMES), "0900").resumed == rows
    others = write(tmp_path / "others.csv", {name: column[rows:] for name, column in data.items()})
    assert run(eng, EventFile(others, NAMES), "others").events > 0


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_bad_test_shares_are_refused(tmp_path, share):
    file = EventFile(write(tmp_path / "e.parquet", events()), NAMES)
    with pytest.raises(InputError, match="test_share"):
        judge_source(Shop(), file, "log", test_share=share)
