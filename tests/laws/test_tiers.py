"""Rows that are not in RAM: a table larger than `warm_bytes` gives the same answers as one that fits.

What the digest laws cannot see: readers while rows come and go, and rows that LMDB has among rows that nobody has.
"""

import numpy as np
import pytest

import engine

SMALL = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 1, "seed": 3}


@pytest.fixture
def cold(home, stream):
    """A reopened directory: everything is in LMDB, nothing in RAM."""
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(300))
        eng.checkpoint()
    with engine.open(home) as eng:
        yield eng


def test_old_and_new_users_in_one_window(home, stream):
    """New ids that come before the old ones must not make the table look complete while those are fetched."""
    users, items = stream(300)
    old, new = np.unique(users), np.arange(10**6, 10**6 + 200)
    for mixed in (np.concatenate([new, old]), np.random.default_rng(0).permutation(np.concatenate([new, old]))):
        path = home.with_name(f"model{mixed[0]}")
        with engine.open(path, **SMALL) as eng:
            eng.ingest(users, items)
            eng.checkpoint()
        with engine.open(path) as eng:
            report = eng.ingest(mixed, np.resize(items, len(mixed)))
            assert report.new_users == len(new)
            assert report.found["cold"] >= len(old)
            assert eng.stats()["users"]["rows"] == len(old) + len(new)
            digest = eng.digest()
        with engine.open(":memory:", **SMALL) as eng:
            eng.ingest(users, items)
            eng.ingest(mixed, np.resize(items, len(mixed)))
            assert eng.digest() == digest


def test_cold_rows_answer_as_warm_ones(cold, stream):
    users, items = stream(300)
    with engine.open(":memory:", **SMALL) as warm:
        warm.ingest(users, items)
        for eng in (cold, warm):
            eng.ingest(7, 5)
        for seen in (False, True):
            a, b = (eng.topk([*users[:50], 31337], 20, exclude_seen=seen) for eng in (cold, warm))
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(cold.vectors(users), warm.vectors(users))
        np.testing.assert_array_equal(cold.score(users, items), warm.score(users, items))
        assert cold.digest() == warm.digest()


def test_reading_cold_rows_keeps_nothing(cold, stream, contents, home):
    users, items = stream(300)
    before = cold.stats()["users"], contents(home), cold.digest()
    cold.topk(users, 5, exclude_seen=True)
    cold.vectors(users)
    cold.score(users, items)
    assert (cold.stats()["users"], contents(home), cold.digest()) == before
    assert before[0]["warm_rows"] == 0


def test_a_seen_item_is_left_out_while_its_user_comes_in(cold, stream, monkeypatch):
    """In the midst of fetching a user, before and after each part of it, readers find row and history whole."""
    users, items = stream(300)
    user = int(users[0])
    seen = set(items[users == user].tolist())
    expected = cold.vectors(user)
    looked = []

    def look():
        found = cold.topk(user, 40, exclude_seen=True)
        looked.append(not seen & set(found.ids.tolist()) and bool((cold.vectors(user) == expected).all()))

    tables = cold._store.tables
    for part, name in ((tables, "deliver"), (tables.history, "load")):
        whole = getattr(part, name)

        def deliver(*args, whole=whole):
            look()
            whole(*args)
            look()

        monkeypatch.setattr(part, name, deliver)
    cold.ingest([10**6, user], items[:2])
    assert looked == [True] * 4


def test_a_table_ten_times_the_room(home):
    room = 40 * 16 * 128 // 7
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, 400, 3000) * 3 - 500, rng.integers(0, 300, 3000)
    answers = []
    for path, options in ((home, {"warm_bytes": room}), (":memory:", {})):
        with engine.open(path, **SMALL, **options) as eng:
            for start in range(0, 3000, 100):
                eng.ingest(users[start : start + 100], items[start : start + 100], durable=False)
                found = eng.topk(users[:70], 9, exclude_seen=True)
                answers.append((found.ids.tolist(), found.scores.tolist(), found.seq))
            stats = eng.stats()["users"]
            answers.append(eng.digest())
            if path == home:
                assert stats["rows"] > 8 * stats["warm_capacity"]
                assert stats["warm_rows"] <= stats["warm_capacity"]
    half = len(answers) // 2
    assert answers[:half] == answers[half:]
