"""The state as bytes and back: what is in the digest, what a later version may add, and a state of format 1."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from engine.contract.errors import ConfigError, CorruptionError
from engine.contract.settings import Settings
from engine.machine.backend import fingerprint, native
from engine.store.created import Created
from engine.store.state import State
from engine.store.tables import TABLES

HERE = Path("here")
SETTINGS = Settings.resolve({"dim": 3, "loss": "squared"}, None)
STATE = State(
    seq=9,
    rows={"users": 3, "items": 2},
    mean=np.array([1, 2, 3], np.float32),
    mean_count=4,
    settings=SETTINGS,
    positions={"shop": b"\xff\0"},
    value_sums=(1.5, 2.0),
    ordinals=5,
    hidden=1,
    purge=True,
    sightings=bytes(native.SKETCH_BYTES),
    decided=b"\1\0",
)
CREATED = Created(7, fingerprint())


def read(change=None, created=CREATED, meta=None):
    stored = STATE.to_meta() | created.to_meta() | (meta or {})
    if change is not None:
        stored["state"] = json.dumps(json.loads(stored["state"]) | change).encode()
    return State.from_meta(stored.get, HERE)


def same(one, other):
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(State))


def test_it_comes_back():
    assert same(read(), STATE)
    initial = State.initial(SETTINGS)
    assert same(State.from_meta((initial.to_meta() | CREATED.to_meta()).get, HERE), initial)


def test_its_fields_are_those_of_the_format():
    found = json.loads(STATE.to_meta()["state"])
    assert found.keys() == {
        *("schema", "seq", "rows", "hidden", "ordinals", "mean_count", "value_sums", "settings", "positions"),
        *("parts", "bit_exact", "purge"),
    }
    assert (found["schema"], found["rows"], found["parts"]) == (2, STATE.rows, ["mean", "sightings", "decided"])


def test_its_facts_are_what_format_1_hashed():
    """So that no digest has changed with the format."""
    assert json.dumps(STATE.facts(), sort_keys=True) == json.dumps(
        {
            "hidden": 1,
            "items": 2,
            "mean_count": 4,
            "ordinals": 5,
            "positions": {"shop": "ff00"},
            "seq": 9,
            "settings": SETTINGS.written(),
            "users": 3,
            "value_sums": [1.5, 2.0],
        },
        sort_keys=True,
    )
    of_the_files = replace(STATE, bit_exact=False, purge=False, decided=b"", sightings=b"")
    assert of_the_files.facts() == STATE.facts()


def of_format_1(**change):
    found = json.loads(STATE.to_meta()["state"]) | {"users": 3, "items": 2} | change
    for name in ("schema", "rows", "parts"):
        del found[name]
    created = json.dumps({"format": 1, "fingerprint": fingerprint()}).encode()
    return STATE.to_meta() | {"state": json.dumps(found).encode(), "created": created}


def test_a_state_of_format_1_is_read():
    assert same(State.from_meta(of_format_1().get, HERE), STATE)
    with pytest.raises(ConfigError, match="'colour', which this version"):
        State.from_meta(of_format_1(colour=1).get, HERE)
    with pytest.raises(CorruptionError):
        State.from_meta(of_format_1(users=-1).get, HERE)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"colour": 1}, "'colour'"),
        ({"rows": {"users": 3, "items": 2, "tags": 0}}, "'tags'"),
        ({"parts": ["mean", "sightings", "decided", "tower"]}, "'tower'"),
        ({"settings": SETTINGS.as_dict() | {"warmup": 1}}, "'warmup'"),
        ({"schema": 3}, "schema 3, this version reads schema 2"),
        ({"schema": "2"}, "schema str '2'"),
    ],
)
def test_what_a_later_version_added_is_refused_by_name(change, name):
    with pytest.raises(ConfigError, match=name):
        read(change)


def test_a_table_that_is_not_named_has_no_rows():
    """As a directory has none of a table that came later."""
    found = read({"rows": {"users": 3}})
    assert found.rows == {"users": 3, "items": 0}
    with pytest.raises(CorruptionError, match="LMDB holds 2 rows of items, its state says 0"):
        found.require_rows({1: 3, 2: 2, 5: 1}, HERE)


def test_every_table_and_the_hidden_ids_are_counted():
    entries = {table.number: STATE.rows[table.name] for table in TABLES.values()} | {5: 1}
    STATE.require_rows(entries, HERE)
    for number in entries:
        for wrong in (entries[number] + 1, 0):
            with pytest.raises(CorruptionError, match="its state says"):
                STATE.require_rows(entries | {number: wrong}, HERE)


@pytest.mark.parametrize("part", ["mean", "sightings", "decided"])
def test_a_part_that_is_missing(part):
    stored = STATE.to_meta() | CREATED.to_meta()
    del stored[part]
    with pytest.raises(CorruptionError):
        State.from_meta(stored.get, HERE)


@pytest.mark.parametrize(
    "change", [{"rows": x} for x in (None, [], ["users"], 7, {"users": -1}, {"users": "3"})], ids=repr
)
def test_rows_that_no_engine_writes(change):
    with pytest.raises(CorruptionError):
        read(change)


def test_another_machine_is_not_bit_exact():
    assert read().bit_exact
    assert not read(created=Created(7, "other lanes")).bit_exact
    assert not read({"bit_exact": False}).bit_exact
