"""A directory that is deleted while it is open for writing: nothing fails silently, and a backup saves the model."""

import logging
import shutil

import pytest
from directories import SMALL

import engine
from engine import EngineError

QUIET = SMALL | {"epoch_seconds": 1e9}


@pytest.fixture
def deleted(home):
    """An engine whose directory is gone."""
    eng = engine.open(home, **QUIET)
    eng.ingest([1, 2, 3], [10, 20, 30])
    eng.checkpoint()
    shutil.rmtree(home)
    eng.ingest([4], [40])
    yield eng
    eng.close()


def test_a_checkpoint_says_so(deleted):
    for _ in range(2):
        with pytest.raises(EngineError, match="the directory was deleted while it is open"):
            deleted.checkpoint()
    with pytest.raises(EngineError, match="deleted"):
        deleted.close()
    deleted.close()


def test_closing_says_so_also_where_nothing_is_left_to_write(home):
    eng = engine.open(home, **QUIET)
    eng.ingest([1], [10])
    eng.checkpoint()
    shutil.rmtree(home)
    with pytest.raises(EngineError, match=rf"{home}: the directory was deleted"):
        eng.close()
    with engine.open(home, **QUIET) as again:  # a new one; nobody holds the old any more
        assert again.seq == 0


def test_an_epoch_is_written_and_says_so_once(deleted, caplog):
    caplog.set_level(logging.WARNING, "rowtide")
    for n in range(3):
        deleted.ingest([n], [10])
        with deleted._writer.lock:
            deleted._writer.begin_epoch()
            deleted._writer.epochs.finish(asked=True)
    assert [record.getMessage().count("was deleted") for record in caplog.records] == [1]
    with pytest.raises(EngineError, match="deleted"):
        deleted.close()


def test_a_backup_saves_the_model(deleted, tmp_path):
    digest = deleted.digest()
    assert deleted.backup(tmp_path / "saved") == 4
    with engine.open(tmp_path / "saved") as saved:
        assert saved.digest() == digest
    with pytest.raises(EngineError, match="deleted"):
        deleted.close()


def test_a_moved_directory_is_not_deleted(home):
    eng = engine.open(home, **QUIET)
    home.rename(home.with_name("away"))
    eng.ingest([1], [10])
    assert eng.checkpoint() == 1
    eng.close()
