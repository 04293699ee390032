"""The bindings of the hot tier with arguments that no Python of ours passes, as test_native_arguments.py does it."""

import random

import numpy as np
from test_native_arguments import ARRAYS, events, f32, i64, tables, tried

from engine.machine.backend import native


def hot_calls(made, rng):
    """Calls of two hot tiers, each gets one of them and rows to copy; and these tiers and rows."""
    users, items, _, catalogue, learner, settings = made
    hot = [native.Hot(users, rng.choice([1, 4, 64]), False), native.Hot(items, rng.choice([1, 4, 64]), True)]
    copies = [hot[0].pinned()]
    window = settings, events(np.arange(4))

    def floats(rows):
        return rng.choice([f32(len(rows), 16), f32(len(rows), 3), f32(1, 16)])

    def keep(*found):
        copies.extend(x for x in found if x is not None)

    calls = [
        lambda h, c: learner.plan(*window, 0),
        lambda h, c: native.limit_windows(learner, rng.choice([1, 2, 64]), rng.choice([6, 64])),
        lambda h, c: native.fill_fresh(learner, settings),
        lambda h, c: native.window_places(learner, *window, rng.choice(hot), rng.choice(hot)),
        lambda h, c: native.device_marked(learner, *window, *hot),
        lambda h, c: keep(*(h.place() or ())),
        lambda h, c: keep(h.rows_ahead()),
        lambda h, c: keep(h.rows_ahead(rng.choice(ARRAYS))),
        lambda h, c: keep(h.pinned()),
        lambda h, c: h.learned(),
        lambda h, c: native.draw_on_device(learner, rng.choice([None, *hot])),
        lambda h, c: native.may_draw(learner, settings, rng.choice([-1, 0, 4, 2**62])),
        lambda h, c: native.known_items(learner),
        lambda h, c: learner.learn(*window),
        lambda h, c: h.touched(rng.choice([*ARRAYS, i64(0, 0, 1), i64(3, 2)])),
        lambda h, c: keep(h.ordinals(c)) if len(c) < 0 else h.ordinals(c),
        lambda h, c: (h.changed(rng.random() < 0.5), h.shown(rng.random() < 0.5)),
        lambda h, c: h.gather(c, floats(c)),
        lambda h, c: h.scatter(c, floats(c), rng.choice([None, catalogue])),
        lambda h, c: keep(*c.parts(rng.choice([-1, 0, 1, 2]))),
        lambda h, c: users.remove(i64(1, 2)),
        lambda h, c: users.bring(i64(1, 2, 3)),
    ]
    return calls, hot, copies


def test_the_hot_tier():
    """Places and windows in any order, with arrays and rows that fit or do not."""
    for seed in range(300):
        rng = random.Random(seed)
        calls, hot, copies = hot_calls(tables(), rng)
        for _ in range(30):
            tried(rng.choice(calls), rng.choice(hot), rng.choice(copies))
