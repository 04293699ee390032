"""A model that diverges says so: once in the log, and in `stats`."""

import logging
import math

import numpy as np
import pytest

import engine
from engine.learn.model import Tally
from engine.store.divergence import Divergence


@pytest.mark.parametrize(
    ("tally", "found"),
    [
        (Tally(), False),
        (Tally(events=10, loss=3.0), False),
        (Tally(events=10, loss=math.inf), True),
        (Tally(events=10, loss=math.nan), True),
        (Tally(events=10, loss=3.0, skipped=1), True),
    ],
)
def test_what_diverges(caplog, tally, found):
    watch = Divergence("shop")
    for _ in range(3):
        watch.add(tally)
    assert watch.found is found
    assert len(caplog.records) == found  # once
    assert all(r.levelno == logging.WARNING and "shop: learning diverges" in r.getMessage() for r in caplog.records)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("lr", "diverges"), [(0.05, False), (0.3, True)])
def test_squared_with_too_large_steps(caplog, lr, diverges):
    rng = np.random.default_rng(0)
    users, items, ratings = rng.integers(0, 50, 20_000), rng.integers(0, 60, 20_000), rng.integers(1, 6, 20_000)
    with engine.open(":memory:", dim=8, loss="squared", optimizer="sgd", lr=lr) as eng:
        eng.ingest(users, items, ratings.astype(float))
        assert eng.stats()["diverged"] is diverges
        assert ("learning diverges" in caplog.text) is diverges
        lacking = (eng.topk(np.unique(users), k=60).counts < len(np.unique(items))).any()
        assert bool(lacking) is diverges
        assert np.isfinite(eng.score(int(users[0]), np.unique(items))).all() is np.bool_(not diverges)
