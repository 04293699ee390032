"""Promise 1 case by case: what recovery and failures must not do, each case once a bug. tests/crash has the sweep."""

import shutil
import threading

import numpy as np
import pytest

import engine
from engine.store.history import ENTRY
from engine.table.layout import vector_floats, warm_row_bytes

SETTINGS = {"dim": 8, "negatives": 2, "seed": 1, "epoch_seconds": 1e9}


def test_cold_user_behind_new_ones_keeps_its_row(tmp_path):
    with engine.open(":memory:", **SETTINGS) as straight, engine.open(tmp_path / "m", **SETTINGS) as first:
        for eng in (straight, first):
            eng.ingest([1, 2, 3], [10, 20, 30])
        first.checkpoint()
        first.close()
        with engine.open(tmp_path / "m") as eng:
            # As many new users as there are rows must not make the table look complete: user 1 is still in LMDB.
            for each in (straight, eng):
                each.ingest([4, 5, 6, 1], [10, 20, 30, 10])
            assert eng.digest() == straight.digest()
            assert eng.stats()["users"]["rows"] == 6


def test_history_of_an_epoch_is_that_of_its_beginning(tmp_path, monkeypatch):
    with engine.open(tmp_path / "m", **SETTINGS) as eng:
        eng.ingest([1, 2], [10, 10])
        rows_are_written, go_on = threading.Event(), threading.Event()
        frozen = eng._store.history.frozen

        def wait_first(users):
            rows_are_written.set()
            go_on.wait()
            yield from frozen(users)

        monkeypatch.setattr(eng._store.history, "frozen", wait_first)
        eng._writer.begin_epoch()
        rows_are_written.wait()
        eng.ingest([1, 1], [20, 10])
        go_on.set()
        eng._writer.epochs.finish()
        ((number, payload),) = eng._directory.cold.fetch_chunks(1)
        entries = np.frombuffer(payload[8:], ENTRY)
        assert (number, entries[["item", "seq"]].tolist()) == (0, [(10, 1)])


def test_the_log_goes_back_to_the_epoch_before(tmp_path, monkeypatch):
    with engine.open(tmp_path / "m", **SETTINGS) as eng:
        dropped = []
        monkeypatch.setattr(eng._directory.log, "drop_through", dropped.append)
        for n in range(3):
            eng.ingest(n, n)
            eng.checkpoint()
        assert dropped == [0, 1, 2]


def test_a_call_that_finds_no_room_in_lmdb_says_what_the_log_has(tmp_path, monkeypatch):
    with engine.open(
        tmp_path / "m", warm_bytes=4 * warm_row_bytes(vector_floats(8, "adagrad")) * 16 // 7 + 16, **SETTINGS
    ) as eng:

        def no_room(*_):
            raise engine.StorageFullError("no room")

        monkeypatch.setattr(eng._directory.cold, "write", no_room)
        with pytest.raises(engine.StorageFullError) as full:
            eng.ingest(range(20), range(20))
        assert full.value.seq == 20  # all 20 are durable, and will be learned on reopening
    with engine.open(tmp_path / "m") as eng:
        assert eng.seq == 20


def test_opening_makes_the_name_of_a_found_directory_durable(tmp_path, monkeypatch):
    engine.open(tmp_path / "m", **SETTINGS).close()
    synced = []
    sync = engine.directory.directory.sync_directory
    monkeypatch.setattr(engine.directory.directory, "sync_directory", lambda path: (synced.append(path), sync(path)))
    engine.open(tmp_path / "m").close()
    assert synced == [tmp_path]


def test_opening_writes_again_what_may_not_be_durable(tmp_path, monkeypatch):
    with engine.open(tmp_path / "m", **SETTINGS) as eng:
        for n in range(5):
            eng.ingest(n, n, durable=n % 2 == 0)
        shutil.copytree(tmp_path / "m", tmp_path / "killed")
    written = []
    pwrite = engine.log.log.os.pwrite
    monkeypatch.setattr(engine.log.log.os, "pwrite", lambda *args: written.append(args[1:]) or pwrite(*args))
    (segment,) = (tmp_path / "killed" / "log").iterdir()
    before = segment.read_bytes()
    with engine.open(tmp_path / "killed") as eng:
        assert eng.seq == 5
    # The last record knew the first three to be durable.
    assert written == [(before[240:], 240)]
    assert segment.read_bytes() == before
