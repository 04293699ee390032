"""What a signal's handler raises may come at any step: no later call may wait for ever, and nothing may be lost.

Held against two models of a signal. One raises, in turn, at each step of a call where the interpreter looks for
signals: where a function begins, and after each call. The other is a timer of the kernel.
"""

import contextlib
import shutil
import sys
import threading
from functools import partial

import pytest
from conftest import stream

import engine
from engine import EngineError
from engine.log import record as log_record

pytestmark = pytest.mark.timeout(600)
SMALL = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 1, "seed": 3, "epoch_seconds": 1e6}
RECORD_EVENTS = 4
MOST_MOMENTS = 5000

USERS, ITEMS = stream(64)
NEW = slice(40, 50)  # events: three records
CALLS = {
    "ingest": lambda eng: eng.ingest(USERS[NEW], ITEMS[NEW]),
    "ingest not durable": lambda eng: eng.ingest(USERS[NEW], ITEMS[NEW], durable=False),
    "position": lambda eng: eng.ingest([], [], position=("shop", b"7")),
    "checkpoint": lambda eng: eng.checkpoint(),
    "purge": lambda eng: (eng.forget(USERS[:1]), eng.checkpoint()),
    "topk": lambda eng: eng.topk(USERS[:2], exclude_seen=True),
    "digest": lambda eng: eng.digest(),
}


def interrupted_at(moment, call):
    """Makes the call, with an interrupt at this moment of it. Returns the interrupt; None if the call ended before."""
    left = moment

    def tick(frame, event, arg):
        nonlocal left
        left -= event in ("call", "c_return")
        if left < 0:
            sys.setprofile(None)
            raise KeyboardInterrupt

    try:
        sys.setprofile(tick)
        call()
        sys.setprofile(None)
    except KeyboardInterrupt as e:
        return e
    return None


def returns(call):
    """Makes the call on another thread; it must return."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for ever"


@pytest.fixture
def small_records(monkeypatch):
    monkeypatch.setattr(log_record, "MAX_EVENTS", RECORD_EVENTS)


@pytest.fixture
def model(home, small_records):
    """A directory with 30 events in LMDB."""
    with engine.open(home, **SMALL) as eng:
        eng.ingest(USERS[:30], ITEMS[:30])
    return home


def digests():
    """Of every state that a log may leave, by its seq, its positions and whether a user was forgotten."""
    found = {}
    for forget in (False, True):
        for position in (None, b"7"):
            for stop in (40, 44, 48, 50):
                with engine.open(":memory:", **SMALL) as eng:
                    for part in (slice(30), slice(30, 40)):
                        eng.ingest(USERS[part], ITEMS[part])
                    if stop > 40:
                        eng.ingest(USERS[40:stop], ITEMS[40:stop])
                    if position:
                        eng.ingest([], [], position=("shop", position))
                    if forget:
                        eng.forget(USERS[:1])
                    found[eng.digest()] = stop
    return found


def engine_error_or_none(call):
    with contextlib.suppress(EngineError):
        call()


def closed(eng, how):
    """Closes it in one of three ways; typed errors are fine."""
    with contextlib.suppress(EngineError):
        if how == 0:
            eng.close()
            return
        if how == 1:
            eng.ingest([], [])
            eng.checkpoint()
    returns(lambda: engine_error_or_none(eng.close))


def law(model, tmp_path, name, moments):
    """The engine can be closed while the interrupt is still in somebody's hands, and what is on the disk is the end of
    a record. Returns the moment at which the call was over before the interrupt came."""
    call, allowed = CALLS[name], digests()
    for moment in moments:
        place = tmp_path / "copy"
        shutil.copytree(model, place)
        eng = engine.open(place, **SMALL)
        eng.ingest(USERS[30:40], ITEMS[30:40])
        caught = interrupted_at(moment, partial(call, eng))
        closed(eng, moment % 3)
        with engine.open(place) as again:
            assert allowed.get(again.digest()) == again.seq, moment
        shutil.rmtree(place)
        if caught is None:
            return moment
    pytest.fail("the call is longer than all moments")


@pytest.mark.parametrize("name", CALLS)
def test_no_interrupt_keeps_the_engine_from_closing(model, tmp_path, name):
    stride = 11
    assert law(model, tmp_path, name, range(0, MOST_MOMENTS, stride)) > 2 * stride


@pytest.mark.heavy
@pytest.mark.parametrize("name", CALLS)
def test_no_interrupt_at_all_keeps_the_engine_from_closing(model, tmp_path, name):
    law(model, tmp_path, name, range(MOST_MOMENTS))
