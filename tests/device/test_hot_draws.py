"""Negatives that a device draws by itself, where every item has a place there: the host's draws, and nothing lost.

The host does not know which rows were named until it asks; these tests ask in every way there is, and not at all.
"""

import shutil

import numpy as np
import pytest
from test_hot_engine import DIM, EVENTS, ITEMS, LAWS, events, learn, room

import engine
from engine.device import steps as learning


@pytest.fixture
def drawn(monkeypatch):
    """The device draws whenever all items have a place there; how many windows had theirs drawn."""
    windows, draw = [], learning.DeviceSteps._draw

    def seen(self, known, *args):
        windows.append(len(known))
        return draw(self, known, *args)

    monkeypatch.setattr(learning, "_LEAST_DRAWS", 1)
    monkeypatch.setattr(learning.DeviceSteps, "_draw", seen)
    return windows


ALL = room("softmax", ITEMS + 100)  # users and items have as much room, so users come and go


@pytest.mark.parametrize("calls", [700, 1])
def test_drawn_on_the_device_is_drawn_on_the_host(drawn, calls, home):
    data = events("softmax")[: EVENTS if calls > 1 else 120]
    digest = learn(":memory:", "softmax", data, calls)[0]
    assert learn(home, "softmax", data, calls, device="cuda", hot_bytes=ALL)[0] == digest
    assert len(drawn) >= len(data) / calls - 1


def test_drawn_with_epochs_and_answers_in_between(drawn, home):
    """Each of which wants to know what was named: an epoch, a ranking, a row, and none."""
    data = events("softmax")

    def each(eng):
        which = eng.seq // 100 % 4
        if which == 0:
            eng.checkpoint()
        elif which == 1:
            asked = data[:3, 0]
            answer = eng.topk(asked, 50)
            np.testing.assert_allclose(answer.scores, eng.score(asked[:, None], answer.ids), rtol=1e-5, atol=1e-6)
        elif which == 2:
            rows.append(eng.vectors(items=data[:20, 1]))

    rows: list[np.ndarray] = []
    digest = learn(":memory:", "softmax", data, 100, each)[0]
    assert learn(home, "softmax", data, 100, each, device="cuda", hot_bytes=ALL)[0] == digest
    np.testing.assert_array_equal(*np.split(np.array(rows), 2))
    assert len(drawn) == 30
    with engine.open(home) as eng:
        assert eng.digest() == digest


@pytest.mark.parametrize("path", [":memory:", "disk"])  # in memory no epoch asks what was named
def test_drawn_until_there_is_no_room_for_all(path, drawn, home):
    """Then the host draws again, and knows of all that was named before any row leaves."""
    data = events("softmax")
    data = np.concatenate([data[data[:, 1] < np.median(data[:, 1])], data])
    digest = learn(":memory:", "softmax", data, 300)[0]
    some = {"hot_bytes": room("softmax", 130)}
    if path == "disk":
        path, some["warm_bytes"] = home, 150 * 200 * 16 // 7
    found, stats = learn(path, "softmax", data, 300, device="cuda", **some)
    assert found == digest
    assert 600 < 4 * sum(drawn) < len(data) - 600  # events of steps whose negatives the device drew
    assert stats["items"]["hot_evicted"] > 50


def test_what_was_drawn_is_known_before_it_leaves(drawn):
    """One event a call, one item more each time: the first that leave were named by the device alone."""
    data = np.stack([np.arange(170) % 7, np.arange(170)], axis=1)
    law = {"batch_size": 1, "hot_bytes": room("softmax", 130), "device": "cuda"}

    def each(eng):
        if eng.seq == 120:
            eng.digest()  # RAM is up to date: what is named from here on is ahead of it for that alone

    found = learn(":memory:", "softmax", data, 1, each, **law)[0]
    assert found == learn(":memory:", "softmax", data, 1, batch_size=1)[0]
    assert len(drawn) == 130


def test_drawn_beside_everything_that_takes_rows_away(drawn, home):
    data = events("softmax", 2_000)
    ids = np.unique(data[:, 1])

    def each(eng):
        if eng.seq == 1_200:
            eng.forget(users=data[:9, 0], items=ids[[3, -1]])  # a gap, and an end
        eng.hide(ids[eng.seq // 100 % 7])

    more = {"row_ttl": 900, "admit_after": 2}
    for settings in ({}, more):
        drawn.clear()
        digest = learn(":memory:", "softmax", data, 100, each, **settings)[0]
        device = {"device": "cuda", "hot_bytes": ALL}
        path = home.with_name(f"{len(settings)} settings")
        assert learn(path, "softmax", data, 100, each, **device, **settings)[0] == digest
        assert drawn


def test_drawn_killed_and_replayed(drawn, home):
    data = events("softmax")
    with engine.open(home, dim=DIM, **LAWS["softmax"], device="cuda", hot_bytes=ALL) as eng:
        eng.ingest(*data[:900].T)
        eng.checkpoint()
        eng.ingest(*data[900:2000].T)
        shutil.copytree(home, home.with_name("killed"))  # as a process that is killed now leaves it
    with engine.open(home.with_name("killed"), device="cuda", hot_bytes=ALL) as eng:
        eng.ingest(*data[2000:].T)
        assert eng.digest() == learn(":memory:", "softmax", data, EVENTS)[0]


def test_drawn_for_large_steps(drawn, monkeypatch, home):
    monkeypatch.setattr(learning, "in_steps", lambda batch_size, negatives: False)
    data = events("softmax", 96, 12, 10)
    large = {"batch_size": 16}
    with (
        engine.open(":memory:", dim=DIM, **(LAWS["softmax"] | large)) as cpu,
        engine.open(home, dim=DIM, **(LAWS["softmax"] | large), device="cuda", hot_bytes=ALL) as gpu,
    ):
        for eng in (cpu, gpu):
            eng.ingest(*data.T)
        items = np.unique(data[:, 1])
        np.testing.assert_allclose(gpu.vectors(items=items), cpu.vectors(items=items), rtol=2e-5, atol=4e-6)
    assert drawn == [6]
