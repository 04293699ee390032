"""Damage, every bit and every length, and how it is judged. Nothing wrong is read; corruption is left untouched."""

import os

import numpy as np
import pytest
from version_1 import encode_version_1

from engine.contract.errors import CorruptionError, EngineError
from engine.log import Log, Owner, Record, segment, verify
from engine.log.encoding import HEADER_BYTES, parse_header
from engine.log.segment import last_seq_in, segment_name

ID = 0x0123456789ABCDEF
OWNER = Owner(ID)


def events(first_seq, count=1):
    ids = np.arange(first_seq, first_seq + count)
    return Record(first_seq, 4, ids, -ids)


def settings(first_seq, lr):
    return Record(first_seq, 0, np.empty(0, np.int64), np.empty(0, np.int64), settings={"lr": lr})


def summary(record):
    return (record.first_seq, record.users.tolist(), record.items.tolist(), record.settings)


def headers_of(data):
    at, headers = 0, []
    while at < len(data):
        headers.append(parse_header(data[at : at + HEADER_BYTES], at))
        at += headers[-1].length
    return headers


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def no_fsync(monkeypatch):
    """Thousands of logs are opened here, and no power is lost."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def small(tmp_path):
    """A log of two synced records, two synced with the third, and two never synced; its records; its bytes."""
    log = Log.create(tmp_path / "log", ID)
    records = [events(1, 2), settings(3, 0.5), events(3), settings(4, 0.25), events(4, 2), events(6)]
    for number, record in enumerate(records):
        log.append(record)
        if number in (1, 3):
            log.sync()
    path = tmp_path / "log" / segment_name(1)
    data = path.read_bytes()
    os.close(log._tail)  # as a killed process leaves it
    return path, records, data


def test_what_the_records_know(small):
    headers = headers_of(small[2])
    assert [header.synced_seq for header in headers] == [0, 0, 2, 2, 3, 3]
    ends = [header.offset + header.length for header in headers]
    assert [header.synced_bytes for header in headers] == [0, 0, ends[1], ends[1], ends[3], ends[3]]


@pytest.mark.usefixtures("no_fsync")
def test_every_flipped_bit(small):
    path, records, data = small
    for number, header in enumerate(headers_of(data)):
        # The last two records saw the first four synced: those are corrupt when bad, the two themselves are torn.
        durable = number < 4
        for bit in range(8 * header.offset, 8 * (header.offset + header.length)):
            bad = bytearray(data)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            if durable:
                with pytest.raises(CorruptionError) as error:
                    Log.open(path.parent, OWNER, known_durable_seq=0)
                assert (error.value.file, error.value.offset) == (str(path), header.offset)
                assert error.value.seq == header.first_seq
                assert path.read_bytes() == bad
            else:
                log = Log.open(path.parent, OWNER, known_durable_seq=0)
                assert [summary(r) for r in log.replay(0)] == [summary(r) for r in records[:number]]
                os.close(log._tail)
                assert path.read_bytes() == data[: header.offset]


@pytest.mark.usefixtures("no_fsync")
def test_every_truncation(small):
    path, records, data = small
    headers = headers_of(data)
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = [header for header in headers if header.offset + header.length <= length]
        end = whole[-1].offset + whole[-1].length if whole else 0
        assert verify(path.parent)[2:] == (len(whole), end, length - end)
        log = Log.open(path.parent, OWNER, known_durable_seq=0)
        assert [summary(r) for r in log.replay(0)] == [summary(r) for r in records[: len(whole)]]
        log.append(events(log.last_seq + 1, 3))
        assert summary(list(log.replay(0))[-1]) == summary(events(log.last_seq - 2, 3))
        log.close()
        assert verify(path.parent) == (1, log.last_seq, len(whole) + 1, log.bytes, 0)


@pytest.mark.parametrize("lmdb_holds", [4, 5, 6])
def test_damage_at_or_below_what_lmdb_holds_is_corruption(small, lmdb_holds):
    path, _, data = small
    bad = bytearray(data)
    bad[headers_of(data)[4].offset + 70] ^= 1
    path.write_bytes(bad)
    with pytest.raises(CorruptionError, match="LMDB holds events up to"):
        Log.open(path.parent, OWNER, known_durable_seq=lmdb_holds)
    assert path.read_bytes() == bad


def test_a_log_that_ends_below_what_lmdb_holds_is_refused(small):
    path, _, data = small
    path.write_bytes(data[: headers_of(data)[5].offset])
    for check in (Log.open, verify):
        with pytest.raises(CorruptionError, match="LMDB is ahead of its log"):
            check(path.parent, OWNER, known_durable_seq=6)
    assert verify(path.parent, known_durable_seq=5).last_seq == 5


def test_a_log_that_begins_above_what_lmdb_holds_is_refused(tmp_path):
    Log.create(tmp_path / "log", ID, next_seq=10).close()
    with pytest.raises(CorruptionError, match="begins with event 10"):
        Log.open(tmp_path / "log", OWNER, known_durable_seq=8)
    Log.open(tmp_path / "log", OWNER, known_durable_seq=9).close()


@pytest.mark.parametrize("garbage", [b"\0", bytes(4096), b"\x89RTL" * 999, b"\xff" * 77])
def test_garbage_behind_the_last_record_is_a_torn_tail(small, garbage):
    path, records, data = small
    path.write_bytes(data + garbage)
    assert verify(path.parent).torn_bytes == len(garbage)
    log = Log.open(path.parent, OWNER, known_durable_seq=6)
    assert len(list(log.replay(0))) == len(records)
    log.close()
    assert path.read_bytes() == data


def test_a_hole_in_the_unsynced_tail_discards_what_follows(small):
    path, _, data = small
    hole = headers_of(data)[4]
    path.write_bytes(data[: hole.offset] + bytes(hole.length) + data[hole.offset + hole.length :])
    log = Log.open(path.parent, OWNER, known_durable_seq=3)
    assert log.last_seq == 3
    log.close()
    assert path.read_bytes() == data[: hole.offset]


def test_a_witness_far_behind_the_damage_is_found(tmp_path):
    log = Log.create(tmp_path / "log", ID)
    log.append(events(1, 3))
    log.sync()
    log.append(events(4, 65_536))
    log.append(events(log.last_seq + 1, 65_536))
    path = tmp_path / "log" / segment_name(1)
    log.close()
    data = bytearray(path.read_bytes())
    for header in headers_of(data)[:2]:
        data[header.offset + 70] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match="events up to 3 were durable") as error:
        Log.open(tmp_path / "log", OWNER, known_durable_seq=0)
    assert error.value.offset == 0


def test_a_record_inside_a_position_is_no_witness(tmp_path):
    """Bytes of a whole record, aligned, that claim that everything was durable: but at another offset than theirs."""
    other = Log.create(tmp_path / "other", ID)
    for seq in range(1, 4):
        other.append(events(seq))
        other.sync()
    other.close()
    bait = (tmp_path / "other" / segment_name(1)).read_bytes()
    log = Log.create(tmp_path / "log", ID)
    no_ids = np.empty(0, np.int64)
    log.append(Record(1, 0, no_ids, no_ids, position=("12345678", bytes(248) + bait)))
    log.close()
    path = tmp_path / "log" / segment_name(1)
    data = bytearray(path.read_bytes())
    assert data.find(bait) % 8 == 0
    data[70] ^= 1
    path.write_bytes(data)
    assert verify(tmp_path / "log") == (1, 0, 0, 0, len(data))


def segmented(tmp_path, id=ID):
    """A log of five segments with two records each; the directory."""
    tmp_path.mkdir(exist_ok=True)
    log = Log.create(tmp_path / "log", id, segment_bytes=150)
    for first_seq in range(1, 21, 2):
        log.append(events(first_seq, 2))
    log.close()
    assert len(contents(tmp_path / "log")) == 5
    return tmp_path / "log"


def refuse(directory, match, known_durable_seq=0):
    before = contents(directory)
    with pytest.raises(CorruptionError, match=match) as error:
        Log.open(directory, OWNER, known_durable_seq=known_durable_seq)
    with pytest.raises(CorruptionError, match=match):
        verify(directory)
    assert contents(directory) == before
    return error.value


def test_damage_before_the_last_segment_is_corruption(tmp_path):
    directory = segmented(tmp_path)
    path = directory / segment_name(13)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    # Also when nothing whole is left behind it: that there is a successor is proof enough.
    (directory / segment_name(17)).write_bytes(b"")
    error = refuse(directory, "a later segment proves")
    assert (error.file, error.offset, error.seq) == (str(path), len(data) // 2, 15)


def test_a_missing_segment_is_corruption(tmp_path):
    directory = segmented(tmp_path)
    (directory / segment_name(9)).unlink()
    assert refuse(directory, "where event 9 is due").seq == 9


def test_a_segment_cut_at_a_records_end_is_corruption(tmp_path):
    directory = segmented(tmp_path)
    path = directory / segment_name(9)
    os.truncate(path, path.stat().st_size // 2)
    assert refuse(directory, "where event 11 is due").seq == 11


def test_a_whole_record_of_another_seq_is_corruption(tmp_path):
    directory = segmented(tmp_path)
    last = sorted(directory.iterdir())[-1]
    last.write_bytes((directory / segment_name(1)).read_bytes())
    error = refuse(directory, "begins with event 1 where 17 is due")
    assert (error.file, error.offset, error.seq) == (str(last), 0, 17)


def test_an_empty_last_segment_and_foreign_files_are_fine(tmp_path):
    directory = segmented(tmp_path)
    (directory / segment_name(21)).write_bytes(b"")
    (directory / "notes.txt").write_text("mine")
    log = Log.open(directory, OWNER, known_durable_seq=20)
    log.append(events(21))
    log.close()
    assert verify(directory)[:3] == (1, 21, 11)
    assert (directory / "notes.txt").read_text() == "mine"


def test_no_segment_is_corruption(tmp_path):
    refuse(tmp_path, "without a segment")


def test_a_missing_directory_and_a_symbolic_link_are_errors(tmp_path, small):
    for check in (lambda: verify(tmp_path / "no"), lambda: Log.open(tmp_path / "no", OWNER, known_durable_seq=0)):
        with pytest.raises(EngineError, match="No such file"):
            check()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / segment_name(1)).symlink_to(small[0])
    with pytest.raises(EngineError, match="cannot read the log"):
        verify(tmp_path / "linked")


OTHER = Owner(0xFEDCBA9876543210)
BOTH = "record of directory 0123456789abcdef, .* directory fedcba9876543210"


def refused_as_anothers(directory, match, owner, seq):
    before = contents(directory)
    for call in (lambda: Log.open(directory, owner, known_durable_seq=0), lambda: verify(directory, owner)):
        with pytest.raises(CorruptionError, match=match) as error:
            call()
        assert error.value.seq == seq
    assert contents(directory) == before


def test_every_record_of_every_segment_names_its_directory(tmp_path):
    for path in segmented(tmp_path).iterdir():
        headers = headers_of(path.read_bytes())
        assert headers
        assert {header.directory_id for header in headers} == {ID}


def test_the_log_of_another_directory_is_refused_with_both_ids(tmp_path, small):
    refused_as_anothers(small[0].parent, BOTH, OTHER, seq=1)
    refused_as_anothers(segmented(tmp_path / "more"), BOTH, OTHER, seq=1)
    assert verify(small[0].parent, OWNER).last_seq == verify(small[0].parent).last_seq == 6


@pytest.mark.parametrize("number", range(5))
def test_one_segment_of_another_directory_is_refused(tmp_path, number):
    (tmp_path / "b").mkdir()
    mine, theirs = segmented(tmp_path), segmented(tmp_path / "b", OTHER.directory_id)
    name = sorted(contents(mine))[number]
    (mine / name).write_bytes((theirs / name).read_bytes())
    match = "record of directory fedcba9876543210, .* directory 0123456789abcdef"
    refused_as_anothers(mine, match, OWNER, seq=1 + 4 * number)


def test_a_record_of_another_directory_behind_whole_ones_is_not_taken_for_torn(tmp_path, small):
    path, _, data = small
    (tmp_path / "b").mkdir()
    log = Log.create(tmp_path / "b" / "log", OTHER.directory_id)
    for record in small[1]:
        log.append(record)
    log.close()
    theirs = (tmp_path / "b" / "log" / segment_name(1)).read_bytes()
    last = headers_of(data)[-1]
    path.write_bytes(data[: last.offset] + theirs[last.offset :])
    refused_as_anothers(path.parent, "record of directory fedcba9876543210", OWNER, seq=6)


def test_an_empty_log_is_anybodys(tmp_path):
    Log.create(tmp_path / "log", ID).close()
    log = Log.open(tmp_path / "log", OTHER, known_durable_seq=0)
    log.append(events(1))
    log.close()
    assert verify(tmp_path / "log", OTHER).last_seq == 1


OF_FORMAT_1 = Owner(0, version_1_through=2**63 - 1)


@pytest.fixture
def old(tmp_path):
    """A log of version 1: events 1..5, and two records behind them that have none; its directory."""
    data = b""
    for record in (events(1, 2), settings(3, 0.5), events(3, 3), settings(6, 0.25), settings(6, 0.125)):
        data += encode_version_1(record, len(data))
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / segment_name(1)).write_bytes(data)
    return tmp_path / "log"


@pytest.mark.parametrize("owner", [OF_FORMAT_1, Owner(ID, version_1_through=5), Owner(ID, version_1_through=9)])
def test_a_log_of_version_1_where_one_may_be(old, owner):
    assert verify(old, owner, known_durable_seq=2)[:3] == (1, 5, 5)


@pytest.mark.parametrize(("through", "seq"), [(-1, 1), (0, 1), (1, 1), (2, 3), (4, 3)])
def test_a_record_of_version_1_where_none_can_be(old, through, seq):
    match = "record of no directory, as in format 1, but the rows are those of directory 0123456789abcdef"
    refused_as_anothers(old, match, Owner(ID, version_1_through=through), seq)


def test_what_is_appended_to_a_log_of_version_1_is_of_version_2(old):
    owner = Owner(ID, version_1_through=5)
    log = Log.open(old, owner, known_durable_seq=0)
    log.append(settings(6, 0.75))
    log.append(events(6, 2))
    log.close()
    headers = headers_of((old / segment_name(1)).read_bytes())
    assert [header.version for header in headers] == [1] * 5 + [2] * 2
    assert verify(old, owner)[:3] == (1, 7, 7)
    log = Log.open(old, owner, known_durable_seq=0)
    assert [record.first_seq for record in log.replay(2)] == [3, 3, 6, 6, 6, 6]
    log.close()
    for other in (OF_FORMAT_1, Owner(OTHER.directory_id, version_1_through=5)):
        refused_as_anothers(old, "record of directory 0123456789abcdef, but the rows are those of", other, seq=6)


@pytest.mark.parametrize("known", [0, 5])
def test_a_torn_log_of_version_1(old, known):
    path = old / segment_name(1)
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(old, OF_FORMAT_1, known_durable_seq=known).torn_bytes > 0
    last = bytearray(path.read_bytes())
    last[200] ^= 1
    path.write_bytes(last)
    if known:
        with pytest.raises(CorruptionError, match="LMDB holds events up to 5"):
            verify(old, OF_FORMAT_1, known_durable_seq=known)


def test_the_last_seq_is_read_from_the_last_segment(small):
    path, records, data = small
    before = contents(path.parent)
    assert last_seq_in(path.parent) == records[-1].last_seq == 6
    path.write_bytes(data[:-1])
    assert last_seq_in(path.parent) == 5
    path.write_bytes(data)
    (path.parent / segment_name(7)).touch()
    assert last_seq_in(path.parent) == 6
    (path.parent / segment_name(7)).unlink()
    assert contents(path.parent) == before
    path.unlink()
    with pytest.raises(CorruptionError, match="without a segment"):
        last_seq_in(path.parent)


def test_the_last_seq_beside_a_writer_that_begins_another_segment(small, monkeypatch):
    path, _, _ = small
    plain = segment.open_segment

    def overtaken(wanted):
        if wanted == path and path.exists():
            path.unlink()
            path.with_name(segment_name(7)).touch()
        return plain(wanted)

    monkeypatch.setattr(segment, "open_segment", overtaken)
    assert last_seq_in(path.parent) == 6
