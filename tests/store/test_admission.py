"""admit_after: an id gets a row at its n-th sighting, and what is not learned leaves no other trace.

The reference counts exactly, in a dictionary: with so few ids the sketch never counts too many.
"""

import shutil

import numpy as np
import pytest
from killed import kill

import engine
from engine.store import admission
from engine.table.layout import vector_floats, warm_row_bytes

SMALL = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 2, "seed": 3, "epoch_seconds": 1e9}
FEW = 24 * warm_row_bytes(vector_floats(8, "adagrad")) * 16 // 7


def learned_events(users, items, after):
    """Which events are learned, by exact counts."""
    counts, rows, learned = {}, set(), []
    for pair in zip(users.tolist(), items.tolist(), strict=True):
        sides = list(enumerate(pair))
        for side in sides:
            if side not in rows:
                counts[side] = counts.get(side, 0) + 1
        learned.append(all(side in rows or counts[side] >= after for side in sides))
        if learned[-1]:
            rows |= set(sides)
    return np.array(learned)


@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("step", [1, 7, 300])
def test_events_are_learned_from_the_nth_sighting_on(place, stream, after, step):
    users, items = stream(300, seed=after)
    learned = learned_events(users, items, after)
    with (
        engine.open(place, **SMALL | {"batch_size": 1}, admit_after=after) as eng,
        engine.open(":memory:", **SMALL) as all_,
    ):
        all_.ingest(users[learned], items[learned])
        for start in range(0, 300, step):
            part = slice(start, start + step)
            report = eng.ingest(users[part], items[part])
            assert report.events == len(users[part])
            assert report.unlearned == (~learned[part]).sum()
        assert eng.seq == 300
        assert eng.stats()["users"]["rows"] == all_.stats()["users"]["rows"]
        assert eng.stats()["items"]["rows"] == all_.stats()["items"]["rows"]
        if place != ":memory:":
            digest = eng.digest()
            kill(eng)
            with engine.open(place) as again:
                assert again.digest() == digest
        for user in np.unique(users[learned]) if place == ":memory:" else []:
            seen = set(items[learned & (users == user)].tolist())
            ranked = eng.topk(user, 100, exclude_seen=True).ids
            assert not seen & set(ranked.tolist())
            assert len(seen) + (ranked != -1).sum() == len(eng._store.catalogue)


def test_an_event_that_is_not_learned_keeps_its_known_side_alive(place):
    with engine.open(place, **SMALL, row_ttl=40, admit_after=2) as eng:
        eng.ingest([1, 1, 2, 2], [10, 10, 10, 10])
        before = eng.vectors([1])
        for n in range(100):
            eng.ingest(1, 10**6 + n)
        np.testing.assert_array_equal(eng.vectors([1]), before)
        with pytest.raises(engine.UnknownIdError):
            eng.vectors([2])


def test_it_can_be_changed_and_ends_with_the_settings(home):
    with engine.open(home, **SMALL, admit_after=3) as eng:
        assert eng.ingest([1, 2], [3, 4]).unlearned == 2
    with engine.open(home) as eng:
        assert eng.ingest([1, 1], [3, 3]).unlearned == 1
    with engine.open(home, admit_after=0) as eng:
        assert eng.ingest([5], [6]).unlearned == 0


def test_sightings_are_forgotten(memory, monkeypatch):
    monkeypatch.setattr(admission, "_HALF_LIFE", 10)
    with engine.open(":memory:", **SMALL, admit_after=3) as eng:
        for n in range(60):
            assert eng.ingest(7 if n % 15 == 0 else 1000 + n, 2000 + n).unlearned == 1
        for _ in range(3):
            report = eng.ingest(7, 7)
        assert report.unlearned == 0


@pytest.mark.parametrize("room", [{}, {"warm_bytes": FEW}])
def test_an_epoch_in_the_middle_of_a_record_keeps_what_was_decided(home, tmp_path, stream, monkeypatch, room):
    """Every state that LMDB had on the way, with the log as it was then, comes to the same end."""
    users, items = stream(900, users=120, items=100)
    with engine.open(":memory:", **SMALL, admit_after=2) as eng:
        eng.ingest(users[:400], items[:400])
        eng.ingest(users[400:], items[400:])
        digest = eng.digest()
    copies = []
    with engine.open(home, **SMALL, admit_after=2, **room) as eng:
        write = eng._directory.cold.write

        def write_and_copy(*args):
            write(*args)
            copies.append(shutil.copytree(home, tmp_path / f"copy{len(copies)}"))

        eng.ingest(users[:400], items[:400])
        monkeypatch.setattr(eng._directory.cold, "write", write_and_copy)
        eng.ingest(users[400:], items[400:], durable=False)
        eng.checkpoint()
        assert eng.digest() == digest
    assert len(copies) > 5 or not room
    for copy in copies[:: max(1, len(copies) // 8)]:
        with engine.open(copy) as eng:
            assert eng.seq == 900
            assert eng.digest() == digest


def test_most_made_up_ids_stay_out(memory):
    rng = np.random.default_rng(0)
    with engine.open(":memory:", **SMALL, admit_after=2) as eng:
        made_up = rng.integers(10**9, 10**15, 30_000)
        report = eng.ingest(np.zeros(30_000, np.int64), made_up)
        assert report.unlearned > 29_900
        assert eng.stats()["items"]["rows"] < 100
