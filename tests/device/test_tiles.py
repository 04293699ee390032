"""A catalogue that the device has no room for: ranked in tiles from RAM, with the answers of one that it holds.

Most of it is about how the catalogue is cut, so the kernel is numpy's there; a few go through Triton's. In what order
tiles are copied and ranked: test_tile_copies.py.
"""

import threading

import numpy as np
import pytest
import torch

import engine
import engine.device.device
from engine.contract.errors import DeviceError
from engine.device import catalogue as ranking
from engine.device import tiles
from engine.device.catalogue import DeviceCatalogue
from engine.device.copies import Copies
from engine.device.hot import HotTier, Turn
from engine.machine.backend import native, require_device
from engine.store.catalogue import Ask, Catalogue
from engine.table.table import Table

DIM = 8
END = 230  # ordinals; the last tile is cut
NOTHING = {"query_biases": None, "exclude_all": None, "exclude": (None, None), "include": (None, None)}
PER_ITEM = tiles.item_bytes(DIM) + 8


def numpys(queries, vectors, biases, ids, k, *, allowed, ranking=None):
    """score_topk with every item scored by itself."""
    device = queries.device
    queries, vectors, biases, ids, allowed = (x.cpu().numpy() for x in (queries, vectors, biases, ids, allowed))
    scores = (queries[:, None] * vectors[None, :, :DIM]).sum(-1) + biases
    bits = np.unpackbits(allowed.view(np.uint8), axis=1, bitorder="little")[:, : len(ids)].astype(bool)
    found = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32), np.zeros(len(queries), int)
    for q, ok in enumerate(np.broadcast_to(bits, scores.shape)):
        (left,) = np.nonzero(ok)
        best = left[np.lexsort((ids[left], -scores[q, left]))][:k]
        found[0][q, : len(best)], found[1][q, : len(best)], found[2][q] = ids[best], scores[q, best], len(best)
    return tuple(torch.from_numpy(x).to(device) for x in found)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(ranking, "score_topk", numpys)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiles and blocks of 64 items."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 64 * tiles.item_bytes(DIM))
    monkeypatch.setattr(ranking, "_BLOCK", 64)


def items(seed=0):
    """ids, ordinals and rows as they are stored: some gaps, many vectors twice, in either order of ids."""
    rng = np.random.default_rng(seed)
    ordinals = np.sort(np.append(rng.choice(END - 1, END - 20, replace=False), END - 1))
    ids = rng.permutation(len(ordinals)) * 3 - 200
    ids[ids == -1] = 10**9
    floats = rng.integers(-3, 4, (len(ids), DIM + 1)).astype(np.float32)
    floats[len(ids) // 2 :] = floats[: -(len(ids) // 2)]
    rows = np.zeros((len(ids), 4 * (DIM + 1) + 24), np.uint8)
    rows[:, : 4 * (DIM + 1)] = floats.view(np.uint8)
    rows[:, -8:] = ordinals[:, None].view(np.uint8)
    return ids, ordinals, rows


def filled(catalogue, seed=0):
    ids, _, rows = items(seed)
    hidden = np.sort(ids[5:9])
    catalogue.restore([(ids, rows)], len(ids), END, [(hidden, rows[:4])], len(hidden))
    return catalogue


def before(host, room):
    """A device's catalogue in front of a host's, with a tier for items that has none."""
    copies, warm = Copies(*require_device()), native.Warm(DIM + 1, 64, True)
    tier = HotTier(Table("items", 2, warm, None), 64, True, copies, Turn(), host.native)
    return DeviceCatalogue(host, tier, copies, room)


def on_device(room, seed=0):
    catalogue = before(filled(Catalogue(DIM), seed), room)
    catalogue.fill()
    return catalogue


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def queries(n):
    return np.random.default_rng(n).integers(-2, 3, (n, DIM)).astype(np.float32)


def filters(name, n):
    rng = np.random.default_rng(7)
    some = np.sort(rng.choice(END, 90, replace=False))
    each = [np.sort(rng.choice(END, m, replace=False)) for m in rng.integers(0, 120, n)]
    csr = np.concatenate(each), np.cumsum([0, *map(len, each)])
    return {
        "none": {},
        "exclude all": {"exclude_all": some},
        "exclude": {"exclude": csr},
        "include": {"include": (some, None)},
        "include each": {"include": csr, "exclude_all": some},
        "both": {"include": csr, "exclude": csr},
    }[name]


FILTERS = ["none", "exclude all", "exclude", "include", "include each", "both"]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("held", [0, 64, 192])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_how_it_is_cut_changes_no_bit(plain, name, held, k):
    whole, cut = on_device(10**6), on_device(held * PER_ITEM)
    assert not whole.stats()["catalogue_tiled"]
    assert cut.stats()["catalogue_tiled"]
    for n in (1, 9):
        task = NOTHING | filters(name, n) | {"cosine": False, "threads": 1}
        for end in (END, 193, 64, 1):
            same(cut.topk(Ask(queries(n), k, end, **task)), whole.topk(Ask(queries(n), k, end, **task)))


def test_queries_with_lists_are_answered_some_at_a_time(plain, monkeypatch):
    task = NOTHING | filters("exclude", 9) | {"cosine": False, "threads": 1}
    found = on_device(64 * PER_ITEM).topk(Ask(queries(9), 5, END, **task))
    monkeypatch.setattr(ranking, "_FILTER_WORDS", 5)
    same(on_device(64 * PER_ITEM).topk(Ask(queries(9), 5, END, **task)), found)


@pytest.mark.parametrize(("name", "n", "k"), [("none", 1, 70), ("exclude", 3, 1), ("both", 9, 3)])
def test_the_kernels_bits_and_the_cpus_answers(name, n, k):
    task = NOTHING | filters(name, n) | {"cosine": False, "threads": 1}
    found = on_device(64 * PER_ITEM).topk(Ask(queries(n), k, END, **task))
    same(found, on_device(10**6).topk(Ask(queries(n), k, END, **task)))
    same(found, filled(Catalogue(DIM)).topk(Ask(queries(n), k, END, **task)))  # small whole numbers: no rounding


def test_other_reads_and_no_items():
    cut, cpu = on_device(64 * PER_ITEM), filled(Catalogue(DIM))
    task = NOTHING | {"cosine": True, "threads": 1}
    same(cut.topk(Ask(queries(2), 5, END, **task)), cpu.topk(Ask(queries(2), 5, END, **task)))
    same(cut.read(np.arange(60, 70)), cpu.read(np.arange(60, 70)))
    empty = before(Catalogue(DIM), 0)
    assert empty.topk(Ask(queries(2), 5, 0, **(task | {"cosine": False})))[2].tolist() == [0, 0]
    assert empty.stats() == {"device_catalogue_bytes": 0, "device_catalogue_items": 0, "catalogue_tiled": False}


def test_a_bound_that_just_holds_it_all():
    assert not on_device(256 * PER_ITEM).stats()["catalogue_tiled"]
    assert on_device(192 * PER_ITEM).stats() == {
        "device_catalogue_bytes": 192 * tiles.item_bytes(DIM),
        "device_catalogue_items": 192,
        "catalogue_tiled": True,
    }


def test_out_of_memory_while_it_grows(plain, monkeypatch):
    """What there was room for stays, and the rest is ranked in tiles; another error leaves all as it was."""
    monkeypatch.setattr(ranking, "_FIRST_ITEMS", 64)
    task = NOTHING | {"cosine": False, "threads": 1}
    whole = on_device(10**6)
    wanted = whole.topk(Ask(queries(3), 20, END, **task))
    real = tiles.room

    def full(torch, items, dim, **where):
        if items > 64 and items != small_tile:
            raise failure
        return real(torch, items, dim, **where)

    small_tile = 128
    monkeypatch.setattr(tiles, "TILE_BYTES", small_tile * tiles.item_bytes(DIM))
    monkeypatch.setattr(ranking, "room", full)
    failure = torch.OutOfMemoryError("planted")
    cut = on_device(10**6)
    assert cut.stats()["device_catalogue_items"] == 64
    same(cut.topk(Ask(queries(3), 20, END, **task)), wanted)
    ordinals = np.arange(50, 90)
    rows = torch.ones((40, DIM + 1), device=require_device()[1])
    cut.publish(cut.native.ids(ordinals), ordinals, rows, np.arange(40)[::-1].copy())
    assert len(cut._ids) == 64
    assert cut._biases[50:64].tolist() == [1.0] * 14

    failure = RuntimeError("CUDA error: planted")
    with pytest.raises(DeviceError, match="planted"):
        on_device(10**6)


def test_the_best_of_two_parts():
    rng = np.random.default_rng(3)
    for _ in range(50):
        k, w = rng.integers(1, 12, 2)
        ids = rng.permutation(200)[: 4 * (k + w)].reshape(4, -1) - 100
        scores = rng.choice([-np.inf, -2.5, 0.0, 1.0, np.inf], ids.shape).astype(np.float32)
        parts, kept = [], []
        for part in (slice(0, k), slice(k, k + w)):
            counts = rng.integers(0, ids[:, part].shape[1] + 1, 4)
            best = np.full(ids[:, part].shape, -1), np.full(ids[:, part].shape, -np.inf, np.float32), counts
            for q, n in enumerate(counts):
                order = np.lexsort((ids[q, part][:n], -scores[q, part][:n]))
                best[0][q, :n], best[1][q, :n] = ids[q, part][:n][order], scores[q, part][:n][order]
            parts.append(tuple(map(torch.from_numpy, best)))
            kept.append(best)
        found = [x.numpy() for x in tiles.merged(torch, *parts)]
        for q in range(4):
            i, s = (np.concatenate([best[j][q, : best[2][q]] for best in kept]) for j in (0, 1))
            order = np.lexsort((i, -s))[:k]
            assert found[2][q] == len(order)
            np.testing.assert_array_equal(found[0][q], np.append(i[order], [-1] * (k - len(order))))
            np.testing.assert_array_equal(found[1][q], np.append(s[order], [-np.inf] * (k - len(order))))


# --- with an engine around it

LAW = {"dim": DIM, "loss": "bpr", "negatives": 2, "batch_size": 16, "device": "cuda"}


@pytest.fixture
def bound(monkeypatch):
    def to(held):
        monkeypatch.setattr(
            engine.device.device, "DeviceCatalogue", lambda *args: DeviceCatalogue(*args[:-1], held * PER_ITEM)
        )

    return to


def events(n, items, seed=5):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 50, n), rng.permutation(np.append(np.arange(items), rng.integers(0, items, n - items))) * 7


def answers(eng, **more):
    return [eng.topk(users, k, **more) for users, k in ((3, 10), (np.arange(5), 200), (4, 1))]


def test_an_engine_with_tiles_learns_and_ranks_as_one_without(bound, home, plain):
    """Growing past the bound while it learns, with items hidden and forgotten, then reopened."""
    users, ids = events(900, 180)
    found = []
    for held in (10**4, 64, 0):
        bound(held)
        path = home.with_name(str(held))
        got = []
        with engine.open(path, **LAW) as eng:
            for n, part in enumerate(np.array_split(np.arange(900), 6)):
                eng.ingest(users[part], np.minimum(ids[part], 7 * 30 * (n + 1)))
                if n == 3:
                    eng.hide(ids[:4])
                    eng.forget(items=np.unique(ids)[50:120:3])
                got += answers(eng) + answers(eng, exclude_seen=True)
            assert eng.stats()["catalogue_tiled"] == (held < 180)
            got.append(eng.digest())
        with engine.open(path, device="cuda") as eng:
            assert eng.stats()["device_catalogue_items"] == min(held, len(eng._store.catalogue))
            got += answers(eng, include=ids[20:90])
            eng.ingest(users[:40], ids[:40])
            got += answers(eng)
            got.append(eng.digest())
        found.append(got)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            if isinstance(a, str):
                assert a == b
            else:
                same((a.ids, a.scores, a.counts), (b.ids, b.scores, b.counts))


def test_read_your_writes_of_an_item_in_a_tile(bound):
    bound(64)
    users, ids = events(400, 150)
    with engine.open(":memory:", **LAW) as eng:
        eng.ingest(users, ids)
        newest = eng._store.catalogue.native.ids(np.array([len(eng._store.catalogue) - 1]))[0]
        was = eng.topk(7, 1, include=[newest]).scores[0]
        for _ in range(2):
            eng.ingest([7] * 30, [newest] * 30)
            assert eng.stats()["items"]["ahead_rows"] > 0
            found = eng.topk(7, 1, include=[newest, ids[0]])
            assert found.ids[0] == newest
            assert found.scores[0] > was
            np.testing.assert_allclose(found.scores[0], eng.score(7, newest), rtol=1e-5)
            was = found.scores[0]
        eng.ingest(7, 10**12)
        assert eng.topk(7, 1, include=[10**12]).ids[0] == 10**12


def test_growing_past_the_bound_beside_the_cpu(bound):
    """With Triton's kernel and what it keeps of ids, whose number, order and blocks change."""
    bound(64)
    users, ids = events(300, 90)
    with engine.open(":memory:", **LAW) as eng, engine.open(":memory:", **(LAW | {"device": "cpu"})) as cpu:
        for most, gone in ((30, 7), (90, 14), (90, 21), (64, 28)):
            for each in (eng, cpu):
                each.ingest(users, np.minimum(ids, most * 7))
                each.forget(items=[gone])
            assert eng.stats()["catalogue_tiled"] == (len(cpu._store.catalogue) > 64)
            a, b = eng.topk(5, 20), cpu.topk(5, 20)
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5, atol=1e-6)


def test_readers_beside_a_writer(bound, plain):
    """None waits for ever, and what was acknowledged before a call is in its answer."""
    bound(64)
    users, ids = events(900, 150)
    with engine.open(":memory:", **LAW) as eng:
        eng.ingest(users[:300], ids[:300])
        eng.ingest(3, 10**6 - 1)
        failed, stop, acknowledged = [], threading.Event(), [10**6 - 1]

        def read():
            try:
                while not stop.is_set():
                    newest = acknowledged[-1]
                    assert newest in eng.topk(3, 1, include=[newest]).ids
                    found = eng.topk(np.arange(3), 5, exclude_seen=True)
                    assert np.isfinite(found.scores[found.ids != -1]).all()
                    eng.score(3, acknowledged)
            except BaseException as e:
                failed.append(e)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in readers:
            thread.start()
        for n, start in enumerate(range(300, 900, 30)):
            eng.ingest(users[start : start + 30], ids[start : start + 30])
            eng.ingest(3, 10**6 + n)
            acknowledged.append(10**6 + n)
            eng.forget(items=ids[n])
        stop.set()
        for thread in readers:
            thread.join()
        assert not failed, failed
