"""What `similar`, `score` and `history` give for ids without a row, and in which order what a user has had."""

import numpy as np
import pytest
from junk import but, refused

import engine
from engine import InputError, UnknownIdError

SHOP = [7, 7, 8, 9, 7], [100, 101, 100, 102, 103]


@pytest.fixture
def shop(eng):
    eng.ingest(*SHOP)
    return eng


def test_similar_skips_items_without_a_row(shop):
    found = shop.similar([100, 555, 101], 3, unknown="skip")
    known = shop.similar([100, 101], 3)
    np.testing.assert_array_equal(found.ids[[0, 2]], known.ids)
    np.testing.assert_array_equal(found.scores[[0, 2]], known.scores)
    assert found.counts.tolist() == [3, 0, 3]
    assert found.ids[1].tolist() == [-1] * 3
    assert np.isneginf(found.scores[1]).all()
    alone = shop.similar(555, 2, unknown="skip")
    assert (alone.ids.tolist(), alone.counts) == ([-1, -1], 0)
    assert shop.similar([555, 556], 2, unknown="skip").counts.tolist() == [0, 0]
    digest = shop.digest()
    for unknown in ({}, {"unknown": "raise"}):
        with pytest.raises(UnknownIdError, match="items: 555 has no row"):
            shop.similar([100, 555], **unknown)
    assert shop.digest() == digest


def test_score_skips_pairs_with_an_id_without_a_row(shop):
    users, items = np.array([[7], [404], [8]]), np.array([100, 555, 101])
    found = shop.score(users, items, unknown="skip")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), [[False, True, False], [True, True, True], [False, True, False]])
    np.testing.assert_array_equal(found[[0, 2]][:, [0, 2]], shop.score(users[[0, 2]], items[[0, 2]]))
    assert np.isnan(shop.score(404, 100, unknown="skip"))
    assert np.isnan(shop.score([404, 405], 555, unknown="skip")).all()
    assert shop.score(7, 100, unknown="skip") == shop.score(7, 100)
    for unknown in ({}, {"unknown": "raise"}):
        with pytest.raises(UnknownIdError, match="users: 404 has no row"):
            shop.score([7, 404], 100, **unknown)
        with pytest.raises(UnknownIdError, match="items: 555 has no row"):
            shop.score(7, [100, 555], **unknown)


def test_many_pairs_at_once(shop, monkeypatch):
    """Pairs are scored a part at a time; queries, too."""
    monkeypatch.setattr("engine.rank.ranker._PAIRS", 3)
    monkeypatch.setattr("engine.rank.ranker._QUERIES", 2)
    users, items = np.array([7, 404, 8, 9, 405, 406, 407, 7]), np.array([100, 100, 101, 555, 102, 103, 100, 103])
    there = [True, False, True, False, False, False, False, True]
    found = shop.score(users, items, unknown="skip")
    np.testing.assert_array_equal(~np.isnan(found), there)
    np.testing.assert_array_equal(found[there], shop.score(users[there], items[there]))
    assert shop.similar(np.append(items, 556), 9, unknown="skip").counts.tolist() == [3, 3, 3, 0, 3, 3, 3, 3, 0]


def test_unknown_is_one_of_two(shop):
    for junk in [*but(), "fallback"]:
        refused("unknown", lambda junk=junk: shop.similar(100, unknown=junk))
        refused("unknown", lambda junk=junk: shop.score(7, 100, unknown=junk))


def test_a_history_has_the_most_recent_item_last(shop):
    assert shop.history(7).tolist() == [100, 101, 103]
    shop.ingest([7, 8, 7], [100, 7000, 5])
    assert shop.history(7).tolist() == [101, 103, 100, 5]
    assert shop.history(np.int32(8)).tolist() == [100, 7000]
    assert shop.history(404).tolist() == []
    assert shop.history(7).dtype == np.int64
    shop.forget(items=103)
    assert shop.history(7).tolist() == [101, 100, 5]
    shop.forget(users=7)
    assert shop.history(7).tolist() == []
    for user in ([7], [[7]], -1, "7", None, 7.0):
        with pytest.raises(InputError, match=r"^user"):
            shop.history(user)


def test_histories_of_many_items_in_ram_and_in_lmdb(home):
    """Of several chunks, more than a history keeps, and read where they are; a Reader reads the same."""
    items = np.random.default_rng(0).integers(0, 1500, 4000)
    _, last = np.unique(items[::-1], return_index=True)
    wanted = items[np.sort(len(items) - 1 - last)][-1024:].tolist()
    with engine.open(home, dim=4, loss="bpr") as eng:
        eng.ingest(7, items)
        eng.ingest(8, 9)
        assert eng.history(7).tolist() == wanted
    with engine.open(home) as eng:
        assert eng.history(7).tolist() == wanted
        eng.ingest(7, wanted[3])
        assert eng.history(7).tolist() == [*wanted[:3], *wanted[4:], wanted[3]]
    with engine.open(home, mode="r") as reader:
        assert reader.history(7).tolist() == [*wanted[:3], *wanted[4:], wanted[3]]
        assert reader.history(404).tolist() == []


def test_hidden_items_are_read_back(eng):
    assert eng.hidden().tolist() == []
    eng.hide([9, -5, 2**62])
    eng.show(9)
    eng.hide(7)
    assert eng.hidden().tolist() == [-5, 7, 2**62]
    assert eng.hidden().dtype == np.int64
    eng.hidden()[:] = 0  # a copy
    eng.forget(items=7)
    assert eng.hidden().tolist() == [-5, 2**62]


def test_a_reader_sees_what_was_hidden_at_the_last_epoch(home):
    with engine.open(home, dim=4) as eng:
        eng.hide([9, -5])
    with engine.open(home, mode="r") as reader:
        assert reader.hidden().tolist() == [-5, 9]


def test_too_many_pairs_are_refused_before_there_is_memory_for_them(shop):
    users, items = np.full((2**14, 1), 7), np.full(2**13 + 1, 100)
    with pytest.raises(InputError, match="users, items: got 134234112 pairs"):
        shop.score(users, items)
    with pytest.raises(InputError, match="pairs"):
        shop.score(np.full((200_000, 1), 7), np.full(200_000, 100))
