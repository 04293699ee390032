"""`topk(history=)`: what somebody has had just now, before it is learned."""

import numpy as np
import pytest

import engine
from engine.contract.errors import InputError

MODEL = {"dim": 8, "bag": 5, "repeats": 1, "recent_negatives": 8, "own_negatives": 8, "neighbours": 8, "gate": 0}
END = 1e9 + 3000 * 20.0


@pytest.fixture(scope="module")
def eng():
    """Users who buy pairs: item 2 i, then 2 i + 1."""
    rng = np.random.default_rng(0)
    users, first = rng.integers(0, 60, 1500), rng.integers(0, 40, 1500) * 2
    items = np.stack([first, first + 1], 1).ravel()
    with engine.open(":memory:", **MODEL) as eng:
        eng.ingest(np.repeat(users, 2), items, timestamps=1e9 + np.arange(3000) * 20.0)
        yield eng


def test_an_anonymous_session_changes_its_list_item_by_item(eng):
    before = eng.digest()
    for start in (0, 10, 36):
        assert eng.topk(history=[start], k=3).ids[0] == start + 1
        assert eng.topk(history=[[4, start], [start, 4]], k=3).ids[:, 0].tolist() == [start + 1, 5]
    assert eng.topk(history=[[], [2]], k=3).ids.shape == (2, 3)
    assert eng.topk(history=[2], k=3).ids.shape == (3,)
    assert eng.topk(history=[2, 3], k=80, exclude_seen=True).counts == 78
    assert eng.digest() == before


def test_what_is_not_learned_yet_counts_as_if_it_were_had(eng):
    """As after events that move nothing: those of weight 0."""
    given = eng.topk([7, 7], 20, at=END + 500, history=[[12, 14], [12]])
    for user, had in ((7, [12, 14]),):
        with_them = eng.topk(user, 20, at=END + 500, history=np.array(had))
        assert with_them.ids.tolist() == given.ids[0].tolist()
    eng.ingest([7, 7], [12, 14], weights=[0, 0], timestamps=[END + 500, END + 500])
    learned = eng.topk(7, 20, at=END + 500)
    assert learned.ids.tolist() == given.ids[0].tolist()
    assert np.allclose(learned.scores, given.scores[0], atol=1e-6)
    assert given.ids[1].tolist() != given.ids[0].tolist()


def test_users_without_a_row_have_what_is_given(eng):
    stranger = eng.topk(999, 20, at=END, history=[8])
    nobody = eng.topk(history=[8], k=20, at=END)
    assert stranger.ids.tolist() == nobody.ids.tolist()
    assert stranger.ids[0] == 9


def test_each_request_has_its_moment(eng):
    """One call for many is as many calls, whoever comes when."""
    users, times = np.arange(60), END + 60.0 * np.arange(60) ** 2
    together = eng.topk(users, 5, at=times)
    for user in range(0, 60, 7):
        alone = eng.topk(user, 5, at=times[user])
        assert together.ids[user].tolist() == alone.ids.tolist()
        assert together.scores[user].tolist() == alone.scores.tolist()


def test_ids_that_nobody_knows_are_had_and_change_no_more(eng):
    assert eng.topk(history=[8, 12345], k=20).counts == 20


def test_what_it_refuses(eng):
    for given, message in [
        ({"history": {1, 2}}, "history: got a set, which has no order"),
        ({"history": [{1, 2}]}, "history: got a list with a set"),
        ({"history": [[1], [2]], "users": [1, 2, 3]}, "history: got 2 lists"),
        ({"history": [1], "users": [1, 2, 3]}, "history: got one list, wanted one for each of the 3 users"),
        ({"history": [range(1025)]}, "history: got 1025 items for one query, wanted at most 1024"),
        ({"history": [1.5]}, "history"),
        ({"history": [1], "vectors": np.zeros(8, np.float32)}, "history: got vectors, too"),
        ({}, "users, vectors: got neither"),
    ]:
        with pytest.raises(InputError, match=message):
            eng.topk(**given)
    with engine.open(":memory:", dim=4) as plain, pytest.raises(InputError, match="history: this model does not look"):
        plain.topk(history=[1])
