"""Ingest through the public API, durable, by loss and micro-batch, ids uniform or Zipf 1.05; and one event a call.

The tables are full before the clock starts: every id has a row, so what is measured is learning, not first touches.
Rows of 1 M users and 1 M items at dim 64 take 640 MB, more than any cache: the floor is memory's scattered rate.
A round is one call; the epoch that falls due in it is part of it.
"""

import numpy as np
import pytest

import engine

ROWS = 1_000_000


def draw(kind, rng, rows, n):
    if kind == "uniform":
        return rng.integers(0, rows, n)
    weights = np.cumsum(1 / np.arange(1, rows + 1) ** 1.05)
    rank = np.searchsorted(weights / weights[-1], rng.random(n))
    return rng.permutation(rows)[rank]  # popular ids are not neighbours


@pytest.fixture
def filled(tmp_path):
    engines = []

    def make(items, **settings):
        eng = engine.open(tmp_path / f"shop{len(engines)}", dim=64, **settings)
        engines.append(eng)
        ids = np.repeat(np.arange(ROWS), max(1, eng.settings["admit_after"]))  # seen often enough to have a row
        eng.ingest(ids, ids % items)
        eng.checkpoint()
        return eng

    yield make
    for eng in engines:
        eng.close()


CASES = [
    # loss, micro-batch, negatives, items, ids, events a call
    ("bpr", 8192, 1, ROWS, "uniform", 1_000_000),
    ("bpr", 8192, 1, ROWS, "zipf", 1_000_000),
    ("bpr", 256, 1, ROWS, "uniform", 1_000_000),
    ("bpr", 256, 1, ROWS, "zipf", 1_000_000),
    ("softmax", 1, 64, ROWS, "uniform", 100_000),
    ("softmax", 1, 64, 10_000, "uniform", 100_000),
    ("softmax", 4, 256, ROWS, "uniform", 100_000),
    ("softmax", 16, 256, ROWS, "uniform", 200_000),
]


@pytest.mark.parametrize(("loss", "batch_size", "negatives", "items", "ids", "events"), CASES)
def test_ingest(benchmark, filled, loss, batch_size, negatives, items, ids, events):
    eng = filled(items, loss=loss, batch_size=batch_size, negatives=negatives)
    rng = np.random.default_rng(0)
    reports = []

    def setup():
        return (draw(ids, rng, ROWS, events), draw(ids, rng, items, events)), {}

    benchmark.pedantic(lambda u, i: reports.append(eng.ingest(u, i)), setup=setup, rounds=8, warmup_rounds=1)
    benchmark.extra_info["M events/s"] = round(events / benchmark.stats.stats.median / 1e6, 4)
    benchmark.extra_info["loss"] = round(reports[-1].loss, 4)  # summed gradients could diverge at full speed
    stats = eng.stats()
    rows = stats["users"]["warm_rows"]
    benchmark.extra_info["warm bytes a row"] = round(stats["users"]["warm_bytes"] / rows, 1)
    benchmark.extra_info["padded row bytes"] = stats["users"]["row_bytes"]


LETTING_GO = {
    # In turn, and each beside the first: the same stream, a tenth of it made-up ids, which come once.
    "plain": {},
    "row_ttl": {"row_ttl": 2_000_000},  # a sweep of all rows in every other round, from the third on
    "admit_after": {"admit_after": 2},  # made-up ids get no row; every event that names one ends its micro-batch
    "both": {"row_ttl": 2_000_000, "admit_after": 2},
}


@pytest.mark.parametrize("what", LETTING_GO)
@pytest.mark.parametrize("batch_size", [256, 1])
def test_made_up_ids(benchmark, filled, what, batch_size):
    """What `row_ttl` and `admit_after` cost, and what they save, where a part of the stream is a flood."""
    eng = filled(10_000, loss="bpr", batch_size=batch_size, negatives=1, **LETTING_GO[what])
    rng = np.random.default_rng(0)
    events = 250_000

    def setup():
        users, items = draw("zipf", rng, ROWS, events), draw("zipf", rng, 10_000, events)
        users[::10] = rng.integers(2**40, 2**62, len(users[::10]))
        return (users, items), {}

    benchmark.pedantic(lambda u, i: eng.ingest(u, i), setup=setup, rounds=8, warmup_rounds=1)
    stats = eng.stats()
    benchmark.extra_info["M events/s"] = round(events / benchmark.stats.stats.median / 1e6, 4)
    benchmark.extra_info["slowest round s"] = round(benchmark.stats.stats.max, 3)  # one with a sweep, if there are any
    benchmark.extra_info["users"] = stats["users"]["rows"]
    benchmark.extra_info["expired rows"] = stats["expired_rows"]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_one_event_a_call(benchmark, filled, loss, durable):
    eng = filled(10_000, loss=loss)
    rng = np.random.default_rng(0)

    def setup():
        return (int(rng.integers(ROWS)), int(rng.integers(10_000))), {}

    benchmark.pedantic(lambda u, i: eng.ingest(u, i, durable=durable), setup=setup, rounds=2000, warmup_rounds=50)
    benchmark.extra_info["us"] = round(benchmark.stats.stats.median * 1e6, 1)
