"""The matrix: its events are all there, with their ids and weights, and not in the order of its rows."""

import numpy as np
import pytest
from programs import load, program

import engine


@pytest.fixture
def example():
    return load("from_implicit")


@pytest.fixture
def matrix():
    rng = np.random.default_rng(2)
    return (rng.random((60, 40)) < 0.2) * rng.integers(1, 9, (60, 40))


USERS, ITEMS = np.arange(60) * 2**40 - 7, np.arange(40)[::-1] * 1_000 + 3


def test_events_are_those_of_the_matrix(example, matrix):
    users, items, weights = example.events_of(matrix, USERS, ITEMS)
    assert len(users) == np.count_nonzero(matrix)
    again = np.zeros_like(matrix)
    again[np.searchsorted(USERS, users), 39 - (items - 3) // 1_000] = weights
    np.testing.assert_array_equal(again, matrix)


def test_events_are_shuffled_and_the_same_for_a_seed(example, matrix):
    users, items, _ = example.events_of(matrix, USERS, ITEMS, seed=1)
    rows = np.searchsorted(USERS, users)
    assert abs(np.corrcoef(np.arange(len(rows)), rows)[0, 1]) < 0.2
    assert abs(np.corrcoef(np.arange(len(rows)), items)[0, 1]) < 0.2
    np.testing.assert_array_equal(example.events_of(matrix, USERS, ITEMS, seed=1)[0], users)
    assert not np.array_equal(example.events_of(matrix, USERS, ITEMS, seed=2)[0], users)


def test_a_log_is_put_in_the_order_of_time(example):
    times = np.array(["2024-05-02", "2024-05-01", "2024-05-02", "2024-04-30"], "datetime64[s]")
    users, items = example.by_time(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 40]), times)
    assert (users.tolist(), items.tolist()) == ([4, 2, 1, 3], [40, 20, 10, 30])


def test_the_engine_learns_them(example, matrix):
    users, items, weights = example.events_of(matrix, USERS, ITEMS)
    with engine.open(":memory:", dim=8) as eng:
        report = eng.ingest(users, items, weights=weights)
        assert report.new_users == np.count_nonzero(matrix.any(1))
        assert report.new_items == np.count_nonzero(matrix.any(0))


def test_the_program_runs():
    with program("from_implicit") as running:
        assert running.wait_for(r"^\[(\d+(?:, )?){5}\]$")
