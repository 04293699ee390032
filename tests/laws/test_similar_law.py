"""The law of `similar`: it equals a brute force in float64 over the vectors that the engine itself shows.

Whatever the sizes, duplicates, items without a direction, and filters that leave nothing. Where two cosines are within
rounding of each other either may come first.
"""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_topk_law import IDS, filters

import engine
from engine.kernels.score_topk import score_topk

ROUNDING = 8 * np.finfo(np.float32).eps


def cosines(vectors):
    """float64 [n, n]; 0 where either has no length."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    units = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return units @ units.T


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_similar_is_a_brute_force(data):
    events = data.draw(
        st.lists(st.tuples(IDS, IDS), min_size=1, max_size=data.draw(st.sampled_from([1, 7, 60]))), "events"
    )
    dim = data.draw(st.sampled_from([1, 2, 16, 17]), "dim")
    with engine.open(":memory:", dim=dim, loss="bpr", negatives=3, batch_size=2, lr=1.0) as eng:
        eng.ingest([u for u, _ in events], [i for _, i in events])
        ids = np.unique(np.array([i for _, i in events], np.int64))
        asked = np.array(data.draw(st.lists(st.sampled_from(ids.tolist()), max_size=5), "items"), np.int64)
        k = data.draw(st.sampled_from([1, 2, 5, 64]), "k")
        exclude, dropped = filters(data, "exclude", ids, len(asked))
        include, chosen = filters(data, "include", ids, len(asked))
        found = eng.similar(asked, k, exclude=exclude, include=include)
        truth = cosines(eng.vectors(items=ids))
        assert found.ids.shape == found.scores.shape == (len(asked), k)
        assert found.seq == eng.seq
        for row, item in enumerate(asked.tolist()):
            allowed = set(ids.tolist()) if chosen[row] is None else chosen[row] & set(ids.tolist())
            allowed -= (dropped[row] or set()) | {item}
            n = int(found.counts[row])
            assert n == min(k, len(allowed))
            assert set(found.ids[row, :n].tolist()) <= allowed
            assert len(set(found.ids[row, :n].tolist())) == n
            assert found.ids[row, n:].tolist() == [-1] * (k - n)
            assert np.isneginf(found.scores[row, n:]).all()
            exact = truth[np.searchsorted(ids, item)]
            np.testing.assert_allclose(
                found.scores[row, :n], exact[np.searchsorted(ids, found.ids[row, :n])], atol=ROUNDING
            )
            best = np.sort(exact[np.isin(ids, list(allowed))])[::-1][:n]
            np.testing.assert_allclose(found.scores[row, :n], best, atol=ROUNDING)
            assert (np.lexsort((found.ids[row, :n], -found.scores[row, :n])) == np.arange(n)).all()
            alone = eng.similar(item, k, exclude=sorted(set(ids.tolist()) - allowed) or None)
            assert alone.ids.tolist() == found.ids[row].tolist()
            assert alone.scores.tobytes() == found.scores[row].tobytes()


def test_a_scalar_gives_one_row_and_duplicates_one_each(eng, stream):
    eng.ingest(*stream(200))
    item = int(stream(200)[1][0])
    one = eng.similar(item)
    assert one.ids.shape == one.scores.shape == (10,)
    assert one.counts == 10
    assert item not in one.ids
    two = eng.similar([item, item])
    assert two.ids.tolist() == [one.ids.tolist()] * 2
    assert eng.similar([]).ids.shape == (0, 10)


def test_equal_vectors_come_by_id():
    """No event has a weight: vectors keep their first noise; with dim 1 every cosine is 1 or -1."""
    with engine.open(":memory:", dim=1, loss="bpr") as eng:
        ids = np.random.default_rng(0).permutation(np.arange(500) * 3 - 701)
        eng.ingest(np.zeros(500, np.int64), ids, weights=np.zeros(500))
        sign = np.sign(eng.vectors(items=np.sort(ids))[:, 0])
        for item in ids[:9].tolist():
            found = eng.similar(item, 499)
            mine = sign[np.searchsorted(np.sort(ids), item)]
            same, other = np.sort(ids)[sign == mine], np.sort(ids)[sign != mine]
            assert found.ids.tolist() == [*same[same != item].tolist(), *other.tolist()]
            assert found.scores.tolist() == [1.0] * (len(same) - 1) + [-1.0] * len(other)


def test_unknown_items_are_refused(eng, stream):
    for call in (lambda: eng.similar(5), lambda: eng.similar([5])):
        with pytest.raises(engine.UnknownIdError, match="items: 5"):
            call()
    users, items = stream(50)
    eng.ingest(users, items)
    with pytest.raises(engine.UnknownIdError, match="items: 5"):
        eng.similar([int(items[0]), 5])
    assert 5 not in eng.similar(int(items[0]), 40, exclude=[5], include=[5, *items.tolist()]).ids


def test_vector_and_norm_are_of_one_moment():
    """Every cosine seen beside the writer is that of two vectors which the same stream gave, learned event by event."""
    options = {"dim": 4096, "loss": "bpr", "negatives": 2, "seed": 3, "lr": 1.0}
    n, ids = 200, [0, 1, 2]
    users, items = np.arange(n) % 2, np.arange(n) % 3
    versions = []
    with engine.open(":memory:", **options) as steps:
        for event in range(n):
            steps.ingest(users[event], items[event])
            if event >= 5:
                versions.append(steps.vectors(items=ids))
    seen = np.concatenate(versions)
    _, scores, _ = score_topk(seen, seen, np.zeros(len(seen), np.float32), np.arange(len(seen)), len(seen), cosine=True)
    legal, looks, wrong = set(scores.reshape(-1).tolist()), [0, 0], []
    for _ in range(25):
        with engine.open(":memory:", **options) as eng:
            eng.ingest(users[:6], items[:6])
            begun, done = threading.Barrier(3), threading.Event()

            def read(which, eng=eng, begun=begun, done=done):
                begun.wait()
                while not done.is_set() or not looks[which]:
                    found = eng.similar(ids, 2)
                    looks[which] += 1
                    if (np.sort(found.ids, axis=1) != [[1, 2], [0, 2], [0, 1]]).any():
                        wrong.append(found.ids)
                    wrong.extend(set(found.scores.reshape(-1).tolist()) - legal)

            threads = [threading.Thread(target=read, args=(which,)) for which in range(2)]
            for thread in threads:
                thread.start()
            try:
                begun.wait()
                eng.ingest(users[6:], items[6:])
            finally:
                done.set()
                for thread in threads:
                    thread.join()
    assert min(looks)
    assert wrong == []
