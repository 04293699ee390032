"""The engine with a device in front of RAM: the same answers and the same promises, whatever fits there.

Without a GPU the device is Triton's interpreter on the CPU: small steps then run in C++, with the CPU's own bits, and
kernels of Triton where there are few events. On a GPU the same tests run there.
"""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import engine
from engine.device import steps as learning
from engine.device.hot import hot_row_bytes
from engine.machine import backend

DIM = 8
EVENTS, USERS, ITEMS = 3_000, 300, 200
LAWS = {
    "softmax": {"loss": "softmax", "negatives": 8, "batch_size": 4},
    "bpr": {"loss": "bpr", "negatives": 2, "batch_size": 16},
    "logistic, adam": {"loss": "logistic", "optimizer": "adam", "batch_size": 16},
    "squared, sgd": {"loss": "squared", "optimizer": "sgd", "batch_size": 4, "l2": 0.01},
}


def events(law, n=EVENTS, users=USERS, items=ITEMS):
    rng = np.random.default_rng(5)
    draw = lambda size: (size * rng.random(n) ** 2).astype(np.int64)  # noqa: E731
    values = {"logistic": [rng.integers(0, 2, n)], "squared": [rng.integers(1, 6, n)]}.get(LAWS[law]["loss"], [])
    return np.stack([draw(users) * 3 - 98, draw(items) * 5 + 2**40, *values], axis=1)


def room(law, rows):
    """`hot_bytes` for so many rows of each table."""
    return 2 * rows * hot_row_bytes(DIM, LAWS[law].get("optimizer", "adagrad"))


def learn(path, law, data, calls=700, each=None, **more):
    with engine.open(path, dim=DIM, **(LAWS[law] | more)) as eng:
        for start in range(0, len(data), calls):
            eng.ingest(*data[start : start + calls].T, durable=False)
            if each:
                each(eng)
        return eng.digest(), eng.stats()


@pytest.fixture(scope="module", params=LAWS)
def law(request):
    """The name of a law, its stream, and the digest that the CPU gives."""
    data = events(request.param)
    return request.param, data, learn(":memory:", request.param, data)[0]


def test_small_steps_have_the_cpus_bits(law):
    name, data, digest = law
    assert learn(":memory:", name, data, device="cuda")[0] == digest


def test_a_twentieth_of_the_rows_on_the_device(law, home):
    name, data, digest = law
    need = {"softmax": 12, "bpr": 48}.get(LAWS[name]["loss"], 16)
    found, stats = learn(home, name, data, device="cuda", hot_bytes=room(name, need))
    assert found == digest
    assert stats["users"]["hot_capacity"] == need
    assert stats["items"]["hot_evicted"] > 100
    assert stats["users"]["hot_rows"] <= need


def test_an_epoch_after_each_call_and_little_ram(law, home):
    name, data, digest = law
    small = {"hot_bytes": room(name, 50), "warm_bytes": 120 * 200 * 16 // 7}
    found, stats = learn(home, name, data, device="cuda", each=lambda eng: eng.checkpoint(), **small)
    assert found == digest
    assert stats["epochs"] >= 4
    with engine.open(home, device="cuda", **small) as eng:
        assert eng.digest() == digest


def test_a_directory_goes_from_device_to_cpu_and_back(law, home):
    name, data, _ = law
    third = len(data) // 3
    learn(home, name, data[:third], device="cuda", calls=third)
    with engine.open(home) as eng:
        assert eng.stats()["device"] == "cpu"
        assert not eng.stats()["bit_exact"]  # another kind of device made it
        eng.ingest(*data[third : 2 * third].T)
    with engine.open(home, device="cuda") as eng:
        eng.ingest(*data[2 * third :].T)
        assert not eng.stats()["bit_exact"]  # and it stays so
        assert eng.digest() == learn(":memory:", name, data, calls=third)[0]


def test_bit_exact_where_one_kind_of_device_learned_it_all(home):
    data = events("bpr")
    learn(home, "bpr", data[:500], device="cuda")
    with engine.open(home, device="cuda") as eng:
        assert eng.stats()["bit_exact"]


WRITER = """
import sys, numpy as np, engine
path, hot, events = sys.argv[1:]
data = np.load(events)
with engine.open(path, dim=8, loss="bpr", negatives=2, batch_size=16, device="cuda", hot_bytes=int(hot),
                 epoch_seconds=0.1) as eng:
    for start in range(eng.seq, len(data), 64):
        eng.ingest(*data[start : start + 64].T, durable=False)
        print(eng.seq, flush=True)
"""


def test_killed_and_replayed(home, tmp_path):
    data = events("bpr")
    data = data[: len(data) // 64 * 64]
    np.save(tmp_path / "events.npy", data)
    command = [sys.executable, "-c", WRITER, os.fspath(home), str(room("bpr", 60)), os.fspath(tmp_path / "events.npy")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    for line in writer.stdout:
        if int(line) >= len(data) // 2:
            break
    writer.kill()
    writer.stdout.close()
    writer.wait()
    with engine.open(home, device="cuda", hot_bytes=room("bpr", 60)) as eng:
        assert len(data) // 2 <= eng.seq <= len(data)
        eng.ingest(*data[eng.seq :].T)
        digest = eng.digest()
    assert digest == learn(":memory:", "bpr", data, calls=64)[0]


def test_hide_forget_expiry_and_admission(home):
    """Everything that takes rows away, beside a device that holds copies of them."""
    data = events("softmax", 1_500)
    ids = np.unique(data[:, 1])

    def each(eng):
        k = eng.seq // 300 % 5
        eng.hide(ids[k : k + 3])
        eng.show(ids[k + 1 : k + 2])
        eng.forget(users=data[k * 11, 0], items=ids[10 + k])

    more = {"row_ttl": 400, "admit_after": 2}
    a = learn(":memory:", "softmax", data, calls=300, each=each, **more)[0]
    b, stats = learn(home, "softmax", data, calls=300, each=each, device="cuda", hot_bytes=room("softmax", 20), **more)
    assert a == b
    assert stats["expired_rows"] > 0


# --- kernels of Triton: large micro-batches


@pytest.fixture
def large_steps(monkeypatch):
    """Every micro-batch goes to the kernels of Triton, and few events are many."""
    monkeypatch.setattr(learning, "in_steps", lambda batch_size, negatives: False)


@pytest.mark.parametrize("name", LAWS)
def test_large_steps_agree_with_the_cpu(name, large_steps, home):
    data = events(name, 96, 12, 10)
    got = {}
    for path, more in ((":memory:", {}), (home, {"device": "cuda", "hot_bytes": room(name, 60)})):
        with engine.open(path, dim=DIM, **(LAWS[name] | {"batch_size": 16}), **more) as eng:
            losses = [eng.ingest(*part.T).loss for part in np.split(data, 3)]
            users, items = np.unique(data[:, 0]), np.unique(data[:, 1])
            got[path] = (
                losses,
                eng.vectors(users),
                eng.vectors(items=items),
                (eng._device or eng._store).mean,
                eng.score(users[0], items),
            )
    for a, b in zip(*got.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=4e-6)


def test_large_steps_depend_on_the_log_alone(large_steps, home):
    data = events("bpr", 128, 12, 10)
    plain = learn(":memory:", "bpr", data, calls=64, device="cuda")[0]
    small = {"device": "cuda", "hot_bytes": room("bpr", 48)}
    assert learn(home, "bpr", data, calls=64, each=lambda eng: eng.checkpoint(), **small)[0] == plain


# --- ranking


@pytest.fixture(scope="module")
def pair():
    """The same model on the CPU and on the device, some items hidden, some forgotten."""
    data = events("softmax")
    with (
        engine.open(":memory:", dim=DIM, **LAWS["softmax"]) as cpu,
        engine.open(":memory:", dim=DIM, **LAWS["softmax"], device="cuda", hot_bytes=room("softmax", 30)) as gpu,
    ):
        for eng in (cpu, gpu):
            eng.ingest(*data.T)
            eng.hide(np.unique(data[:, 1])[3:6])
            eng.forget(items=np.unique(data[:, 1])[8:11])
            eng.ingest(*data[:50].T)
        yield cpu, gpu, np.unique(data[:, 0]), np.unique(data[:, 1])


def same(a, b):
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.scores, b.scores, rtol=4e-6, atol=4e-6)
    close = np.isclose(a.scores, np.roll(a.scores, 1, -1), atol=1e-5) | np.isclose(
        a.scores, np.roll(a.scores, -1, -1), atol=1e-5
    )
    np.testing.assert_array_equal(a.ids[~close], b.ids[~close])


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"exclude_seen": True},
        {"exclude": "some"},
        {"include": "some"},
        {"include": "some", "exclude_seen": True},
        {"exclude": "each"},
        {"include": "each", "exclude": "some"},
        {"include": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [1, 7, 300])
def test_topk_is_the_cpus(pair, filters, k):
    cpu, gpu, users, items = pair
    rng = np.random.default_rng(0)
    asked = np.append(users[:5], 12345)
    lists = {"some": rng.choice(items, 30), "each": [rng.choice(items, 20) for _ in asked], "none": np.array([1])}
    filters = {name: lists.get(x, x) if isinstance(x, str) else x for name, x in filters.items()}
    same(cpu.topk(asked, k, **filters), gpu.topk(asked, k, **filters))


def test_the_other_reads(pair):
    cpu, gpu, users, items = pair
    shown = items[:3]
    np.testing.assert_array_equal(cpu.vectors(users), gpu.vectors(users))
    np.testing.assert_array_equal(cpu.vectors(items=shown), gpu.vectors(items=shown))
    np.testing.assert_array_equal(cpu.score(users[:4, None], shown), gpu.score(users[:4, None], shown))
    np.testing.assert_array_equal(cpu.similar(shown, 5).ids, gpu.similar(shown, 5).ids)
    assert gpu.topk(vectors=np.zeros(DIM), k=3).ids.shape == (3,)


def test_ratings_rank_as_predicted():
    data = events("squared, sgd", 600)
    with engine.open(":memory:", dim=DIM, **LAWS["squared, sgd"], device="cuda") as eng:
        eng.ingest(*data.T)
        found = eng.topk(data[0, 0], 5)
        np.testing.assert_allclose(found.scores, eng.score(data[0, 0], found.ids), rtol=1e-5, atol=1e-5)


def test_read_your_writes_and_reads_change_nothing():
    data = events("bpr")
    with engine.open(":memory:", dim=DIM, **LAWS["bpr"], device="cuda", hot_bytes=room("bpr", 60)) as eng:
        eng.ingest(*data.T)
        before = eng.digest()
        user, item = data[0]
        was = eng.topk(user, 1, include=[item]).scores[0]
        assert eng.digest() == before
        for _ in range(3):
            eng.ingest([user] * 20, [item] * 20)
            now = eng.topk(user, 1, include=[item]).scores[0]
            assert now > was
            was = now
        assert eng.topk(user, 3, include=[10**15]).counts == 0
        eng.ingest(user, 10**15)
        assert eng.topk(user, 3, include=[10**15]).ids[0] == 10**15


def test_readers_beside_a_writer():
    """Answers come while it learns, all of finite rows, none of a hidden item; and none is lost in a deadlock."""
    data = events("softmax")
    items = np.unique(data[:, 1])
    hidden = items[:20]
    with engine.open(":memory:", dim=DIM, **LAWS["softmax"], device="cuda", hot_bytes=room("softmax", 40)) as eng:
        eng.ingest(*data[:500].T)
        eng.hide(hidden)
        failed, stop = [], threading.Event()

        def read():
            rng = np.random.default_rng(1)
            try:
                while not stop.is_set():
                    found = eng.topk(rng.choice(data[:, 0], 2), 5, exclude_seen=True)
                    assert np.isfinite(found.scores[found.ids != -1]).all()
                    assert not np.isin(found.ids, hidden).any()
                    eng.score(data[0, 0], data[:3, 1])
            except BaseException as e:
                failed.append(e)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in readers:
            thread.start()
        for start in range(500, 800, 100):
            eng.ingest(*data[start : start + 100].T)
            eng.forget(items=[items[20 + start // 100]])  # what comes next takes its place in the catalogue
        stop.set()
        for thread in readers:
            thread.join()
        assert not failed, failed


# --- what can go wrong


def test_a_device_that_fails_leaves_the_directory_intact(home, monkeypatch):
    data = events("bpr")
    with engine.open(home, dim=DIM, **LAWS["bpr"], device="cuda") as eng:
        eng.ingest(*data[:700].T)

        def fail(self, *args):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(learning.DeviceSteps, "_steps", fail)
        with pytest.raises(engine.DeviceError, match="illegal memory") as failed:
            eng.ingest(*data[700:1400].T)
        assert failed.value.seq == 1400  # it is in the log
        with pytest.raises(engine.EngineError, match="close and open"):
            eng.ingest(*data[1400:].T)
    monkeypatch.undo()
    with engine.open(home) as eng:
        assert eng.seq == 1400
        eng.ingest(*data[1400:2100].T)
        digest = eng.digest()
    assert digest == learn(":memory:", "bpr", data[:2100])[0]


def test_no_device_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(backend, "triton_missing", lambda: "no CUDA device")
    with pytest.raises(engine.DeviceError, match="device: got 'cuda', but no CUDA device"):
        engine.open(":memory:", device="cuda")


def test_hot_bytes_must_hold_a_step():
    with pytest.raises(engine.ConfigError, match=r"hot_bytes: room for 10 rows .* can need 12; wanted at least"):
        engine.open(":memory:", dim=DIM, **LAWS["softmax"], device="cuda", hot_bytes=room("softmax", 10))
    with pytest.raises(engine.ConfigError, match="hot_bytes: got int 1000, but device is 'cpu'"):
        engine.open(":memory:", device="cpu", hot_bytes=1000)
    with pytest.raises(engine.ConfigError, match="hot_bytes: got str 'much'"):
        engine.open(":memory:", device="cuda", hot_bytes="much")
    with engine.open(":memory:", dim=DIM, **LAWS["softmax"], device="cuda", hot_bytes=room("softmax", 12)) as eng:
        eng.ingest(*events("softmax", 100).T)


def test_the_newest_item_is_forgotten_or_expires(home):
    """Its ordinal is cut off the end of the catalogue, while the device is ahead of RAM."""
    digests = []
    for device in ("cpu", "cuda"):
        path = home.with_name(device)
        with engine.open(path, dim=DIM, **LAWS["softmax"], device=device, row_ttl=40) as eng:
            eng.ingest([1, 2, 3], [100, 101, 102])
            eng.forget(items=[102])
            eng.ingest([1, 2, 3], [103, 100, 104])
            eng.forget(items=[104, 103])
            for n in range(60):
                eng.ingest(n % 3, 100 + n % 5 * (n < 15))
            assert eng.stats()["expired_rows"] > 0
            digests.append(eng.digest())
        with engine.open(path, device=device) as eng:
            assert eng.digest() == digests[-1]
    assert digests[0] == digests[1]


def test_what_could_not_be_shown_is_shown_later(monkeypatch):
    data = events("softmax", 400)
    with engine.open(":memory:", dim=DIM, **LAWS["softmax"], device="cuda") as eng:
        eng.ingest(*data.T)
        eng.topk(data[0, 0], 3)
        eng.ingest([data[0, 0]] * 40, [10**9] * 40)
        with monkeypatch.context() as patch:
            patch.setattr(eng._device.catalogue, "publish", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                eng.topk(data[0, 0], 3)
        found = eng.topk(data[0, 0], 1)
        assert found.ids.tolist() == [10**9]
        np.testing.assert_allclose(found.scores, eng.score(data[0, 0], [10**9]), rtol=1e-5)


def test_a_window_that_failed_is_in_no_answer_and_in_no_epoch(home, monkeypatch):
    """What the device had learned of it never reaches RAM: its rows were not marked for the epoch that may run."""
    data = events("bpr", 200)
    with engine.open(home, dim=DIM, **LAWS["bpr"], device="cuda") as eng:
        eng.ingest(*data[:100].T)
        eng.checkpoint()
        monkeypatch.setattr(backend.native, "device_marked", lambda *args: [][0])
        with pytest.raises(IndexError):
            eng.ingest(*data[100:].T)
        monkeypatch.undo()
        assert eng._device.users.native.ahead == eng._device.items.native.ahead == 0
        with pytest.raises(engine.EngineError, match="close and open"):
            eng.topk(data[0, 0])
    with engine.open(home, device="cuda") as eng:
        assert eng.seq == 200
        assert eng.digest() == learn(":memory:", "bpr", data, calls=100)[0]


def test_what_is_refused_leaves_nothing_behind(home):
    wanted = {"dim": DIM, **LAWS["softmax"], "device": "cuda"}
    with pytest.raises(engine.ConfigError, match="hot_bytes"):
        engine.open(home, **wanted, hot_bytes=room("softmax", 10))
    assert not home.exists()
    with engine.open(home, **(wanted | {"batch_size": 100})) as eng:
        eng.ingest(*events("softmax", 200).T)
    with engine.open(home, batch_size=4, device="cuda", hot_bytes=room("softmax", 12)) as eng:  # the new one decides
        eng.ingest(*events("softmax", 200).T)
    for refused in ({"device": "cuda"}, {"hot_bytes": 10**6}):
        with pytest.raises(engine.ConfigError, match="mode 'r'"):
            engine.open(home, mode="r", **refused)


def test_cuda_that_was_not_built_is_told_at_opening(monkeypatch):
    monkeypatch.setattr(backend, "interpreted", lambda: False)
    monkeypatch.setattr(backend, "triton_missing", lambda: "")
    monkeypatch.setattr(backend, "cuda_missing", lambda: "not built, which takes nvcc")
    with pytest.raises(engine.DeviceError, match="which takes nvcc"):
        engine.open(":memory:", device="cuda")
