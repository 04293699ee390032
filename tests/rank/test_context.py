"""What items are worth beside their scores, and the merge of the best; tests/learn/test_sequence.py has the lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import InputError
from engine.rank.context import Worth, best_of_both, moment
from engine.rank.filters import Lists
from engine.store.catalogue import TopItems


class Numbered:
    """A catalogue whose ordinals are the ids."""

    def ordinals(self, ids):
        return ids


def test_worth_of_items():
    worth = Worth(Lists(np.array([5, 3, 9, 3]), np.array([0, 3, 3, 4])), np.array([1, 2, 3, 4], np.float32))
    assert worth.most() == 3
    assert worth.of(0, np.array([9, 4, 3, 5])).tolist() == [3, 0, 2, 1]
    assert worth.of(1, np.array([3])).tolist() == [0]
    assert worth.of_pairs(np.array([2, 0, 1]), np.array([3, 3, 3])).tolist() == [4, 2, 0]


SCORES = st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 2.0, np.inf, np.nan]), min_size=12, max_size=12)


@given(SCORES, SCORES, st.sets(st.integers(0, 11)), st.integers(1, 15))
def test_the_merge_is_the_best_of_all(scores, worths, mine, k):
    """Whatever stands on which side: an item on both sides of the merge counts with what it is worth."""
    scores, worths = np.array(scores, np.float32), np.array(worths, np.float32)
    scores[np.isnan(scores)] = 0
    own = np.array(sorted(mine), np.int64)
    rest = np.setdiff1d(np.arange(12), own)
    others = best(rest, scores[rest], k)
    alone = best(own, scores[own], max(1, len(own)))
    worth = Worth(Lists(own, np.array([0, len(own)])), worths[own])
    found = best_of_both(others, alone, worth, Numbered())
    with np.errstate(invalid="ignore"):
        raised = scores + np.where(np.isin(np.arange(12), own), worths, np.float32(0))
    there = np.flatnonzero(~np.isnan(raised))
    wanted = there[np.lexsort((there, -raised[there]))][:k]
    assert found.ids[0, : found.counts[0]].tolist() == wanted.tolist()
    assert found.scores[0, : found.counts[0]].tolist() == raised[wanted].tolist()
    assert (found.ids[0, found.counts[0] :] == -1).all()


def best(ids, scores, k):
    order = np.lexsort((ids, -scores))[:k]
    n = len(order)
    filled, found = np.full((1, k), -1, np.int64), np.full((1, k), -np.inf, np.float32)
    filled[0, :n], found[0, :n] = ids[order], scores[order]
    return TopItems(filled, found, np.array([n]))


def test_moments():
    assert moment(None, None) == (None, None)
    time, mark = moment(10.5, 0)
    assert time == 11
    assert mark > 0
    assert moment(None, 1)[1] != moment(None, 2)[1] != moment(None, -2)[1]
    with pytest.raises(InputError, match="session: got"):
        moment(None, [1, 2])
    with pytest.raises(InputError, match="timestamps"):
        moment(-1, None)
