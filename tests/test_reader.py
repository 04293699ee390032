"""Readers: answers of the last epoch, in another process than the writer's, and nothing written."""

import inspect
import os
import shutil
import subprocess
import threading

import numpy as np
import pytest
from directories import SMALL, mounted, refuse
from killed import kill
from other_process import other_process

import engine
from engine import BusyError, ConfigError, CorruptionError, EngineError, ReadOnlyError
from engine.cold import changes

ANSWERS = "[eng.digest(), eng.topk(users, 5, exclude_seen=True).ids, eng.topk(users, 5, unknown='skip').scores]"


@pytest.fixture
def other():
    with other_process() as process:
        yield process


def answers(eng, users):
    top, skipped = eng.topk(users, 5, exclude_seen=True), eng.topk(users, 5, unknown="skip")
    return [eng.digest(), top.ids.tolist(), skipped.scores.tolist()]


def attach(other, home, users):
    other(f"eng = engine.open({str(home)!r}, mode='r')")
    other(f"users = {users.tolist()}")


@pytest.mark.parametrize("compacted", [False, True])
def test_a_reader_follows_the_epochs(home, stream, other, loss, compacted):
    users, items = stream(700)
    asked = np.append(users[:20], 404)
    with engine.open(home, **(SMALL | {"loss": loss}), epoch_seconds=1e9) as eng:
        eng.ingest(users[:100], items[:100], position=("shop", b"here"))
        attach(other, home, asked)
        assert other("eng.seq") == 0
        assert other("eng.topk(users, 5).counts") == [0] * 21
        eng.checkpoint()
        expected = answers(eng, asked)
        for start in range(100, 700, 100):
            eng.ingest(users[start : start + 100], items[start : start + 100])
            assert other("eng.refresh()") == start  # the last epoch, not what came after it
            assert other(ANSWERS) == expected
            if compacted:
                eng._directory.cold.compact()
            assert eng.checkpoint() == start + 100
            expected = answers(eng, asked)
            if start % 200:
                assert other("eng.refresh()") == start + 100
            assert other("eng.topk(users[0]).seq") == start + 100  # also without a refresh
            assert other(ANSWERS) == expected
        np.testing.assert_array_equal(
            np.float32(other("[float(x) for x in eng.score(users[0], eng.topk(users[0]).ids)]")),
            eng.topk(asked[0]).scores,
        )
        np.testing.assert_array_equal(np.float32(other("eng.vectors(users[:20])")), eng.vectors(asked[:20]))
        alike = eng.similar(items[:4], 3)
        assert other(f"eng.similar({items[:4].tolist()}, 3).ids") == alike.ids.tolist()
        assert other("eng.position('shop').decode()") == "here"
        assert other("eng.settings") == eng.settings
        stats = other("eng.stats()")
        assert (stats["users"]["rows"], stats["items"]["rows"]) == (eng.stats()["users"]["rows"], len(set(items)))
        assert stats["moves"] == {"whole": 1, "followed": 7}
        assert other.error("eng.topk(404, unknown='raise')") == "UnknownIdError"


def test_how_far_a_reader_can_follow(home, stream, other):
    users, items = stream(5000, 300, 4000)
    with engine.open(home, **SMALL, epoch_seconds=1e9) as eng:

        def epochs(n, start):
            for at in range(start, start + n):
                eng.ingest(users[at], items[at])
                eng.checkpoint()
            assert other("eng.refresh()") == eng.seq
            assert other("eng.digest()") == eng.digest()
            return other("eng.stats()['moves']")

        eng.ingest(users, items)
        attach(other, home, users[:3])
        assert epochs(changes.EPOCHS, 0) == {"whole": 2, "followed": 0}  # the first of them wrote every item
        assert epochs(changes.EPOCHS, 10) == {"whole": 2, "followed": 1}
        assert epochs(changes.EPOCHS + 1, 20) == {"whole": 3, "followed": 1}
        eng.ingest(users[:2000], items[:2000])
        assert epochs(1, 30) == {"whole": 4, "followed": 1}


def test_a_reader_beside_evictions_and_epochs_in_the_middle_of_records(home, stream, other):
    users, items = stream(6000, 900, 600)
    with engine.open(home, **SMALL, warm_bytes=60_000, epoch_seconds=1e9) as eng:
        attach(other, home, users[:30])
        for start in range(0, 6000, 1500):
            eng.ingest(users[start : start + 1500], items[start : start + 1500])
            eng.checkpoint()
            assert other(ANSWERS) == answers(eng, users[:30])


def test_a_reader_writes_nothing(home, stream, contents):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
        eng.checkpoint()
        eng.ingest(*stream(20))
        kill(eng)
    before = contents(home)
    with engine.open(home, mode="r") as eng:
        assert eng.seq == 50
        eng.topk(1)
        eng.refresh()
        for call in (
            lambda: eng.ingest(1, 2),
            lambda: eng.hide(1),
            lambda: eng.show(1),
            lambda: eng.forget(items=1),
            eng.checkpoint,
        ):
            refuse("mode 'r'", call, ReadOnlyError)
    eng.close()
    for call in (eng.refresh, eng.digest, eng.checkpoint, lambda: eng.topk(1)):
        refuse("closed", call, EngineError)
    assert contents(home) == before
    with engine.open(home) as eng:
        assert eng.seq == 70


def test_a_reader_has_all_that_an_engine_has():
    """`engine.open` is annotated with Engine for every mode: code that is written for one must fit the other."""
    for name, method in inspect.getmembers(engine.Engine):
        if name.startswith("_") and name not in ("__enter__", "__exit__"):
            continue
        reader = getattr(engine.Reader, name)
        assert callable(reader) == callable(method), name
        if callable(method):
            theirs, ours = inspect.signature(method), inspect.signature(reader)
            assert ours.parameters == theirs.parameters, name


def test_what_cannot_be_read(tmp_path, home, stream):
    refuse("model", lambda: engine.open(home, mode="r"))
    assert os.listdir(tmp_path) == []
    home.mkdir()
    refuse("model", lambda: engine.open(home, mode="r"))
    (home / "cat.jpg").touch()
    refuse("something else", lambda: engine.open(home, mode="r"))
    refuse("file", lambda: engine.open(home / "cat.jpg", mode="r"))
    refuse("memory", lambda: engine.open(":memory:", mode="r"))
    (home / "cat.jpg").unlink()
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
    refuse("warm_bytes", lambda: engine.open(home, mode="r", warm_bytes=10**9))
    for name, other in (("dim", 16), ("lr", 0.7), ("negatives", 9)):
        refuse([name, repr(other)], lambda name=name, other=other: engine.open(home, mode="r", **{name: other}))
    engine.open(home, mode="r", **SMALL).close()
    data = home / "rows" / "data-1.mdb"
    data.write_bytes(data.read_bytes()[:9000])
    refuse("data-1.mdb", lambda: engine.open(home, mode="r"), CorruptionError)
    shutil.rmtree(home / "rows")
    refuse("rows", lambda: engine.open(home, mode="r"), ConfigError)


def test_one_process_opens_a_directory_once(home, stream):
    """LMDB's rule: its locks are the process's."""
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
        eng.checkpoint()
        refuse("already", lambda: engine.open(home, mode="r"), BusyError)
        eng.ingest(*stream(50))
        eng.checkpoint()
    with engine.open(home, mode="r") as eng:
        for mode in ("r", "a"):
            refuse("already", lambda mode=mode: engine.open(home, mode=mode), BusyError)
        assert eng.topk(1).seq == 100
    engine.open(home).close()


def test_a_forked_reader_is_refused(home, stream):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
    with engine.open(home, mode="r") as eng:
        child = os.fork()
        if child == 0:
            try:
                eng.topk(1)
            except EngineError as e:
                os._exit(0 if "child" in str(e) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert eng.topk(1).seq == 50


def test_a_reader_that_is_killed_in_a_transaction_pins_nothing(home, stream):
    users, items = stream(2000, 2000, 1000)
    with engine.open(home, **SMALL, epoch_seconds=1e9) as eng:

        def epochs(n):
            for _ in range(n):
                eng.ingest(users, items)
                eng.checkpoint()
            return eng.stats()["lmdb"]["file_bytes"]

        free = epochs(8)
        with other_process() as other:
            attach(other, home, users[:3])
            other("inside = eng._at_newest(); inside.__enter__()")
            pinned = epochs(8)
            assert pinned > 2 * free  # else the test shows nothing
            other.kill()
        assert epochs(30) <= pinned
    assert engine.verify(home).seq == eng.seq


def test_a_read_only_file_system(tmp_path, home, stream):
    """LMDB has no table of readers there, so the directory's lock keeps writers out."""
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
        eng.checkpoint()
        digest = eng.digest()
    view = tmp_path / "view"
    with mounted(view, "--bind", str(tmp_path)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        with engine.open(view / "model", mode="r") as eng:
            assert eng.digest() == digest
            refuse("model", lambda: engine.open(home), BusyError)
        with engine.open(home):
            refuse("model", lambda: engine.open(view / "model", mode="r"), BusyError)


@pytest.mark.parametrize(("loss", "optimizer"), [("logistic", "sgd"), ("squared", "adam")])
def test_a_reader_predicts_what_the_writer_does(home, stream, other, loss, optimizer):
    users, items = stream(200)
    values = (users ^ items) & 1
    with engine.open(home, dim=8, loss=loss, optimizer=optimizer, epoch_seconds=1e9) as eng:
        asked = np.append(users[:20], 404)
        for part in (slice(0, 150), slice(150, 200)):
            eng.ingest(users[part], items[part], values[part])
            eng.checkpoint()
            if not part.start:
                attach(other, home, asked)
        assert other(ANSWERS) == answers(eng, asked)
        scores = other("[float(x) for x in eng.score(users[0], eng.topk(users[0]).ids)]")
        np.testing.assert_array_equal(np.float32(scores), eng.topk(asked[0]).scores)
        np.testing.assert_array_equal(np.float32(scores), eng.score(asked[0], eng.topk(asked[0]).ids))


def test_a_second_opening_in_the_process_names_the_directory(home):
    engine.open(home, dim=4).close()
    with engine.open(home, mode="r"):
        for mode in ("r", "a"):
            with pytest.raises(engine.BusyError, match=rf"^{home}: this process has this directory open already"):
                engine.open(home, mode=mode)


def test_who_waited_for_an_old_epoch_does_not_wait_for_the_calls_of_the_new_one(home, stream, other):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
    other(f"path = {str(home)!r}")
    with engine.open(home, mode="r") as eng:
        late = threading.Thread(target=eng.refresh)
        with eng._at_newest():
            other("with engine.open(path) as eng: eng.ingest(1, 2)")
            late.start()
            late.join(0.1)
            assert late.is_alive()
        with eng._at_newest() as now:
            late.join(20)
            assert not late.is_alive()
            assert now.state.seq == 51
