"""What a signal's handler raises may come at any step: no later call may wait for ever, and nothing may be lost.

Held against two models of a signal. One raises, in turn, at each step of a call where the interpreter looks for
signals: where a function begins, and after each call. The other is a timer of the kernel.
"""

import contextlib
import shutil
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest

import engine
from engine import EngineError
from engine.log import record as log_record

pytestmark = pytest.mark.timeout(600)
SMALL = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 1, "seed": 3, "epoch_seconds": 1e6}
RECORD_EVENTS = 4
MOST_MOMENTS = 5000

USERS, ITEMS = np.random.default_rng(0).integers(0, [[60], [40]], (2, 64))
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


STRESS = """
import faulthandler, random, signal, sys, contextlib
import numpy as np
import engine
from engine.log import record

faulthandler.dump_traceback_later(500, exit=True)  # the watchdog
record.MAX_EVENTS = 8
SMALL = dict(dim=4, loss="bpr", batch_size=4, negatives=1, seed=3, epoch_seconds=1e6)
WANTED, rng = int(sys.argv[2]), random.Random(4)

class Interrupt(BaseException):
    pass

def interrupt(number, frame):
    raise Interrupt

signal.signal(signal.SIGALRM, interrupt)
ids, caught, eng = np.arange(20), 0, None
with engine.open(sys.argv[1], **SMALL) as first:  # what is imported late is imported now
    first.ingest(ids, ids)
    first.forget(1)

def attempt(eng):
    # Learns and saves until it is interrupted; returns at once where an earlier interrupt closed it to writes.
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(5e-5, 3e-3))
        while True:
            eng.ingest(ids + rng.randrange(9), ids)
            eng.checkpoint()
            if rng.random() < 0.1:
                eng.forget(rng.randrange(9))
    except engine.EngineError:
        signal.setitimer(signal.ITIMER_REAL, 0)

while caught < WANTED:
    eng = eng or engine.open(sys.argv[1], **SMALL)
    try:
        attempt(eng)
        refused = True
    except Interrupt as e:
        held, refused = e, rng.random() < 0.02  # what it holds stays held
        caught += 1
    if refused:
        with contextlib.suppress(engine.EngineError):
            eng.close()
        eng = None
with contextlib.suppress(engine.EngineError):
    eng and eng.close()
print(engine.verify(sys.argv[1]).seq > 20)
"""


@pytest.mark.parametrize("interrupts", [300, pytest.param(4000, marks=pytest.mark.heavy)])
def test_a_timer_that_interrupts_in_a_tight_loop(home, interrupts):
    command = [sys.executable, "-c", STRESS, str(home), str(interrupts)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("True\n", 0), run.stderr


@pytest.mark.parametrize("moves", [False, True])
def test_no_interrupt_keeps_a_reader_from_answering_or_closing(model, moves):
    """The same thread may go on at once; others as soon as the interrupt is in nobody's hands."""
    reader = engine.open(model, mode="r")
    expected = reader.topk(USERS[0], 5).ids.tolist()
    moment = 0
    while True:
        reader._epoch = -1 if moves else reader._epoch
        caught = interrupted_at(moment, partial(reader.topk, USERS[0], 5))
        assert reader.topk(USERS[0], 5).ids.tolist() == expected
        if moment % 20 == 0:
            reader.close()
            reader = engine.open(model, mode="r")
        if caught is None:
            break
        del caught
        returns(reader.refresh)
        moment += 1
    assert moment > 50
    reader.close()


HANDLED = """
import signal, subprocess, sys, threading, time
import numpy as np
import engine

home, what = sys.argv[1:]
WRITE = "import engine, sys; eng = engine.open(sys.argv[1]); eng.ingest([1, 2], [3, 4]); " + (
    "eng._directory.cold.compact(); eng.close()" if what != "rows" else "eng.close()"
)
reader = engine.open(home, mode="r")
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append((reader.stats()["seq"], reader.topk(1, 1).seq)))
moved = threading.Thread(target=reader.refresh)


def a_handler_asks_while_another_thread_wants_to_move():
    subprocess.run([sys.executable, "-c", WRITE, home], check=True)
    moved.start()
    moved.join(0.3)  # it waits for the call that this is inside of
    signal.raise_signal(signal.SIGUSR1)


class Users:
    def __array__(self, *_, **__):
        a_handler_asks_while_another_thread_wants_to_move()
        return np.array([1])


if what == "backup":
    from engine.directory import backup

    write_backup = backup.write_backup
    backup.write_backup = lambda *a: a_handler_asks_while_another_thread_wants_to_move() or write_backup(*a)
    print(reader.backup(home + "-2"), end=" ")
else:
    print(reader.topk(Users(), 1).seq, end=" ")
moved.join()
print(*asked, reader.refresh())
"""


@pytest.mark.parametrize("what", ["rows", "compacted", "backup"])
def test_a_handler_gets_an_answer_while_another_thread_moves_a_reader(model, what):
    command = [sys.executable, "-c", HANDLED, str(model), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("30 (32, 32) 32\n", "")
