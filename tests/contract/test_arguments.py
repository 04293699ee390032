"""Errors about columns: they name the first bad element, with its place."""

import numpy as np
import pytest

import engine
from engine import InputError
from engine.contract.arguments import Wanted, plain_array

FIVE = [1, 2, 3, 4, 5]
ID, FLOAT = "wanted an int64 but not -1", "wanted a finite number"


def message(call):
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


IDS = [
    ([*FIVE, "x"], f"users[5]: got 'x', {ID}"),
    ([*FIVE, None], f"users[5]: got None, {ID}"),
    ([*FIVE, 2.5, "x"], f"users[5]: got 2.5, {ID}"),
    ([*FIVE, -1], f"users[5]: got -1, {ID}"),
    ((*FIVE, 2**63), f"users[5]: got 9223372036854775808, {ID}"),
    ([*FIVE, -(2**63) - 1], f"users[5]: got -9223372036854775809, {ID}"),
    ([1, [2, 3]], "users: got list of 2, wanted integers that fit int64, none of them -1 (the padding of answers)"),
    ([1, ["x", 3]], f"users[1, 0]: got 'x', {ID}"),
    ([np.float32(0.5)], f"users[0]: got 0.5, {ID}"),
    ([np.datetime64("2024-01-01")], f"users[0]: got 2024-01-01, {ID}"),
    (np.array([*FIVE, -1]), f"users[5]: got -1, {ID}"),
    (np.array([*FIVE, "x"], object), f"users[5]: got 'x', {ID}"),
    (np.array([*FIVE, 2**63], np.uint64), f"users[5]: got 9223372036854775808, {ID}"),
    (-1, f"users: got -1, {ID}"),
    ("x", "users: got str 'x', wanted integers that fit int64, none of them -1 (the padding of answers)"),
    ([1.0], f"users[0]: got 1.0, {ID}"),
    ([*FIVE, "x" * 100], f"users[5]: got '{'x' * 36}..., {ID}"),
]


@pytest.mark.parametrize(("users", "wanted"), IDS)
def test_an_id_is_named_with_its_place(memory, users, wanted):
    assert message(lambda: memory.ingest(users, [1] * 6)) == wanted
    assert message(lambda: memory.topk(users)) == wanted
    assert message(lambda: memory.vectors(users)) == wanted
    assert message(lambda: memory.score(users, 1)) == wanted
    assert message(lambda: memory.ingest([1] * 6, users)) == wanted.replace("users", "items")
    assert message(lambda: memory.similar(users)) == wanted.replace("users", "items")
    assert message(lambda: memory.hide(users)) == wanted.replace("users", "items")


@pytest.mark.parametrize("name", ["exclude", "include"])
def test_an_id_of_a_filter_is_named_with_its_place(memory, name):
    memory.ingest([1, 2], [3, 4])
    for filter, wanted in [
        ([3, 4, "x"], "[2]: got 'x', wanted an int64"),
        (np.array([3, None]), "[1]: got None, wanted an int64"),
        ([[3], [4, 2.5]], "[1][1]: got 2.5, wanted an int64"),
        ([{3}, {4.5}], "[1]: got 4.5 in a set, wanted int64s"),
        ({"x"}, ": got 'x' in a set, wanted int64s"),
        ([[3], 4], "[1]: got int 4, wanted ids in 1-D, as the other lists are"),
        (np.array([3, np.nan]), "[1]: got nan, wanted an int64"),
        ([3, 4, 2**63], "[2]: got 9223372036854775808, wanted an int64"),
    ]:
        assert message(lambda filter=filter: memory.topk([1, 2], **{name: filter})) == name + wanted


WHOLE = "wanted integers that fit int64, none of them -1 (the padding of answers)"
HINT = 'its numbers are whole, and .astype("int64") makes integers of them'
COLUMNS = [
    (lambda pandas, pa: np.array([1, np.nan]), f"users[1]: got nan, {ID}"),
    (lambda pandas, pa: np.array([1, 2.5]), f"users[1]: got 2.5, {ID}"),
    (lambda pandas, pa: np.array([1.0, 2.0]), f"users: got float64 array of shape (2,), {WHOLE}; {HINT}"),
    (lambda pandas, pa: np.array([True, False]), f"users: got bool array of shape (2,), {WHOLE}"),
    (lambda pandas, pa: np.array(["1", "2"]), f"users[0]: got '1', {ID}"),
    (lambda pandas, pa: pandas.Series([1, None]), f"users[1]: got nan, {ID}"),
    (lambda pandas, pa: pandas.Series([1.0, 2.0]), f"users: got float64 array of shape (2,), {WHOLE}; {HINT}"),
    (lambda pandas, pa: pandas.Series([1, None], dtype="Int64"), f"users[1]: got nan, {ID}"),
    (lambda pandas, pa: pandas.Series([True, False]), f"users: got bool array of shape (2,), {WHOLE}"),
    (lambda pandas, pa: pandas.Series(["a", "b"]), f"users[0]: got 'a', {ID}"),
    (lambda pandas, pa: pa.array([1, None]), f"users[1]: got nan, {ID}"),
    (lambda pandas, pa: pa.chunked_array([[1], [None]], pa.int64()), f"users[1]: got nan, {ID}"),
]


@pytest.mark.parametrize(("column", "wanted"), COLUMNS)
def test_a_column_of_another_type_is_said_in_one_line(memory, column, wanted):
    """Also one of pandas or of pyarrow, whose repr has many lines."""
    users = column(pytest.importorskip("pandas"), pytest.importorskip("pyarrow"))
    assert message(lambda: memory.ingest(users, [1, 2])).replace("<NA>", "nan") == wanted
    assert message(lambda: memory.topk(users)).replace("<NA>", "nan") == wanted  # versions of pandas differ


def test_no_message_has_line_breaks(memory):
    pandas = pytest.importorskip("pandas")
    series = pandas.Series([1.5, 2.5])
    for call in (
        lambda: memory.topk(1, k=series),
        lambda: memory.ingest(1, 2, position=series),
        lambda: memory.ingest(1, 2, position=("a", series)),
        lambda: memory.ingest(1, 2, values=series),
        lambda: memory.ingest(1, 2, progress=series),
    ):
        assert "\n" not in message(call)


def test_an_array_of_objects_is_taken_as_a_list_is(memory):
    pandas = pytest.importorskip("pandas")
    for kind in (np.array, lambda x, _: pandas.Series(x, dtype=object)):
        users, items = kind([7, 8], object), kind([100, np.int32(101)], object)
        assert memory.ingest(users, items, weights=kind([1, 0.5], object)).events == 2
        assert memory.topk(users, 1, exclude=kind([100], object)).ids.tolist() == [[101], [101]]
        assert message(lambda kind=kind: memory.ingest(kind([7, 2.0], object), [1, 2])) == f"users[1]: got 2.0, {ID}"
        assert message(lambda kind=kind: memory.topk(kind([7, -1], object))) == f"users[1]: got -1, {ID}"
    with engine.open(":memory:", dim=4, loss="logistic") as eng:
        assert eng.ingest(users, items, np.array([True, False], object)).events == 2


def test_an_empty_column_of_any_type_is_empty(memory):
    memory.ingest([1, 2], [3, 4])
    for empty in (np.array([]), np.array([], object), np.array([], str), np.array([], bool)):
        assert memory.topk(1, 5, exclude=empty).counts == 2
        assert memory.topk(1, 5, include=empty).counts == 0
        memory.hide(empty)


def test_what_is_changed_by_ids_may_be_a_set(memory):
    memory.ingest([1, 2], [3, 4])
    memory.hide({3, 4})
    assert memory.hidden().tolist() == [3, 4]
    memory.show(frozenset({3}))
    assert memory.hidden().tolist() == [4]
    memory.forget(users={1}, items={4})
    assert [memory.stats()[table]["rows"] for table in ("users", "items")] == [1, 1]
    assert message(lambda: memory.hide({"x"})) == "items: got 'x' in a set, wanted int64s"
    assert message(lambda: memory.hide({-1, 3})).endswith(f"got -1, {ID}")
    assert message(lambda: memory.ingest({1}, [2])).startswith("users: got set {1}")


def test_one_of_two_says_which(memory):
    assert message(memory.topk) == "users, vectors: got neither, wanted exactly one of the two"
    assert message(lambda: memory.vectors(1, 2)) == "users, items: got both, wanted exactly one of the two"


def test_a_position_names_its_part(memory):
    assert message(lambda: memory.ingest(1, 2, position=(1, b""))).startswith("position[0]: got int 1, wanted")
    assert message(lambda: memory.ingest(1, 2, position=("a", "b"))) == "position[1]: got str 'b', wanted bytes"


def test_times_as_texts_name_the_element(memory):
    assert message(lambda: memory.ingest(1, 2, timestamps=np.array(["2024-01-01"]))).startswith(
        "timestamps[0]: got '2024-01-01', wanted Unix seconds"
    )


WEIGHTS = [
    ([1, 2, "x"], f"[2]: got 'x', {FLOAT}"),
    ([1, 2, None], f"[2]: got None, {FLOAT}"),
    ([1, 2, np.nan], f"[2]: got nan, {FLOAT}"),
    (np.array([1, np.inf, 2]), f"[1]: got inf, {FLOAT}"),
    ([1, 1e39, 2], f"[1]: got 1e+39, {FLOAT}"),
    ([1, 10**400, 2], f"[1]: got 1000000000000000000000000000000000000..., {FLOAT}"),
    ([1, 2, -0.5], f"[2]: got -0.5, {FLOAT} >= 0"),
]


@pytest.mark.parametrize(("weights", "wanted"), WEIGHTS)
def test_a_weight_is_named_with_its_place(memory, weights, wanted):
    assert message(lambda: memory.ingest([1, 2, 3], [1, 2, 3], weights=weights)) == f"weights{wanted}"


def test_a_query_vectors_element_is_named_with_its_place(memory):
    queries = np.zeros((5, 8))
    queries[3, 7] = np.nan
    wanted = f"vectors[3, 7]: got nan, {FLOAT}"
    assert message(lambda: memory.topk(vectors=queries)) == wanted
    assert message(lambda: memory.topk(vectors=queries.tolist())) == wanted
    assert message(lambda: memory.topk(vectors=[1.0] * 7 + ["x"])) == f"vectors[7]: got 'x', {FLOAT}"


def test_a_list_that_holds_itself_is_refused(memory):
    users = [1]
    users.append(users)
    assert message(lambda: memory.topk(users)).startswith("users: got list of 2")


def test_a_place_is_looked_for_only_where_something_is_wrong(memory, monkeypatch):
    """Elements are looked at one by one only then: a good column costs a few passes of numpy."""
    monkeypatch.setattr("engine.contract.arguments._elements", None)
    memory.ingest([1, 2], (3, 4), weights=[0.5, 1])
    memory.topk(vectors=np.ones((2, 8)), exclude=[[3], {4}])


@pytest.mark.parametrize("x", [7, [7, 8], np.arange(3)])
def test_an_exception_of_a_signals_handler_is_no_wrong_argument(monkeypatch, x):
    class TimeIsUp(Exception):
        pass

    def late(_):
        raise TimeIsUp

    monkeypatch.setattr("engine.contract.arguments.is_tensor", late)
    with pytest.raises(TimeIsUp):
        plain_array("users", x, Wanted("ids", "an id", lambda _: True))
