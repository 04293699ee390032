"""Promise 1 case by case: what recovery and failures must not do, each case once a bug. tests/crash has the sweep."""

import engine

SETTINGS = {"dim": 8, "negatives": 2, "seed": 1}


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
