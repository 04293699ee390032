"""The logger "rowtide": silent unless a program asks, and then sentences with numbers."""

import logging
import subprocess
import sys

import pytest
from directories import SMALL
from killed import kill

import engine
from engine import StorageFullError
from engine.cold.cold import Cold
from engine.contract import logger
from engine.store import working_set

QUIET = SMALL | {"epoch_seconds": 1e9}


@pytest.fixture
def said(caplog):
    """What was said since the last time, as (level, sentence)."""
    caplog.set_level(logging.DEBUG, "rowtide")

    def take():
        found = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "rowtide"]
        caplog.clear()
        return found

    return take


def test_nothing_is_said_to_a_program_that_does_not_listen(home, stream):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(50))
        kill(eng)
    code = "import engine, sys; engine.open(sys.argv[1]).close()"
    done = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_epoch_is_told(home, stream, said):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(50))
        assert said() == []
        eng.checkpoint()
        ((level, sentence),) = said()
    assert level == "INFO"
    assert sentence.startswith(f"{home}: epoch 1, up to seq 50, is in LMDB after ")
    assert said() == []  # nothing was left to write


def test_a_replay_is_told(home, stream, said):
    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(20))
        eng.checkpoint()
        eng.ingest(*stream(30))
        kill(eng)
    said()
    with engine.open(home, **QUIET):
        assert said() == [
            ("INFO", f"{home}: replaying 30 events, which the log has beyond the last epoch"),
            ("WARNING", f"{home}: the last epoch is at seq 20; 30 events that the log has beyond it were replayed"),
        ]
    said()
    engine.open(home).close()
    assert said() == []


def test_an_epoch_that_fails_is_told(home, stream, said, monkeypatch):
    def full(*_):
        raise StorageFullError("no room")

    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(20))
        with monkeypatch.context() as patch:
            patch.setattr(Cold, "write", full)
            with pytest.raises(StorageFullError):
                eng.checkpoint()
        what = "an epoch failed, the log has what it would have held: StorageFullError: no room"
        assert said() == [("WARNING", f"{home}: {what}")]


def test_a_slow_disk_is_told(home, said, monkeypatch):
    with engine.open(home, **QUIET) as eng:
        monkeypatch.setattr(logger, "SLOW_SYNC_SECONDS", 0)
        eng.ingest(1, 2)
        ((level, sentence),) = said()
        monkeypatch.undo()
    assert level == "WARNING"
    assert sentence.startswith(f"{home / 'log'}: the disk took ")
    assert sentence.endswith(" s to make the log durable")


def test_a_wait_is_told_but_not_to_whoever_asked_for_the_epoch(home, stream, said, monkeypatch):
    monkeypatch.setattr(logger, "SLOW_WAIT_SECONDS", 0)

    def waits():
        return [found for found in said() if "waited" in found[1]]

    with engine.open(home, **QUIET) as eng:
        eng.ingest(*stream(20))
        eng.checkpoint()
        assert waits() == []
        eng.ingest(*stream(20))
        with eng._writer.lock:
            eng._writer.begin_epoch()
            eng._writer.begin_epoch()  # as an ingest does, when one is due before the last has ended
        ((level, sentence),) = waits()
    assert level == "WARNING"
    assert sentence.startswith(f"{home}: a call waited ")
    assert waits() == []


def test_too_little_ram_is_told_once(home, stream, said, monkeypatch):
    monkeypatch.setattr(working_set, "EVENTS", 1000)
    users, items = stream(6000, 3000, 2000)
    for _ in range(2):  # once for each opening
        with engine.open(home, **SMALL, warm_bytes=60_000) as eng:
            for start in range(0, 6000, 500):
                eng.ingest(users[start : start + 500], items[start : start + 500])
        found = [each for each in said() if "warm_bytes" in each[1]]
        assert [level for level, _ in found] == ["WARNING"]
        assert f"{home}: warm_bytes is small for these events: of " in found[0][1]
    with engine.open(home) as eng:
        for start in range(0, 6000, 500):
            eng.ingest(users[start : start + 500], items[start : start + 500])
    assert [each for each in said() if "warm_bytes" in each[1]] == []
