"""The sketch of csrc/table/sightings.h counts sightings: its reference, and what a count-min sketch must never do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.machine.backend import native

ROWS, WIDTH = 4, 2**18
MASK = 2**64 - 1
USERS, ITEMS = 1, 2  # as the sketch numbers the tables


def mix64(x):
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


class Reference:
    """A count-min sketch (Cormode, Muthukrishnan 2005) with conservative update (Estan, Varghese 2002), plainly."""

    def __init__(self):
        self.cells = np.zeros((ROWS, WIDTH), np.uint8)

    def at(self, seed, table, id):
        h = mix64(mix64(seed ^ (table << 56)) ^ (int(id) & MASK))
        return np.arange(ROWS), [mix64((h + row) & MASK) % WIDTH for row in range(ROWS)]

    def see(self, seed, table, id):
        at = self.at(seed, table, id)
        count = min(int(self.cells[at].min()) + 1, 255)
        self.cells[at] = np.maximum(self.cells[at], count)
        return count

    def halve(self):
        self.cells //= 2

    def admit(self, seed, users, items, users_known, items_known, after):
        made, learned = (set(), set()), []
        for event in zip(users.tolist(), items.tolist(), users_known, items_known, strict=True):
            fits = True
            for side in (0, 1):
                if not event[2 + side] and event[side] not in made[side]:
                    fits &= self.see(seed, 1 + side, event[side]) >= after
            for side in (0, 1):
                if fits and not event[2 + side]:
                    made[side].add(event[side])
            learned.append(fits)
        return np.array(learned, bool)


def same_cells(sketch, reference):
    cells = sketch.cells
    if not len(cells):
        return not reference.cells.any()
    return np.array_equal(cells.reshape(ROWS, WIDTH), reference.cells)


def seen(sketch, ids, seed=0, after=255):
    """Sightings of items; the users are known. The events that are learned at this `after`."""
    known, unknown = np.ones(len(ids), bool), np.zeros(len(ids), bool)
    return sketch.admit(seed, np.zeros(len(ids), np.int64), ids, known, unknown, after)


IDS = st.sampled_from([-(2**63), -(2**40), -2, 0, 1, 2, 3, 5, 2**31, 2**63 - 1])
EVENTS = st.lists(st.tuples(IDS, IDS, st.booleans(), st.booleans()), max_size=20)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**63 - 1), st.lists(st.tuples(EVENTS, st.integers(1, 5), st.booleans()), max_size=5))
def test_it_is_its_reference(seed, calls):
    sketch, reference = native.Sightings(), Reference()
    for events, after, halves in calls:
        columns = [np.array(column, dtype) for column, dtype in zip(
            zip(*events, strict=True) if events else ((),) * 4, (np.int64, np.int64, bool, bool), strict=True
        )]  # fmt: skip
        found = sketch.admit(seed, *columns, after)
        np.testing.assert_array_equal(found, reference.admit(seed, *columns, after))
        if halves:
            sketch.halve()
            reference.halve()
    assert same_cells(sketch, reference)


def test_many_ids_that_share_cells():
    """Where ids collide it may count too many, never too few, and still what the reference counts."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(rng.integers(-(2**63), 2**63 - 1, 50_000), rng.integers(1, 3, 50_000)))
    sketch, reference = native.Sightings(), Reference()
    learned = seen(sketch, ids, after=2)
    exact: dict[int, int] = {}
    often = []
    for id in ids.tolist():
        exact[id] = exact.get(id, 0) + 1
        often.append(exact[id] >= 2)
    assert learned[often].all()
    assert 0 < learned.sum() - np.sum(often) < 500
    for id in ids.tolist():
        reference.see(0, ITEMS, id)
    # What is learned is counted no more, so the cells are compared where nothing is.
    silent = native.Sightings()
    assert not seen(silent, ids).any()
    assert same_cells(silent, reference)
    for id in rng.choice(ids, 500).tolist():
        assert reference.cells[reference.at(0, ITEMS, id)].min() >= exact[id]


@settings(deadline=None, max_examples=60)
@given(st.lists(IDS, min_size=1, max_size=60), st.integers(1, 6), st.data())
def test_it_never_counts_too_few_nor_depends_on_how_calls_are_cut(ids, after, data):
    ids = np.array(ids)
    whole, cut = native.Sightings(), native.Sightings()
    expected = seen(whole, ids, after=after)
    for n in range(len(ids)):
        if (ids[: n + 1] == ids[n]).sum() >= after:
            assert expected[n]
    found, rows, start = [], set(), 0
    while start < len(ids):
        stop = data.draw(st.integers(start + 1, len(ids)))
        part = ids[start:stop]
        known = np.array([id in rows for id in part.tolist()])
        found += cut.admit(0, np.zeros(len(part), np.int64), part, np.ones(len(part), bool), known, after).tolist()
        rows |= set(ids[:stop][found].tolist())
        start = stop
    assert found == expected.tolist()
    np.testing.assert_array_equal(cut.cells, whole.cells)


def test_it_begins_empty_and_is_deterministic():
    a, b = native.Sightings(), native.Sightings()
    assert len(a.cells) == 0
    a.halve()
    assert len(a.cells) == 0
    ids = np.random.default_rng(1).integers(0, 99, 1000)
    for sketch in (a, b):
        seen(sketch, ids, seed=7)
    np.testing.assert_array_equal(a.cells, b.cells)
    other = native.Sightings()
    seen(other, ids, seed=8)
    assert (other.cells != a.cells).any()


def test_known_ids_are_not_counted():
    sketch, ids, known = native.Sightings(), np.arange(9), np.ones(9, bool)
    assert sketch.admit(0, ids, ids, known, known, 5).all()
    assert not np.any(sketch.cells)


def test_users_and_items_are_counted_apart():
    sketch, ids, no = native.Sightings(), np.array([5]), np.zeros(1, bool)
    assert not sketch.admit(0, ids, np.array([6]), no, no, 2)[0]
    assert not sketch.admit(0, np.array([6]), ids, no, no, 2)[0]
    assert sketch.admit(0, ids, ids, no, no, 2)[0]


@pytest.mark.parametrize("times", [254, 255, 256, 600])
def test_counts_end_at_255(times):
    sketch = native.Sightings()
    assert seen(sketch, np.full(times, 3)).any() == (times >= 255)
    assert sketch.cells.max() == min(times, 255)


def test_what_is_long_ago_counts_half():
    sketch = native.Sightings()
    seen(sketch, np.repeat([1, 2, 3], [7, 1, 254]))
    before = sketch.cells
    sketch.halve()
    np.testing.assert_array_equal(sketch.cells, before // 2)
    assert seen(sketch, np.array([1]), after=4)[0]
    assert not seen(sketch, np.array([2]), after=2)[0]


def test_it_goes_on_from_what_was_saved():
    a, b = native.Sightings(), native.Sightings()
    ids = np.random.default_rng(2).integers(0, 50, 300)
    seen(a, ids)
    b.cells = bytes(a.cells)
    for sketch in (a, b):
        seen(sketch, ids)
    np.testing.assert_array_equal(a.cells, b.cells)
    with pytest.raises(ValueError, match="sketch"):
        b.cells = bytes(native.SKETCH_BYTES - 1)
