"""How answers print, and as plain lists."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import engine
from engine import IngestReport, TopK


def test_to_list_has_no_padding(memory):
    memory.ingest([7, 7, 8], [100, 101, 100])
    found = memory.topk(7, 5)
    assert found.to_list() == list(zip(found.ids[:2].tolist(), found.scores[:2].tolist(), strict=True))
    assert [type(part) for part in found.to_list()[0]] == [int, float]
    both = memory.topk([7, 8, 404], 5, exclude_seen=True, unknown="skip")
    assert [len(row) for row in both.to_list()] == [0, 1, 0]
    assert both.to_list()[1][0] == (101, float(both.scores[1, 0]))
    assert memory.topk([], 5).to_list() == []
    assert memory.topk(7, 5, include=[]).to_list() == []


def test_to_list_of_tensors(memory):
    memory.ingest([7, 7, 8], [100, 101, 100])
    for users in (7, [7, 8]):
        assert memory.topk(torch.tensor(users), 5).to_list() == memory.topk(users, 5).to_list()


def test_a_list_prints_short():
    ids, scores = np.array([100, 101, -1]), np.array([0.51234567, -0.25, -np.inf], np.float32)
    assert repr(TopK(ids, scores, 2, 1234)) == "TopK([(100, 0.5123), (101, -0.25)], seq 1,234)"
    assert repr(TopK(ids[None], scores[None], np.array([2]), 3)) == "TopK(1 list of 3, seq 3)"
    wide = TopK(np.arange(1000), np.zeros(1000, np.float32), 1000, 3)
    assert repr(wide) == "TopK(list of 1,000, seq 3)"
    assert repr(TopK(wide.ids.reshape(2, 500), wide.scores, None, 3)) == "TopK(2 lists of 500, seq 3)"
    assert repr(TopK(torch.tensor([5]), torch.tensor([0.5]), 1, 3)) == "TopK([(5, 0.5)], seq 3)"


def test_a_report_prints_short():
    report = IngestReport(1200, 5000, 4.15888, 2, 3, 0.0012345, {}, 0)
    assert repr(report) == "IngestReport(1,200 events, seq 5,000, loss 4.15888, 2 new users, 3 new items, 0.00123 s)"
    one = IngestReport(1, 1, 1e30, 1, 1, 0.5, {}, 0)
    assert repr(one) == "IngestReport(1 event, seq 1, loss 1e+30, 1 new user, 1 new item, 0.5 s)"
    assert "1,200 events, 7 unlearned, seq" in repr(IngestReport(1200, 5000, 4.15888, 2, 3, 0.0012345, {}, 7))
    assert "loss nan" in repr(IngestReport(0, 0, float("nan"), 0, 0, 0.0, {}, 0))


def test_answers_are_equal_where_all_of_them_is(memory):
    memory.ingest([7, 7, 8], [100, 101, 100])
    for users in (7, [7, 8], torch.tensor([7, 8])):
        assert memory.topk(users) == memory.topk(users)
        assert memory.topk(users) != memory.topk(users, 1)
        assert memory.topk(users, exclude=[100]) != memory.topk(users)
    assert memory.topk([7]) != memory.topk(torch.tensor([7]))
    assert memory.topk(7) != 7


def test_an_evaluation_prints_short(memory):
    report = engine.evaluate.prequential(memory, [7, 8] * 50, [100, 101] * 50, k=(1, 2))
    assert re.fullmatch(r"Report\(80 judged rows, hit_rate@2 1\.0000, ndcg@2 \d\.\d{4}, loss [\d.]+\)", repr(report))


@pytest.mark.parametrize("mode", ["a", "r"])
def test_an_engine_is_not_pickled(home, mode):
    engine.open(home, dim=4).close()
    with engine.open(home, mode=mode) as eng:
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="open the directory in each process"):
                take(eng)


@pytest.mark.parametrize("untrusted", [False, True])
def test_an_engine_prints_where_it_is_and_how_far(home, untrusted):
    with engine.open(home, dim=4) as eng:
        eng.ingest([7, 8], [100, 100])
        assert repr(eng) == f"<Engine {str(home)!r} at seq 2: 2 users, 1 items, on cpu>"
    assert repr(eng) == f"<Engine {str(home)!r}, closed>"
    with engine.open(home, mode="r", untrusted=untrusted) as reader:
        assert repr(reader) == f"<Reader {str(reader._path)!r} at seq 2: 2 users, 1 items, on cpu>"
    assert repr(reader) == f"<Reader {str(reader._path)!r}, closed>"


def test_an_engine_in_memory_prints(memory):
    memory.ingest([7, 8], [100, 100])
    assert repr(memory) == "<Engine ':memory:' at seq 2: 2 users, 1 items, on cpu>"
