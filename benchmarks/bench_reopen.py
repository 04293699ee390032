"""Reopening: the check of the pages, the scan of the item rows, and the replay of what the log has beyond LMDB.

`scan` should be at 2 M rows/s, `replay` at the speed of learning. The page cache is warm.
"""

import numpy as np
import pytest

import engine

ROWS = 1_000_000
EVENTS = 300_000


@pytest.mark.parametrize("behind", [0, EVENTS])
def test_reopen(benchmark, tmp_path, behind):
    """`behind`: events that only the log has."""
    path = tmp_path / "shop"
    rng = np.random.default_rng(0)
    with engine.open(path, loss="bpr", batch_size=256, negatives=1) as eng:
        ids = np.arange(ROWS)
        eng.ingest(ids, ids)
        eng.checkpoint()
        if behind:
            eng.ingest(rng.integers(0, ROWS, behind), rng.integers(0, ROWS, behind))
    opening = {}

    def reopen():
        with engine.open(path, epoch_seconds=1e6) as eng:
            opening.update(eng.stats()["opening"])

    benchmark.pedantic(reopen, rounds=3)
    benchmark.extra_info["scan M rows/s"] = round(opening["scanned_items"] / opening["scan_seconds"] / 1e6, 3)
    if behind:
        replay = opening["replayed_events"] / opening["replay_seconds"] / 1e6
        benchmark.extra_info["replay M events/s"] = round(replay, 3)
