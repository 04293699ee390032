"""What is fixed when a directory is made, as bytes and back, and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import ConfigError, CorruptionError
from engine.log.segment import Owner
from engine.machine.backend import fingerprint
from engine.store.created import FORMAT, Created

HERE = Path("here")
GOOD = {"format": 2, "fingerprint": "f", "id": "0123456789abcdef"}


def read(fields):
    raw = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return Created.from_meta({"created": raw}.get, HERE)


@given(st.integers(1, 2**64 - 1), st.text(), st.integers(-1, 2**62 - 1))
def test_it_comes_back(id, made_on, through):
    created = Created(id, made_on, through)
    assert Created.from_meta(created.to_meta().get, HERE) == created
    assert created.owner == Owner(id, through)


def test_known_bytes():
    text = b'{"format": 2, "fingerprint": "f", "id": "0123456789abcdef"}'
    assert Created(0x0123456789ABCDEF, "f").to_meta() == {"created": text}
    assert read(text) == Created(0x0123456789ABCDEF, "f")
    assert json.loads(Created(1, "f", 7).to_meta()["created"])["version_1_through"] == 7


def test_ids_are_drawn():
    new = [Created.now("cpu") for _ in range(20)]
    assert {made.fingerprint for made in new} == {fingerprint("cpu")}
    copies = [new[0].copied() for _ in range(20)]
    ids = {made.directory_id for made in new + copies}
    assert len(ids) == 40
    assert all(0 < id < 2**64 for id in ids)


def test_format_1_has_no_id_until_it_is_migrated():
    old = read({"format": 1, "fingerprint": "f"})
    assert (old.format, old.directory_id, old.fingerprint) == (1, 0, "f")
    assert old.owner.directory_id == 0
    assert old.owner.version_1_through >= 2**62
    new = old.migrated(41)
    assert (new.format, new.version_1_through, new.fingerprint) == (FORMAT, 41, "f")
    assert new.directory_id
    assert read(new.to_meta()["created"]) == new
    assert new.copied().version_1_through == -1


@pytest.mark.parametrize("found", [0, 3, -1, 2.0, True, "2", None, [2], 2**200], ids=repr)
def test_other_formats_are_refused_by_name(found):
    with pytest.raises(ConfigError, match=r"here: made in format .*, this version reads formats 1 and 2"):
        read(GOOD | {"format": found})


@pytest.mark.parametrize("fields", [GOOD | {"colour": 1}, {"format": 1, "fingerprint": "f", "colour": 1}])
def test_a_field_of_a_later_version_is_refused_by_name(fields):
    with pytest.raises(ConfigError, match="'colour', which this version of Rowtide does not know"):
        read(fields)


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


LIES = [without("format"), without("fingerprint"), without("id"), b"", b"{", b"[1]", b"17", b"null", b"[" * 100_000]
LIES += [
    GOOD | {"id": x} for x in ("0" * 16, "abc", "0x12345678901234", "ABCDEF0123456789", "+123456789abcdef", 7, None)
]
LIES += [GOOD | {"fingerprint": 1}]
LIES += [GOOD | {"version_1_through": x} for x in (-2, 2**62, "7", 1.0, True, None)]


@pytest.mark.parametrize("fields", LIES, ids=lambda x: repr(x)[:60])
def test_what_no_engine_writes_is_corrupt(fields):
    with pytest.raises(CorruptionError):
        read(fields)


def test_nothing_there():
    with pytest.raises(CorruptionError, match="no state of an engine"):
        Created.from_meta({}.get, HERE)
