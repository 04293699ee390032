"""Explanations: their parts are the score, and they name what a user has had."""

import numpy as np
import pytest

import engine
from engine.contract.errors import InputError, UnknownIdError

MODEL = {"dim": 8, "bag": 5, "repeats": 1, "recent_negatives": 8, "own_negatives": 8, "neighbours": 8}


@pytest.fixture(scope="module", params=[MODEL, MODEL | {"neighbours": 0, "repeats": 0}, {"dim": 8}], ids=str)
def eng(request):
    rng = np.random.default_rng(0)
    users, first = rng.integers(0, 30, 800), rng.integers(0, 20, 800) * 2
    with engine.open(":memory:", **request.param) as eng:
        items = np.stack([first, first + 1], 1).ravel()
        eng.ingest(np.repeat(users, 2), items, timestamps=1e9 + np.arange(1600) * 20.0)
        yield eng


def test_the_parts_are_the_score(eng):
    for user in (3, 7):
        items = eng.topk(user, 40).ids
        explained = eng.explain(user, items)
        assert [why.item for why in explained] == items.tolist()
        assert np.allclose([why.score for why in explained], eng.score(user, items), atol=1e-4)
        for why in explained:
            parts = [why.user, why.bias, why.had, *why.bag.values(), *why.near.values()]
            assert why.score == pytest.approx(sum(parts), abs=1e-6)


def test_requests_of_another_moment(eng):
    for more in ({}, {"at": 2e9}, {"history": [4, 9]}):
        if more and not eng.settings["bag"]:
            continue
        found = eng.topk(3, 40, **more)
        explained = eng.explain(3, found.ids, **more)
        assert np.allclose([why.score for why in explained], found.scores, atol=1e-4)


def test_it_names_what_counts():
    rng = np.random.default_rng(0)
    users, first = rng.integers(0, 30, 800), rng.integers(0, 20, 800) * 2
    with engine.open(":memory:", **MODEL) as eng:
        items = np.stack([first, first + 1], 1).ravel()
        eng.ingest(np.repeat(users, 2), items, timestamps=1e9 + np.arange(1600) * 20.0)
        (why,) = eng.explain(3, 9, history=[8])
        assert next(iter(why.bag)) == 8
        assert max(why.near, key=why.near.get) == 8
        assert why.near[8] > 0
        (again,) = eng.explain(3, eng.history(3)[-1:])
        assert again.had != 0
        (stranger,) = eng.explain(999, 9)
        assert (stranger.bag, stranger.near, stranger.had) == ({}, {}, 0)
        assert len(eng.explain(3, [])) == 0


def test_what_it_refuses(eng):
    with pytest.raises(UnknownIdError, match="items: 12345 has no row"):
        eng.explain(3, [1, 12345])
    with pytest.raises(InputError, match="user: got"):
        eng.explain([3, 4], 1)
    if not eng.settings["bag"]:
        with pytest.raises(InputError, match="history: this model does not look"):
            eng.explain(3, 1, history=[2])
