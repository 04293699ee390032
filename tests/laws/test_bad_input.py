"""Bad input: a typed error that names the argument, or the right answer; and nothing changed.

The law: whatever is passed, only an EngineError comes out, and digest, seq and files stay as they were.
"""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junk import JUNK, Hostile, but, refused

import engine
from engine import EngineError

ITEM = 5 - 2**50  # `stream` has it


@pytest.fixture
def unchanged(home, contents, stream):
    """An engine with something in it; when the test ends, digest, seq and files must be what they were."""
    with engine.open(home, dim=8, loss="bpr", batch_size=4) as eng:
        eng.ingest(*stream(50), position=("shop", b"50"))
        eng.checkpoint()
        before = eng.digest(), eng.seq, eng.position("shop"), contents(home)
        yield eng
        assert (eng.digest(), eng.seq, eng.position("shop"), contents(home)) == before


def test_ids_of_ingest(unchanged):
    for junk in [-1, *but()]:
        refused("users", lambda junk=junk: unchanged.ingest(junk, [1]))
        refused("items", lambda junk=junk: unchanged.ingest([1], junk))


def test_ids_of_reads(unchanged):
    for junk in [-1, *but()]:
        if junk is not None:
            refused("users", lambda junk=junk: unchanged.topk(junk))
        refused("items", lambda junk=junk: unchanged.similar(junk))
        if np.ndim(junk if isinstance(junk, np.ndarray) else 0) < 2:  # these two broadcast, so any shape will do
            refused("users", lambda junk=junk: unchanged.score(junk, 7))
            refused("items", lambda junk=junk: unchanged.score(7, junk))
        refused("users", lambda junk=junk: unchanged.vectors(junk))
        refused("items", lambda junk=junk: unchanged.vectors(items=junk))


@pytest.mark.parametrize("name", ["exclude", "include"])
def test_filters(unchanged, name):
    for junk in but("nothing", "iterator", "set", "two-dimensional", "beyond int64", "below int64"):
        refused(name, lambda junk=junk: unchanged.topk(1, **{name: junk}))
        refused(name, lambda junk=junk: unchanged.similar(ITEM, **{name: junk}))


@pytest.mark.parametrize("name", ["exclude", "include"])
def test_filters_of_other_length(unchanged, name):
    for bad in (np.ones((3, 1), np.int64), [[1], [2], [3]], [np.array([1])], np.empty((0, 4), np.int64), 2**63):
        refused(name, lambda bad=bad: unchanged.topk([1, 2], **{name: bad}))
    refused(f"{name}[1]", lambda: unchanged.topk([1, 2], **{name: [[1], [[2]]]}))
    refused(f"{name}[1]", lambda: unchanged.topk([1, 2], **{name: [[1], 2]}))


def test_weights(unchanged):
    for junk in but(
        "half", "floats", "whole floats", "beyond int64", "below int64", "nothing", "uint64 overflow", "mixed"
    ):
        refused("weights", lambda junk=junk: unchanged.ingest([1], [2], weights=junk))


@pytest.mark.parametrize("bad", [-1.0, -1e-30, 1e39, [math.nan], [math.inf], [1, 2], [[1.0]], []])
def test_weights_out_of_range(unchanged, bad):
    refused("weights", lambda: unchanged.ingest([1], [2], weights=bad))


@pytest.mark.parametrize(
    "bad",
    [
        [math.nan], [1, 2], "2024", ["2024"], True, [None], [[1]], 10**400, JUNK["NaT"], JUNK["spans"], Hostile(),
        np.array([10**12], "datetime64[Y]"), np.array([-(10**14)], "datetime64[D]"), JUNK["masked"], -5, 1e30,
    ],
)  # fmt: skip
def test_timestamps(unchanged, bad):
    refused("timestamps", lambda: unchanged.ingest([1], [2], timestamps=bad))


NUMBERS = ("half", "floats", "whole floats", "true", "bools", "beyond int64", "uint64 overflow")


@pytest.mark.parametrize(("loss", "fine"), [("logistic", ("true", "bools", "floats")), ("squared", NUMBERS)])
def test_values(home, contents, loss, fine):
    with engine.open(home, dim=4, loss=loss, epoch_seconds=1e9) as eng:
        eng.ingest([1, 2], [3, 4], [0, 1])
        before = eng.digest(), eng.seq, contents(home)
        for junk in but(*fine):
            refused("values", lambda junk=junk: eng.ingest([1], [3], junk))
        refused("values", lambda: eng.ingest([1, 2], [3, 4], [1]))
        refused("values[1]", lambda: eng.ingest([1, 2], [3, 4], [1, 1e39]))
        if loss == "logistic":
            refused("values[1]", lambda: eng.ingest([1, 2], [3, 4], [0, 0.5]))
            refused("-1", lambda: eng.ingest([1, 2], [3, 4], [-1, 1]))
        assert eng.ingest([], []).events == eng.ingest([], [], []).events == 0
        assert (eng.digest(), eng.seq, contents(home)) == before
        eng.ingest([], [], position=("ratings", b"2"))
        for good in (1, 1.0, True, np.array([True]), [np.float16(1)], np.array(1, np.uint8)):
            assert eng.ingest(1, 3, good).events == 1


def test_values_belong_to_other_losses(unchanged):
    for junk in but("nothing"):
        refused("values", lambda junk=junk: unchanged.ingest([1], [2], values=junk))


def test_position(unchanged):
    for junk in but("nothing"):
        refused("position", lambda junk=junk: unchanged.ingest([1], [2], position=junk))


@pytest.mark.parametrize(
    "bad",
    [("a",), ("a", b"b", b"c"), ["a", b"b"], (1, b"b"), ("\ud800", b"b"), ("a" * 70_000, b""), ("a", bytes(2**20 + 1))],
)
def test_position_of_wrong_parts(unchanged, memory, bad):
    refused("position", lambda: unchanged.ingest([1], [2], position=bad))
    refused("position", lambda: memory.ingest([1], [2], position=bad))
    assert memory.seq == 0


def test_position_with_more_events_than_a_record(unchanged):
    many = np.arange(65_537)
    refused("position", lambda: unchanged.ingest(many, many, position=("shop", b"")))


def test_source_of_a_position(unchanged):
    for junk in but("text", "nothing"):
        refused("source", lambda junk=junk: unchanged.position(junk))
        assert unchanged.position("17") is None


def test_flags(unchanged):
    for junk in but("nothing", "true"):
        refused("durable", lambda junk=junk: unchanged.ingest([1], [2], durable=junk))
        refused("exclude_seen", lambda junk=junk: unchanged.topk(1, exclude_seen=junk))


def test_progress(unchanged):
    for junk in but("function", "nothing"):
        refused("progress", lambda junk=junk: unchanged.ingest([1], [2], progress=junk))


def test_k_and_unknown(unchanged):
    for junk in but():
        refused("k", lambda junk=junk: unchanged.topk(1, k=junk))
        refused("k", lambda junk=junk: unchanged.similar(ITEM, k=junk))
        refused("unknown", lambda junk=junk: unchanged.topk(1, unknown=junk))


@pytest.mark.parametrize("k", [0, -1, 2**24 + 1, 10**9, 2**63])
def test_k_out_of_range(unchanged, k):
    refused("k", lambda: unchanged.topk(1, k=k))
    refused("k", lambda: unchanged.topk(np.arange(2**7 + 1), k=2**20))


def test_query_vectors(unchanged):
    for junk in but("nothing", "half"):
        refused("vectors", lambda junk=junk: unchanged.topk(vectors=junk))


def test_query_vectors_of_other_shape(unchanged):
    for bad in (
        np.ones(7),
        np.ones((2, 9)),
        np.ones((1, 1, 8)),
        np.full(8, np.nan),
        np.full((2, 8), 1e39),
        [[1.0], [2.0, 3.0]],
        [],
    ):
        refused("vectors", lambda bad=bad: unchanged.topk(vectors=bad))
    assert unchanged.topk(vectors=np.empty((0, 8))).ids.shape == (0, 10)


def test_one_of_two(unchanged):
    for call in (
        unchanged.topk,
        unchanged.vectors,
        lambda: unchanged.topk(1, vectors=np.ones(8)),
        lambda: unchanged.vectors(1, 2),
    ):
        refused("exactly one", call)
    refused("exclude_seen", lambda: unchanged.topk(vectors=np.ones(8), exclude_seen=True))


def test_lengths(unchanged):
    refused("items", lambda: unchanged.ingest([1, 2], [1]))
    refused("items", lambda: unchanged.ingest([1, 2], []))
    refused("users, items", lambda: unchanged.score([1, 2], [1, 2, 3]))


def test_what_a_progress_function_may_call(place, tmp_path):
    with engine.open(place, dim=4, loss="bpr", batch_size=64) as eng:
        calls = {
            "ingest": lambda: eng.ingest(1, 1),
            "hide": lambda: eng.hide(1),
            "forget": lambda: eng.forget(1),
            "forget_position": lambda: eng.forget_position("shop"),
            "checkpoint": eng.checkpoint,
            "digest": eng.digest,
            "close": eng.close,
        }
        if place != ":memory:":
            calls["backup"] = lambda: eng.backup(tmp_path / "b")

        def meddle(done, total):
            for name, call in calls.items():
                refused(f"{name}: called inside ingest", call, EngineError)
            assert eng.topk(1).counts >= 0
            assert (eng.position("a"), eng.stats()["seq"]) == (None, eng.seq)

        report = eng.ingest(np.arange(70_000), np.arange(70_000) % 9, progress=meddle)
        assert (report.events, eng.seq) == (70_000, 70_000)


def test_what_a_progress_function_raises_ends_the_call_at_a_record(home):
    def stop(done, total):
        raise KeyError("enough")

    with engine.open(home, dim=4, loss="bpr", batch_size=64) as eng:
        with pytest.raises(KeyError, match="enough"):
            eng.ingest(np.arange(200_000), np.arange(200_000) % 9, progress=stop)
        assert eng.seq in (65_536, 131_072)
        assert eng.ingest(1, 1).seq == eng.seq
        digest = eng.digest()
    with engine.open(home) as eng:
        assert eng.digest() == digest


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i8", "<i4"], ids=str)
def test_every_integer_type_is_right(memory, dtype):
    ids = np.array([1, 2, 100], dtype)
    assert memory.ingest(ids, ids).new_users == 3
    assert sorted(memory.topk(ids[0], 3).ids.tolist()) == [1, 2, 100]


def test_views_of_any_stride_are_right(memory, stream):
    users, items = stream(100)
    wide = np.stack([users, items], axis=1)
    backwards = wide[::-1]
    memory.ingest(backwards[::-1, 0], np.asfortranarray(wide)[:, 1], weights=np.ones((100, 3), np.float64)[:, 1])
    with engine.open(":memory:", dim=8, loss="bpr", seed=3) as other:
        other.ingest(users, items, weights=np.ones(100, np.float32))
        assert memory.digest() == other.digest()
    read_only = users.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(memory.topk(read_only).ids, memory.topk(users).ids)


def test_what_was_passed_is_not_kept(memory):
    users, items = np.array([1, 2]), np.array([3, 4])
    memory.ingest(users, items)
    digest = memory.digest()
    users[:] = items[:] = 9
    assert memory.digest() == digest


def test_times_in_any_unit(memory):
    for times in (
        1.5e9,
        np.datetime64("2024-01-01"),
        np.datetime64("2024-01-01T00:00:00.123456789"),
        np.float128(3),
    ):
        assert memory.ingest(1, 2, timestamps=times).events == 1


def test_nothing_at_all(eng):
    digest, report = eng.digest(), eng.ingest([], [])
    assert (report.events, report.seq, report.new_users, eng.seq, eng.digest()) == (0, 0, 0, 0, digest)
    assert math.isnan(report.loss)
    assert eng.ingest(np.empty(0, np.int32), [], weights=[], timestamps=[]).events == 0
    for empty in (np.empty(0), np.array([], object), np.array([], bool), np.array([], str), np.array([], "M8[s]")):
        assert eng.ingest(empty, empty, weights=empty, timestamps=empty).events == 0
        assert eng.topk(empty).ids.shape == (0, 10)


@pytest.mark.parametrize("n", [10**6, pytest.param(10**7, marks=pytest.mark.heavy)])
def test_millions_of_rows_in_one_call(n):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 1000, n), rng.integers(0, 500, n)
    with engine.open(":memory:", dim=4, loss="bpr", batch_size=65_536) as eng:
        report = eng.ingest(users, items)
        assert (report.events, report.seq, report.new_users, report.new_items) == (n, n, 1000, 500)
        assert np.isfinite(eng.vectors(np.unique(users))).all()


def test_one_bad_row_in_ten_million_is_found(memory):
    users = np.ones(10**7, np.int32)
    users[-1] = -1
    refused("9999999", lambda: memory.ingest(users, users))
    assert memory.seq == 0


# Hypothesis prints what it draws.
ANYTHING = st.recursive(
    st.sampled_from(but("thousands of digits", "hostile", "list of it"))
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_only_typed_errors_come_out(memory, data):
    def draw(*names):
        return {
            name: data.draw(ANYTHING, name)
            for name in data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
        }

    calls = [
        lambda: memory.ingest(
            *(data.draw(ANYTHING) for _ in range(2)),
            **draw("values", "weights", "timestamps", "durable", "position", "expect"),
        ),
        lambda: memory.topk(
            data.draw(ANYTHING), **draw("k", "vectors", "exclude_seen", "exclude", "include", "unknown")
        ),
        lambda: memory.similar(data.draw(ANYTHING), **draw("k", "exclude", "include", "unknown")),
        lambda: memory.score(data.draw(ANYTHING), data.draw(ANYTHING), **draw("unknown")),
        lambda: memory.history(data.draw(ANYTHING)),
        lambda: memory.forget_position(data.draw(ANYTHING)),
        lambda: memory.vectors(**draw("users", "items")),
        lambda: memory.position(data.draw(ANYTHING)),
        lambda: engine.open(
            ":memory:", **draw("dim", "loss", "lr", "l2", "seed", "batch_size", "negatives", "threads")
        ),
    ]
    before = memory.digest(), memory.seq
    try:
        report = data.draw(st.sampled_from(calls))()
    except EngineError:
        assert (memory.digest(), memory.seq) == before
    else:
        if not isinstance(report, engine.IngestReport):
            assert (memory.digest(), memory.seq) == before
