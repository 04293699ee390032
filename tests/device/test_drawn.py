"""What a device has to know to name rows by itself, and what the host learns of it."""

import numpy as np

from engine.device.copies import Copies
from engine.device.drawn import Drawn
from engine.machine.backend import require_device

torch, DEVICE = require_device()


def named(drawn, places, rows):
    drawn.name(torch.tensor(places, dtype=torch.int32, device=DEVICE), rows)


def test_items_are_where_they_came_last():
    drawn = Drawn(Copies(torch, DEVICE))
    drawn.placed(np.array([2, 0]), np.array([7, 5]))
    drawn.placed(np.array([], np.int64), np.array([], np.int64))
    drawn.placed(np.array([1, 40, 2]), np.array([3, 9, 4]))
    assert drawn.slots.dtype == torch.int32
    assert drawn.slots[[0, 1, 2, 40]].tolist() == [5, 3, 4, 9]


def test_what_was_named_stays_so_until_it_is_cleared():
    drawn = Drawn(Copies(torch, DEVICE))
    assert not drawn.pending
    named(drawn, [3, 0, -1, 3], 4)
    assert drawn.pending
    named(drawn, [9, -1], 10)  # there are more rows than before
    named(drawn, [1], 10)
    assert drawn.named().tolist() == [0, 1, 3, 9]
    assert drawn.pending
    drawn.clear()
    assert not drawn.pending
    named(drawn, [-1, 8], 10)
    assert drawn.named().tolist() == [8]
