"""`Engine.stats`: where everything is, in memory and with files."""

import numpy as np
import pytest

import engine
from engine.contract.errors import EngineError

OF_FILES = {"lmdb", "log_bytes", "disk", "sync_seconds", "opening", "epochs", "epoch_write_seconds"}


@pytest.fixture(params=["memory", "directory"])
def eng(request, tmp_path):
    with engine.open(":memory:" if request.param == "memory" else tmp_path / "model", dim=8) as eng:
        yield eng


def test_stats_tell_where_everything_is(eng):
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 40, 200), rng.integers(0, 60, 200)
    eng.ingest(users, items)
    eng.hide([1, 2])
    stats = eng.stats()
    assert stats["seq"] == 200
    assert stats["users"]["rows"] == len(np.unique(users))
    assert stats["items"]["rows"] == len(np.unique(items))
    assert stats["catalogue_bytes"] > 0
    assert stats["hidden_items"] == 2
    assert (stats["bit_exact"], stats["skipped_updates"], stats["device"]) == (True, 0, "cpu")
    assert eng.checkpoint() == 200
    if "lmdb" in stats:
        assert (stats["durable_seq"], stats["lmdb_seq"], eng.stats()["lmdb_seq"]) == (200, 0, 200)
        assert eng.stats()["users"]["dirty_rows"] == 0
        assert eng.stats()["log_bytes"] > 200 * 16


def test_what_only_files_have_is_there_with_files_alone(eng):
    files = repr(eng).split(" at seq")[0].find(":memory:") < 0
    assert (OF_FILES & eng.stats().keys()) == (OF_FILES if files else set())


def test_a_closed_engine_has_none(eng):
    eng.close()
    with pytest.raises(EngineError, match="closed"):
        eng.stats()
