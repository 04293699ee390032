"""The law of `topk`: it equals a brute force in float64 over the rows that the engine itself shows.

Whatever the sizes (0, 1, odd), k beyond the items, duplicates, ties, and filters that leave nothing. Scores are the
bits that `score` gives; against float64 they may differ by rounding, so where two are within it either may come first.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.table.layout import biases_of

IDS = st.one_of(st.integers(-8, 30).filter(lambda id: id != -1), st.sampled_from([-(2**63), 2**63 - 1, 2**40]))
FILTERS = st.one_of(st.none(), st.lists(IDS | st.just(-1), max_size=40), st.just("everything"), st.just("one each"))
ROUNDING = 16 * np.finfo(np.float32).eps


def ranked(allowed, ids, scores):
    """Positions of the allowed ids, by score down, then id up."""
    return sorted(np.flatnonzero(np.isin(ids, list(allowed))), key=lambda at: (-scores[at], ids[at]))


def filters(data, name, ids, users):
    """An argument in one of its shapes, and what it means: a set of ids for each user, None for no filter."""
    drawn = data.draw(FILTERS, name)
    if drawn is None:
        return None, [None] * users
    if drawn == "everything":
        return ids, [set(ids.tolist())] * users
    if drawn == "one each":
        lists = data.draw(st.lists(st.lists(IDS, max_size=9), min_size=users, max_size=users), name)
        meant = [set(row) for row in lists]
        if data.draw(st.booleans(), "padded") and users:
            width = max(map(len, lists))
            return np.array([row + [-1] * (width - len(row)) for row in lists], np.int64).reshape(users, width), meant
        return [np.array(row, np.int64) for row in lists], meant
    return drawn, [set(drawn)] * users


@pytest.mark.parametrize("kept", ["memory", "directory"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_topk_is_a_brute_force(kept, data, tmp_path_factory):
    events = data.draw(st.lists(st.tuples(IDS, IDS), max_size=data.draw(st.sampled_from([0, 1, 7, 60]))), "events")
    dim = data.draw(st.sampled_from([1, 3, 16, 17]), "dim")
    path = ":memory:" if kept == "memory" else tmp_path_factory.mktemp("law") / "model"
    loss = data.draw(st.sampled_from(["softmax", "bpr", "logistic", "squared"]), "loss")
    threads = data.draw(st.sampled_from([1, 2]), "threads")
    pointwise = loss in ("logistic", "squared")
    settings = {"negatives": 0 if pointwise else 3, "batch_size": 2, "lr": 1.0, "threads": threads}
    with engine.open(path, dim=dim, loss=loss, **settings) as eng:
        values = [(u ^ i) & 1 for u, i in events] if pointwise else None
        eng.ingest([u for u, _ in events], [i for _, i in events], values)
        check(eng, events, data)


def check(eng, events, data):
    ids = np.unique(np.array([i for _, i in events], np.int64))
    known = np.unique(np.array([u for u, _ in events], np.int64))
    had = {user: {i for u, i in events if u == user} for user in known.tolist()}
    asked = data.draw(st.lists(st.sampled_from(known.tolist()), max_size=5), "users") if len(known) else []
    k = data.draw(st.sampled_from([1, 2, 5, 64]), "k")
    seen = data.draw(st.booleans(), "exclude_seen")
    exclude, dropped = filters(data, "exclude", ids, len(asked))
    include, chosen = filters(data, "include", ids, len(asked))
    found = eng.topk(asked, k, exclude_seen=seen, exclude=exclude, include=include)
    assert found.ids.shape == found.scores.shape == (len(asked), k)
    for row, user in enumerate(asked):
        allowed = set(ids.tolist()) if chosen[row] is None else chosen[row] & set(ids.tolist())
        allowed -= (dropped[row] or set()) | (had[user] if seen else set())
        bits = eng.score(user, ids)
        queries, items = eng.vectors(user).astype(np.float64)[0], eng.vectors(items=ids).astype(np.float64)
        # The biases have no call of their own: a query of zeros scores nothing but them.
        biases = eng.topk(vectors=np.zeros(len(queries)), k=len(ids))
        order = np.argsort(biases.ids)
        assert biases.ids[order].tolist() == ids.tolist()
        base, own = (
            eng._store.base,
            biases_of(eng._store.users.peek(np.array([user]))[1], eng.settings["dim"]).astype(np.float64)[0],
        )
        exact = items @ queries + biases.scores[order] + own
        scale = np.abs(items) @ np.abs(queries) + np.abs(biases.scores[order]) + 2 * np.abs(base) + np.abs(own)
        assert (np.abs(exact - bits) <= ROUNDING * scale).all()
        n = found.counts[row]
        assert n == min(k, len(allowed))
        want = ranked(allowed, ids, bits)[:n]
        assert found.ids[row].tolist() == ids[want].tolist() + [-1] * (k - n)
        np.testing.assert_array_equal(found.scores[row, :n].view(np.int32), bits[want].view(np.int32))
        assert np.isneginf(found.scores[row, n:]).all()
        brute = ranked(allowed, ids, exact)[:n]
        close = np.abs(exact[want] - exact[brute]) <= 2 * ROUNDING * scale.max(initial=0)
        assert (close | (np.array(want) == np.array(brute))).all()


@pytest.mark.parametrize("items", [15, 16, 17, 1023, 5001])
def test_many_items_and_ties(items):
    rng = np.random.default_rng(items)
    with engine.open(":memory:", dim=5, loss="bpr", batch_size=512, threads=2) as eng:
        ids = rng.permutation(np.arange(items) * 7 - 3000)
        ids[ids == -1] = 10**9
        eng.ingest(np.arange(items) % 50, ids)
        eng.ingest(np.arange(50), ids[np.arange(50) % items])
        every = np.sort(ids)
        for k in (1, 10, items + 1):
            found = eng.topk(np.arange(50), k)
            bits = eng.score(np.arange(50)[:, None], every[None, :])
            for user in range(50):
                best = np.lexsort([every, -bits[user]])[:k]
                assert found.ids[user, : len(best)].tolist() == every[best].tolist()


@pytest.mark.parametrize("k", [1, 3, 70, 1000])
def test_of_equal_scores_the_least_ids_come_first(k):
    with engine.open(":memory:", dim=5, loss="bpr", threads=2) as eng:
        ids = np.random.default_rng(k).permutation(np.arange(1000) * 3 - 999)
        eng.ingest(np.zeros(1000, np.int64), ids, weights=np.zeros(1000))  # biases stay 0
        found = eng.topk(vectors=np.zeros(5), k=k)
        assert found.ids.tolist() == np.sort(ids)[:k].tolist()
        assert not found.scores.any()
