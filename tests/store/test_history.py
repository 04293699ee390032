"""What a user has had, against a dictionary: the engine's list is searched by tags and keeps a shortlist of its oldest,
the model does neither."""

import numpy as np
import pytest

import engine

MOST = 1024
USER = 7


class Recent:
    """The most recent distinct items of one user."""

    def __init__(self):
        self.items: dict[int, None] = {}

    def had(self, item):
        self.items.pop(item, None)
        self.items[item] = None
        if len(self.items) > MOST:
            del self.items[next(iter(self.items))]

    def forget(self, items):
        for item in items:
            self.items.pop(item, None)


@pytest.mark.parametrize("seed", range(4))
def test_history_is_that_of_a_dictionary(tmp_path, seed):
    rng, model, all_items = np.random.default_rng(seed), Recent(), 1600
    ids = rng.permutation(all_items) * 1_000_003 - 5
    with engine.open(tmp_path / "shop", dim=4, loss="bpr", batch_size=64, warm_bytes=1 << 22) as eng:
        eng.ingest(np.full(all_items, 1), ids)
        for turn in range(12):
            n = int(rng.integers(1, 900))
            # new ones, ones had lately, ones had long ago
            part = ids[rng.integers(0, rng.integers(1, all_items), n)]
            eng.ingest(np.full(n, USER), part)
            for item in part.tolist():
                model.had(item)
            if turn % 4 == 3:
                gone = ids[rng.integers(0, all_items, 40)]
                eng.forget(items=gone)
                model.forget(gone.tolist())
                eng.ingest(np.full(len(gone), 1), gone)  # they can be ranked again
            if turn % 5 == 4:
                eng.checkpoint()
            left = eng.topk(USER, k=all_items, exclude_seen=True)
            listed = set(left.ids[: left.counts].tolist())
            assert set(ids.tolist()) - listed == set(model.items)
