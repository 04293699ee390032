"""A directory of format 1: read as it is, and one of format 2 once it was opened for writing; with the same bits.

old_models.py says what these directories are. tests/crash has the faults at every call on the way.
"""

import json
import shutil

import numpy as np
import pytest
from directories import refuse
from killed import kill
from old_models import FOUND, more, tight, unpack
from other_process import other_process

import engine
from engine import ConfigError, CorruptionError, EngineError, StorageFullError
from engine.cold.cold import Cold
from engine.log.encoding import HEADER_BYTES, parse_header

pytestmark = pytest.mark.parametrize("name", FOUND)


@pytest.fixture
def old(home, name):
    unpack(name, home)
    return home


def versions(path):
    """Of the log's records, in order."""
    out = []
    for segment in sorted((path / "log").iterdir()):
        data, at = segment.read_bytes(), 0
        while at < len(data):
            header = parse_header(data[at : at + HEADER_BYTES], at)
            out.append(header.version)
            at += header.length
    return out


def created(path):
    with Cold.open(path / "rows", readonly=True) as cold:
        return json.loads(cold.meta("created"))


def require_same(eng, name):
    found = FOUND[name]
    assert (eng.digest(), eng.seq) == (found["digest"], found["seq"])
    assert eng.settings.items() >= found["settings"].items()
    assert {source: (eng.position(source) or b"").hex() for source in ("shop", "ads")} == found["positions"]
    assert eng._store.catalogue.native.hidden.tolist() == found["hidden"]
    assert eng.topk(5, 5).ids.tolist() == found["top"]


@pytest.mark.parametrize("room", [lambda name: None, tight], ids=["roomy", "tight"])
def test_it_is_what_it_was_and_learns_what_it_would_have(old, name, room):
    warm_bytes = room(name)
    with engine.open(old, warm_bytes=warm_bytes, epoch_seconds=1e9) as eng:
        require_same(eng, name)
        report = engine.verify(old)
        assert (report.format, report.seq) == (2, eng.seq)
        assert report.lmdb_seq == eng.seq or warm_bytes  # then an epoch in the middle has migrated it
        kill(eng)
    with engine.open(old, warm_bytes=warm_bytes, epoch_seconds=1e9) as eng:
        require_same(eng, name)
        more(eng)
        assert eng.digest() == FOUND[name]["digest after more"]
        kill(eng)
    for _ in ("replayed", "restored"):
        with engine.open(old) as eng:
            assert eng.digest() == FOUND[name]["digest after more"]
    assert engine.verify(old).directory_id == report.directory_id


def test_reading_leaves_it_in_format_1(old, name, contents):
    before = contents(old)
    report = engine.verify(old)
    assert (report.format, report.directory_id, report.seq) == (1, "", FOUND[name]["seq"])
    with engine.open(old, mode="r") as reader:
        assert reader.seq == report.lmdb_seq == FOUND[name]["lmdb_seq"]
        if reader.seq == report.seq:
            assert reader.digest() == FOUND[name]["digest"]
    with engine.open(old, untrusted=True) as eng:
        require_same(eng, name)
        more(eng)
        assert eng.digest() == FOUND[name]["digest after more"]
    assert contents(old) == before


def test_a_call_that_is_refused_leaves_it_in_format_1(old, name, contents):
    before = contents(old)
    refuse("dim", lambda: engine.open(old, dim=99))
    refuse("batch_size", lambda: engine.open(old, batch_size=4096, warm_bytes=20_000))
    refuse("'x'", lambda: engine.open(old, mode="x"))
    assert contents(old) == before


def test_it_is_migrated_before_anything_is_appended(old, name, monkeypatch):
    """Also before other settings are, which the same call brings."""
    done = []
    write, append = Cold.write, engine.log.log.Log.append
    monkeypatch.setattr(Cold, "write", lambda self, *args: (write(self, *args), done.append("epoch")))
    monkeypatch.setattr(
        engine.log.log.Log, "append", lambda self, record: (done.append("append"), append(self, record))
    )
    with engine.open(old, lr=0.5) as eng:
        assert done == ["epoch", "append"]
        kill(eng)
    assert versions(old)[-1] == 2
    with engine.open(old) as eng:
        assert eng.settings.items() >= (FOUND[name]["settings"] | {"lr": 0.5}).items()


@pytest.mark.parametrize("error", [StorageFullError, KeyboardInterrupt])
def test_without_its_epoch_it_stays_in_format_1(old, name, contents, monkeypatch, error):
    before = contents(old)

    def fail(*_):
        raise error("now")

    with monkeypatch.context() as patch:
        patch.setattr(Cold, "write", fail)
        with pytest.raises(error):
            engine.open(old)
    assert contents(old) == before
    with engine.open(old) as eng:
        require_same(eng, name)


def test_killed_between_two_epochs_of_the_replay(old, name, monkeypatch):
    """The state is of format 2 then, and the log behind it of version 1."""
    write, writes = Cold.write, []

    def write_once(self, *args):
        if writes:
            raise StorageFullError("no room for a second one")
        writes.append(args)
        write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Cold, "write", write_once)
        try:
            with engine.open(old, warm_bytes=tight(name), epoch_seconds=1e9) as eng:
                kill(eng)
        except StorageFullError:
            assert versions(old)
    assert len(writes) == 1
    report = engine.verify(old)
    assert report.format == 2
    assert set(versions(old)) <= {1}
    with engine.open(old) as eng:
        require_same(eng, name)
    assert engine.verify(old).directory_id == report.directory_id


def test_its_torn_tail_is_cut(old, name):
    segment = sorted((old / "log").iterdir())[-1]
    with segment.open("ab") as file:
        file.write(b"\x89RTL torn")
    assert engine.verify(old).torn_bytes == 9
    with engine.open(old) as eng:
        require_same(eng, name)


def test_its_records_are_believed_up_to_its_last_event(old, name, tmp_path):
    shutil.copytree(old, tmp_path / "before")
    with engine.open(old) as eng:
        kill(eng)
    made = created(old)
    assert made["version_1_through"] == FOUND[name]["seq"]
    assert set(versions(old)) <= {1}
    with engine.open(old) as eng:
        more(eng)
        kill(eng)
    assert versions(old)[-3:] == [2, 2, 2]
    # Rows of before, beside a log that has gone on: one of the two is not where it belongs.
    shutil.rmtree(old / "rows")
    shutil.copytree(tmp_path / "before" / "rows", old / "rows")
    for call in (engine.open, engine.verify, lambda path: engine.open(path, untrusted=True)):
        refuse([made["id"], "format 1"], lambda call=call: call(old), CorruptionError)


def test_a_log_of_format_1_behind_the_migration(old, name, tmp_path):
    """Rows that have gone on, beside the log of before: it ends too early."""
    shutil.copytree(old, tmp_path / "before")
    with engine.open(old) as eng:
        more(eng)
    shutil.rmtree(old / "log")
    shutil.copytree(tmp_path / "before" / "log", old / "log")
    for call in (engine.open, engine.verify):
        refuse("", lambda call=call: call(old), CorruptionError)


def test_its_backup_is_of_format_2_from_the_beginning(old, name, tmp_path):
    with engine.open(old) as eng:
        eng.backup(tmp_path / "b")
    assert created(tmp_path / "b").keys() == {"format", "fingerprint", "id"}
    assert created(tmp_path / "b")["id"] != created(old)["id"]
    with engine.open(tmp_path / "b") as eng:
        require_same(eng, name)
        more(eng)
        assert eng.digest() == FOUND[name]["digest after more"]


def test_a_reader_beside_the_migration(old, name):
    with other_process() as other:
        other(f"reader = engine.open({str(old)!r}, mode='r')")
        assert other("reader.seq") == FOUND[name]["lmdb_seq"]
        with engine.open(old) as eng:
            assert other("reader.refresh()") == eng.seq
            assert other("reader.digest()") == FOUND[name]["digest"]
            more(eng)
            eng.checkpoint()
            assert other("reader.digest()") == FOUND[name]["digest after more"]


def test_what_was_forgotten_goes_with_the_old_records(old, name):
    with engine.open(old) as eng:
        eng.forget(users=np.arange(-30, 60, 7))
        eng.checkpoint()
        digest = eng.digest()
        kill(eng)
    assert versions(old) == []
    with engine.open(old) as eng:
        assert eng.digest() == digest


def test_a_later_format_is_refused_by_name(old, name):
    later = json.dumps(created(old) | {"format": 3}).encode()
    with Cold.open(old / "rows") as cold:
        cold.write([], {"created": later})
    match = "made in format 3, this version reads formats 1 and 2"
    for call in (engine.open, engine.verify, lambda path: engine.open(path, mode="r")):
        refuse(match, lambda call=call: call(old), ConfigError)
    refuse(match, lambda: engine.open(old, untrusted=True), EngineError)
