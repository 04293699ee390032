"""The sequence model: it is the reference, its laws hold, and each of its parts is worth something where it should."""

import shutil

import numpy as np
import pytest
from sequence_reference import Reference

import engine
from engine.contract.errors import ConfigError, InputError
from engine.machine.backend import native
from engine.store.history import ENTRY
from engine.table.layout import vector_floats

ALL = {"bag": 10, "repeats": 1, "recent_negatives": 16, "own_negatives": 16, "neighbours": 16}


def shop(n, users=30, items=40, seed=0):
    """Users who come in sessions of some minutes, buy what stands together, and buy it again."""
    rng = np.random.default_rng(seed)
    user = np.repeat(rng.integers(0, users, n), rng.integers(1, 6, n))[:n]
    shelf = (user * 7 + rng.integers(0, 2, n)) % (items // 5)
    item = shelf * 5 + rng.integers(0, 5, n)
    gap = np.where(np.r_[True, user[1:] != user[:-1]], rng.integers(100, 100_000, n), rng.integers(0, 70, n))
    return user, item, 1.5e9 + np.cumsum(gap).astype(float)


@pytest.mark.parametrize(
    "settings",
    [
        ALL,
        ALL | {"batch_size": 1},
        ALL | {"neighbours": 0},
        {"neighbours": 3},
        {"neighbours": 2, "own_negatives": 40, "weights": True},
        {"bag": 3, "batch_size": 4},
        {"repeats": 1, "negatives": 5},
        {"recent_negatives": 8, "own_negatives": 3, "session_gap": 30.0},
        {"own_negatives": 2, "bag": 16, "weights": True},
    ],
    ids=str,
)
def test_it_is_the_reference(settings):
    settings = dict(settings)
    weighted = settings.pop("weights", False)
    users, items, times = shop(1500)
    weights = np.random.default_rng(1).random(1500) if weighted else None
    with engine.open(":memory:", dim=6, seed=3, **settings) as eng:
        plain = Reference(eng.settings)
        for start in range(0, 1500, 300):  # calls of several micro-batches, the last of each not whole
            call = slice(start, start + 300)
            given = None if weights is None else weights[call]
            loss = eng.ingest(users[call], items[call], timestamps=times[call], weights=given).loss
            wanted = plain.ingest(users[call].tolist(), items[call].tolist(), times[call], given)
            assert loss == pytest.approx(wanted / 300, rel=1e-5)
        for user in plain.users:
            assert eng.vectors(users=user)[0] == pytest.approx(plain.users[user].vector, abs=1e-5)
        for time in (times[-1] + 10, times[-1] + 10_000):
            for user in (int(users[-1]), int(users[0])):
                wanted = plain.score(user, time)
                found = eng.topk(user, len(wanted), at=time)
                assert set(found.ids.tolist()) == set(wanted)
                for item, score in zip(found.ids.tolist(), found.scores, strict=True):
                    assert score == pytest.approx(wanted[item], abs=2e-4)


def streams():  # of many users and items, for few rows in RAM
    users, items, times = shop(4000, users=600, items=1000)
    for start in range(0, 4000, 500):
        call = slice(start, start + 500)
        yield users[call], items[call], times[call]


def learn(eng):
    for users, items, times in streams():
        eng.ingest(users, items, timestamps=times, sessions=users % 3)
    return eng.digest()


@pytest.fixture(scope="module")
def digest():
    with engine.open(":memory:", dim=8, **ALL) as eng:
        return learn(eng)


def test_tiers_and_epochs_do_not_show(home, digest):
    with engine.open(home, dim=8, **ALL, batch_size=4, warm_bytes=300_000, epoch_seconds=0.01) as eng:
        tiered = learn(eng)
        assert eng.stats()["users"]["evicted"] + eng.stats()["items"]["evicted"] > 0
    with engine.open(":memory:", dim=8, **ALL, batch_size=4) as eng:
        assert learn(eng) == tiered
    assert tiered != digest  # of micro-batches of 16


def test_a_replay_comes_to_the_same(home, digest):
    with engine.open(home, dim=8, **ALL, epoch_seconds=1e6) as eng:
        for number, (users, items, times) in enumerate(streams()):
            eng.ingest(users, items, timestamps=times, sessions=users % 3)
            if number == 3:
                eng.checkpoint()
        assert eng.digest() == digest
        lists = eng.topk(range(60), 20)
        eng._writer.epochs = None  # as after a kill: no last epoch
        copy = home.with_name("copy")
        shutil.copytree(home, copy)
    with engine.open(copy) as eng:
        assert eng.stats()["opening"]["replayed_events"] > 0
        assert eng.digest() == digest
        found = eng.topk(range(60), 20)
        assert (found.ids == lists.ids).all()
        assert (found.scores == lists.scores).all()


def test_a_reader_answers_as_the_writer(home):
    with engine.open(home, dim=8, **ALL) as eng:
        learn(eng)
        lists = eng.topk(range(60), 20, exclude_seen=False)
        scores = eng.score(5, lists.ids[5])
    with engine.open(home, mode="r") as reader:
        found = reader.topk(range(60), 20)
        assert (found.ids == lists.ids).all()
        assert (found.scores == lists.scores).all()
        assert (reader.score(5, lists.ids[5]) == scores).all()


@pytest.mark.parametrize(
    "filters", [{}, {"exclude_seen": True}, {"include": range(0, 1000, 3)}, {"exclude": [5, 10, 11]}]
)
def test_lists_are_a_brute_force_over_scores(filters):
    with engine.open(":memory:", dim=8, gate=0, **ALL) as eng:
        learn(eng)
        eng.hide([7])
        for user in np.unique(np.concatenate([users for users, _, _ in streams()]))[::200].tolist():
            allowed = np.arange(1000)
            if "include" in filters:
                allowed = np.intersect1d(allowed, filters["include"])
            without = [7, *filters.get("exclude", [])]
            if filters.get("exclude_seen"):
                without += eng.history(user).tolist()
            allowed = np.setdiff1d(allowed, without)
            scores = eng.score(user, allowed, unknown="skip")
            allowed, scores = allowed[~np.isnan(scores)], scores[~np.isnan(scores)]
            found = eng.topk(user, 10, **filters)
            best = np.argsort(-scores, kind="stable")[:10]
            assert found.scores[: len(best)].tolist() == scores[best].tolist()
            assert set(found.ids[: len(best)].tolist()) >= set(allowed[scores > scores[best[-1]]].tolist())


def test_sessions_end_by_time_or_by_their_id():
    ten = np.arange(10)
    for given, apart in [
        ({"timestamps": 1e9 + ten}, False),
        ({"timestamps": 1e9 + ten * 61}, True),
        ({"timestamps": 1e9 + ten * 60}, False),
        ({"sessions": ten // 5}, False),
        ({"sessions": ten}, True),
        ({}, False),
    ]:
        with engine.open(":memory:", dim=8, **ALL) as eng:
            eng.ingest(np.zeros(10, int), ten, **given)
            (sessions,) = {len(set(_sessions(eng, 0)))}
            assert (sessions == 10) is apart


def _sessions(eng, user):
    return np.frombuffer(eng._store.history.entries(user), ENTRY)["session"].tolist()


def test_one_wrong_clock_moves_the_time_of_nobody():
    users, items, times = shop(200)
    with engine.open(":memory:", dim=8, **ALL) as eng:
        eng.ingest(users, items, timestamps=times)
        before = eng._store.sequence.now
        eng.ingest(99, 1, timestamps=4e9)
        assert before <= eng._store.sequence.now <= times[-1] + 1
        eng.ingest(99, 1, timestamps=0)
        assert eng._store.sequence.now <= times[-1] + 1


def test_what_is_forgotten_is_in_no_list(home):
    with engine.open(home, dim=8, **ALL) as eng:
        learn(eng)
        gone = eng.history(5)[-3:]
        eng.forget(items=gone)
        assert not np.isin(eng.topk(range(60), 1000).ids, gone).any()
        eng.ingest([5, 5], [1, 2], timestamps=2e9)
        digest = eng.digest()
    with engine.open(home) as eng:
        assert eng.digest() == digest


def test_a_taste_for_repeats_is_learned():
    rng = np.random.default_rng(0)
    favourites = rng.integers(0, 500, (200, 3))
    users = rng.integers(0, 200, 20_000)
    items = favourites[users, rng.integers(0, 3, 20_000)]
    times = 1e9 + np.arange(20_000) * 100.0
    hits = {}
    for name, settings in {"plain": {}, "all": ALL}.items():
        with engine.open(":memory:", dim=8, **settings) as eng:
            eng.ingest(users, items, timestamps=times)
            found = eng.topk(range(200), 3).ids
            hits[name] = np.mean(
                [len(set(found[u]) & set(favourites[u])) / len(set(favourites[u])) for u in range(200)]
            )
    assert hits["all"] >= hits["plain"] > 0.9


def test_forgotten_items_are_no_neighbours(home):
    with engine.open(home, dim=8, **ALL, batch_size=4, warm_bytes=300_000) as eng:
        learn(eng)
        assert eng.stats()["items"]["warm_rows"] < eng.stats()["items"]["rows"]
        table, at, rows = eng._store.tables.items, vector_floats(8, "adagrad"), 0
        gone = np.sort(eng.history(5)[-3:])
        named = sum(native.name_neighbours(part, at, 16, gone).sum() for _, part in table.rows())
        assert named > 0
        eng.forget(items=gone)
        for _, part in table.rows():
            assert not native.name_neighbours(part, at, 16, gone).any()
            rows += len(part)
        assert rows == eng.stats()["items"]["rows"]
        digest = eng.digest()
    with engine.open(home) as eng:
        assert eng.digest() == digest


def test_what_it_refuses():
    with pytest.raises(ConfigError, match=r"bag: got 10, wanted 0: the loss 'bpr'"):
        engine.open(":memory:", loss="bpr", bag=10)
    with pytest.raises(ConfigError, match="bag: got int 17"):
        engine.open(":memory:", bag=17)
    with pytest.raises(ConfigError, match="neighbours: got int 65"):
        engine.open(":memory:", neighbours=65)
    with engine.open(":memory:", dim=8, **ALL) as eng:
        with pytest.raises(InputError, match="sessions: got 2 of them"):
            eng.ingest([1, 2, 3], [1, 2, 3], sessions=[1, 2])
        with pytest.raises(InputError, match="session"):
            eng.topk(1, session=[1, 2])
        assert eng.seq == 0
