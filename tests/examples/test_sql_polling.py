"""The table: rows that are committed late are learned once, through a crash between any two looks."""

import signal

import numpy as np
import pytest
from killed import kill
from pages import ROOT, run
from programs import load, program

import engine

sql = pytest.importorskip("sqlalchemy", reason="needs the extra 'examples'")


@pytest.fixture
def example():
    return load("sql_polling")


@pytest.fixture
def database(example, tmp_path):
    opened = sql.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    example.EVENTS.metadata.create_all(opened)
    yield opened
    opened.dispose()


def commit(database, example, ids):
    """Rows that show now, each of a user of its own; so users and events count the same."""
    with database.begin() as connection:
        rows = [{"id": int(n), "user_id": int(n) * 10, "item_id": 100 + int(n) % 7} for n in ids]
        connection.execute(example.EVENTS.insert(), rows)


def test_late_commits_are_learned_once_through_crashes(example, database, home):
    rng = np.random.default_rng(5)
    late = np.argsort(np.arange(1, 301) + rng.integers(0, 40, 300), kind="stable") + 1  # each at most 40 ids late
    for start in range(0, 300, 30):
        commit(database, example, late[start : start + 30])
        with engine.open(home, dim=8) as eng:
            assert example.learn_next(database, eng, overlap=50) == 30
            assert example.learn_next(database, eng, overlap=50) == 0
            kill(eng)  # the log has the rows and the position; LMDB has neither
    with engine.open(home) as eng:
        assert (eng.seq, eng.stats()["users"]["rows"]) == (300, 300)
        watermark, learned = example.position(eng)
        assert watermark == 250
        assert learned == set(range(251, 301))


def test_asking_for_ids_above_the_last_would_lose_rows(example, database):
    """What the overlap is for; and its end, where a row is later than it."""
    commit(database, example, [1, 2, 5])
    with engine.open(":memory:", dim=8) as eng:
        assert example.learn_next(database, eng, overlap=0) == 3
        commit(database, example, [3])
        assert example.learn_next(database, eng, overlap=0) == 0
    with engine.open(":memory:", dim=8) as eng:
        assert example.learn_next(database, eng, overlap=2) == 4
        commit(database, example, [4, 6])
        assert example.learn_next(database, eng, overlap=2) == 2


def test_more_rows_than_a_call_takes(example, database, monkeypatch):
    monkeypatch.setattr(example, "MOST", 10)
    commit(database, example, range(1, 36))
    with engine.open(":memory:", dim=8) as eng:
        assert [example.learn_next(database, eng, overlap=20) for _ in range(5)] == [10, 10, 10, 5, 0]


def test_the_program_goes_on_after_a_kill(example, database, home, tmp_path):
    words = ["--path", home, "--database", f"sqlite:///{tmp_path / 'shop.db'}", "--seconds", 0.01]
    for ids, seq in (([1, 2, 4], 3), ([3, 5], 5)):
        commit(database, example, ids)
        with program("sql_polling", *words) as polling:
            polling.wait_for(rf"^seq {seq}$")
            polling.stop(signal.SIGKILL)
    with engine.open(home) as eng:
        assert (eng.seq, eng.stats()["users"]["rows"]) == (5, 5)


def test_the_table_of_the_page_is_learned(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(run(ROOT / "docs" / "recipes" / "sql-polling.md", tmp_path))
    with program("sql_polling", "--path", home, "--database", f"sqlite:///{tmp_path / 'shop.db'}") as polling:
        polling.wait_for(r"^seq 5$")


def test_without_the_table_it_says_so_in_one_line(home, tmp_path):
    database = f"sqlite:///{tmp_path / 'shop.db'}"
    with program("sql_polling", "--path", home, "--database", database) as polling:
        said = polling.process.communicate(timeout=60)[0]
    assert said == f"sql_polling: {database} has no table 'events'; make it first\n"
    assert polling.process.returncode == 1
    assert not home.exists()
