"""The hot tier: which rows are on the device, that they come back as they were changed there, and its turn."""

import _thread
import signal
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from late import LateCopies

from engine.contract.errors import DeviceError, EngineError
from engine.device import hot
from engine.device.copies import Copies
from engine.device.hot import HotTier, Turn, hot_row_bytes
from engine.machine.backend import device_errors, native, require_device
from engine.table.layout import vector_floats
from engine.table.table import Table

DIM = 3


class Tier:
    """A warm tier of known rows with a hot tier before it, and what its rows should be."""

    def __init__(self, rows, places, reserved=True, copies=Copies):
        self.torch, device = require_device()
        self.warm = native.Warm(vector_floats(DIM, "adagrad"), max(rows, places), False)
        table = Table("rows", 1, self.warm, None)
        self.hot = HotTier(table, places, reserved, copies(self.torch, device), Turn())
        self.ids = np.arange(rows, dtype=np.int64) * 7 - 20
        n, missing = self.warm.bring(self.ids)
        assert n == len(missing) == rows
        stored = np.zeros((rows, self.warm.stored_bytes), np.uint8)
        floats = stored[:, : 4 * (DIM + 3)].view(np.float32)
        floats[:] = np.arange(rows * (DIM + 3)).reshape(rows, -1)
        self.known = {int(i): row for i, row in zip(self.ids, floats.copy(), strict=True)}
        self.warm.fill(self.ids, stored)
        self.warm.unpin()

    def place(self):
        """Brings what is pinned to the device."""
        moves = self.hot.claim()
        if moves:
            self.hot.settle()
            self.hot.exchange(moves)

    def use(self, ids):
        """Pins rows, brings them to the device, adds 1 to their first float there, and says that they are ahead."""
        ids = np.unique(self.ids[ids])
        assert self.warm.bring(ids)[0] == len(ids)
        self.place()
        places = self.hot.native.pinned().places
        assert len(np.unique(places)) == len(ids)
        at = self.torch.from_numpy(places).to(self.hot.rows.device)
        on_device = self.hot.rows[at].cpu().numpy()
        expected = np.stack([self.known[int(i)] for i in ids])
        order = np.lexsort(on_device.T[::-1]), np.lexsort(expected.T[::-1])
        np.testing.assert_array_equal(on_device[order[0], : DIM + 3], expected[order[1]])
        assert not on_device[:, DIM + 3 :].any()
        self.hot.rows[at, 0] += 1
        for i in ids:
            self.known[int(i)][0] += 1
        self.hot.native.learned()
        self.warm.unpin()

    def in_ram(self, ids):
        found, rows = self.warm.peek(ids)
        assert found.all()
        return rows[:, : 4 * (DIM + 3)].copy().view(np.float32)

    def check(self, ids):
        ids = self.ids[ids]
        self.hot.refresh(ids)
        np.testing.assert_array_equal(self.in_ram(ids), np.stack([self.known[int(i)] for i in ids]))


@pytest.mark.parametrize("copies", [Copies, LateCopies])
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_rows_are_what_was_learned_wherever_they_are(copies, data):
    rows, places = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    tier = Tier(rows, places, copies=copies)
    some = st.lists(st.integers(0, rows - 1), min_size=1, max_size=places)
    for _ in range(data.draw(st.integers(0, 8))):
        if data.draw(st.booleans()):
            tier.use(data.draw(some))
        else:
            tier.check(data.draw(some))
        assert len(tier.hot.native) <= places
    tier.hot.refresh()
    assert tier.hot.native.ahead == 0
    np.testing.assert_array_equal(tier.in_ram(tier.ids), np.stack([tier.known[int(i)] for i in tier.ids]))


@pytest.mark.parametrize("copies", [Copies, LateCopies])
def test_every_window_evicts_what_the_next_one_needs(copies):
    tier = Tier(8, 4, copies=copies)
    for turn in range(12):
        tier.use(np.arange(4) + 4 * (turn % 2))
    assert tier.hot.stats()["hot_evicted"] == 44
    tier.check(np.arange(8))


def test_what_is_asked_for_comes_back_and_nothing_else():
    tier = Tier(6, 6)
    tier.use(np.arange(6))
    tier.hot.refresh(tier.ids[:2])
    assert tier.hot.native.ahead == 4
    tier.hot.refresh(np.array([10**9]))
    assert tier.hot.native.ahead == 4
    np.testing.assert_array_equal(tier.in_ram(tier.ids[2:3])[0, 0], tier.known[int(tier.ids[2])][0] - 1)


def test_a_row_that_leaves_ram_gives_up_its_place():
    tier = Tier(4, 4)
    tier.use([0, 1, 2, 3])
    tier.hot.refresh()
    tier.warm.remove(tier.ids[1:3])
    assert len(tier.hot.native) == 2


def test_more_rows_than_places_is_refused_whole():
    tier = Tier(4, 2)
    tier.warm.bring(tier.ids)
    with pytest.raises(EngineError, match="places"):
        tier.place()
    tier.warm.unpin()
    tier.use([0, 3])
    tier.check([0, 1, 2, 3])


def test_a_row_of_the_device_is_whole_sectors():
    assert hot_row_bytes(64, "adagrad") == 288  # 67 floats
    assert hot_row_bytes(64, "adam") % 32 == 0
    assert hot_row_bytes(1, "sgd") == 32


def test_the_turn_is_fair_and_can_be_taken_again():
    turn, order = Turn(), []
    began = [threading.Event() for _ in range(3)]

    def wait(n):
        began[n].set()
        with turn, turn:
            order.append(n)

    threads = [threading.Thread(target=wait, args=(n,)) for n in range(3)]
    with turn:
        for n, thread in enumerate(threads):
            thread.start()
            began[n].wait()
            while turn.wanted < n + 2:  # it has its ticket
                threading.Event().wait(0.001)
    with turn:  # at once again, and yet the last
        order.append("writer")
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, "writer"]


def test_no_interrupt_keeps_the_turn():
    """Whenever it comes: while the turn is taken, waited for, or given back."""
    turn, rng, done = Turn(), np.random.default_rng(0), threading.Event()

    def another():
        while not done.is_set():
            with turn:
                pass

    def interrupt(after):
        done.wait(after)
        _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = threading.Thread(target=another)
    other.start()
    try:
        for after in rng.exponential(0.0003, 150):
            thread = threading.Thread(target=interrupt, args=(after,))
            try:
                thread.start()
                while True:
                    with turn, turn:
                        pass
            except KeyboardInterrupt:
                thread.join()
            done.set()
            other.join(30)
            assert not other.is_alive()
            assert turn.wanted == 0
            done.clear()
            other = threading.Thread(target=another)
            other.start()
    finally:
        done.set()
        other.join(30)
        signal.signal(signal.SIGINT, before)


def test_what_is_sent_back_stays_on_its_way_until_it_has_come():
    """Whoever waits for it may be interrupted."""
    tier = Tier(4, 2)
    tier.use([0, 1])
    tier.use([2, 3])
    rows, landed = tier.hot._leaving[0]
    answers = iter([KeyboardInterrupt, None])

    def interrupted():
        if answer := next(answers):
            raise answer
        return landed()

    tier.hot._leaving[0] = rows, interrupted
    with pytest.raises(KeyboardInterrupt):
        tier.hot.refresh()
    tier.check(np.arange(4))


def test_transfers_keep_their_order():
    """On a GPU: copies beside kernels, of memory that changes right after."""
    torch, device = require_device()
    copies = Copies(torch, device)
    n = 1 << 18
    for turn in range(8):
        staging = copies.staging(n, 4)
        staging.fill_(turn)
        coming = copies.load(staging)
        counts = np.full(n, turn, np.int64)
        sent = copies.send(counts)
        rows = coming()
        there = rows * 2 + sent[:, None]
        back, told = copies.fetch(there * 1), copies.report(there[0], sent[:2])
        there.zero_()
        assert (back() == 3 * turn).all()
        numbers, first = told()
        assert (numbers == 3 * turn).all()
        assert first.tolist() == [turn, turn]


def test_what_torch_raises_is_a_device_error():
    torch, _ = require_device()
    with pytest.raises(DeviceError, match="out of device memory while trying"), device_errors("trying"):
        raise torch.OutOfMemoryError("none left")
    with pytest.raises(DeviceError, match="the device failed while trying"), device_errors("trying"):
        raise RuntimeError("CUDA error")
    with pytest.raises(EngineError, match="as it was"), device_errors("trying"):
        raise EngineError("as it was")


def test_memory_is_taken_as_it_is_needed(monkeypatch):
    monkeypatch.setattr(hot, "_FIRST_ROWS", 2)
    tier = Tier(9, 9, reserved=False)
    for rows in ([0], [1, 2], [3, 4, 5, 6, 7, 8], [0, 8]):
        tier.use(rows)
    assert len(tier.hot.rows) == 9
    tier.check(np.arange(9))
