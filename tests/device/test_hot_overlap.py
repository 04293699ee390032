"""A window is under way while the next one is planned and its rows come: nothing is lost, and all of it comes in.

tests/late.py makes every copy as late as it may be made.
"""

import threading

import numpy as np
import pytest
from late import LateCopies
from test_hot_engine import DIM, EVENTS, LAWS, events, learn, room

import engine
import engine.device.device
import engine.log.record
import engine.writer
from engine.machine import backend


@pytest.mark.parametrize("calls", [200, EVENTS])
@pytest.mark.parametrize("name", LAWS)
def test_copies_that_come_as_late_as_they_may_lose_nothing(name, calls, monkeypatch, home):
    """Rows that a window changes, the next one evicts and the one after wants again, many windows to a record."""
    monkeypatch.setattr(engine.device.device, "Copies", LateCopies)
    data = events(name)
    need = {"softmax": 12, "bpr": 48}.get(LAWS[name]["loss"], 16)
    more = {"hot_bytes": room(name, need), "warm_bytes": 120 * 300 * 16 // 7}
    found, stats = learn(home, name, data, calls, device="cuda", **more)
    assert min(stats["users"]["hot_evicted"], stats["items"]["hot_evicted"]) > 100
    assert found == learn(":memory:", name, data, calls)[0]


@pytest.mark.parametrize("name", LAWS)
def test_losses_and_means_of_many_windows(name):
    """What comes in after the window's launch: the report's loss, what strangers get, and between records nothing."""
    data = events(name)
    need = {"softmax": 12, "bpr": 48}.get(LAWS[name]["loss"], 16)
    with (
        engine.open(":memory:", dim=DIM, **LAWS[name]) as cpu,
        engine.open(":memory:", dim=DIM, **LAWS[name], device="cuda", hot_bytes=room(name, need)) as gpu,
    ):
        for part in np.split(data, 3):
            a, b = (eng.ingest(*part.T) for eng in (cpu, gpu))
            np.testing.assert_allclose(b.loss, a.loss, rtol=1e-12)
            assert (a.events, a.new_users, a.new_items, a.seq) == (b.events, b.new_users, b.new_items, b.seq)
            np.testing.assert_array_equal(cpu._store.mean, gpu._device.mean)
            assert at_rest(gpu)
            for eng in (cpu, gpu):
                eng.forget(users=part[:, 0])  # of nobody there is no mean


def test_an_interrupt_after_the_last_record_leaves_nothing_under_way(home, monkeypatch):
    """In what follows a record's learning, which may take long: the epoch before. The Engine goes on."""
    monkeypatch.setattr(engine.log.record, "MAX_EVENTS", 64)
    data = events("softmax", 640)
    with engine.open(home, dim=DIM, **LAWS["softmax"], device="cuda") as eng:
        asked = iter([False] * 9 + [KeyboardInterrupt])

        def crowded():
            if answer := next(asked, False):
                raise answer
            return False

        eng._writer.epochs.crowded = crowded
        with pytest.raises(KeyboardInterrupt):
            eng.ingest(*data.T)
        assert at_rest(eng)
        assert eng.seq == 640
        eng.ingest(*data.T)
        digest = eng.digest()
    monkeypatch.undo()
    assert digest == learn(":memory:", "softmax", np.concatenate([data, data]), 640)[0]


def test_what_is_still_under_way_after_an_error_closes_the_engine(home, monkeypatch):
    data = events("softmax", 640)
    with engine.open(home, dim=DIM, **LAWS["softmax"], device="cuda") as eng:
        monkeypatch.setattr(engine.writer.Writer, "_wait", lambda self, learned: [][0])
        with pytest.raises(IndexError):
            eng.ingest(*data.T)
        monkeypatch.undo()
        with pytest.raises(engine.EngineError, match="close and open"):
            eng.checkpoint()
    with engine.open(home) as eng:
        assert eng.digest() == learn(":memory:", "softmax", data, 640)[0]


def test_strangers_get_the_mean_of_the_seq_that_they_are_told(monkeypatch, home):
    """While a call goes on, too: from its progress function, and so from any thread."""
    monkeypatch.setattr(engine.log.record, "MAX_EVENTS", 64)
    data, told = events("softmax", 640), {}
    for device in ("cpu", "cuda"):
        with engine.open(home.with_name(device), dim=DIM, **LAWS["softmax"], device=device) as eng:
            answers = told[device] = []
            eng.ingest(*data.T, progress=lambda *_, e=eng, to=answers: to.append(e.topk(10**6, 3)))
            loss = eng.ingest(*data.T).loss
            answers.append(eng.topk(10**6, 3))
            answers.append(loss)
    assert len(told["cpu"]) > 10
    for a, b in zip(told["cpu"][:-1], told["cuda"][:-1], strict=True):
        assert a.seq == b.seq
        np.testing.assert_allclose(b.scores, a.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["cuda"][-1], told["cpu"][-1], rtol=1e-12)


def test_a_new_user_is_not_read_before_it_was_learned():
    """The device comes up to date and RAM is read in one turn: a window between them would leave noise to be read."""
    with engine.open(":memory:", dim=DIM, **LAWS["softmax"], device="cuda") as eng:
        eng.ingest([1, 2, 3] * 30, [10, 11, 12] * 30)
        hot, refresh, threads = eng._device.users, eng._device.users.refresh, []

        def learned_meanwhile(ids=None):
            refresh(ids)
            if ids is not None and not threads:
                threads.append(threading.Thread(target=eng.ingest, args=([77] * 20, [10, 11] * 10)))
                threads[0].start()
                threads[0].join(0.5)  # it waits for the turn

        hot.refresh = learned_meanwhile
        with pytest.raises(engine.UnknownIdError):
            eng.vectors([77])
        threads[0].join()
        assert np.abs(eng.vectors([77])).max() > 0.01  # more than noise


@pytest.mark.skipif(backend.interpreted(), reason="needs a GPU's streams")
def test_callers_streams_are_their_own(home):
    """What a thread has as its current stream is of no account: the engine's kernels keep their own order."""
    torch, device = backend.require_device()
    data = events("softmax")
    with engine.open(home, dim=DIM, **LAWS["softmax"], device="cuda", hot_bytes=room("softmax", 40)) as eng:
        for start in range(0, EVENTS, 100):
            with torch.cuda.stream(torch.cuda.Stream(device)):
                eng.topk(data[start, 0], 3)
                eng.ingest(*data[start : start + 100].T)
            eng.vectors(data[start, 0])
        assert eng.digest() == learn(":memory:", "softmax", data, 100)[0]


def at_rest(eng):
    """Nothing is under way on the device, and all that left it has come."""
    return eng._device._steps._flying is None and not eng._device.users._leaving and not eng._device.items._leaving


@pytest.mark.parametrize("name", LAWS)
def test_a_record_comes_while_the_one_before_is_learned(name, monkeypatch, home):
    """A call of many records; what follows it, and an epoch in between, find nothing under way."""
    data = events(name)
    monkeypatch.setattr(engine.log.record, "MAX_EVENTS", 128)
    monkeypatch.setattr(engine.device.device, "Copies", LateCopies)
    found = {}
    for device in ("cpu", "cuda"):
        with engine.open(home.with_name(device), dim=DIM, **LAWS[name], device=device, epoch_seconds=1e9) as eng:
            if device == "cuda":
                apply, flying = eng._writer.apply, []

                def seen(*args, of=eng, apply=apply, flying=flying, **more):
                    flying.append(of._device._steps._flying is not None)
                    apply(*args, **more)

                eng._writer.apply = seen
            report = eng.ingest(*data[:1500].T)
            eng.ingest(*data[1500:2500].T, durable=False)
            found[device] = report.loss, report.seq, eng.digest(), eng.stats()["skipped_updates"]
            if device == "cuda":
                assert at_rest(eng)
                assert flying == [False, *[True] * 11, False, *[True] * 7]
    np.testing.assert_allclose(found["cuda"][0], found["cpu"][0], rtol=1e-12)
    assert found["cuda"][1:] == found["cpu"][1:]


def test_an_epoch_in_the_middle_of_a_record_waits_for_the_device(home):
    """It saves the mean, too, which comes in last."""
    data, rests = events("bpr"), []
    small = {"device": "cuda", "hot_bytes": room("bpr", 48), "warm_bytes": 120 * 200 * 16 // 7}
    with engine.open(home, dim=DIM, **LAWS["bpr"], **small) as eng:
        make_room = eng._writer._make_room

        def seen(seq):
            rests.append(at_rest(eng))
            make_room(seq)

        eng._writer._make_room = seen
        eng.ingest(*data.T)
        assert eng.digest() == learn(":memory:", "bpr", data, EVENTS)[0]
    assert len(rests) > 3
    assert all(rests)
