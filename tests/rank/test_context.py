"""What items are worth beside their scores, and when a request comes; tests/learn/test_sequence.py has the lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.contract.errors import InputError
from engine.learn.model import Moments
from engine.rank.context import Worth, moments
from engine.store.catalogue import Ask


def test_worth_of_items():
    worth = Worth(np.array([3, 5, 9, 3]), np.array([0, 3, 3, 4]), np.array([2, 1, 3, 4], np.float32))
    assert worth.of_pairs(np.array([0, 0, 0, 0]), np.array([9, 4, 3, 5])).tolist() == [3, 0, 2, 1]
    assert worth.of_pairs(np.array([2, 0, 1]), np.array([3, 3, 3])).tolist() == [4, 2, 0]


@pytest.fixture(scope="module")
def catalogue():
    """300 items, some of them hidden, with how many known users have had each."""
    rng = np.random.default_rng(0)
    with engine.open(":memory:", dim=4, bag=1, seed=1, gate_events=4) as eng:
        eng.ingest(np.arange(300) % 7, np.arange(300) * 5)
        eng.ingest(rng.integers(0, 40, 600), rng.integers(0, 300, 600) * 5)
        eng.hide(np.arange(0, 300, 11) * 5)
        rows = np.concatenate([rows for _, rows in eng._store.tables.items.rows()])
        meta = np.ascontiguousarray(rows[:, -12:]).view([("users", "<u4"), ("ordinal", "<u8")])[:, 0]
        users = np.zeros(300, int)
        users[meta["ordinal"]] = meta["users"]
        assert (np.bincount(users)[:4] > 10).all()
        yield eng._store.catalogue, users


RAISES = st.sampled_from([-np.inf, -1.5, -0.01, 0.0, 0.01, 0.25, 2.0, np.inf, np.nan])
SOME = st.lists(st.integers(0, 310), max_size=12, unique=True).map(sorted)


@given(st.lists(st.dictionaries(st.integers(0, 299), RAISES, max_size=30), min_size=1, max_size=3), st.data())
def test_raised_scores_are_ranked_as_they_are_then(catalogue, worths, data):
    """Items whose scores something is added to, and those that come last: as a brute force over all."""
    (catalogue, users), n, k = catalogue, len(worths), data.draw(st.integers(1, 20))
    gate = data.draw(st.integers(0, 4))
    queries = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
    raised = [sorted(worth) for worth in worths]
    offsets = np.cumsum([0, *map(len, raised)], dtype=np.int64)
    excluded = np.array(data.draw(SOME), np.int64)
    included = data.draw(st.none() | SOME.map(lambda x: np.array(x, np.int64)))
    found = catalogue.topk(
        Ask(
            queries,
            k,
            300,
            exclude_all=excluded,
            include=(included, None),
            raised=(np.concatenate([np.array(ats, np.int64) for ats in raised]), offsets),
            gate=gate,
            raises=np.array([worth[at] for worth, ats in zip(worths, raised, strict=True) for at in ats], np.float32),
        )
    )
    ids = catalogue.native.ids(np.arange(300))
    for query in range(n):
        scores = catalogue.score(np.repeat(queries[query : query + 1], 300, 0), np.arange(300))
        for at, worth in worths[query].items():
            with np.errstate(invalid="ignore"):
                scores[at] += np.float32(worth)
        allowed = ~np.isnan(scores) & ~np.isin(ids, catalogue.hidden) & ~np.isin(np.arange(300), excluded)
        if included is not None:
            allowed &= np.isin(np.arange(300), included)
        last = (users < gate) & ~np.isin(np.arange(300), raised[query])
        there = np.flatnonzero(allowed)
        best = there[np.lexsort((ids[there], -scores[there], last[there]))][:k]
        assert found.ids[query, : found.counts[query]].tolist() == ids[best].tolist()
        assert found.scores[query, : found.counts[query]].tolist() == scores[best].tolist()


def test_moments():
    assert moments(None, None, 3) == Moments()
    one = moments(10.5, 0, 3)
    assert one.times.tolist() == [11, 11, 11]
    assert one.marks > 0
    marks = [moments(None, session, 1).marks[0] for session in (1, 2, -7)]
    assert len(set(marks)) == 3
    each = moments([5, 6, 7], [1, 2, 1], 3)
    assert each.cut(slice(1, 3)).times.tolist() == [7, 8]
    assert each.marks[0] == each.marks[2] != each.marks[1]
    assert one.cut(slice(1, 2)).marks == one.marks
    for at, session, message in [
        (None, [1, 2], "session: got list of 2, wanted one id, or one for each of the 3"),
        ([1, 2], None, "timestamps"),
        (-1, None, "timestamps"),
    ]:
        with pytest.raises(InputError, match=message):
            moments(at, session, 3)
