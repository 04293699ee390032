"""A directory that is moved while it is open, with another in its place: all is done in the one that is open."""

import os
import shutil

import pytest
from directories import SMALL
from other_process import other_process

import engine
from engine import ConfigError

QUIET = SMALL | {"epoch_seconds": 1e9}


def make(path, first, **settings):
    """A model that differs from others by its ids; returns its digest."""
    with engine.open(path, **QUIET | settings) as eng:
        eng.ingest([first, first + 1, first + 2], [10 * first, 10 * first + 1, 10 * first + 2])
        return eng.digest()


def swap(home, other):
    """Another directory in the place of `home`, which is moved away; returns where to."""
    away = home.with_name("away")
    home.rename(away)
    other.rename(home)
    return away


@pytest.mark.parametrize("replaced", [True, False])
def test_a_writer_goes_on_in_the_directory_that_it_opened(home, tmp_path, contents, replaced):
    make(home, 1)
    make(tmp_path / "other", 500)
    before = contents(tmp_path / "other")
    eng = engine.open(home, **QUIET)
    away = home.with_name("away")
    if replaced:
        swap(home, tmp_path / "other")
    else:
        home.rename(away)
    eng.ingest([7, 8], [70, 80])
    eng.forget(1, 10)
    eng.checkpoint()  # compacts, empties the log, deletes what is old
    eng.ingest([9], [90])
    eng.checkpoint()
    assert eng.backup(tmp_path / "copy") == eng.seq
    eng.ingest([11], [110])
    digest = eng.digest()
    if replaced:
        assert contents(home) == before
    eng.close()
    if replaced:
        assert contents(home) == before
        assert engine.verify(home).seq == 3
    else:
        assert not home.exists()
    with engine.open(away, **QUIET) as again:
        assert (again.seq, again.digest()) == (7, digest)
    assert sorted(os.listdir(away / "rows")) == ["data-2.mdb", "data-2.mdb-lock"]


def test_new_segments_of_the_log_are_in_the_moved_directory(home, tmp_path, contents, monkeypatch):
    monkeypatch.setattr(engine.log.log.Log.open.__func__, "__kwdefaults__", {"segment_bytes": 300})
    make(home, 1)
    make(tmp_path / "other", 500)
    before = contents(tmp_path / "other")
    with engine.open(home, **QUIET) as eng:
        away = swap(home, tmp_path / "other")
        for n in range(12):
            eng.ingest([n], [n])
            eng.checkpoint()
        digest = eng.digest()
        assert eng._directory.log.first_seq > 4
    assert contents(home) == before
    with engine.open(away) as again:
        assert again.digest() == digest


def test_a_reader_follows_what_its_path_leads_to(home, tmp_path):
    """Also where the number of the epoch is the same in both."""
    make(home, 1)
    theirs = make(tmp_path / "other", 500)
    with other_process() as other:
        other(f"reader = engine.open({str(home)!r}, mode='r')")
        mine = other("reader.digest()")
        assert mine != theirs
        away = swap(home, tmp_path / "other")
        assert other("reader.refresh()") == 3
        assert other("reader.digest()") == theirs
        assert other("reader.topk(500, 1).ids")[0] // 10 == 500
        with engine.open(home, **QUIET) as eng:
            eng.ingest([4], [4])
            eng.checkpoint()
            assert other("reader.refresh()") == 4
        home.rename(tmp_path / "third")
        away.rename(home)
        assert other("reader.digest()") == mine
        assert other("reader.stats()['moves']['whole']") >= 3


def test_a_reader_of_a_moved_directory_goes_on_with_it(home, tmp_path):
    make(home, 1)
    with other_process() as other:
        other(f"reader = engine.open({str(home)!r}, mode='r')")
        home.rename(tmp_path / "away")
        with engine.open(tmp_path / "away", **QUIET) as eng:
            for n in range(2):
                eng.ingest([4 + n], [4])
                eng.forget(n, 10)
                eng.checkpoint()
                assert other("reader.refresh()") == 4 + n
                assert other("reader.digest()") == eng.digest()


def test_a_reader_does_not_serve_a_model_with_other_settings_than_it_was_asked_for(home, tmp_path):
    make(home, 1)
    make(tmp_path / "other", 500, dim=16)
    with other_process() as other:
        other(f"reader = engine.open({str(home)!r}, mode='r', dim={SMALL['dim']})")
        away = swap(home, tmp_path / "other")
        answer = other.ask("reader.refresh()")
        assert answer["error"] == ConfigError.__name__
        assert "dim" in answer["text"]
        shutil.rmtree(home)
        away.rename(home)
        assert other("reader.refresh()") == 3


def test_a_reader_does_not_take_a_directory_of_something_else(home):
    make(home, 1)
    with other_process() as other:
        other(f"reader = engine.open({str(home)!r}, mode='r')")
        home.rename(home.with_name("away"))
        (home / "rows").mkdir(parents=True)
        assert other.error("reader.topk(1)") == ConfigError.__name__
        shutil.rmtree(home)
        assert other("reader.refresh()") == 3
