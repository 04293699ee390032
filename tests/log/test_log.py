"""The log as its writer sees it: order, rotation, replay, dropping, and which system calls are made when."""

import os
import stat

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.contract.errors import CorruptionError, EngineError, InputError
from engine.log import Log, Owner, Record, verify
from engine.log.segment import segment_name

ID = 0x0123456789ABCDEF
OWNER = Owner(ID)

NO_IDS = np.empty(0, np.int64)


def events(first_seq, count=1):
    ids = np.arange(first_seq, first_seq + count)
    return Record(first_seq, 4, ids, -ids)


def mark(first_seq, value):
    return Record(first_seq, 0, NO_IDS, NO_IDS, position=("source", value), settings={"lr": 0.5})


def removal(first_seq, *ids):
    ids = np.array(ids, np.int64)
    return Record(first_seq, 4, ids, ids, operation="forget")


def summary(record):
    return (
        *(record.first_seq, record.count, record.users.tolist(), record.position, record.settings),
        record.operation,
    )


def replayed(log, after_seq=0):
    return [summary(record) for record in log.replay(after_seq)]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def log(tmp_path):
    log = Log.create(tmp_path / "log", ID, segment_bytes=1000)
    yield log
    log.close()


@pytest.fixture
def calls(monkeypatch):
    """The names of the calls that change or sync files, in order, as they are made."""
    made = []
    for name in ("write", "fsync", "fdatasync", "ftruncate", "unlink"):
        real = getattr(os, name)

        def call(*args, name=name, real=real):
            made.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, call)
    return made


def test_create_is_durable_and_private(tmp_path, calls):
    log = Log.create(tmp_path / "log", ID, next_seq=42)
    assert calls == ["fsync", "fsync", "fsync"]
    assert names(tmp_path / "log") == [segment_name(42)] == ["00000000000000000042.log"]
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "log" / segment_name(42)).stat().st_mode) == 0o600
    assert (log.first_seq, log.last_seq, log.synced_seq, log.bytes) == (42, 41, 41, 0)
    assert replayed(log, 41) == []
    log.append(events(42, 3))
    assert (log.last_seq, log.synced_seq) == (44, 41)
    log.close()
    log = Log.open(tmp_path / "log", OWNER, known_durable_seq=41)
    assert (log.first_seq, log.last_seq, log.synced_seq) == (42, 44, 44)
    assert replayed(log, 41) == [summary(events(42, 3))]
    log.close()


def test_create_over_something_is_refused(tmp_path):
    with pytest.raises(EngineError, match="File exists"):
        Log.create(tmp_path, ID)


def test_which_calls_are_made_when(log, calls):
    log.append(events(1))
    log.append(events(2))
    assert calls == ["write", "write"]
    log.sync()
    log.sync()  # nothing new, nothing done
    assert calls[2:] == ["fdatasync"]
    assert log.synced_seq == 2


def test_a_mark_alone_is_synced_too(log, calls):
    log.append(mark(1, b"a"))
    log.sync()
    assert calls == ["write", "fdatasync"]


def test_open_syncs_the_tail_before_it_is_trusted(log, calls, tmp_path):
    log.append(events(1))
    del calls[:]
    again = Log.open(tmp_path / "log", OWNER, known_durable_seq=0)
    assert calls == ["fsync", "fsync"]
    assert again.synced_seq == 1
    again.close()


def test_a_record_out_of_turn_is_refused(log):
    log.append(events(1, 2))
    for first_seq in (1, 2, 4):
        with pytest.raises(EngineError, match="where 3 is due"):
            log.append(events(first_seq))
    with pytest.raises(InputError):
        log.append(Record(3, 1, np.zeros(1, np.int32), NO_IDS))
    log.append(events(3))
    assert log.last_seq == 3


def test_rotation(log, calls, tmp_path):
    for first_seq in range(1, 31, 2):
        log.append(events(first_seq, 2))  # 96 bytes each: eleven fill a segment
    assert names(tmp_path / "log") == [segment_name(1), segment_name(23)]
    assert (tmp_path / "log" / segment_name(1)).stat().st_size == 11 * 96
    # The old segment is durable before the new one begins; the new one's name with the next sync.
    assert calls == ["write"] * 11 + ["fdatasync"] + ["write"] * 4
    assert (log.synced_seq, log.last_seq) == (22, 30)
    log.sync()
    assert calls[16:] == ["fdatasync", "fsync"]
    assert log.bytes == log.appended_bytes == 15 * 96
    assert replayed(log) == [summary(events(first_seq, 2)) for first_seq in range(1, 31, 2)]
    log.sync()
    for first_seq in range(31, 61, 2):
        log.append(events(first_seq, 2))
    assert calls.count("fsync") == 1
    log.close()
    again = Log.open(tmp_path / "log", OWNER, known_durable_seq=0)
    assert (again.bytes, again.appended_bytes, again.last_seq) == (30 * 96, 0, 60)
    again.close()


def test_a_second_rotation_syncs_the_first_ones_name(log, calls):
    for first_seq in range(1, 61, 2):
        log.append(events(first_seq, 2))
    assert [call for call in calls if call != "write"] == ["fdatasync", "fdatasync", "fsync"]


def test_a_segment_without_events_is_not_left(log, tmp_path):
    for number in range(20):
        log.append(mark(1, b"%2d" % number))
    assert names(tmp_path / "log") == [segment_name(1)]
    log.append(events(1))
    log.append(mark(2, b"last"))
    assert names(tmp_path / "log") == [segment_name(1), segment_name(2)]
    assert len(replayed(log)) == 22


def test_replay_from_any_records_end(log):
    log.append(mark(1, b"a"))
    log.append(events(1, 3))
    log.append(mark(4, b"b"))
    log.append(mark(4, b"c"))
    log.append(events(4, 2))
    everything = replayed(log)
    assert [first_seq for first_seq, *_ in everything] == [1, 1, 4, 4, 4]
    assert replayed(log, 3) == everything[2:]  # a mark right behind event 3 may not be in the state at 3 yet
    assert replayed(log, 5) == replayed(log, 99) == []
    # An epoch may end inside a record: the record comes whole.
    assert replayed(log, 1) == replayed(log, 2) == everything[1:]
    assert replayed(log, 4) == everything[4:]


def test_replay_ends_where_the_log_ended_when_it_began(log):
    log.append(events(1))
    replay = log.replay(0)
    first = next(replay)
    log.append(events(2))
    assert (first.last_seq, list(replay)) == (1, [])


def test_replay_of_what_was_damaged_meanwhile(log, tmp_path):
    for seq in (1, 2):
        log.append(events(seq))
    path = tmp_path / "log" / segment_name(1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    replay = log.replay(0)
    next(replay)
    with pytest.raises(CorruptionError, match="no longer be read"):
        next(replay)
    path.unlink()
    with pytest.raises(EngineError, match="cannot read"):
        replayed(log)


def test_drop(log, calls, tmp_path):
    for first_seq in range(1, 89, 2):
        log.append(events(first_seq, 2))
    log.sync()
    assert names(tmp_path / "log") == [segment_name(seq) for seq in (1, 23, 45, 67)]
    del calls[:]
    log.drop_through(21)
    assert calls == []
    log.drop_through(43)
    assert calls == ["unlink", "fsync"]
    assert names(tmp_path / "log") == [segment_name(seq) for seq in (23, 45, 67)]
    assert log.bytes == 33 * 96
    assert len(replayed(log, 22)) == 33
    with pytest.raises(CorruptionError, match="begins with 23"):
        replayed(log, 20)
    log.drop_through(10_000)
    assert names(tmp_path / "log") == [segment_name(67)]
    log.append(events(89))
    log.close()
    again = Log.open(tmp_path / "log", OWNER, known_durable_seq=88)
    assert (again.first_seq, again.last_seq) == (67, 89)
    assert replayed(again, 88) == [summary(events(89))]
    again.close()


def test_a_mark_behind_the_seq_keeps_its_segment(tmp_path):
    log = Log.create(tmp_path / "log", ID, segment_bytes=1)
    log.append(events(1))
    log.append(events(2))
    log.append(mark(3, b"x"))
    log.append(events(3))
    assert names(tmp_path / "log") == [segment_name(seq) for seq in (1, 2, 3)]
    log.drop_through(2)
    assert replayed(log, 2) == [summary(mark(3, b"x")), summary(events(3))]
    log.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_story_comes_back(tmp_path_factory, data):
    """Appends, syncs, kills, drops in any order: replay gives what was appended, in order, from any state on."""
    directory = tmp_path_factory.mktemp("story") / "log"
    next_seq = data.draw(st.sampled_from([1, 7]))
    log = Log.create(directory, ID, next_seq=next_seq, segment_bytes=300)
    story, dropped = [], next_seq - 1
    for number, step in enumerate(data.draw(st.lists(st.sampled_from("eeemoskdx"), max_size=25))):
        if step == "e":
            story.append(events(log.last_seq + 1, data.draw(st.integers(1, 5))))
            log.append(story[-1])
        elif step == "m":
            story.append(mark(log.last_seq + 1, b"%d" % number))
            log.append(story[-1])
        elif step == "o":
            story.append(removal(log.last_seq + 1, number, -1))
            log.append(story[-1])
        elif step == "s":
            log.sync()
        elif step == "x":
            log.empty()
            story, dropped = [], log.last_seq
        elif step == "k":
            os.close(log._tail)
            log = Log.open(directory, OWNER, segment_bytes=300, known_durable_seq=dropped)
        else:
            ends = [record.last_seq for record in story if record.last_seq >= dropped]
            dropped = data.draw(st.sampled_from([dropped, *ends]))
            log.drop_through(dropped)
        ends = [record.last_seq for record in story if record.last_seq >= dropped]
        after = data.draw(st.sampled_from([dropped, *ends]))
        assert replayed(log, after) == [summary(record) for record in story if record.first_seq > after]
    log.close()
    assert verify(directory, known_durable_seq=dropped) == (
        log.first_seq,
        log.last_seq,
        sum(segment.records for segment in log._segments),
        log.bytes,
        0,
    )


def test_close(log):
    log.append(events(1))
    log.close()
    assert log.synced_seq == 1
    log.close()
    for call in (lambda: log.append(events(2)), log.sync, log.empty):
        with pytest.raises(EngineError, match="it is closed"):
            call()


def test_an_operation_stands_behind_its_event(log, tmp_path):
    log.append(events(1, 3))
    log.append(removal(4, 7, -1))
    log.append(removal(4, 8, 9))
    assert log.last_seq == 3
    log.append(events(4))
    everything = replayed(log)
    assert [entry[5] for entry in everything] == [None, "forget", "forget", None]
    assert replayed(log, 3) == everything[1:]  # the state at 3 may lack them
    assert replayed(log, 4) == []
    assert verify(tmp_path / "log").records == 4


def test_emptied(log, calls, tmp_path):
    for first_seq in range(1, 61, 2):
        log.append(events(first_seq, 2))
    log.append(mark(61, b"a"))
    log.append(removal(61, 5))
    appended = log.appended_bytes
    log.empty()
    assert names(tmp_path / "log") == [segment_name(61)]
    assert (tmp_path / "log" / segment_name(61)).read_bytes() == b""
    assert (log.first_seq, log.last_seq, log.synced_seq, log.bytes) == (61, 60, 60, 0)
    assert log.appended_bytes == appended
    assert replayed(log, 60) == []
    del calls[:]
    log.empty()  # nothing there, nothing done
    assert calls == []
    log.append(events(61))
    log.sync()
    log.close()
    again = Log.open(tmp_path / "log", OWNER, known_durable_seq=60)
    assert replayed(again, 60) == [summary(events(61))]
    again.close()


def test_emptied_of_records_without_events(log, calls, tmp_path):
    """The segment has the right name already, so it is cut in place."""
    log.append(mark(1, b"a"))
    log.append(removal(1, 5))
    log.empty()
    assert calls == ["write", "write", "fdatasync", "ftruncate", "fsync"]
    assert names(tmp_path / "log") == [segment_name(1)]
    assert (log.bytes, replayed(log)) == (0, [])
    log.append(events(1))
    log.sync()
    assert replayed(log) == [summary(events(1))]
    assert verify(tmp_path / "log", known_durable_seq=1) == (1, 1, 1, 80, 0)


def test_what_is_emptied_is_durable_before_anything_is_deleted(log, calls):
    """A power loss while it is emptied must leave a whole log, which ends where the state in LMDB does, or later."""
    for first_seq in range(1, 31, 2):
        log.append(events(first_seq, 2))
    del calls[:]
    log.empty()
    # The tail and its name, then the new segment and its name; each deletion before the next.
    assert calls == ["fdatasync", "fsync", "fsync", "fsync", "unlink", "fsync", "unlink", "fsync"]
