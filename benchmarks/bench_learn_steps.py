"""learn_steps on the CPU beside the engine's step path. Softmax, 64 negatives, dim 64, Adagrad. Asserts no times.

`threads` of the window; "order" finds which steps share rows and nothing else. The engine's path is its learner in RAM,
with what belongs to it: finding rows by id, drawing negatives, catalogue and histories, no log.
"""

import numpy as np
import pytest

from engine.contract.losses import LOSSES
from engine.kernels.learn_steps import Planner, learn_steps
from engine.machine.backend import native
from engine.table.layout import vector_floats

DIM, WIDTH, NEGATIVES, USERS, EVENTS = 64, 80, 64, 1_000_000, 8192
ITEMS = pytest.mark.parametrize("items", [10_000, 1_000_000])
BATCHES = pytest.mark.parametrize("batch_size", [1, 4, 16])


def slots(items, batch_size):
    rng = np.random.default_rng(1)
    count = EVENTS // batch_size * NEGATIVES
    return [
        rng.integers(0, rows, size=n, dtype=np.int32) for rows, n in ((USERS, EVENTS), (items, EVENTS), (items, count))
    ]


@pytest.fixture(scope="module")
def slabs():
    rng = np.random.default_rng(0)
    return [rng.random((rows, WIDTH), dtype=np.float32) * 0.1 for rows in (USERS, 1_000_000)]


@pytest.mark.parametrize("threads", [1, 2])
@ITEMS
@BATCHES
def test_steps(benchmark, slabs, items, batch_size, threads):
    window = Planner(USERS, items).plan(*slots(items, batch_size), batch_size=batch_size, negatives=NEGATIVES)
    users, rows = slabs[0], slabs[1][:items]
    mean = np.zeros(DIM, np.float32)
    benchmark.extra_info.update(events=EVENTS, side_by_side=round(window.side_by_side, 1))
    benchmark(learn_steps, users, rows, window, mean, 0, dim=DIM, lr=0.05, threads=threads)


@ITEMS
@BATCHES
def test_order(benchmark, items, batch_size):
    planner, columns = Planner(USERS, items), slots(items, batch_size)
    benchmark.extra_info["references"] = sum(column.size for column in columns)
    benchmark(planner.plan, *columns, batch_size=batch_size, negatives=NEGATIVES)


@pytest.fixture(scope="module", params=[10_000, 1_000_000])
def learner(request):
    """The engine's learner with all rows in RAM, and a function that learns a record."""
    users, items = (
        native.Warm(vector_floats(DIM, "adagrad"), rows + 10_000, ordinals)
        for rows, ordinals in ((USERS, False), (request.param, True))
    )
    catalogue = native.Catalogue(DIM)
    history = native.History(users, 2**30)
    made = native.Learner(users, items, catalogue, history)
    seq = 1

    def learn(loss, negatives, batch_size, user_ids, item_ids):
        nonlocal seq
        settings = native.LearnSettings(LOSSES.index(loss), 0, 0.05, 0.0, negatives, batch_size, 7)
        events, at = native.EventColumns(user_ids, item_ids, None, None, seq), 0
        while at < user_ids.size:
            assert made.plan(settings, events, at) == native.Plan.ready
            at += made.learn(settings, events).events
        seq += user_ids.size

    ids = np.arange(USERS)
    learn("bpr", 1, 8192, ids, ids % request.param)
    return request.param, learn


@BATCHES
def test_engine(benchmark, learner, batch_size):
    items, learn = learner
    rng = np.random.default_rng(1)
    ids = [rng.integers(0, rows, size=EVENTS) for rows in (USERS, items)]
    benchmark.extra_info["events"] = EVENTS
    benchmark(learn, "softmax", NEGATIVES, batch_size, *ids)
