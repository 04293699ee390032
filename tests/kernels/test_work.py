"""The work of each kernel, reckoned as by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.kernels import work
from engine.kernels.learn_steps import Planner
from engine.machine.marks import Work


def slots(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


# By hand, for dim 4: a vector is 16 bytes, with its bias 20; a slot 8, a coefficient 4.
def test_the_work_of_bags():
    rows = torch.zeros(9, 8)
    gather = work.pool_rows(rows, slots(3, 1, 3), None, None, dim=4)
    assert gather() == Work(2 * 16 + 3 * 8 + 3 * 16)
    bags = work.pool_rows(rows, slots(3, 1, 3), slots(0, 2, 3), torch.ones(3), dim=4)
    assert bags() == Work(2 * 16 + 3 * (8 + 4) + 2 * (8 + 16), 3 * 2 * 4)


def test_the_work_of_gradients():
    rows = torch.zeros(9, 8)
    users, positives = slots(0, 0, 1), slots(2, 3, 2)
    event = 8 + 8 + 4 + 4 + 16  # both slots; loss, coefficient, gradient
    found = work.loss_grads("logistic", rows, rows, positives, None, dim=4, query_slots=users)()
    assert found == Work(3 * event + 2 * 16 + 2 * 20, 3 * 4 * 4)
    shared = work.loss_grads("softmax", rows, rows, positives, slots(3, 4, -1, 4), dim=4, query_slots=users)()
    assert shared == Work(3 * (event + 4 * 4) + 4 * 8 + 2 * 16 + 3 * 20, 3 * 5 * 4 * 4)
    own = work.loss_grads("bpr", torch.zeros(3, 4), rows, positives, slots(3, 4, 5).view(3, 1), dim=4)()
    assert own == Work(3 * (event - 8 + 4) + 3 * 8 + 3 * 16 + 4 * 20, 3 * 2 * 4 * 4)


@pytest.mark.parametrize(("optimizer", "state", "flops"), [("sgd", 0, 2), ("adagrad", 2, 4), ("adam", 12, 12)])
def test_the_work_of_updates(optimizer, state, flops):
    coefs = torch.ones(5)
    terms = slots(7, 7, -1, 2, 7), torch.zeros(3, 4), slots(0, 1, 1, 1, 0), coefs, coefs
    found = work.update_rows(torch.zeros(9, 20), *terms, dim=4, lr=0.1, optimizer=optimizer)()
    row = 4 * (4 + 1 + state)
    assert found == Work(5 * 20 + 2 * 2 * row + 2 * 16, 5 * 2 * 4 + 2 * flops * 4)


def test_the_work_of_steps():
    """Two steps of two events, two negatives each: the first has rows u0 u1, i2 i3; the second u0, i2 i4."""
    users, items, negatives = (np.array(x) for x in ([0, 1, 0, 0], [2, 2, 4, 4], [2, 3, 2, -1]))
    window = Planner(5, 6).plan(users, items, negatives, batch_size=2, negatives=2)
    found = work.learn_steps(None, None, window, None, 0, dim=4, lr=0.1)()
    ints = 4 * (3 * (4 + 4) + 3 * 4)
    assert found == Work(7 * 2 * 28 + ints + 4 * (4 + 16), 4 * 3 * 6 * 4 + 7 * 4 * 4)


def test_the_work_of_ranking_and_moving():
    assert work.score_topk(torch.zeros(3, 5), torch.zeros(100, 16), torch.zeros(100), None, 10)() == Work(
        100 * (64 + 4), 3 * 100 * 10
    )
    assert work.rank_ids(slots(1, 2, 3))() == Work(48)
    rows, catalogue = torch.zeros(6, 8), SimpleNamespace(dim=4)
    assert work.published(catalogue, slots(1, 2), slots(0, 1), rows, None)() == Work(2 * (16 + 20 + 20 + 8))
    assert work.published(catalogue, slots(1, 2), slots(0, 1), rows, slots(0, 1))() == Work(2 * (24 + 20 + 20 + 8))
    assert work.published(catalogue, slots(), slots(), rows, None) is None
    assert work.copied(SimpleNamespace(rows=rows), [1, 2, 3])() == Work(3 * 32, host=True)
    assert work.copied(SimpleNamespace(rows=rows), []) is None
