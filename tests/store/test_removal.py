"""Hiding, forgetting and expiry: what is visible at once, what is gone from the files, and what may not be harmed."""

import shutil
import threading

import numpy as np
import pytest
from junk import but, refused
from other_process import other_process

import engine
from engine.table.layout import vector_floats, warm_row_bytes

SMALL = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 2, "seed": 3, "epoch_seconds": 1e9}
SEQUENCE = {"loss": "softmax", "bag": 2, "repeats": 1, "own_negatives": 2, "neighbours": 3}
TINY = 24 * warm_row_bytes(vector_floats(8, "adagrad")) * 16 // 7


def everything(eng, k=500):
    return set(eng.topk(vectors=np.zeros(8), k=k).ids.tolist()) - {-1}


@pytest.fixture(params=["memory", "warm", "cold", "tiny"])
def shop(request, home, stream):
    """(an engine that has learned, its users, its items): rows in memory, in RAM, in LMDB, or most of them in LMDB."""
    users, items = stream(300)
    path = ":memory:" if request.param == "memory" else home
    more = {"warm_bytes": TINY} if request.param == "tiny" else {}
    eng = engine.open(path, **SMALL, **more)
    eng.ingest(users, items)
    if request.param == "cold":
        eng.checkpoint()
        eng.close()
        eng = engine.open(path, **SMALL)
    with eng:
        yield eng, users, items


def test_hidden_items_are_not_ranked(shop):
    eng, users, items = shop
    all_items, hidden = set(items.tolist()), sorted(set(items.tolist()))[::3]
    scores, vectors = eng.score(users[0], hidden), eng.vectors(items=hidden)
    eng.hide(hidden)
    assert everything(eng) == all_items - set(hidden)
    assert eng.topk(users[0], 5, include=hidden).counts == 0
    np.testing.assert_array_equal(eng.score(users[0], hidden), scores)
    np.testing.assert_array_equal(eng.vectors(items=hidden), vectors)
    eng.ingest(users[:20], items[:20])
    assert everything(eng) == all_items - set(hidden)
    eng.show(hidden[0])
    assert everything(eng) == all_items - set(hidden[1:])
    assert eng.topk(users[0], 5, include=hidden).ids[0] == hidden[0]
    eng.show(hidden)
    assert everything(eng) == all_items


def test_an_item_may_be_hidden_before_it_is_one(shop):
    eng, users, _ = shop
    eng.hide([17, 18])
    eng.ingest(users[:2], [17, 18])
    assert not everything(eng) & {17, 18}
    assert len(eng.vectors(items=[17, 18])) == 2
    eng.show(17)
    assert everything(eng) & {17, 18} == {17}


def test_forgotten_ids_are_strangers_at_once(shop):
    eng, users, items = shop
    rows = eng.stats()["users"]["rows"], eng.stats()["items"]["rows"]
    some_users, some_items = np.unique(users)[::4], np.unique(items)[1::4]
    eng.forget(users=some_users, items=some_items)
    assert everything(eng) == set(items.tolist()) - set(some_items.tolist())
    for call in (lambda: eng.vectors(some_users), lambda: eng.vectors(items=some_items)):
        with pytest.raises(engine.UnknownIdError):
            call()
    left = np.setdiff1d(users, some_users)
    for user in left:
        had = set(items[users == user].tolist()) - set(some_items.tolist())
        seen = everything(eng) - set(eng.topk(user, 500, exclude_seen=True).ids.tolist())
        assert seen == had
    for user in some_users:  # strangers: nothing seen
        assert set(eng.topk(user, 500, exclude_seen=True).ids.tolist()) - {-1} == everything(eng)
    found = eng.stats()["users"]["rows"], eng.stats()["items"]["rows"]
    assert found == (rows[0] - len(some_users), rows[1] - len(some_items))


def test_a_forgotten_id_that_comes_again_is_new(shop):
    eng, users, items = shop
    user, item = users[0], items[0]
    fresh = engine.open(":memory:", **SMALL)
    fresh.ingest(user, item)
    eng.hide(item)
    eng.forget(user, item)
    eng.ingest(user, item, weights=0)
    np.testing.assert_array_equal(eng.vectors(items=item), fresh.vectors(items=item))  # as at first sight
    assert item in everything(eng)
    assert everything(eng) - set(eng.topk(user, 500, exclude_seen=True).ids.tolist()) == {item}
    eng.checkpoint()
    assert item in everything(eng)


def test_forgetting_everything_and_beginning_anew(shop):
    eng, users, items = shop
    eng.forget(users, items)
    assert eng.topk(users[0], 3).counts == 0
    assert eng.stats()["users"]["rows"] == eng.stats()["items"]["rows"] == 0
    eng.ingest(users, items)
    eng.checkpoint()
    assert everything(eng) == set(items.tolist())


def test_new_items_take_the_lowest_free_places(memory):
    memory.ingest(np.arange(10), np.arange(10))
    memory.forget(items=[2, 5, 9])
    catalogue = memory._store.catalogue
    assert len(catalogue) == 9  # the last place is no gap
    memory.ingest([1, 1, 1, 1], [20, 21, 22, 23])
    assert catalogue.ordinals(np.array([20, 21, 22, 23])).tolist() == [2, 5, 9, 10]


def test_unknown_and_repeated_ids_change_no_row(shop):
    eng, users, items = shop
    before = eng.vectors(users), eng.vectors(items=items)
    eng.forget(users=[12345, 12345], items=[54321])
    eng.show([1, 2])
    eng.forget(items=[])
    np.testing.assert_array_equal(eng.vectors(users), before[0])
    np.testing.assert_array_equal(eng.vectors(items=items), before[1])


JUNK = but("two-dimensional", "three-dimensional", "set")  # a set of ids is taken


def test_bad_ids_are_refused_whole(memory):
    memory.ingest([1, 2], [3, 4])
    before = memory.digest()
    for junk in JUNK[1:]:
        refused("items", lambda junk=junk: memory.hide(junk))
        refused("items", lambda junk=junk: memory.show(junk))
        refused("users", lambda junk=junk: memory.forget(junk))
        refused("items", lambda junk=junk: memory.forget([1], junk))
    refused("users, items", lambda: memory.forget())
    refused("items", lambda: memory.hide(None))
    refused("items", lambda: memory.show(None))
    refused("items", lambda: memory.hide([3, -1]))
    assert memory.digest() == before


# --- bytes


def pieces(vectors):
    """Every eight bytes of each vector."""
    raw = np.ascontiguousarray(vectors, np.float32).tobytes()
    return {raw[at : at + 8] for at in range(0, len(raw) - 7, 4)}


def spellings(id):
    wide = (int(id) + (1 << 63)).to_bytes(8, "big")
    return {
        int(id).to_bytes(8, "little", signed=True),
        int(id).to_bytes(8, "big", signed=True),
        wide,
        wide[::-1],
        b"%d" % id,
    }


def found_in(home, needles):
    return {
        (file.name, needle)
        for file in home.rglob("*")
        if file.is_file()
        for needle in needles
        if needle in file.read_bytes()
    }


@pytest.mark.parametrize("how", ["at once", "reopened", "twice", "tiny", "sequence", "tiny sequence"])
def test_no_byte_of_a_forgotten_id_stays_in_the_files(home, stream, how):
    users, items = stream(600)
    # One that is hot and one that is in few rows; ids whose digits and bytes are nobody else's.
    user, item, other = 7654321987654321, 8765432198765432, -6543219876543219
    users[::7], items[3::11], items[5] = user, item, other
    needles = set()

    def remember(eng):
        needles.update(pieces(eng.vectors(user)) | pieces(eng.vectors(items=[item, other])))

    few = {"warm_bytes": TINY} if how == "tiny" else {}
    if "sequence" in how:  # histories and the neighbours of other items name them, too
        few = SEQUENCE | ({"warm_bytes": 4 * TINY, "batch_size": 1} if how.startswith("tiny") else {})
    eng = engine.open(home, **SMALL | few)
    for start in range(0, 600, 100):
        eng.ingest(users[start : start + 100], items[start : start + 100])
        remember(eng)
        eng.checkpoint()
    eng.hide([item, 99])
    ids = spellings(user) | spellings(item) | spellings(other)
    assert len(found_in(home, needles | ids)) > 10
    eng.forget(user, [item, other])
    if how == "twice":
        eng.checkpoint()
        eng.ingest(user, item)
        eng.ingest([user, 8], [other, item])
        remember(eng)
        eng.forget(user, [item, other])
    if how == "reopened":
        eng.close()
        eng = engine.open(home, **SMALL)
    with eng:
        eng.checkpoint()
        assert found_in(home, needles | ids) == set()
        digest, seq = eng.digest(), eng.seq
        eng.ingest(5, 99)
        assert 99 not in everything(eng)
    engine.verify(home)
    with engine.open(home) as eng:
        assert eng.seq == seq + 1
        assert found_in(home, needles | ids) == set()
    assert digest


def test_settings_and_positions_survive_the_emptied_log(home):
    with engine.open(home, **SMALL, lr=0.5) as eng:
        eng.ingest([1, 2], [3, 4], position=("shop", b"two"))
    with engine.open(home, lr=0.25) as eng:
        eng.forget(1)
        eng.checkpoint()
        assert eng.stats()["log_bytes"] == 0
        digest = eng.digest()
    with engine.open(home) as eng:
        assert (eng.settings["lr"], eng.position("shop"), eng.digest(), eng.seq) == (0.25, b"two", digest, 2)


def test_readers_follow(home, stream):
    users, items = stream(300)
    with engine.open(home, **SMALL) as eng:
        eng.ingest(users, items)
        eng.checkpoint()
        with other_process() as reader:
            reader(f"eng = engine.open({str(home)!r}, mode='r')")
            reader("everything = lambda: set(eng.topk(vectors=np.zeros(8), k=500).ids.tolist()) - {-1}")
            steps = [
                lambda: eng.hide([items[0], 99]),
                lambda: eng.forget(users[1], items[1:9]),
                lambda: eng.ingest([5, 6, 7], [98, 99, 100]),
                lambda: eng.forget(items=np.unique(items)[-3:]),
                lambda: eng.ingest(np.arange(40), np.arange(1000, 1040)),
                lambda: eng.show(items[0]),
                lambda: eng.ingest([5, 6, 7], [98, 99, 100]),
                lambda: eng.forget(users, items),
            ]
            for step in steps:
                step()
                eng.checkpoint()
                assert set(reader("sorted(everything())")) == everything(eng)
                assert reader("eng.digest()") == eng.digest()
            assert reader("eng.stats()")["moves"]["followed"] > 0


@pytest.mark.parametrize("step", ["compact", "empty", "write"])
def test_a_purge_that_was_cut_off_is_done_by_the_next_checkpoint(home, monkeypatch, step):
    with engine.open(home, **SMALL) as eng:
        eng.ingest([111222333444555, 2], [3, 4])
        eng.forget(111222333444555)
        part = eng._directory.log if step == "empty" else eng._directory.cold
        calls = []
        plain = getattr(part, step)

        def fails(*args):
            calls.append(args)
            if step == "write" and len(calls) == 1:
                return plain(*args)
            raise engine.StorageFullError("no room")

        monkeypatch.setattr(part, step, fails)
        with pytest.raises(engine.StorageFullError):
            eng.checkpoint()
        digest = eng.digest()
    with engine.open(home) as eng:
        assert eng.digest() == digest
        eng.checkpoint()
        assert found_in(home, spellings(111222333444555)) == set()
        generation = eng.stats()["lmdb"]["generation"]
        eng.checkpoint()
        assert eng.stats()["lmdb"]["generation"] == generation  # and only once


# --- epochs


def test_a_row_that_comes_again_before_the_epoch_is_kept(home):
    with engine.open(home, **SMALL) as eng:
        eng.ingest([1, 1, 2], [10, 11, 10])
        eng.checkpoint()
        eng.forget(1, 10)
        eng.ingest([1, 1], [10, 12])
        digest = eng.digest()
        eng.checkpoint()
        assert eng.digest() == digest
    with engine.open(home) as eng:
        assert eng.digest() == digest
        assert everything(eng) - set(eng.topk(1, 9, exclude_seen=True).ids.tolist()) == {10, 12}
        assert everything(eng) - set(eng.topk(2, 9, exclude_seen=True).ids.tolist()) == set()


def test_removal_waits_for_the_epoch_that_runs(home, monkeypatch):
    with engine.open(home, **SMALL) as eng:
        eng.ingest([1, 2], [10, 11])
        writes, go_on = threading.Event(), threading.Event()
        write = eng._directory.cold.write

        def wait(*args):
            writes.set()
            go_on.wait()
            write(*args)

        monkeypatch.setattr(eng._directory.cold, "write", wait)
        eng._writer.begin_epoch()
        writes.wait()
        forgets = threading.Thread(target=eng.forget, args=(1, 10))
        forgets.start()
        assert len(eng.vectors(1)) == 1  # still there: what is frozen stays until it is written
        go_on.set()
        forgets.join()
        with pytest.raises(engine.UnknownIdError):
            eng.vectors(1)
        digest = eng.digest()
        eng.checkpoint()
        assert eng.digest() == digest


@pytest.mark.parametrize("scan", ["scan", "scan_raw"])
def test_a_digest_does_not_see_what_is_deleted_while_it_reads(home, monkeypatch, scan):
    with engine.open(home, **SMALL) as eng:
        eng.ingest([1, 2, 3], [10, 11, 12])
        eng.checkpoint()
        eng.forget(1, 10)
        digest = eng.digest()
        cold = eng._directory.cold
        write, read, go_on = cold.write, getattr(cold, scan), threading.Event()

        def wait(*args):
            go_on.wait()
            write(*args)

        def commit_meanwhile(*args):
            steps = read(*args)
            first = next(steps)
            go_on.set()
            eng._writer.epochs._worker.drain()
            yield first
            yield from steps

        monkeypatch.setattr(cold, "write", wait)
        monkeypatch.setattr(cold, scan, commit_meanwhile)
        eng._writer.begin_epoch()
        assert eng.digest() == digest


def test_a_failed_epoch_keeps_what_was_to_be_deleted(home, monkeypatch):
    with engine.open(home, **SMALL) as eng:
        eng.ingest([1, 2], [10, 11])
        eng.hide(12)
        eng.checkpoint()
        eng.forget(1, 10)
        eng.show(12)
        eng.hide(13)
        digest = eng.digest()

        def fails(*_):
            raise engine.StorageFullError("no room")

        monkeypatch.setattr(eng._directory.cold, "write", fails)
        with pytest.raises(engine.StorageFullError):
            eng.checkpoint()
        shutil.copytree(home, home.with_name("killed"))
        monkeypatch.undo()
        assert eng.digest() == digest
        eng.checkpoint()
        assert eng.digest() == digest
    for path in (home, home.with_name("killed")):
        with engine.open(path) as eng:
            assert eng.digest() == digest


# --- rows that nobody touches


def test_untouched_rows_leave_when_the_log_says_so(shop):
    eng, users, items = shop
    eng.close()
    with engine.open(":memory:", **SMALL, row_ttl=40) as eng:
        last: dict[str, dict[int, int]] = {"users": {}, "items": {}}
        for at in range(300):
            eng.ingest(users[at], items[at])
            seq = at + 1
            last["users"][int(users[at])] = last["items"][int(items[at])] = seq
            if seq % 10 == 0 and seq >= 40:
                last = {side: {id: s for id, s in seen.items() if seq - s < 40} for side, seen in last.items()}
            if at % 23 == 0:
                assert everything(eng) == set(last["items"])
                known = np.array(list(last["users"]), np.int64)
                assert len(eng.vectors(known)) == eng.stats()["users"]["rows"] == len(known)
                assert eng.stats()["items"]["rows"] == len(last["items"])


def test_a_flood_of_made_up_ids_leaves_the_disk_bounded_and_real_rows_alone(home):
    """A hundred times as many made-up ids as real ones. That a real row never left shows in its count: a row that was
    made again would begin at 0."""
    rng = np.random.default_rng(1)
    real, turns, flood = np.arange(1, 65), 40, 400
    most = len(real) + 3 * flood  # of those named in the last 800 + 200 events
    sizes = []
    with engine.open(home, **SMALL | {"loss": "softmax"}, row_ttl=800) as eng:
        for _ in range(turns):
            made_up = rng.integers(10**9, 10**15, flood)
            eng.ingest(np.concatenate([real, made_up]), np.concatenate([real, made_up + 1]), durable=False)
            eng.checkpoint()
            stats = eng.stats()
            assert max(stats["users"]["rows"], stats["items"]["rows"], len(eng._store.catalogue)) <= most
            sizes.append(stats["lmdb"]["file_bytes"])
        assert max(sizes[turns // 2 :]) <= 1.1 * max(sizes[: turns // 2])
        for table in eng._store.tables:
            found, rows = table.peek(real)
            assert found.all()
            counts = np.ascontiguousarray(rows[:, table.warm.seq_offset + 8 :][:, :4]).view(np.uint32)[:, 0]
            assert counts.tolist() == [turns] * len(real)
        for user in (1, 33, 64):
            assert everything(eng, most) - set(eng.topk(user, most, exclude_seen=True).ids.tolist()) == {user}
        digest = eng.digest()
    engine.verify(home)
    with engine.open(home) as eng:
        assert eng.digest() == digest


def test_readers_beside_removal(memory):
    """No item that is excluded and none twice, however places are freed and filled meanwhile."""
    stop, errors, answers = threading.Event(), [], 0

    def read():
        nonlocal answers
        try:
            while not stop.is_set():
                ids = memory.topk(vectors=np.zeros((3, 8)), k=30, exclude=[7]).ids
                for id in ids[0][ids[0] != -1].tolist():
                    assert id != 7
                assert len(set(ids[0].tolist()) - {-1}) == (ids[0] != -1).sum()
                answers += 1
                some = ids[0][:2][ids[0][:2] != -1]
                try:
                    assert memory.vectors(items=some).shape == (len(some), 8)
                    assert memory.similar(some, 5).ids.shape == (len(some), 5)
                except engine.UnknownIdError:
                    pass  # forgotten meanwhile
        except BaseException as e:
            errors.append(e)

    memory.ingest(np.arange(40), np.arange(40))
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(0)
    turn = 0
    while turn < 150 or (answers < 20 and not errors):
        memory.forget(items=rng.integers(0, 60, 20))
        memory.ingest(rng.integers(0, 9, 20), rng.integers(0, 60, 20))
        turn += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_many_single_changes_before_an_epoch(home, monkeypatch):
    """They are put together now and then; each comes to LMDB, the last one of an item counts."""
    monkeypatch.setattr("engine.store.removal._PARTS", 3)
    with engine.open(home, dim=4, epoch_seconds=1e9) as eng:
        for item in range(20):
            eng.hide([item, 100 - item])
            eng.show([item // 2])
        eng.checkpoint()
        hidden = eng.hidden().tolist()
        assert hidden == [*range(10, 20), *range(81, 101)]
    with engine.open(home, mode="r") as reader:
        assert reader.hidden().tolist() == hidden
