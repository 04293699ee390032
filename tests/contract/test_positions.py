"""Positions: listed, forgotten, and moved on only by whoever knows where they are."""

import threading

import numpy as np
import pytest
from junk import but, refused
from killed import kill

import engine
from engine import PositionError, ReadOnlyError


def test_positions_are_listed(eng):
    assert eng.positions() == {}
    eng.ingest(7, 100, position=("clicks", b"1"))
    eng.ingest([], [], position=("views", b""))
    eng.ingest(7, 100, position=("clicks", b"2"))
    assert eng.positions() == {"clicks": b"2", "views": b""}
    eng.positions().clear()  # a copy
    assert eng.position("views") == b""


def test_a_position_is_forgotten(eng):
    eng.ingest(7, 100, position=("clicks", b"1"))
    digest = eng.digest()
    eng.ingest([], [], position=("views", b"2"))
    eng.forget_position("views")
    assert (eng.positions(), eng.position("views"), eng.seq) == ({"clicks": b"1"}, None, 1)
    assert eng.digest() == digest
    eng.forget_position("views")  # twice is fine, and so is a source that never was
    eng.forget_position("none")
    assert eng.digest() == digest
    eng.forget_position("clicks")
    assert (eng.positions(), eng.seq) == ({}, 1)
    assert eng.digest() != digest
    eng.ingest([], [], position=("clicks", b"1"), expect=None)
    assert eng.digest() == digest


@pytest.mark.parametrize("end", [kill, engine.Engine.close])
def test_a_forgotten_position_stays_forgotten(home, end):
    """Replayed from the log, and out of LMDB; whichever epoch was between."""
    for between in ("nothing", "before", "after"):
        path = home.with_name(between)
        eng = engine.open(path, dim=4, epoch_seconds=1e9)
        eng.ingest(7, 100, position=("clicks", b"1"))
        eng.ingest(7, 101, position=("views", b"2"))
        if between == "before":
            eng.checkpoint()
        eng.forget_position("clicks")
        if between == "after":
            eng.checkpoint()
        eng.ingest(8, 102)
        digest = eng.digest()
        end(eng)
        assert engine.verify(path).seq == 3
        with engine.open(path) as again:
            assert (again.positions(), again.seq, again.digest()) == ({"views": b"2"}, 3, digest)
            assert again.backup(home.with_name(f"{between}-2")) == 3
        with engine.open(home.with_name(f"{between}-2")) as copy:
            assert copy.positions() == {"views": b"2"}


def test_it_is_durable_at_return(home):
    with engine.open(home, dim=4) as eng:
        eng.ingest(7, 100, position=("clicks", b"1"), durable=False)
        eng.forget_position("clicks")
        assert eng._directory.log.synced_seq == 1
        appended = eng._directory.log.appended_bytes
        eng.forget_position("clicks")
        assert eng._directory.log.appended_bytes == appended


def test_a_reader_lists_them_and_forgets_none(home):
    with engine.open(home, dim=4) as eng:
        eng.ingest(7, 100, position=("clicks", b"1"))
    with engine.open(home, mode="r") as reader:
        assert reader.positions() == {"clicks": b"1"}
        with pytest.raises(ReadOnlyError, match="forget_position"):
            reader.forget_position("clicks")


def test_events_come_in_only_from_where_the_caller_thinks_the_source_is(eng):
    """The old process goes on with what it knows, after another has read on."""
    eng.ingest(7, 100, position=("clicks", b"1"), expect=None)
    eng.ingest(7, 101, position=("clicks", b"2"), expect=b"1")
    eng.ingest(7, 102, position=("clicks", bytearray(b"3")), expect=bytearray(b"2"))
    before = eng.digest(), eng.seq, eng.positions()
    for expect, said in ((b"1", "b'1'"), (b"", "b''"), (None, "none")):
        with pytest.raises(PositionError) as caught:
            eng.ingest([8, 9], 101, position=("clicks", b"9"), expect=expect)
        assert str(caught.value) == f"position: 'clicks' has b'3', expected {said}; nothing was learned"
        assert caught.value.seq is None
        assert isinstance(caught.value, engine.EngineError)
    with pytest.raises(PositionError, match="'views' has none, expected b'3'"):
        eng.ingest([], [], position=("views", b"4"), expect=b"3")
    assert (eng.digest(), eng.seq, eng.positions()) == before
    assert eng.ingest(7, 103, position=("clicks", b"4")).seq == 4  # whatever it is
    assert eng.ingest(7, 104, position=("clicks", b"5"), expect=...).seq == 5


def test_nothing_is_logged_where_the_position_is_another(home, contents):
    with engine.open(home, dim=4, epoch_seconds=1e9) as eng:
        eng.ingest(7, 100, position=("clicks", b"1"))
        before = contents(home)
        with pytest.raises(PositionError):
            eng.ingest(7, 100, position=("clicks", b"2"), expect=None)
        assert contents(home) == before


def test_a_source_that_several_read_is_learned_once(memory):
    """Each takes the next event from where it sees the source; who comes late looks again."""
    events, done = np.arange(200), []

    def read():
        while (at := memory.position("log")) != b"200":
            start = int(at or b"0")
            try:
                memory.ingest(7, events[start], position=("log", b"%d" % (start + 1)), expect=at)
                done.append(start)
            except PositionError:
                pass

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.seq == 200
    assert sorted(done) == events.tolist()


def test_arguments(memory):
    for junk in but("nothing", "bytes"):
        refused("expect", lambda junk=junk: memory.ingest(1, 2, position=("clicks", b""), expect=junk))
    for given in (b"1", None):
        refused("expect", lambda given=given: memory.ingest(1, 2, expect=given))
    for junk in but("text"):
        refused("source", lambda junk=junk: memory.forget_position(junk))
    memory.forget_position("\ud800")  # no name that was stored
    refused("position[0]: got an empty str", lambda: memory.ingest(1, 2, position=("", b"")))
    assert memory.seq == 0
