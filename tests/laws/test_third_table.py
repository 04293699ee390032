"""A table beside users and items, declared here alone: all that the house promises of rows holds for its rows, too.

Its rows have another width, every event touches one, and what it keeps depends on the order of events.
"""

import numpy as np
import pytest
from killed import kill
from other_process import other_process

import engine
from engine import CorruptionError, EngineError
from engine.cold.cold import Cold
from engine.machine.backend import native
from engine.store.tables import TABLES, Declared
from engine.table.layout import vector_floats, warm_row_bytes

SETTINGS = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 2, "seed": 5}
FLOATS, NUMBER = 5, 9
EVENTS = 1200


class Visits(native.RowRule):
    """[the id's last digit, events, their weights, the last user, an average that forgets]"""

    def make(self, row, id):
        row[0] = id % 10

    def learn(self, row, event):
        row[1] += 1
        row[2] += event.weight
        row[3] = event.user
        row[4] = 0.75 * row[4] + event.seq


def declared(keyed_by="item"):
    return Declared("visits", NUMBER, keyed_by, 3, lambda settings: FLOATS, rule=lambda settings: Visits())


@pytest.fixture(params=["item", "user", "one"])
def keyed_by(request, monkeypatch):
    monkeypatch.setitem(TABLES, "visits", declared(request.param))
    return request.param


@pytest.fixture
def by_item(monkeypatch):
    monkeypatch.setitem(TABLES, "visits", declared())


@pytest.fixture
def columns():
    rng = np.random.default_rng(3)
    users, items = rng.zipf(1.3, EVENTS) % 300 * 3 - 101, rng.zipf(1.3, EVENTS) % 200 * 7 - 51
    return users, items, rng.random(EVENTS).astype(np.float32)


def learn(eng, columns, start=0, stop=EVENTS, step=100, each=None):
    users, items, weights = columns
    for at in range(start, stop, step):
        part = slice(at, min(stop, at + step))
        eng.ingest(users[part], items[part], weights=weights[part])
        if each:
            each(eng)


def expected(columns, keyed_by):
    """The rows that plain Python makes of the events."""
    rows = {}
    for seq, (user, item, weight) in enumerate(zip(*columns, strict=True), 1):
        id = {"item": int(item), "user": int(user), "one": 0}[keyed_by]
        row = rows.setdefault(id, np.array([id % 10, 0, 0, 0, 0], np.float32))
        row[1] += 1
        row[2] += weight
        row[3] = user
        row[4] = np.float32(0.75) * row[4] + np.float32(seq)
    return rows


def rows_of(eng):
    """The rows that the engine has, with their last seqs and counts."""
    table = next(table for table in eng._store.tables if table.name == "visits")
    found = {}
    for ids, rows in table.rows():
        floats = rows[:, : 4 * FLOATS].copy().view(np.float32)
        found |= {int(id): row for id, row in zip(ids, floats, strict=True)}
    return found


def digest_in_memory(columns, **more):
    with engine.open(":memory:", **SETTINGS, **more) as eng:
        learn(eng, columns)
        return eng.digest()


def twentieth():
    """RAM for a twentieth of the rows, or for those of a micro-batch."""
    return 60 * warm_row_bytes(vector_floats(8, "adagrad")) * 19 // 7


def test_rows_are_what_the_events_make_of_them(keyed_by, columns, home):
    wanted = expected(columns, keyed_by)
    for path, room in ((":memory:", {}), (home, {"warm_bytes": twentieth()})):
        with engine.open(path, **SETTINGS, **room) as eng:
            learn(eng, columns)
            found = rows_of(eng)
            assert found.keys() == wanted.keys()
            for id, row in wanted.items():
                np.testing.assert_array_equal(found[id], row)
            assert eng.stats()["visits"]["rows"] == len(wanted)


def test_it_is_in_the_digest(columns, monkeypatch):
    without = digest_in_memory(columns)
    found = {without}
    for by in ("item", "user", "one"):
        monkeypatch.setitem(TABLES, "visits", declared(by))
        found.add(digest_in_memory(columns))
    assert len(found) == 4


def test_the_same_digest_whatever_the_tiers_epochs_and_windows(keyed_by, columns, home, tmp_path):
    digest = digest_in_memory(columns)
    with engine.open(home, **SETTINGS, warm_bytes=twentieth()) as eng:
        learn(eng, columns, step=20)
        assert eng.digest() == digest
        assert eng.stats()["users"]["evicted"] > 0
    with engine.open(home) as eng:
        assert eng.digest() == digest
    with engine.open(tmp_path / "often", **SETTINGS) as eng:
        learn(eng, columns, each=lambda eng: eng.checkpoint())
        assert eng.digest() == digest


def test_killed_and_replayed(keyed_by, columns, home):
    digest = digest_in_memory(columns)
    for at in range(0, EVENTS, 300):
        with engine.open(home, **SETTINGS, warm_bytes=twentieth(), epoch_seconds=1e6) as eng:
            assert eng.seq == at
            learn(eng, columns, at, at + 300)
            if at == 300:
                eng.checkpoint()
                eng.ingest([], [])
            kill(eng)
    with engine.open(home) as eng:
        assert eng.digest() == digest
    with engine.open(home, mode="r") as reader:
        assert reader.digest() == digest
        assert reader.stats()["visits"]["rows"] == len(expected(columns, keyed_by))


def test_a_device_in_front_changes_nothing(keyed_by, columns):
    assert digest_in_memory(columns, device="cuda") == digest_in_memory(columns)


def test_what_is_forgotten_is_forgotten_here_too(by_item, columns, home):
    users, items, _ = columns
    gone = np.unique(items)[:20]
    digests = []
    for path in (":memory:", home):
        with engine.open(path, **SETTINGS) as eng:
            learn(eng, columns)
            eng.checkpoint()
            before = rows_of(eng)
            eng.forget(items=gone)
            after = rows_of(eng)
            assert after.keys() == before.keys() - set(gone.tolist())
            eng.checkpoint()  # compacts, and empties the log
            assert rows_of(eng).keys() == after.keys()
            eng.ingest(users[:50], np.repeat(gone[:1], 50))  # it comes again, as new
            assert rows_of(eng)[int(gone[0])][1] == 50
            digests.append(eng.digest())
    assert digests[0] == digests[1]
    with Cold.open(home / "rows", readonly=True) as cold:
        assert {int(ids[0]) for ids, _ in cold.scan(NUMBER, 4 * FLOATS + 4 + 24, 1)} == after.keys() | {int(gone[0])}


def test_rows_that_nobody_touches_leave_here_too(by_item, home, columns):
    digests = []
    for path in (":memory:", home):
        with engine.open(path, **SETTINGS, row_ttl=200) as eng:
            learn(eng, columns)
            stats = eng.stats()
            assert stats["visits"]["rows"] == stats["items"]["rows"] < len(np.unique(columns[1]))
            digests.append(eng.digest())
    assert digests[0] == digests[1]


def test_backed_up_verified_and_read_in_another_process(by_item, columns, home, tmp_path):
    with engine.open(home, **SETTINGS) as eng:
        learn(eng, columns, stop=600)
        eng.checkpoint()
        declare = (
            f"import sys; sys.path.insert(0, {str(__file__).rpartition('/')[0]!r}); "
            f"sys.path.insert(0, {str(__file__).rpartition('/laws/')[0]!r}); "
            "import test_third_table as law; law.TABLES['visits'] = law.declared()"
        )
        with other_process() as other:
            other(declare)
            other(f"reader = engine.open({str(home)!r}, mode='r')")
            assert other("reader.digest()") == eng.digest()
            learn(eng, columns, 600)
            eng.checkpoint()
            assert other("reader.digest()") == eng.digest()
            assert other("reader.stats()['visits']['rows']") == eng.stats()["visits"]["rows"]
        assert eng.backup(tmp_path / "second") == EVENTS
        digest = eng.digest()
    assert engine.verify(tmp_path / "second").seq == engine.verify(home).seq == EVENTS
    with engine.open(tmp_path / "second", untrusted=True) as eng:
        assert eng.digest() == digest


def test_a_directory_without_its_rows_is_damaged(by_item, columns, home):
    with engine.open(home, **SETTINGS) as eng:
        learn(eng, columns)
    with Cold.open(home / "rows") as cold:
        cold.write((), {}, native.row_keys(NUMBER, np.unique(columns[1])[:1]))
    with pytest.raises(CorruptionError, match="visits"):
        engine.verify(home)
    with pytest.raises(CorruptionError, match="visits"):
        engine.open(home)


def test_who_does_not_know_it_refuses_the_directory_by_name(columns, home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(TABLES, "visits", declared())
        with engine.open(home, **SETTINGS) as eng:
            learn(eng, columns, stop=100)
    for call in (lambda: engine.open(home), lambda: engine.open(home, mode="r"), lambda: engine.verify(home)):
        with pytest.raises(EngineError, match="visits"):
            call()
