"""Errors about columns: they name the first bad element, with its place."""

import numpy as np
import pytest

from engine import InputError

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
        ([{3}, {4.5}], "[1]: got {4.5}, wanted int64s in a set"),
        ({"x"}, ": got {'x'}, wanted int64s in a set"),
        ([3, 4, 2**63], "[2]: got 9223372036854775808, wanted an int64"),
    ]:
        assert message(lambda filter=filter: memory.topk([1, 2], **{name: filter})) == name + wanted


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
