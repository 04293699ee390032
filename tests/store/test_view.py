"""What one call of a reader sees is one epoch, whatever comes after it."""

import numpy as np
from directories import SMALL

import engine


def test_a_view_stays_at_its_epoch(home, stream):
    users, items = stream(200)
    with engine.open(home, **SMALL) as eng:
        eng.ingest(users[:100], items[:100])
        before = eng.digest(), eng.vectors(np.unique(users[:100]))
    with engine.open(home, mode="r") as reader, reader._at_newest() as view:
        epoch = view.epoch()
        assert view.valid
        assert (view.state.seq, view.digest()) == (100, before[0])
        found, rows = epoch.users.peek(np.unique(users[:100]))
        assert found.all()
        assert rows[:, : before[1].nbytes // len(rows)].tobytes() == before[1].tobytes()
        assert len(epoch.catalogue) == len(np.unique(items[:100]))
