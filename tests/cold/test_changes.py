"""The lists of changes: what they lead to is what the epochs wrote, or they say that they don't know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cold import changes
from engine.cold.cold import Cold
from engine.store.catalogue import Catalogue
from engine.table.layout import stored_row_bytes, vector_floats

ITEMS = 9000


def ids_of(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(ITEMS, count, replace=False)).astype(np.int64) * 2**40 - 2**52


def write(cold: Cold, epoch: int, ids: np.ndarray) -> None:
    cold.write([changes.encode(epoch, ids, ITEMS)], {changes.EPOCH: epoch.to_bytes(8, "little")})


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 1, 7, 240, 241, 480, 1024, 2250, 2251, 9000]), min_size=1, max_size=20))
def test_a_reader_learns_what_was_written_or_that_it_is_too_far_behind(tmp_path_factory, sizes):
    written = [ids_of(n, size) for n, size in enumerate(sizes)]
    with Cold.create(tmp_path_factory.mktemp("changes") / "c", {}) as cold:
        with cold.snapshot() as now:
            assert changes.epoch_of(now) == 0
        for epoch, ids in enumerate(written, 1):
            write(cold, epoch, ids)
        with cold.snapshot() as now:
            last = changes.epoch_of(now)
            assert last == len(written)
            for before in range(last + 1):
                got, missed = changes.between(now, before, last), written[before:]
                kept = len(missed) <= changes.EPOCHS and all(len(ids) <= ITEMS // changes.SHARE for ids in missed)
                if kept:
                    np.testing.assert_array_equal(got, np.unique(np.concatenate([*missed, ids_of(0, 0)])))
                else:
                    assert got is None


def test_a_small_catalogue_may_change_as_a_whole():
    assert len(changes.encode(1, ids_of(1, 1024), 10)) == 5
    assert changes.encode(1, ids_of(1, 1025), 10) == []


def rows_of(ordinals: list[int]) -> np.ndarray:
    width = stored_row_bytes(vector_floats(4, "adagrad"))
    rows = np.zeros((len(ordinals), width), np.uint8)
    rows[:, :20] = np.arange(len(ordinals) * 5, dtype=np.float32).reshape(-1, 5).view(np.uint8)
    rows[:, width - 8 :] = np.array(ordinals, np.uint64).reshape(-1, 1).view(np.uint8)
    return rows


@pytest.mark.parametrize(
    ("ids", "ordinals", "fine"),
    [
        ([10, 11, 13, 14], [0, 1, 4, 3], True),
        ([], [], True),
        ([10, 11], [1, 0], False),
        ([11, 20], [1, 4], False),
        ([99], [2], False),
        ([11], [3], False),
        ([13], [2**63], False),
        ([13], [2**32], False),
    ],
)
def test_a_catalogue_follows_what_fits(ids, ordinals, fine):
    catalogue = Catalogue(4)
    catalogue.restore([(np.array([10, 11, 12], np.int64), rows_of([0, 1, 2]))], 3, 3, [], 0)
    assert catalogue.follow(np.array(ids, np.int64), rows_of(ordinals)) == fine
    if fine:
        got = catalogue.ordinals(np.array([*ids, 12], np.int64)).tolist()
        assert got == [*ordinals, 2]
        vectors, biases = catalogue.read(np.array(ordinals, np.int64))
        wanted = rows_of(ordinals)[:, :20].copy().view(np.float32)
        np.testing.assert_array_equal(np.column_stack([vectors, biases]), wanted)
