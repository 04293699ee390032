"""Marks: ranges that cost nothing while nobody watches, nest, end with an exception, and change no bit."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import engine
from engine.contract.errors import EngineError
from engine.machine import marks
from engine.machine.marks import Watch, Work, marked, watching
from engine.profiling.trace import reckoned


class Nvtx:
    def __init__(self):
        self.said, self.depth = [], 0

    def range_push(self, name):
        self.said.append(("  " * self.depth) + name)
        self.depth += 1

    def range_pop(self):
        self.depth -= 1


@pytest.fixture
def watch(monkeypatch):
    """A watch whose NVTX writes down what it is told."""
    made = Watch(nvtx=False)
    made._nvtx = Nvtx()
    return made


@marked("inner", lambda n: (lambda: Work(n, 2 * n)) if n else None)
def inner(n):
    if n > 9:
        raise ValueError("planted")
    return n


@marked("outer")
def outer(*numbers):
    """Its docstring."""
    return [inner(n) for n in numbers]


def test_nothing_is_marked_while_nobody_watches(monkeypatch):
    def never(*_, **__):
        raise AssertionError("a range was made")

    monkeypatch.setattr(torch.profiler, "record_function", never)
    monkeypatch.setattr(Watch, "range", never)
    assert outer(1, 2) == [1, 2]
    assert (outer.__name__, outer.__doc__) == ("outer", "Its docstring.")


def test_ranges_nest_and_work_adds_up(watch):
    with watching(watch):
        assert outer(3, 0, 4) == [3, 0, 4]  # nothing to do for 0: no range
    assert outer(5) == [5]
    assert watch._nvtx.said == ["rowtide.outer", "  rowtide.inner", "  rowtide.inner"]
    assert [name for name, _ in watch.calls] == ["outer", "inner", "inner"]
    assert reckoned(watch.calls) == {"inner": Work(7, 14)}


def test_ranges_end_with_an_exception(watch):
    with watching(watch):
        with pytest.raises(ValueError, match="planted"):
            outer(10)
        assert watch._nvtx.depth == 0
        outer()
    assert watch._nvtx.said == ["rowtide.outer", "  rowtide.inner", "rowtide.outer"]
    with pytest.raises(ZeroDivisionError), watching(watch):
        raise ZeroDivisionError
    assert marks._watch is None


def test_one_profile_at_a_time(watch):
    with watching(watch):
        with pytest.raises(EngineError, match="another profile"), watching(watch):
            pass
        outer()
    assert len(watch.calls) == 1


def test_a_watch_that_keeps_nothing():
    watch = Watch(nvtx=False, keep=False)
    with watching(watch):
        outer(1)
    assert watch.calls == []


def test_ranges_change_no_bit():
    rng, digests = np.random.default_rng(0), []
    users, items = rng.integers(0, 30, 200), rng.integers(0, 20, 200)
    for watched in (nullcontext(), watching(Watch(nvtx=False))):
        with watched, engine.open(":memory:", dim=4, device="cuda", batch_size=4, hot_bytes=60_000) as eng:
            eng.ingest(users, items)
            digests.append(eng.digest())
    assert digests[0] == digests[1]
