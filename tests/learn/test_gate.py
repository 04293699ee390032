"""The gate: a new item is shown to those who have not had it once some known users have."""

import numpy as np
import pytest

import engine
from engine.contract.errors import ConfigError

MODEL = {"dim": 8, "bag": 5, "repeats": 1, "recent_negatives": 8, "own_negatives": 8, "neighbours": 8}
REAL, NEW = np.arange(200), 999


def shop(n=6000, seed=0):
    """Real users, who buy from shelves of ten."""
    rng = np.random.default_rng(seed)
    users = rng.choice(REAL, n)
    items = (users % 20) * 10 + rng.integers(0, 10, n)
    return users, items, 1e9 + np.arange(n) * 60.0


def fakes(eng, users, earlier=0):
    """Made-up users come with so many earlier events and one on the new item, all within some minutes."""
    time = 1e9 + 6000 * 60.0
    for user in users:
        items = [*np.random.default_rng(user).integers(0, 200, earlier), NEW]
        eng.ingest(user, items, timestamps=time + np.arange(len(items)))
        time += 60


def share(eng, k=10):
    """Of the real users, who are shown the new item among k."""
    return (eng.topk(REAL, k).ids == NEW).any(1).mean()


@pytest.mark.parametrize("n", [10, 100])
def test_throw_away_users_bring_in_nothing(n):
    shown = {}
    for gate in (0, 2):
        with engine.open(":memory:", **MODEL, gate=gate) as eng:
            users, items, times = shop()
            eng.ingest(users, items, timestamps=times)
            fakes(eng, 10_000 + np.arange(n))
            shown[gate] = share(eng, 40)
    assert shown[2] == 0
    assert n < 100 or shown[0] > 0.5, "they would without a gate"


def test_known_users_do():
    with engine.open(":memory:", **MODEL) as eng:
        users, items, times = shop()
        eng.ingest(users, items, timestamps=times)
        assert share(eng) == 0
        fakes(eng, 10_000 + np.arange(30))
        assert NEW in eng.topk(10_003, 10).ids, "he has had it"
        eng.ingest([1, 1], [NEW, NEW], timestamps=times[-1] + 9000 + np.arange(2))
        assert share(eng) <= 1 / len(REAL), "one user who has had it twice is one"
        eng.ingest(2, NEW, timestamps=times[-1] + 9002)
        assert NEW in eng.topk(3, 210).ids[:200], "two known users: it has its place among the others"


def test_who_is_known():
    """A user's earlier events count up to the event itself, also within one call."""
    for earlier, opens in [(1, False), (2, True)]:
        with engine.open(":memory:", **MODEL, batch_size=4) as eng:
            users, items, times = shop()
            eng.ingest(users, items, timestamps=times)
            fakes(eng, [10_001, 10_002], earlier)
            assert (NEW in eng.topk(3, 210).ids[:200]) is opens


def test_where_all_are_new_the_order_is_that_of_scores():
    with engine.open(":memory:", **MODEL) as eng:
        eng.ingest(np.arange(50), np.arange(50))
        found = eng.topk(0, 50)
        assert found.counts == 50
        assert (np.diff(found.scores[1:]) <= 0).all()


def test_it_is_the_same_after_a_restart_and_for_a_reader(home):
    with engine.open(home, **MODEL) as eng:
        users, items, times = shop()
        eng.ingest(users, items, timestamps=times)
        fakes(eng, 10_000 + np.arange(30), earlier=1)
        eng.ingest([1, 2], [NEW - 1, NEW - 1], timestamps=times[-1] + 9000)
        lists = eng.topk(REAL, 210)
    for mode in ("a", "r"):
        with engine.open(home, mode=mode) as again:
            assert (again.topk(REAL, 210).ids == lists.ids).all()


def test_it_may_change_at_an_opening(home):
    with engine.open(home, **MODEL) as eng:
        users, items, times = shop()
        eng.ingest(users, items, timestamps=times)
        fakes(eng, 10_000 + np.arange(100))
        assert share(eng, 40) == 0
    with engine.open(home, gate=0) as eng:
        assert share(eng, 40) > 0.5
    with engine.open(home) as eng:
        assert (eng.settings["gate"], share(eng, 40) > 0.5) == (0, True)
    with engine.open(home, gate=3) as eng:
        assert share(eng, 40) == 0


def test_what_it_refuses():
    with pytest.raises(ConfigError, match="gate: got 2, wanted 0: without bag"):
        engine.open(":memory:", gate=2)
    with pytest.raises(ConfigError, match="gate: got int 256"):
        engine.open(":memory:", bag=1, gate=256)
    with engine.open(":memory:", bag=1) as eng:
        assert (eng.settings["gate"], eng.settings["gate_events"]) == (2, 2)
