"""What `exclude` and `include` may be: a set says the same as a list of its ids, for all users and for each."""

import numpy as np
import pytest

from engine import InputError
from engine.rank.filters import Lists, filter_lists


@pytest.mark.parametrize("name", ["exclude", "include"])
def test_a_set_says_what_a_list_says(memory, name):
    memory.ingest([1, 1, 2, 3], [10, 11, 12, 13])
    for given, plain in [
        ({10, 12, 999}, [10, 12, 999]),
        (frozenset({np.int64(11)}), [11]),
        (set(), []),
        ({10: "a"}.keys(), [10]),
        ({-1, 13}, [13]),
        ([{10}, {11, 12}], [[10], [11, 12]]),
        ((frozenset({10}), [11, 12]), [[10], [11, 12]]),
        ([set(), np.array([11])], [[], [11]]),
    ]:
        for call in (memory.topk, memory.similar):
            for subject in ([1, 2], [2, 3]):
                rows = subject if call == memory.topk else np.array(subject) + 10
                found, wanted = (call(rows, 4, **{name: filter}) for filter in (given, plain))
                np.testing.assert_array_equal(found.ids, wanted.ids)
                np.testing.assert_array_equal(found.scores, wanted.scores)
                np.testing.assert_array_equal(found.counts, wanted.counts)


def test_as_many_sets_as_queries_are_wanted():
    assert isinstance(filter_lists("exclude", [{1}, {2}], 2), Lists)
    with pytest.raises(InputError, match=r"exclude: got 2 lists, wanted .* one list for each of the 3 queries"):
        filter_lists("exclude", [{1}, {2}], 3)
    for bad in ({2**63}, {1.5}, {None}, {(1,)}, {True}):
        with pytest.raises(InputError, match=r"exclude\[1\]: got \S+ in a set, wanted int64s"):
            filter_lists("exclude", [{1}, bad], 2)
