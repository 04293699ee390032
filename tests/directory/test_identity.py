"""Whose rows, whose log: the two of different models are told apart, however alike they are."""

import json
import shutil

import numpy as np
import pytest
from directories import SMALL, refuse
from killed import kill

import engine
from engine import CorruptionError
from engine.cold.cold import Cold
from engine.log.encoding import HEADER_BYTES, parse_header

EVENTS = 60


def make(path, seed, tail=10):
    """A model of 60 events in LMDB, and `tail` more in its log alone. Only what was learned differs by seed."""
    rng = np.random.default_rng(seed)
    with engine.open(path, **SMALL, epoch_seconds=1e9) as eng:
        eng.ingest(np.arange(EVENTS) % 7, rng.permutation(EVENTS) % 5)
        eng.checkpoint()
        if tail:
            eng.ingest(np.arange(tail), np.arange(tail))
        kill(eng)
    return path


def id_of(path):
    return engine.verify(path).directory_id


def mixed(path, rows, log):
    """A directory with the rows of one and the log of the other."""
    shutil.copytree(rows, path)
    shutil.rmtree(path / "log")
    shutil.copytree(log / "log", path / "log")
    return path


def refused(path, ids, contents):
    before = contents(path)
    for call in (engine.verify, engine.open, lambda path: engine.open(path, untrusted=True)):
        refuse(ids, lambda call=call: call(path), CorruptionError)
    assert contents(path) == before


def test_each_model_has_an_id_of_its_own(tmp_path):
    ids = {id_of(make(tmp_path / str(n), seed=1)) for n in range(5)}
    assert len(ids) == 5
    assert all(len(id) == 16 and int(id, 16) for id in ids)


def test_the_id_is_in_every_record_and_stays(home):
    make(home, 1)
    before = id_of(home)
    for _ in range(2):
        with engine.open(home) as eng:
            eng.hide(3)
            eng.ingest([], [], position=("shop", b"1"))
            eng.checkpoint()
            eng._directory.cold.compact()
            eng.ingest(1, 2)
            kill(eng)
    assert id_of(home) == before
    (segment,) = (home / "log").iterdir()
    data, at, found = segment.read_bytes(), 0, []
    while at < len(data):
        header = parse_header(data[at : at + HEADER_BYTES], at)
        found.append(f"{header.directory_id:016x}")
        at += header.length
    assert found == [before] * 8


@pytest.mark.parametrize("tail", [0, 10])
def test_the_rows_of_one_and_the_log_of_another_at_the_same_seq(tmp_path, contents, tail):
    one, other = make(tmp_path / "one", 1, tail), make(tmp_path / "other", 2, tail)
    assert engine.verify(one).seq == engine.verify(other).seq == EVENTS + tail
    refused(mixed(tmp_path / "mixture", one, other), [id_of(one), id_of(other)], contents)
    refused(mixed(tmp_path / "mixture 2", other, one), [id_of(one), id_of(other)], contents)
    with engine.open(mixed(tmp_path / "itself", one, one)) as eng:
        assert eng.seq == EVENTS + tail


def test_the_same_events_are_no_reason_to_mix(tmp_path, contents):
    one, other = make(tmp_path / "one", 1), make(tmp_path / "other", 1)
    refused(mixed(tmp_path / "mixture", one, other), [id_of(one), id_of(other)], contents)


def test_a_backup_is_another_model(home, tmp_path, contents):
    make(home, 1)
    with engine.open(home, epoch_seconds=1e9) as eng:
        seq = eng.backup(tmp_path / "b")
        digest = eng.digest()
        eng.ingest(1, 2)
        kill(eng)
    with engine.open(tmp_path / "b", epoch_seconds=1e9) as copy:
        assert (copy.seq, copy.digest()) == (seq, digest)
        copy.ingest(3, 4)
        kill(copy)
    assert engine.verify(home).seq == engine.verify(tmp_path / "b").seq == seq + 1
    ids = [id_of(home), id_of(tmp_path / "b")]
    assert ids[0] != ids[1]
    refused(mixed(tmp_path / "mixture", home, tmp_path / "b"), ids, contents)
    refused(mixed(tmp_path / "mixture 2", tmp_path / "b", home), ids, contents)


def test_a_backup_has_no_byte_of_the_id_that_it_was_made_of(home, tmp_path):
    make(home, 1)
    with engine.open(home) as eng:
        eng.backup(tmp_path / "b")
    id = id_of(home)
    for file in (tmp_path / "b").rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert id.encode() not in data
            assert int(id, 16).to_bytes(8, "little") not in data


def test_a_reader_reads_the_rows_alone(tmp_path):
    """Its answers are right whatever the log is, which it does not open."""
    one, other = make(tmp_path / "one", 1), make(tmp_path / "other", 2)
    path = mixed(tmp_path / "mixture", one, other)
    with engine.open(one, mode="r") as reader:
        digest = reader.digest()
    with engine.open(path, mode="r") as reader:
        assert (reader.seq, reader.digest()) == (EVENTS, digest)
    refuse([id_of(one), id_of(other)], lambda: engine.open(path, mode="r", untrusted=True), CorruptionError)


def test_a_state_that_was_given_another_id(home, contents):
    make(home, 1)
    id = id_of(home)
    with Cold.open(home / "rows") as cold:
        created = json.loads(cold.meta("created"))
        assert created["id"] == id
        cold.write([], {"created": json.dumps(created | {"id": "00000000000000aa"}).encode()})
    refused(home, [id, "00000000000000aa"], contents)


def test_the_id_does_not_show_in_a_digest(tmp_path):
    digests = set()
    for n in range(2):
        with engine.open(make(tmp_path / str(n), 1)) as eng:
            digests.add(eng.digest())
    with engine.open(":memory:", **SMALL) as eng:
        eng.ingest(np.arange(EVENTS) % 7, np.random.default_rng(1).permutation(EVENTS) % 5)
        eng.ingest(np.arange(10), np.arange(10))
        digests.add(eng.digest())
    assert len(digests) == 1
