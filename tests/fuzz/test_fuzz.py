"""A seeded part of `make fuzz`, and what it found: each finding by name, so that it stays found."""

import json
import os
import random
import struct

import numpy as np
import pytest

import engine
from engine.cold import changes
from engine.cold.cold import Cold, chunk_key
from engine.contract.errors import CorruptionError
from engine.log.encoding import encode_record
from engine.log.record import Record
from engine.machine.backend import native

from .cases import WAYS, judged
from .forgeries import get_payload, put_pairs
from .mutators import data_file, segments
from .subject import KINDS, Judge, Subject, copy_of

CASES = 60  # of each kind


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    return {kind: Subject(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def subject(subjects):
    return subjects["events"]


@pytest.fixture(scope="module")
def judge():
    with Judge() as running:
        yield running


@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_subject_itself_is_judged_right(subjects, judge, tmp_path, kind, untrusted):
    path = copy_of(subjects[kind], tmp_path / "case")
    assert judge.verdict(subjects[kind], path, forged=False, untrusted=untrusted) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", range(WAYS), ids=["damage", "forged", "untrusted", "forged too", "lists", "beside"])
def test_a_seeded_part(subjects, judge, tmp_path, kind, way):
    for seed in range(CASES // WAYS):
        rng = random.Random(f"{kind}/{way}/{seed}")
        how, fault = judged(judge, subjects[kind], tmp_path / "case", way, rng)
        assert fault == "", (seed, how)


# Findings. Each of these was a signal, an endless wait, an exception of Python's, or a wrong answer.


@pytest.fixture
def copy(subject, tmp_path):
    return copy_of(subject, tmp_path / "case")


def refused(path, match):
    with pytest.raises(CorruptionError, match=match):
        engine.open(path)


@pytest.mark.timeout(20, func_only=True)
def test_a_pipe_in_place_of_a_segment_is_not_waited_for(copy):
    (segment,) = segments(copy)
    segment.unlink()
    os.mkfifo(segment)
    refused(copy, "not a regular file")
    with pytest.raises(CorruptionError, match="not a regular file"):
        engine.verify(copy)


def test_a_name_of_metadata_that_is_no_text(copy):
    put_pairs(copy, {b"\0\xff": b"x"})
    assert engine.verify(copy).seq > 0
    engine.open(copy).close()


STATES = [
    ("seq", None),
    ("seq", 2**62),
    ("seq", -1),
    ("seq", True),
    ("rows", {"users": "7", "items": 240}),
    ("rows", {"users": 24, "items": 2**200}),
    ("rows", ["users", "items"]),
    ("parts", 7),
    ("mean_count", 1e300),
    ("settings", []),
    ("settings", {"dim": 6}),
    ("positions", "x"),
    ("positions", {"a": "zz"}),
    ("positions", {"a": 1}),
]


@pytest.mark.parametrize(("field", "value"), STATES, ids=repr)
def test_a_state_that_no_engine_saves(copy, field, value):
    state = json.loads(get_payload(copy, b"\0state"))
    put_pairs(copy, {b"\0state": json.dumps(state | {field: value}).encode()})
    refused(copy, "state|settings")
    with pytest.raises(CorruptionError):
        engine.verify(copy)


@pytest.mark.parametrize("field", ["seq", "settings", "bit_exact", "rows", "schema", "parts"])
def test_a_state_without_one_of_its_parts(copy, field):
    state = json.loads(get_payload(copy, b"\0state"))
    del state[field]
    put_pairs(copy, {b"\0state": json.dumps(state).encode()})
    refused(copy, "state")


SETTINGS = [("dim", 0), ("loss", "x"), ("lr", float("nan")), ("negatives", -1), ("batch_size", 0), ("seed", 2**63)]


@pytest.mark.parametrize(("name", "value"), SETTINGS, ids=repr)
def test_settings_that_no_engine_has(copy, name, value):
    state = json.loads(get_payload(copy, b"\0state"))
    state["settings"][name] = value
    put_pairs(copy, {b"\0state": json.dumps(state).encode()})
    refused(copy, "settings")


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"1", b"null", b"\xff"], ids=["no", "deep", "1", "null", "ff"])
@pytest.mark.parametrize("name", [b"\0state", b"\0created"], ids=["state", "created"])
def test_a_state_that_is_no_json(copy, name, text):
    put_pairs(copy, {name: text})
    refused(copy, "state")


@pytest.mark.parametrize("mean", [b"", bytes(4), bytes(23), np.full(6, np.nan, "<f4").tobytes()], ids=len)
def test_a_running_mean_that_is_none(copy, mean):
    put_pairs(copy, {b"\0mean": mean})
    refused(copy, "mean|state")


def test_fewer_rows_than_the_state_counts(copy):
    """verify saw it; open did not, and took a user that LMDB had for a new one."""
    cold_rows(copy, users=-1)
    refused(copy, "rows of users")


def test_an_item_row_with_the_id_of_padding(copy):
    row = get_payload(copy, b"\2" + (2**63 + 1).to_bytes(8, "big"))
    put_pairs(copy, {b"\2" + (2**63 + 1).to_bytes(8, "big"): None, b"\2" + (2**63 - 1).to_bytes(8, "big"): row})
    refused(copy, "-1")


ONE = bytes(16)


@pytest.mark.parametrize(
    "chunks",
    [
        {0: b"x"},
        {0: ONE * 65},
        {0: ONE * 63, 1: ONE},
        {1: ONE},
        dict.fromkeys(range(17), ONE * 64),
        dict.fromkeys(range(256), ONE * 64),
    ],
    ids=["odd", "too long", "not full", "no first", "17", "256"],
)
def test_a_history_that_no_engine_writes(copy, chunks):
    """256 full chunks went past the largest block of the pool: memory of others was written."""
    users = {chunk_key(3, user, n): None for user in (3, 4) for n in range(16)}
    put_pairs(copy, users | {chunk_key(3, user, n): payload for user in (3, 4) for n, payload in chunks.items()})
    refused(copy, "history of user")


def test_a_history_chunk_without_a_number(copy):
    put_pairs(copy, {chunk_key(3, 3, 0)[:-1]: ONE})
    refused(copy, "0380")


def log_of(path, **change):
    """Replaces the log by one honest record with something in it that no engine logs."""
    (segment,) = segments(path)
    state = json.loads(get_payload(path, b"\0state"))
    id = int(json.loads(get_payload(path, b"\0created"))["id"], 16)
    ids = np.arange(4, dtype=np.int64)
    fields = {"first_seq": state["seq"] + 1, "batch_size": 2, "users": ids, "items": ids} | change
    segment.unlink()
    segment.with_name(f"{state['seq'] + 1:020d}.log").write_bytes(
        encode_record(Record(**fields), directory_id=id, offset=0, synced_bytes=0, synced_seq=0)
    )


LOGGED = [
    {"settings": {"lr": -1}},
    {"settings": {"negatives": -0.0}},
    {"settings": {"batch_size": 10**30}},
    {"settings": {"dim": 7}},
    {"settings": {"new": 1}},
    {"batch_size": 0},
    {"batch_size": 2**32 - 1},
    {"users": np.array([1, 2, -1, 3])},
    {"items": np.array([-1, 2, 1, 3])},
    {"weights": np.array([1, 2, np.nan, 3], np.float32)},
    {"weights": np.array([1, 2, -1, 3], np.float32)},
]


@pytest.mark.parametrize("change", LOGGED, ids=lambda change: repr(change)[:40])
def test_a_log_record_that_no_engine_writes(copy, change):
    log_of(copy, **change)
    refused(copy, "log record|settings")


def test_the_log_record_that_those_differ_from_is_learned(copy):
    log_of(copy)
    engine.open(copy).close()


# What removal, admission and readers brought.


def cold_state(path, **change):
    state = json.loads(get_payload(path, b"\0state")) | change
    put_pairs(path, {b"\0state": json.dumps(state).encode()})


def cold_rows(path, **more):
    """The state says that there are so many more rows."""
    rows = json.loads(get_payload(path, b"\0state"))["rows"]
    cold_state(path, rows=rows | {name: rows[name] + n for name, n in more.items()})


def far_item(path, ordinal):
    """The item that stood last stands at `ordinal`, and the state says so."""
    rows = {
        id: get_payload(path, key) for id, key in zip(range(1000, 1200), row_keys(2, range(1000, 1200)), strict=True)
    }
    last = max(rows, key=lambda id: rows[id][-8:][::-1])
    put_pairs(path, {row_keys(2, [last])[0]: rows[last][:-8] + ordinal.to_bytes(8, "little")})
    cold_state(path, ordinals=ordinal + 1)


def row_keys(table, ids):
    return native.row_keys(table, np.array([*ids], np.int64))


@pytest.mark.timeout(20, func_only=True)
@pytest.mark.parametrize("ordinal", [2**19, 2**31, 2**32 - 2])
def test_a_far_ordinal_takes_no_memory_where_nothing_is_trusted(copy, ordinal):
    """A catalogue has memory up to its last ordinal: 20 GB for a file of 100 kB."""
    far_item(copy, ordinal)
    with pytest.raises(CorruptionError, match="the last in place"):
        engine.open(copy, untrusted=True)


def test_an_ordinal_that_a_file_can_have_is_no_damage(copy):
    far_item(copy, 2**17)
    for untrusted in (True, False):
        with engine.open(copy, untrusted=untrusted) as eng:
            assert len(eng._store.catalogue) == 2**17 + 1


@pytest.mark.timeout(20, func_only=True)
def test_ordinals_beyond_the_state_are_refused_before_there_is_memory_for_them(copy):
    far_item(copy, 2**32 - 3)
    cold_state(copy, ordinals=2**32 - 1)
    refused(copy, "item rows")


@pytest.mark.parametrize("raw", [b"", b"\1" * 7, bytes(9), (2**62).to_bytes(8, "little"), b"\xff" * 8], ids=repr)
def test_a_number_of_epochs_that_is_none(copy, raw):
    """2^64 - 1 was an OverflowError at the next epoch."""
    put_pairs(copy, {b"\0epoch": raw})
    refused(copy, "number of the last epoch")
    with pytest.raises(CorruptionError, match="number of the last epoch"):
        engine.open(copy, mode="r")


def test_a_decision_about_a_record_that_the_log_lacks(copy):
    """It was found only when the next record was learned, and closed the engine."""
    with engine.open(copy) as eng:
        eng.checkpoint()
    put_pairs(copy, {b"\0decided": b"\1" * 12})
    refused(copy, "middle of a record")


def test_a_generation_after_which_there_is_no_name(copy):
    """Compaction named the next file so that no engine would find it, and deleted this one."""
    file = data_file(copy)
    file.rename(file.with_name(f"data-{10**18 - 1}.mdb"))
    refused(copy, "generation")
    file.with_name(f"data-{10**18 - 1}.mdb").rename(file.with_name(f"data-{10**17 - 1}.mdb"))
    with engine.open(copy) as eng:
        eng.forget(users=3)
        digest = eng.digest()
        eng.checkpoint()
    with engine.open(copy) as eng:
        assert eng.digest() == digest


LISTS = {
    "too short": (lambda head, ids: [head(1)[:9]], ""),
    "no ids": (lambda head, ids: [head(2)], "not what was written"),
    "half an id": (lambda head, ids: [head(1) + ids(1)[:5]], "not what was written"),
    "more than it says": (lambda head, ids: [head(1) + ids(2)], "not what was written"),
    "a part missing": (lambda head, ids: [head(300) + ids(240)], "not what was written"),
    "2^63 ids": (lambda head, ids: [head(2**63) + ids(240)], "not what was written"),
    "2^40 ids": (lambda head, ids: [head(2**40) + ids(240)], "not what was written"),
    "a part of another epoch": (lambda head, ids: [head(241) + ids(240), bytes(16) + ids(1)], "not what was written"),
}


@pytest.mark.timeout(20, func_only=True)
@pytest.mark.parametrize("lie", LISTS)
def test_lists_of_changes_that_no_writer_makes(copy, lie):
    """They were a struct.error, a ValueError, or memory for 2^63 keys."""
    make, match = LISTS[lie]
    with Cold.open(copy / "rows") as cold, cold.snapshot() as now:
        epoch = changes.epoch_of(now) + 1
    parts = make(lambda n: struct.pack("<QQ", epoch, n), lambda n: np.arange(1000, 1000 + n, dtype="<i8").tobytes())
    keys = row_keys(4, [(epoch % 8 << 32) + k for k in range(len(parts))])
    put_pairs(copy, dict(zip(keys, parts, strict=True)))
    with Cold.open(copy / "rows") as cold, cold.snapshot() as now:
        if not match:
            assert changes.between(now, epoch - 1, epoch) is None
            return
        with pytest.raises(CorruptionError, match=match):
            changes.between(now, epoch - 1, epoch)


@pytest.mark.timeout(20, func_only=True)
@pytest.mark.parametrize("items", [241, 2**31, 2**32, 2**61])
def test_a_reader_of_a_state_with_more_items_than_there_are(copy, items):
    """A ValueError of the C++ core, or the memory of an index for so many."""
    cold_rows(copy, items=items)
    with pytest.raises(CorruptionError, match="items"):
        engine.open(copy, mode="r")


@pytest.mark.parametrize(
    ("user", "payload"),
    [(3, bytes(15)), (3, bytes(17)), (777, struct.pack("<qQ", 7, 1))],
    ids=["short", "long", "of a user without a row"],
)
def test_forgetting_reads_histories_that_no_engine_writes(copy, user, payload):
    """A ValueError of numpy's."""
    with engine.open(copy) as eng:
        eng.checkpoint()
    put_pairs(copy, {chunk_key(3, user, 0): payload})
    with engine.open(copy) as eng:
        with pytest.raises(CorruptionError, match=r"history of user|no row"):
            eng.forget(items=[7])
        with pytest.raises(engine.EngineError, match="an earlier call failed"):
            eng.ingest(1, 7)
