"""prequential against a plain-Python judge, known answers, order of calls, resuming, refusals."""

import csv
import importlib
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.contract.errors import InputError
from engine.evaluate.popularity import Popularity
from engine.evaluate.prequential import prequential, ranks


class Recorder(Popularity):
    """Popularity that writes down what it was asked and taught."""

    def __init__(self, batch_size=1):
        super().__init__(batch_size)
        self.calls = []

    def topk(self, users, k, *, exclude=None):
        off = [sorted(e.tolist()) for e in exclude] if exclude else [[]] * len(users)
        self.calls += [("list", u, o) for u, o in zip(users.tolist(), off, strict=True)]
        return super().topk(users, k, exclude=exclude)

    def ingest(self, users, items, values=None, *, timestamps=None, durable=True):
        self.calls.append(("learn", users.tolist(), items.tolist()))
        assert not durable
        return super().ingest(users, items, values)


def plain_rank(counts, item, off, depth):
    """Ties against: how many items not taken off have at least as many; a miss beyond the list."""
    if item in off or item not in counts:
        return -1
    rank = sum(c >= counts[item] for i, c in counts.items() if i not in off)
    return rank if rank < depth else None  # None: beyond, as a miss or as the last place


def plain_judge(users, items, baskets, batch, first, depth):
    """The definition, row by row, with live popularity as the model."""
    n, counts, had, out, row = len(users), Counter(items[:first]), {}, [], first
    for u, i in zip(users[:first], items[:first], strict=True):
        had.setdefault(u, set()).add(i)
    while row < n:
        stop = row
        while stop < n and stop - row < batch:  # whole requests until the micro-batch is full
            end = stop + 1
            while end < n and baskets and (users[end], baskets[end]) == (users[stop], baskets[stop]):
                end += 1
            before = {u: set(s) for u, s in had.items()}
            for r in range(stop, end):
                off = before.get(users[r], set())
                new = 0 if items[r] in off else plain_rank(counts, items[r], off, depth)
                out.append((plain_rank(counts, items[r], set(), depth), new, users[r] in before))
            for r in range(stop, end):
                had.setdefault(users[r], set()).add(items[r])
            stop = end
        counts.update(items[row:stop])
        row = stop
    return out


small = st.integers(-3, 4).filter(lambda i: i != -1)


@given(
    st.lists(st.tuples(small, small, st.integers(0, 1)), max_size=40),
    st.booleans(),
    st.integers(1, 7),
    st.floats(0, 0.99),
    st.integers(1, 5),
)
def test_equals_the_plain_definition(rows, with_baskets, batch, warmup, k):
    users, items, baskets = [list(c) for c in zip(*rows, strict=True)] if rows else ([], [], [])
    report = prequential(Popularity(batch), users, items, baskets=baskets if with_baskets else None, k=k, warmup=warmup)
    n, first = len(rows), round(warmup * len(rows))
    while (
        with_baskets and 0 < first < n and rows[first][0] == rows[first - 1][0] and rows[first][2] == rows[first - 1][2]
    ):
        first += 1
    want = plain_judge(users, items, baskets if with_baskets else None, batch, first, k + 1)
    got = report.rows
    assert got["row"].tolist() == list(range(first, n))
    assert (got["user"].tolist(), got["item"].tolist()) == (users[first:], items[first:])
    assert got["known_user"].tolist() == [w[2] for w in want]
    for name, place in (("rank_all", 0), ("rank_new", 1)):
        exact = [-1 if r > k else r for r in got[name].tolist()]
        assert exact == [-1 if w[place] is None else w[place] for w in want]


def test_known_answer_with_baskets():
    #        learned only   | one basket     | the next
    users = [1, 1, 2, 2, 2, 1, 1, 1, 2]
    items = [7, 8, 7, 7, 9, 7, 9, 9, 8]
    report = prequential(Popularity(), users, items, baskets=[0, 0, 0, 0, 0, 5, 5, 5, 5], k=(1, 3), warmup=5 / 9)
    # Counts before the first basket: 7: 3, 8: 1, 9: 1 (a tie: rank 3). User 1 had 7 and 8, so 9 stands alone.
    # Before the last: 7: 4, 9: 3, 8: 1; user 2 had 7 and 9.
    assert report.rows["rank_all"].tolist() == [1, 3, 3, 3]
    assert report.rows["rank_new"].tolist() == [0, 1, 1, 1]
    assert report.summary["all"] == {
        "rows": 4,
        "hit_rate@1": 0.25,
        "ndcg@1": 0.25,
        "hit_rate@3": 1.0,
        "ndcg@3": pytest.approx((1 + 3 * 0.5) / 4),
    }
    assert report.summary["new"] == {"rows": 3, "hit_rate@1": 1, "ndcg@1": 1, "hit_rate@3": 1, "ndcg@3": 1}
    assert (report.summary["judged"], report.summary["requests"], report.summary["learned"]) == (4, 2, 9)
    assert report.summary["known_users"] == 4


def test_a_better_model_scores_better():
    class Oracle(Popularity):
        """Knows that user u wants item u, and no more."""

        def topk(self, users, k, *, exclude=None):
            ids, scores = np.full((len(users), k), -1), np.full((len(users), k), -np.inf, np.float32)
            ids[:, 0], scores[:, 0] = users, 1
            return SimpleNamespace(ids=ids, scores=scores)

    users = np.tile([1, 2, 3], 20)
    assert prequential(Oracle(), users, users, k=1, warmup=0).summary["all"]["hit_rate@1"] == 1
    assert prequential(Popularity(), users, users, k=1, warmup=0).summary["all"]["hit_rate@1"] < 0.5
    assert prequential(Oracle(), users, users % 3 + 1, k=1, warmup=0).summary["all"]["hit_rate@1"] == 0


def test_lists_come_before_learning_and_ingest_is_not_asked_twice():
    eng = Recorder(batch_size=2)
    prequential(eng, [1, 1, 2, 1, 1], [5, 6, 5, 6, 7], warmup=0.2, k=1)
    assert eng.calls == [
        ("learn", [1], [5]),
        ("list", 1, []),
        ("list", 2, []),
        ("list", 1, [5]),
        ("learn", [1, 2], [6, 5]),
        ("list", 1, []),  # 6 is had, so that row has no second list; 7 is new to user 1
        ("list", 1, []),
        ("list", 1, [5, 6]),
        ("learn", [1, 1], [6, 7]),
    ]


def test_a_basket_is_one_request_and_is_never_judged_in_part():
    eng = Recorder()
    report = prequential(eng, [1] * 3 + [2] * 3, [5, 6, 7, 5, 5, 8], baskets=list("aaabbb"), warmup=1 / 3, k=1)
    assert report.rows["row"].tolist() == [3, 4, 5]  # the line at row 2 cuts basket a, which is then only learned
    assert eng.calls == [("learn", [1] * 3, [5, 6, 7]), ("list", 2, []), ("learn", [2] * 3, [5, 5, 8])]


@given(st.integers(0, 60), st.booleans())
def test_resuming_judges_the_rest_alike(resume, with_baskets):
    rng = np.random.default_rng(3)
    users, items, baskets = np.repeat(rng.integers(5, size=15), 4), rng.integers(9, size=60), np.arange(60) // 4
    args = {"baskets": baskets if with_baskets else None, "k": 3, "warmup": 0.5}
    whole = prequential(Popularity(), users, items, **args)
    later = Popularity()
    later.ingest(users[:resume], items[:resume])
    rest = prequential(later, users, items, resume=resume, **args)
    rows = rest.rows["row"]
    assert rest.summary["learned"] == 60 - resume
    if with_baskets and len(rows):
        assert rows[0] == max(-(-resume // 4) * 4, 32)
    for name, column in rest.rows.items():
        assert np.array_equal(column, whole.rows[name][len(whole.rows[name]) - len(rows) :])


def test_long_stretches_are_cut_at_fixed_rows(monkeypatch):
    monkeypatch.setattr(importlib.import_module("engine.evaluate.prequential"), "CALL_ROWS", 10)
    cuts = []

    def learn(start, stop):
        cuts.append((start, stop))
        return SimpleNamespace(loss=0.5)

    users, seen = np.zeros(50, int), []
    baskets = [0] * 25 + [1] * 23 + [2] * 2
    prequential(
        Popularity(),
        users,
        users,
        baskets=baskets,
        resume=7,
        ingest=learn,
        warmup=0.1,
        progress=lambda *a: seen.append(a),
    )
    assert cuts == [(7, 10), (10, 20), (20, 25), (25, 30), (30, 40), (40, 48), (48, 50)]
    assert seen[0] == (10, 50, 0.5)
    assert seen[-1] == (50, 50, 0.5)


def test_empty_and_all_warm_up():
    report = prequential(Popularity(), [], [])
    assert report.summary["judged"] == 0
    assert math.isnan(report.summary["all"]["hit_rate@10"])
    report = prequential(Popularity(), [1], [2], warmup=0.9)
    assert (report.summary["learned"], report.summary["judged"]) == (1, 0)


def test_timestamps_reach_the_ranker():
    class Clock(Popularity):
        def ingest(self, users, items, *, timestamps=None, durable=True):
            seen.extend(timestamps.tolist())
            return super().ingest(users, items)

    seen = []
    prequential(Clock(), [1, 2, 3], [1, 1, 1], [10, 10, 11])
    assert seen == [10, 10, 11]


def test_csv(tmp_path):
    report = prequential(Popularity(), [1, 1, -5], [2, 2, 9], warmup=0, k=1)
    report.to_csv(tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as f:
        lines = list(csv.reader(f))
    assert lines[0] == ["row", "user", "item", "rank_all", "rank_new", "known_user"]
    assert lines[1:] == [
        ["0", "1", "2", "-1", "-1", "0"],
        ["1", "1", "2", "1", "0", "1"],
        ["2", "-5", "9", "-1", "-1", "0"],
    ]


def arrays_in_a_column():
    """What cannot be compared to one answer."""
    column = np.empty(2, object)
    column[:] = [np.arange(2), np.arange(2)]
    return column


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("users", {"users": [1.0, 2.0]}),
        ("users", {"users": ["a", "b"]}),
        ("users", {"users": [[1, 2]]}),
        ("users", {"users": [1, -1]}),
        ("items", {"items": [1, 2, 3]}),
        ("items", {"items": np.array([1, 2**63], np.uint64)}),
        ("timestamps", {"timestamps": [2, 1]}),
        ("timestamps", {"timestamps": [1.0, math.nan]}),
        ("timestamps", {"timestamps": ["a", "b"]}),
        ("timestamps", {"timestamps": [1]}),
        ("timestamps", {"timestamps": [1, 1.7e12]}),
        ("baskets", {"baskets": [1]}),
        ("k", {"k": 0}),
        ("k", {"k": ()}),
        ("k", {"k": (1, 2.5)}),
        ("warmup", {"warmup": 1}),
        ("warmup", {"warmup": -0.1}),
        ("warmup", {"warmup": "a"}),
        ("warmup", {"warmup": math.nan}),
        ("resume", {"resume": 3}),
        ("k", {"k": [[1], [2, 3]]}),
        ("k", {"k": "x" * 10**6}),
        ("warmup", {"warmup": "x" * 10**6}),
        ("warmup", {"warmup": 10**400}),
        ("progress", {"progress": 5}),
        ("ingest", {"ingest": 5}),
        ("values", {"values": [[1], [2, 3]]}),
        ("values", {"values": ["x" * 10**6] * 2}),
        ("baskets", {"baskets": [[1], [2, 3]]}),
        ("baskets", {"baskets": arrays_in_a_column()}),
    ],
)
def test_bad_input_is_refused_before_anything_is_learned(name, change):
    eng = Recorder()
    with pytest.raises(InputError, match=rf"^{name}(\[\d\])?: ") as caught:
        prequential(eng, **({"users": [1, 2], "items": [3, 4]} | change))
    assert len(str(caught.value)) < 200
    assert not eng.calls


def test_ranks_of_short_and_empty_lists():
    answer = SimpleNamespace(ids=np.array([[4, -1]]), scores=np.array([[0.5, -np.inf]], np.float32))
    assert ranks(answer, np.zeros(2, np.intp), np.array([4, 5])).tolist() == [1, -1]
    empty = SimpleNamespace(ids=np.empty((1, 0), np.int64), scores=np.empty((1, 0), np.float32))
    assert ranks(empty, np.zeros(1, np.intp), np.array([4])).tolist() == [-1]


@pytest.mark.parametrize("baskets", [None, np.arange(60) // 4])
def test_rows_without_a_positive_value_are_learned_and_not_asked_for(baskets):
    rng = np.random.default_rng(2)
    users, items, values = rng.integers(0, 3, 60), rng.integers(0, 6, 60), rng.integers(0, 2, 60)
    eng = Recorder(batch_size=3)
    report = prequential(eng, users, items, values=values, baskets=baskets, k=2, warmup=0.5)
    listed = sum(call[0] == "list" for call in eng.calls)
    assert [x for call in eng.calls if call[0] == "learn" for x in call[2]] == items.tolist()
    late = slice(report.rows["row"][0], None)
    assert ((report.rows["rank_all"] == 0) == (values[late] == 0)).all()
    assert report.summary["all"]["rows"] == values[late].sum()
    assert report.summary["requests"] <= listed <= 2 * report.summary["requests"]
    # what is judged is judged as before, but for what popularity counts
    positive = eng.topk(np.array([0]), 6).scores[0]
    assert positive[np.isfinite(positive)].sum() == values.sum()


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_the_loss_of_a_pass_is_that_of_its_calls(loss):
    rng = np.random.default_rng(4)
    users, items, values = rng.integers(0, 9, 200), rng.integers(0, 9, 200), rng.integers(0, 2, 200)
    with engine.open(":memory:", dim=4, loss=loss) as eng, engine.open(":memory:", dim=4, loss=loss) as plain:
        report = prequential(eng, users, items, values=values, k=3, warmup=0.25)
        plain.ingest(users[:50], items[:50], values[:50])
        losses = [plain.ingest(*event).loss for event in zip(users[50:], items[50:], values[50:], strict=True)]
        assert report.summary["loss"] == pytest.approx(np.mean(losses))
        assert eng.digest() == plain.digest()


@pytest.mark.parametrize("values", [[1.0], ["a", "b"], [[1, 2]]])
def test_values_of_another_shape_or_type_are_refused(values):
    eng = Recorder()
    with pytest.raises(InputError, match="values"):
        prequential(eng, [1, 2], [3, 4], values=values)
    assert not eng.calls


def test_what_is_no_ranker_is_refused():
    for junk in (None, 5, object()):
        with pytest.raises(InputError, match=r"^eng: got .*, wanted an engine"):
            prequential(junk, [1, 2], [3, 4])


def test_models_that_look_at_histories_are_told_when_requests_come():
    """As asked one by one, at the time of the row."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 20, 300), rng.integers(0, 30, 300)
    times = 1e9 + np.cumsum(rng.integers(0, 100, 300)).astype(float)
    model = {"dim": 4, "bag": 3, "repeats": 1, "batch_size": 1, "gate": 0}
    with engine.open(":memory:", **model) as eng:
        report = prequential(eng, users, items, times, k=5, warmup=0.5)
    hits = 0
    with engine.open(":memory:", **model) as eng:
        for row in range(300):
            if row >= 150:
                found = eng.topk(users[row], 6, at=times[row])
                own = found.scores[found.ids == items[row]]
                hits += bool(len(own)) and (found.scores >= own[0]).sum() <= 5
            eng.ingest(users[row], items[row], timestamps=times[row])
    assert report.summary["all"]["hit_rate@5"] == pytest.approx(hits / 150)
