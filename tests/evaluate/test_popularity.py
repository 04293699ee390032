"""Live popularity: it counts and lists exactly, whatever is excluded, and grows."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.evaluate.popularity import Popularity


@given(st.lists(st.integers(-4, 8), max_size=80), st.integers(1, 6), st.lists(st.integers(-4, 8), max_size=5))
def test_popularity_counts(items, k, off):
    pop = Popularity()
    pop.ingest(np.zeros(len(items), np.int64), np.array(items, np.int64))
    answer = pop.topk(np.array([0, 1]), k, exclude=[np.array(off, np.int64), np.empty(0, np.int64)])
    for row, without in ((0, off), (1, [])):
        counts = Counter(i for i in items if i not in without)
        want = sorted(counts.values(), reverse=True)[:k]
        assert answer.scores[row][: len(want)].tolist() == want
        assert answer.ids[row][len(want) :].tolist() == [-1] * (k - len(want))
        for i, s in zip(answer.ids[row][: len(want)].tolist(), want, strict=True):
            assert counts[i] == s


def test_popularity_grows():
    pop = Popularity()
    pop.ingest(np.zeros(5000, np.int64), np.arange(5000))
    pop.ingest(np.zeros(1, np.int64), np.array([4321]))
    assert pop.topk(np.array([1]), 1).ids.tolist() == [[4321]]
