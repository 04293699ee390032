"""Columns of one call: scalars count for all events, and columns of other lengths are refused by name."""

import numpy as np
import pytest
from junk import refused

import engine


@pytest.fixture(params=["bpr", "squared"])
def pair(request):
    """Two engines that have learned nothing, and a value for those who want one."""
    with (
        engine.open(":memory:", dim=8, loss=request.param) as one,
        engine.open(":memory:", dim=8, loss=request.param) as other,
    ):
        yield one, other, 2.5 if request.param == "squared" else None


def test_a_scalar_counts_for_all_events(pair):
    one, other, value = pair
    column = None if value is None else [value] * 3
    for users, items, whole_users, whole_items in [
        (7, [1, 2, 3], [7, 7, 7], [1, 2, 3]),
        ([1, 2, 3], 7, [1, 2, 3], [7, 7, 7]),
        (np.int32(7), np.array([4, 5, 6]), [7, 7, 7], [4, 5, 6]),
    ]:
        report = one.ingest(users, items, value, weights=2, timestamps=1.7e9)
        other.ingest(whole_users, whole_items, column, weights=[2] * 3, timestamps=[1.7e9] * 3)
        assert report.events == 3
    assert one.digest() == other.digest()
    assert one.ingest(7, [], value, weights=1, timestamps=0).events == 0
    assert one.ingest([], 7).events == 0


def test_columns_of_other_lengths_are_refused(pair):
    eng, _, value = pair
    column = None if value is None else [value] * 3
    refused("items: got 2", lambda: eng.ingest([1, 2, 3], [1, 2], column))
    refused("items: got 1", lambda: eng.ingest([1, 2, 3], [1], column))
    refused("weights: got shape (1,)", lambda: eng.ingest(7, [1, 2, 3], column, weights=[1]))
    refused("weights: got shape (3, 1)", lambda: eng.ingest(7, [1, 2, 3], column, weights=[[1], [1], [1]]))
    refused("timestamps: got shape (2,)", lambda: eng.ingest([1, 2, 3], 7, column, timestamps=[1, 2]))
    refused("weights: got shape (2,)", lambda: eng.ingest(7, 8, value, weights=[1, 2]))
    if value is not None:
        refused("values: got shape (2,)", lambda: eng.ingest(7, [1, 2, 3], [1, 2]))
        refused("values: got shape (0,)", lambda: eng.ingest(7, [1, 2, 3], []))
    assert eng.seq == 0
