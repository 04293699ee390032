"""Every function of the C++ core with arguments that no Python of ours passes: refused, and no byte outside is touched.

What is asked for is an exception or an answer. That no memory was misused is for `make sanitize` to see, where this
runs under AddressSanitizer; a plain run shows it as a crash at best.
"""

import contextlib
import itertools
import os
import random

import numpy as np
import pytest

from engine.machine.backend import native

SOFTMAX, BPR, LOGISTIC = 0, 1, 2
ADAGRAD, ADAM, SGD = 0, 1, 2
NUMBERS = [-(2**63), -(2**31), -1, 0, 1, 2, 3, 63, 64, 65, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1]


def f32(*shape):
    return np.ones(shape, np.float32)


def i64(*values):
    return np.array(values, np.int64)


def i32(*values):
    return np.array(values, np.int32)


def u8(*shape):
    return np.zeros(shape, np.uint8)


ARRAYS = [
    i64(),
    i64(0),
    i64(1),
    i64(-1),
    i64(0, 1, 2),
    i64(2, 1, 0),
    i64(0, 2**62),
    i64(0, -(2**62), 3),
    i64(0, 1, 2**63 - 1),
    np.arange(100),
    i64(*[5] * 70),
    np.zeros((2, 3), np.int64),
    np.zeros((0, 4), np.int64),
    f32(0),
    f32(1),
    f32(8),
    f32(0, 8),
    f32(3, 8),
    f32(3, 11),
    f32(3, 16),
    f32(3, 0),
    f32(8, 3),
    np.float32(1).reshape(()),
    np.full((2, 8), np.nan, np.float32),
    f32(6, 16)[::2],
    u8(0),
    u8(7),
    u8(3, 72),
    u8(3, 0),
    u8(0, 72),
    None,
]
PAIRS = [[], [(b"", b"")], [(b"\1" * 9, b"1234")], [(b"k", memoryview(b"0123456789")[::2])], [b"ab"], [(1, 2)], [None]]


def tables(dim=8, capacity=64):
    """A set of tables that belong together, with a few rows in it."""
    users, items = native.Warm(dim + 3, capacity, False), native.Warm(dim + 3, capacity, True)
    history, catalogue = native.History(users, 2**20), native.Catalogue(dim)
    learner = native.Learner(users, items, catalogue, history)
    settings = native.LearnSettings(BPR, ADAGRAD, 0.1, 0.0, 2, 2, 3)
    ids = np.arange(10)
    learn(learner, settings, events(ids, 1))
    return users, items, history, catalogue, learner, settings


def events(ids, first_seq=11):
    """One event of user n and item n for each id n."""
    return native.EventColumns(ids, ids, None, None, first_seq)


def learn(learner, settings, wanted):
    start = 0
    while start < len(wanted):
        while learner.plan(settings, wanted, start) != native.Plan.ready:
            assert learner.delivered()
        start += learner.learn(settings, wanted).events


def tried(call, *args):
    """Calls; anything but an exception of a kind that says "wrong argument" is a failure."""
    with contextlib.suppress(ValueError, TypeError, OverflowError, MemoryError, BufferError, IndexError):
        call(*args)


FUNCTIONS = {
    "crc32c": 2,
    "row_keys": 2,
    "seal_rows": 3,
    "seal_chunks": 5,
    "seal_values": 1,
    "unseal_rows": 4,
    "unseal_values": 2,
    "check_pages": 2,
    "isa_available": 1,
    "set_isa": 1,
    "pool_rows": 6,
    "loss_grads": 13,
    "update_rows": 10,
    "score_topk": 15,
    "draw_negatives": 7,
    "learn_steps": 29,
    "state_floats": 2,
    "base_score": 3,
    "warm_row_bytes": 1,
    "stored_row_bytes": 1,
    "isa": 0,
    "fill_fresh": 2,
    "window_places": 5,
    "device_marked": 5,
    "limit_windows": 3,
    "draw_on_device": 2,
    "may_draw": 3,
    "known_items": 1,
    "first_global_weights": 0,
    "neighbour_floats": 1,
    **dict.fromkeys(("forget_neighbours", "name_neighbours"), 4),
}
CLASSES = {
    *("Warm", "Hot", "Turn", "StepOrder", "History", "Catalogue", "Hold", "Sightings", "LearnSettings", "Learner"),
    *("Event", "EventColumns", "KeyedBy", "Learned", "Plan", "RowRule", "Looks", "WindowPlaces"),
}
CONSTANTS = {"SKETCH_BYTES", "GLOBAL_WEIGHTS"}


def test_every_binding_is_tried():
    assert {name for name in dir(native) if not name.startswith("_")} == FUNCTIONS.keys() | CLASSES | CONSTANTS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    found, call = native.isa(), getattr(native, name)
    anything = [*ARRAYS, *PAIRS, *NUMBERS, 0.5, "avx2", b"bytes", True]
    try:
        for seed in range(1500 if FUNCTIONS[name] > 2 else 300):
            rng = random.Random(f"{name}/{seed}")
            args = [rng.choice(anything) for _ in range(FUNCTIONS[name])]
            if name == "check_pages" and type(args[0]) is int and args[0] >= 0:
                continue  # somebody's open file
            tried(call, *args)
    finally:
        native.set_isa(found)


# Arguments that fit, by place; one or two of them are then replaced, so that what is behind the first check is reached.
FITTING = {
    "pool_rows": (f32(5, 16), 8, i64(0, 1, 4), i64(0, 1, 3), f32(3), f32(2, 8)),
    "loss_grads": (1, f32(2, 8), f32(5, 16), 8, i64(0, 1), np.array([[2, 3], [4, -1]]), f32(2), None, f32(2),
                   f32(2), f32(2, 8), f32(2), f32(2, 2)),
    "update_rows": (ADAM, f32(5, 32), 8, i64(0, 1, 0), f32(2, 8), i64(0, 1, 1), f32(3), f32(3), 0.1, 0.0),
    "score_topk": (f32(2, 8), 8, f32(70, 16), f32(70), np.arange(70), 3, i64(1, 2), i64(0, 1, 2), i64(5, 69),
                   i64(0, 0, 2), False, i64(*[0] * 6), f32(6), i64(0, 0), 1),
    "learn_steps": (0, ADAGRAD, 0.1, 0.0, 8, 2, 2, f32(5, 16), f32(5, 16), i32(0, 1, 0), i32(4, 4, 3), i32(2, -1, 3, 4),
                    i32(-1, -1, 0), i32(-1, -1, -1), i32(-1, -2, -1), i32(1, -1, 1), i32(-1, -2, -2, 0),
                    i32(-1, -1, -1, -1), f32(3), None, None, u8(3), f32(8), 5, f32(3), f32(3, 8), 2, 2, True),
    "seal_chunks": (3, i64(1, 2), u8(2), u8(10), i64(0, 4, 10)),
    "seal_rows": (1, i64(1, 2), u8(2, 72)),
    "unseal_rows": (1, native.seal_rows(1, i64(1, 2), u8(2, 72)), i64(0, 0), u8(2, 72)),
}  # fmt: skip


@pytest.mark.parametrize("name", FITTING)
def test_functions_with_a_wrong_argument_among_right_ones(name):
    call, fitting = getattr(native, name), FITTING[name]
    fresh = [a.copy() if isinstance(a, np.ndarray) else a for a in fitting]
    call(*fresh)
    anything = [*ARRAYS, *NUMBERS]
    for place, value in itertools.product(range(len(fitting)), anything):
        args = [a.copy() if isinstance(a, np.ndarray) else a for a in fitting]
        args[place] = value
        tried(call, *args)
    for seed in range(500):
        rng = random.Random(f"{name}/{seed}")
        args = [a.copy() if isinstance(a, np.ndarray) else a for a in fitting]
        for place in rng.sample(range(len(args)), min(2, len(args))):
            args[place] = rng.choice(anything)
            if isinstance(args[place], np.ndarray):
                args[place] = args[place].copy()
        tried(call, *args)


def test_a_memoryview_that_was_released():
    view = memoryview(bytearray(b"x" * 20))
    view.release()
    with pytest.raises(ValueError, match="released"):
        native.seal_values([(view, b"")])


def test_tables_of_any_size():
    for dim, capacity in itertools.product(NUMBERS, NUMBERS):
        tried(lambda d=dim, c=capacity: native.Warm(d, c, abs(c) < 2**40))
    for number in NUMBERS:
        tried(native.Catalogue, number)
        for other in NUMBERS:
            tried(native.Warm, number, other, False)
            tried(native.LearnSettings, BPR, ADAGRAD, 0.1, 0.0, number, other, 0)
            tried(native.LearnSettings, LOGISTIC, ADAGRAD, 0.1, 0.0, number, other, 0)
            tried(native.LearnSettings, number, other, 0.1, 0.0, 1, 1, 0)
            tried(native.LearnSettings, number, ADAGRAD, 0.1, 0.0, 1, 1, other)


def test_an_order_of_steps():
    for users, items in itertools.product(NUMBERS, NUMBERS):
        tried(native.StepOrder, users, items)
    fitting = (0, 2, 2, i32(0, 1, 0), i32(4, 4, 3), i32(2, -1, 3, 4), *[i32(0, 0, 0)] * 4, *[i32(0, 0, 0, 0)] * 2)
    order = native.StepOrder(5, 5)
    assert order.find(*(a.copy() if isinstance(a, np.ndarray) else a for a in fitting)) == 2
    for place, value in itertools.product(
        range(len(fitting)), [*ARRAYS, *NUMBERS, i32(), i32(9, 9, 9), i32(-1, -2, 0, 5)]
    ):
        args = [a.copy() if isinstance(a, np.ndarray) else a for a in fitting]
        args[place] = value.copy() if isinstance(value, np.ndarray) else value
        tried(order.find, *args)


def test_tables_that_do_not_belong_together():
    users, items, history, catalogue, _, _ = tables()
    strangers = tables(dim=9)
    for made in itertools.product((users, strangers[0]), (items, strangers[1]), (catalogue, strangers[3]), (history,)):
        if made != (users, items, catalogue, history):
            with pytest.raises(ValueError, match="belong"):
                native.Learner(*made)
    for others in (users, native.Warm(14, 64, True)):
        with pytest.raises(ValueError, match="belong"):
            native.Learner(users, others, catalogue, history)
    for call in (
        lambda: history.entries(strangers[0], 1),
        lambda: history.collect(strangers[0], 0, 0),
        lambda: history.load(strangers[0], 1, bytes(32), False),
        lambda: history.thaw(strangers[0], True),
    ):
        with pytest.raises(ValueError, match="history"):
            call()


def test_history_outlived_by_its_users():
    users = native.Warm(11, 4, False)
    history = native.History(users, 1)
    del history
    items, catalogue = native.Warm(11, 64, True), native.Catalogue(8)
    learner = native.Learner(users, items, catalogue, native.History(users, 2**20))
    learn(learner, native.LearnSettings(SOFTMAX, ADAGRAD, 0.1, 0.0, 1, 1, 0), events(np.arange(4), 1))
    assert len(users) == 4


def methods(made, rng):
    """Calls of every method, with arguments that may fit."""
    users, _, history, catalogue, learner, settings = made

    def pick(*first):
        return rng.choice([*first, *ARRAYS])

    def number(*first):
        return rng.choice([*first, *first, *NUMBERS])

    counts = [-(2**63), -1, 0, 1, 10, 100, 2**32 - 1, 2**63 - 1]
    rule = rng.choice([native.KeyedBy.user, native.KeyedBy.item, native.KeyedBy.one]), native.RowRule()
    wide = native.LearnSettings(SOFTMAX, ADAGRAD, 0.1, 0.0, 50, 7, 3)

    def payload():
        return rng.choice([b"", b"x", bytes(16), bytes(1024), bytes(1040), bytes(16 * 1025)])

    return [
        lambda: users.peek(pick()),
        lambda: users.fill(pick(), pick()),
        lambda: users.collect(number(0, 1, 10), number(1, 9, 10)),
        lambda: (users.sort_frozen(), users.thaw(rng.random() < 0.5)),
        lambda: users.resident(),
        lambda: users.untouched_since(number(0, 5)),
        lambda: users.name(pick(i64(1, 2)), pick(i64(11, 12))),
        lambda: history.forget(pick(i64(1, 2))),
        lambda: history.load(users, number(1, 2), payload(), True),
        lambda: history.entries(users, number(1, 2)),
        lambda: history.collect(users, number(0, 1), number(1, 9)),
        lambda: history.thaw(users, rng.random() < 0.5),
        lambda: catalogue.ordinals(pick()),
        lambda: catalogue.read(pick()),
        lambda: catalogue.read_tile(number(0, 1), pick(f32(3, 8)), pick(f32(3)), pick(i64(0, 1, 2))),
        lambda: catalogue.score(pick(f32(3, 8)), pick(i64(0, 1, 2))),
        lambda: catalogue.restore(pick(i64(1, 2)), pick(u8(2, users.stored_bytes)), number(8, 8), number(10, 100)),
        lambda: catalogue.reserve_for(rng.choice(counts), rng.choice(counts)),
        lambda: catalogue.restored(number(10), number(10)),
        lambda: catalogue.hide(pick(i64(1, 2))),
        lambda: catalogue.unhide(pick(i64(1, 2))),
        lambda: catalogue.follow(pick(i64(1, 2)), pick(u8(2, users.stored_bytes)), number(8, 8)),
        lambda: catalogue.topk(
            pick(f32(3, 8)),
            pick(None, f32(3)),
            number(1, 2, 64),
            number(0, 9, 10),
            pick(None),
            pick(None),
            pick(None),
            pick(None),
            pick(None),
            rng.random() < 0.5,
            number(1, 2),
        ),
        lambda: catalogue.topk(
            f32(2, 8),
            None,
            3,
            10,
            pick(i64(3, 99)),
            pick(i64(0, 1, 2)),
            pick(i64(0, 1, 3)),
            pick(i64(0, 1, 9, 2**62)),
            pick(i64(0, 2, 4), None),
            rng.random() < 0.5,
            1,
        ),
        lambda: native.EventColumns(pick(), pick(), pick(None), pick(None), number(11) % 2**64),
        lambda: learner.plan(settings, events(pick()), number(0, 1)),
        lambda: learner.learn(rng.choice([settings, wide]), events(rng.choice([pick(), np.arange(9)]))),
        lambda: learner.accompany(rng.choice([users, native.Warm(3, 4, rng.random() < 0.5)]), *rule),
        lambda: learner.delivered(),
        lambda: users.restore_rows(number(10)),
        lambda: setattr(learner, *rng.choice([("mean", pick()), ("mean_count", number())])),
        lambda: setattr(learner, "value_sums", rng.choice([(0.0, 0.0), (float("nan"), -1.0), (1.0,), 3, None])),
        lambda: (learner.wanted, learner.mean, users.bytes, users.kept_bytes, users.total, users.learned),
    ]


def test_methods_of_tables():
    for seed in range(300):
        rng, made = random.Random(seed), tables()
        if rng.random() < 0.5:
            for table in made[:3]:
                table.freeze()
        calls = methods(made, rng)
        for _ in range(12):
            # Freezing twice, or thawing what nobody froze, is allowed here: it must harm nobody but the rows.
            tried(rng.choice(calls))


def removals(made, rng):
    """Calls that take rows and items away, for nobody has planned to learn them; each gets one of the tables."""
    _, _, history, catalogue, learner, _ = made

    def pick(*first):
        return rng.choice([*first, *ARRAYS])

    return [
        lambda w: w.remove(pick(i64(1, 2))),
        lambda w: w.bring(pick(i64(1, 2, 70), np.arange(100))),
        lambda w: w.unpin(),
        lambda w: w.resident(),
        lambda w: history.forget(pick(i64(1, 2))),
        lambda w: catalogue.remove(pick(i64(1, 2))),
        lambda w: catalogue.topk(f32(2, 8), None, 3, rng.choice(NUMBERS), None, None, None, None, None, False, 1),
        lambda w: catalogue.score(f32(1, 8), i64(rng.choice(NUMBERS))),
        lambda w: catalogue.read(i64(rng.choice(NUMBERS))),
        lambda w: (w.rows_removed(rng.choice([1, *NUMBERS])), learner.rows_removed()),
    ]


def test_removing_from_tables():
    for seed in range(100):
        rng, made = random.Random(seed), tables()
        calls = removals(made, rng)
        for _ in range(12):
            tried(rng.choice(calls), rng.choice(made[:2]))


def test_sightings():
    anything = [*ARRAYS, np.ones(3, bool), np.ones(0, bool), *NUMBERS]
    sightings = native.Sightings()
    fitting = (1, i64(1, 2, 3), i64(1, 2, 3), np.ones(3, bool), np.zeros(3, bool), 2)
    assert sightings.admit(*fitting).tolist() == [False] * 3
    for place, value in itertools.product(range(len(fitting)), anything):
        tried(sightings.admit, *fitting[:place], value, *fitting[place + 1 :])
    for value in (b"", b"x", bytes(native.SKETCH_BYTES), bytes(native.SKETCH_BYTES + 1), *ARRAYS):
        tried(setattr, sightings, "cells", value)
        sightings.halve()
        sightings.admit(*fitting)


def test_a_hold_can_be_left_more_than_once():
    catalogue = tables()[3]
    hold = catalogue.hold()
    with hold:
        tried(hold.__exit__)
    del catalogue
    tried(hold.__exit__, 1, 2)


def test_a_row_that_is_not_here_cannot_be_named():
    users = tables()[0]
    with pytest.raises(ValueError, match="not here"):
        users.name(i64(12345), i64(1))


@pytest.mark.parametrize("optimizer", [ADAM, SGD])
def test_the_optimizer_must_be_that_of_the_rows(optimizer):
    *_, learner, _ = tables()
    ids = np.arange(3)
    with pytest.raises(ValueError, match="optimizer"):
        learner.plan(native.LearnSettings(BPR, optimizer, 0.1, 0.0, 2, 2, 3), events(ids), 0)


def test_what_was_planned_must_be_what_is_learned():
    *_, learner, settings = tables()
    ids = np.arange(6)
    with pytest.raises(ValueError, match="planned"):
        learner.learn(settings, events(ids))
    while learner.plan(settings, events(ids), 0) != native.Plan.ready:
        assert learner.delivered()
    made = [native.LearnSettings(*x, 3) for x in ((BPR, ADAGRAD, 0.1, 0.0, 9, 2), (SOFTMAX, ADAGRAD, 0.1, 0.0, 2, 2))]
    for other, n in ((made[0], 6), (made[1], 6), (settings, 5), (settings, 7)):
        with pytest.raises(ValueError, match="planned"):
            learner.learn(other, events(np.arange(n)))
    assert learner.learn(settings, events(ids)).events == 6


TAKING_AWAY = {
    "users.remove": lambda made: made[0].remove(i64(1)),
    "items.remove": lambda made: made[1].remove(i64(1)),
    "users.unpin": lambda made: made[0].unpin(),
    "items.unpin": lambda made: made[1].unpin(),
    "users.bring": lambda made: made[0].bring(i64(70)),
    "items.bring": lambda made: made[1].bring(i64(1)),
    "catalogue.remove": lambda made: made[3].remove(i64(1)),
    "users.rows_removed": lambda made: made[0].rows_removed(1),
}


@pytest.mark.parametrize("name", TAKING_AWAY)
def test_rows_that_a_window_stands_on_stay(name):
    (users, _, _, _, learner, settings), plain = (made := tables()), tables()
    ids = np.arange(5, 15)
    assert learner.plan(settings, events(ids), 0) == native.Plan.ready
    with pytest.raises(ValueError, match="planned"):
        TAKING_AWAY[name](made)
    learner.learn(settings, events(ids))
    learn(plain[4], settings, events(ids))
    np.testing.assert_array_equal(users.peek(ids)[1], plain[0].peek(ids)[1])
    TAKING_AWAY[name](made)


def test_they_stay_while_missing_rows_are_fetched():
    users, _, _, _, learner, settings = tables()
    users.restore_rows(11)  # one user is elsewhere
    wanted = events(i64(1, 404))
    assert learner.plan(settings, wanted, 0) == native.Plan.fetch
    for call in (lambda: users.remove(i64(404)), users.unpin):
        with pytest.raises(ValueError, match="planned"):
            call()
    assert learner.delivered()
    assert learner.plan(settings, wanted, 0) == native.Plan.ready
    assert learner.learn(settings, wanted).events == 2
    users.remove(i64(404))


def test_tables_have_one_window_at_a_time():
    users, items, history, catalogue, learner, settings = tables()
    other, ids = native.Learner(users, items, catalogue, history), np.arange(5)
    learner.plan(settings, events(ids), 0)
    with pytest.raises(ValueError, match="planned"):
        other.plan(settings, events(ids), 0)
    del learner
    assert other.plan(settings, events(ids), 0) == native.Plan.ready


def test_a_history_cannot_grow_beyond_what_a_user_may_have():
    users, _, history, *_ = tables()
    with pytest.raises(ValueError, match="chunk"):
        history.load(users, 1, bytes(32 * 1024), False)  # one entry is there already
    history.load(users, 1, bytes(32 * 1023), False)
    assert len(history.entries(users, 1)) == 32 * 1024
    with pytest.raises(ValueError, match="chunk"):
        history.load(users, 1, bytes(32), False)
    with pytest.raises(ValueError, match="user"):
        history.load(users, 12345, bytes(32), False)


def test_check_pages_of_what_is_no_file(tmp_path):
    assert not native.check_pages(-1)["ok"]
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert "regular" in native.check_pages(folder)["message"]
    finally:
        os.close(folder)
