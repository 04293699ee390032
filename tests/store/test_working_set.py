"""When RAM is called too small: by counts alone, and once."""

import logging
from types import SimpleNamespace

import pytest

from engine.learn.model import Tally
from engine.store.working_set import EVENTS, WorkingSet

FULL = [SimpleNamespace(warm=SimpleNamespace(evicted=1)), SimpleNamespace(warm=SimpleNamespace(evicted=0))]
ROOM = [SimpleNamespace(warm=SimpleNamespace(evicted=0))]


@pytest.fixture
def warned(caplog):
    caplog.set_level(logging.WARNING, "rowtide")
    return lambda: len(caplog.records)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"warm": 49, "cold": 51}, 1),
        ({"warm": 51, "cold": 49}, 0),
        ({"warm": 10, "cold": 50, "new_users": 20, "new_items": 20}, 0),  # most rows are new
        ({"warm": 100, "waits": 3}, 1),
        ({"warm": 100, "waits": 2}, 0),
    ],
)
def test_what_is_too_small(warned, found, expected):
    watch = WorkingSet("shop")
    watch.add(Tally(events=EVENTS), FULL)  # from here on rows have had to leave
    watch.add(Tally(events=EVENTS - 1, **found), FULL)
    assert warned() == 0  # not enough events yet
    watch.add(Tally(events=1), FULL)
    assert warned() == expected
    watch.add(Tally(events=EVENTS, **found), FULL)
    assert warned() == expected  # once


def test_rows_that_come_in_for_the_first_time_are_no_sign(warned):
    watch = WorkingSet("shop")
    for _ in range(3):
        watch.add(Tally(events=EVENTS, cold=100), ROOM)
    watch.add(Tally(events=EVENTS, cold=100), FULL)
    assert warned() == 0
    watch.add(Tally(events=EVENTS, cold=100), FULL)
    assert warned() == 1
