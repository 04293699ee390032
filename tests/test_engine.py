"""The engine as its user sees it: the same behaviour in memory and in a directory, with each loss."""

import math
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import EngineError, InputError, UnknownIdError
from engine.table.layout import biases_of, vectors_of

EXTREMES = np.array([-(2**63), -(2**63) + 1, -2, 0, 1, 2**62, 2**63 - 1])


def files_of(eng, place, contents):
    return {} if place == ":memory:" else contents(Path(place))


def test_a_report_says_what_was_done(eng, stream):
    users, items = stream(300)
    first = eng.ingest(users[:200], items[:200])
    assert (first.events, first.seq, eng.seq) == (200, 200, 200)
    assert first.new_users == len(np.unique(users[:200]))
    assert first.new_items == len(np.unique(items[:200]))
    assert first.found["made"] == first.new_users + first.new_items
    assert 0 < first.loss < 10
    assert first.seconds > 0
    second = eng.ingest(users[200:], items[200:])
    assert (second.events, second.seq) == (100, 300)
    assert second.new_users == len(np.setdiff1d(users[200:], users[:200]))
    assert second.found["warm"] > 0
    assert second.found["cold"] == 0
    one = eng.ingest(users[0], int(items[0]))
    assert (one.events, one.seq, one.new_users, one.new_items) == (1, 301, 0, 0)


def test_learning_brings_a_user_nearer_to_an_item(place, loss, stream):
    with engine.open(place, dim=8, loss=loss, negatives=4) as eng:
        eng.ingest(*stream(200))
        losses = [eng.ingest(10**6 + 1, 5 + 2**47 - 2**50).loss for _ in range(30)]
        assert losses[-1] < losses[0] / 2
        assert eng.topk(10**6 + 1, 1).ids[0] == 5 + 2**47 - 2**50


def test_reads_show_the_write_before_them(eng, stream):
    for user, item in zip(*stream(60), strict=True):
        report = eng.ingest(user, item)
        found = eng.topk(user, 3, include=[item])
        assert found.seq >= report.seq == eng.seq
        assert (found.counts, found.ids.tolist()) == (1, [item, -1, -1])
        assert found.scores[0] == eng.score(user, item)
        assert item not in eng.topk(user, 100, exclude_seen=True).ids


def test_answers_are_made_from_the_rows_as_they_are_now(eng, stream):
    """The catalogue is a copy that the digest does not look at. With no writer, an answer's seq is the Engine's."""
    users, items = stream(200, seed=5)
    for start in range(0, 200, 50):
        eng.ingest(users[start : start + 50], items[start : start + 50])
        ids = np.unique(items[: start + 50])
        found, rows = eng._store.tables.items.peek(ids)
        assert found.all()
        np.testing.assert_array_equal(eng.vectors(items=ids), vectors_of(rows, eng.settings["dim"]))
        biases = eng._store.catalogue.read(eng._store.catalogue.ordinals(ids))[1]
        np.testing.assert_array_equal(biases, biases_of(rows, eng.settings["dim"]))
        assert eng.topk(users[0]).seq == eng.similar(ids[0]).seq == eng.seq == start + 50


def test_shapes_follow_the_question(eng, stream):
    users, items = stream(100)
    eng.ingest(users, items)
    known = np.unique(users)
    one = eng.topk(known[0], 4)
    assert (one.ids.shape, one.scores.shape, one.counts) == ((4,), (4,), 4)
    assert (one.ids.dtype, one.scores.dtype, type(one.counts)) == (np.int64, np.float32, int)
    many = eng.topk(known, 4)
    assert (many.ids.shape, many.scores.shape, many.counts.shape) == ((len(known), 4),) * 2 + ((len(known),),)
    np.testing.assert_array_equal(many.ids[0], one.ids)
    np.testing.assert_array_equal(many.scores[0].view(np.int32), one.scores.view(np.int32))
    assert eng.topk([known[0]], 4).ids.shape == (1, 4)
    assert eng.topk([], 4).ids.shape == eng.topk([], 4).scores.shape == (0, 4)
    ids, scores = one
    assert ids is one.ids
    assert scores is one.scores
    assert eng.vectors(known).shape == (len(known), 8)
    assert eng.vectors(int(known[0])).shape == (1, 8)
    assert eng.vectors(items=[]).shape == (0, 8)
    assert isinstance(eng.score(known[0], items[0]), np.float32)
    grid = eng.score(known[:, None], np.unique(items)[None, :])
    assert grid.shape == (len(known), len(np.unique(items)))
    assert grid[3, 2] == eng.score(known[3], np.unique(items)[2])
    assert eng.score([], 1).shape == (0,)
    long = eng.score(known[:, None], np.resize(items, 70_000))  # more pairs than are scored at a time
    np.testing.assert_array_equal(long[-1, -50:], eng.score(known[-1], np.resize(items, 70_000)[-50:]))


def test_query_vectors_rank_as_their_users_do(eng, stream):
    users, items = stream(100)
    eng.ingest(users, items)
    known = np.unique(users)
    by_user, by_vector = eng.topk(known, 5), eng.topk(vectors=eng.vectors(known), k=5)
    np.testing.assert_array_equal(by_vector.ids, by_user.ids)
    np.testing.assert_array_equal(by_vector.scores, by_user.scores)
    assert eng.topk(vectors=eng.vectors(known[0])[0], k=5).ids.shape == (5,)


def test_order_is_score_down_then_id_up(eng):
    ids = np.array([5, -9, 2**40, 0, 7, -(2**60)])
    eng.ingest(np.arange(6), ids)
    found = eng.topk(vectors=np.zeros(8), k=6)
    best = sorted(zip(-found.scores, found.ids, strict=True))
    assert best == list(zip(-found.scores, found.ids, strict=True))
    assert sorted(found.ids) == sorted(ids)


def test_an_engine_without_items_has_nothing_to_show(eng):
    found = eng.topk([1, 2], 3)
    assert found.ids.tolist() == [[-1] * 3] * 2
    assert np.isneginf(found.scores).all()
    assert (found.counts.tolist(), found.seq) == ([0, 0], 0)
    assert eng.topk(1, exclude=[5], include=[6]).counts == 0
    assert eng.checkpoint() == 0
    with pytest.raises(UnknownIdError):
        eng.score(1, 2)


def test_a_stranger_gets_what_the_mean_user_likes(eng, stream):
    users, items = stream(400)
    eng.ingest(users, items)
    stranger = eng.topk(999_999_999, 5)
    assert stranger.counts == 5
    # Sensible: liked by users at large, so far above the average item.
    everyone = eng.score(np.unique(users)[:, None], np.unique(items)[None, :]).mean(axis=0)
    shown = np.searchsorted(np.unique(items), stranger.ids)
    assert everyone[shown].mean() > everyone.mean()
    mixed = eng.topk([users[0], 999_999_999], 5)
    np.testing.assert_array_equal(mixed.ids[1], stranger.ids)


def test_modes_for_unknown_users(eng, stream):
    users, items = stream(100)
    eng.ingest(users, items)
    skipped = eng.topk([users[0], 999, users[1]], 3, unknown="skip")
    assert skipped.counts.tolist() == [3, 0, 3]
    assert skipped.ids[1].tolist() == [-1] * 3
    assert np.isneginf(skipped.scores[1]).all()
    assert eng.topk(999, 3, unknown="skip").counts == 0
    for call in (
        lambda: eng.topk([users[0], 999], unknown="raise"),
        lambda: eng.score(999, items[0]),
        lambda: eng.score(users[0], [items[0], 999]),
        lambda: eng.vectors([users[0], 999]),
        lambda: eng.vectors(items=999),
    ):
        with pytest.raises(UnknownIdError, match="999 has no row"):
            call()
    with pytest.raises(KeyError):
        eng.vectors(999)


def test_seen_items_are_left_out(eng, stream):
    users, items = stream(300)
    eng.ingest(users, items)
    known = np.unique(users)
    found = eng.topk(known, 40, exclude_seen=True)
    for row, user in enumerate(known):
        seen = set(items[users == user].tolist())
        shown = found.ids[row, : found.counts[row]].tolist()
        assert set(shown) == set(items.tolist()) - seen
        assert found.counts[row] == len(shown)
    assert eng.topk(424242, 40, exclude_seen=True).counts == len(np.unique(items))


def test_history_keeps_the_last_1024_items(eng):
    items = np.arange(1500)
    eng.ingest(np.full(1500, 8), items)
    eng.ingest(8, 0)  # seen again: recent again
    shown = eng.topk(8, 1500, exclude_seen=True)
    assert sorted(shown.ids[: shown.counts].tolist()) == list(range(1, 1500 - 1023))


@pytest.mark.parametrize("shape", ["column", "lists", "padded"])
def test_filters_in_every_shape(eng, stream, shape):
    users, items = stream(300)
    eng.ingest(users, items)
    known, every = np.unique(users)[:3], np.unique(items)
    drop = [every[:4].tolist(), every[2:9].tolist(), []]
    keep = [every[:9].tolist(), every[:3].tolist(), every[5:].tolist()]
    if shape == "column":
        drop, keep = [drop[1]] * 3, [keep[0]] * 3
        given = {"exclude": drop[0] + [123, -1, drop[0][0]], "include": np.array(keep[0] + [456, keep[0][0]])}
    elif shape == "lists":
        given = {"exclude": [np.array(x, np.int64) for x in drop], "include": [[*x, 789] for x in keep]}
    else:
        width = max(map(len, drop + keep)) + 1
        pad = [np.array([x + [-1] * (width - len(x)) for x in part]) for part in (drop, keep)]
        given = {"exclude": pad[0], "include": pad[1]}
    found = eng.topk(known, 50, exclude_seen=True, **given)
    for row, user in enumerate(known):
        allowed = set(keep[row]) - set(drop[row]) - set(items[users == user].tolist())
        assert set(found.ids[row, : found.counts[row]].tolist()) == allowed
        assert found.ids[row, found.counts[row] :].tolist() == [-1] * (50 - found.counts[row])
    if shape != "column":
        alone = eng.topk(known[0], 50, exclude=[given["exclude"][0]], include=[given["include"][0]], exclude_seen=True)
        np.testing.assert_array_equal(alone.ids, found.ids[0])


def test_mixed_shapes_of_filters(eng, stream):
    users, items = stream(300)
    eng.ingest(users, items)
    every = np.unique(items)
    found = eng.topk([users[0], users[1]], 9, exclude=every[:3], include=[every[:4], every[2:6]])
    assert [set(row[row != -1]) for row in found.ids] == [{every[3]}, set(every[3:6])]
    assert eng.topk(users[0], 9, include=[]).counts == 0
    assert eng.topk(users[0], 99, exclude=[]).counts == len(every)
    assert eng.topk(users[0], 9, exclude=every).counts == 0
    assert eng.topk(users[0], 9, include=int(every[1])).ids[0] == every[1]


def test_more_than_there_is(eng):
    eng.ingest([1, 1, 1], [10, 20, 10])
    found = eng.topk(1, 2**20)
    assert (found.counts, found.ids.shape) == (2, (2**20,))
    assert sorted(found.ids[:2]) == [10, 20]
    assert (found.ids[2:] == -1).all()
    assert eng.topk(1, np.int16(1)).ids.shape == (1,)


def test_ids_are_any_int64_but_the_padding(eng):
    eng.ingest(np.repeat(EXTREMES, 2), np.resize(EXTREMES[::-1], 14))
    found = eng.topk(EXTREMES, 7)
    for row in found.ids:
        assert sorted(row.tolist()) == EXTREMES.tolist()
    assert eng.topk(EXTREMES, 7, exclude=EXTREMES[1:]).ids[:, 0].tolist() == [-(2**63)] * 7
    assert len(np.unique(eng.vectors(EXTREMES), axis=0)) == 7


def test_reads_change_nothing(eng, place, contents, stream):
    users, items = stream(200)
    eng.ingest(users, items, position=("shop", b"200"))
    eng.checkpoint()

    def state():  # the digest last, for it reads, too
        return eng.stats()["users"], eng.stats()["items"], files_of(eng, place, contents), eng.seq, eng.digest()

    before = state()
    answer = eng.topk(users[:20], 7, exclude_seen=True)
    for _ in range(2):
        eng.topk([*users[:5], 31337], 7, exclude_seen=True, exclude=[1, 2], include=[*items, 31337])
        eng.topk(vectors=np.ones((3, 8)), k=50)
        eng.score(users, items)
        eng.vectors(users)
        eng.vectors(items=items)
        for missing in (lambda: eng.vectors(31337), lambda: eng.score(users[0], 31337)):
            with pytest.raises(UnknownIdError):
                missing()
    assert state() == before
    np.testing.assert_array_equal(eng.topk(users[:20], 7, exclude_seen=True).scores, answer.scores)


def test_answers_are_the_callers_own(eng, stream):
    users, items = stream(100)
    eng.ingest(users, items)
    digest, kept = eng.digest(), eng.topk(users[0]).ids.copy()
    for array in (eng.topk(users[0]).ids, eng.topk(users[0]).scores, eng.vectors(users), eng.vectors(items=items)):
        array[:] = 0
    assert eng.digest() == digest
    np.testing.assert_array_equal(eng.topk(users[0]).ids, kept)


def test_positions(eng):
    assert eng.position("shop") is None
    eng.ingest([1], [2], position=("shop", b"\0\xff"))
    eng.ingest([], [], position=("ads", bytearray(b"7")))
    eng.ingest([3], [4])
    assert (eng.position("shop"), eng.position("ads"), eng.seq) == (b"\0\xff", b"7", 2)
    eng.ingest([3], [4], position=("empty", b""))
    assert eng.position("empty") == b""


def test_weights_scale_what_is_learned(loss):
    def learned(weight):
        with engine.open(":memory:", dim=8, loss=loss, negatives=4) as eng:
            eng.ingest([1, 1, 2, 3], [5, 6, 7, 8])
            before = eng.vectors(1)
            eng.ingest(1, 5, weights=weight)
            return np.abs(eng.vectors(1) - before).max()

    assert learned(0.0) == 0
    assert learned(2.0) > learned(0.1) > 0


def test_settings_can_be_read(eng, loss):
    assert eng.settings["loss"] == loss
    assert eng.settings["batch_size"] == 4
    eng.settings["batch_size"] = 7
    assert eng.settings["batch_size"] == 4


def test_a_closed_engine_says_so(eng, place):
    eng.ingest(1, 2)
    eng.close()
    eng.close()
    for call in (eng.digest, eng.checkpoint, eng.stats, lambda: eng.ingest(1, 2), lambda: eng.topk(1),
                 lambda: eng.score(1, 2), lambda: eng.vectors(1), lambda: eng.position("a")):  # fmt: skip
        with pytest.raises(EngineError, match="closed"):
            call()
    if place != ":memory:":
        with engine.open(place) as again:
            assert again.seq == 1


def test_an_error_inside_a_with_block_comes_out(home):
    def shop():
        with engine.open(home, dim=4) as eng:
            eng.ingest(1, 2)
            eng.ingest(1, "two")

    with pytest.raises(InputError, match="items"):
        shop()
    with engine.open(home) as eng:
        assert eng.seq == 1


def test_input_errors_are_value_errors(eng):
    with pytest.raises(ValueError, match="users"):
        eng.ingest("a", 1)
    assert issubclass(InputError, ValueError)
    assert math.isnan(eng.ingest([], []).loss)


def test_a_failure_without_a_text_is_said_without_a_stray_colon(home):
    eng = engine.open(home, dim=4)
    eng._writer._failed(KeyboardInterrupt())
    with pytest.raises(engine.EngineError, match=r"^an earlier call failed \(KeyboardInterrupt\); close and open"):
        eng.ingest(1, 2)
    eng.close()
