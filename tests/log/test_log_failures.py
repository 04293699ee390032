"""Disks that are full or fail, interrupts, and kills in the middle of a record: what each leaves of the log."""

import errno
import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from engine.contract.errors import EngineError, StorageFullError
from engine.log import Log, Owner, Record, verify
from engine.log.segment import segment_name

ID = 0x0123456789ABCDEF
OWNER = Owner(ID)


def events(first_seq, count=1):
    ids = np.arange(first_seq, first_seq + count)
    return Record(first_seq, 4, ids, -ids)


def replayed(log):
    return [(record.first_seq, record.users.tolist()) for record in log.replay(0)]


def summary(record):
    return (record.first_seq, record.users.tolist())


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def log(tmp_path):
    log = Log.create(tmp_path / "log", ID, segment_bytes=1000)
    yield log
    log.close()


def failing(monkeypatch, name, *numbers):
    """Let os.`name` fail with these error numbers, one a call, then work. Negative: it writes so many bytes."""
    real, left = getattr(os, name), list(numbers)

    def call(*args):
        number = left.pop(0) if left else None
        if number is None:
            return real(*args)
        if number < 0:
            return real(args[0], args[1][:-number])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, call)
    return left


def refuses_everything(log, why):
    for call in (lambda: log.append(events(log.last_seq + 1)), log.sync):
        with pytest.raises(EngineError, match=why):
            call()


def test_short_writes_go_on(log, monkeypatch):
    failing(monkeypatch, "write", -1, -63, -7)
    log.append(events(1, 5))
    log.append(events(6))
    assert replayed(log) == [summary(events(1, 5)), summary(events(6))]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_leaves_the_log_as_it_was(log, monkeypatch, tmp_path, number):
    log.append(events(1))
    before = (tmp_path / "log" / segment_name(1)).read_bytes()
    failing(monkeypatch, "write", -100, number, number)
    for _ in range(2):
        with pytest.raises(StorageFullError, match=r"cannot append to") as error:
            log.append(events(2, 5))
        assert error.value.errno == number
        assert (tmp_path / "log" / segment_name(1)).read_bytes() == before
        assert (log.last_seq, log.bytes) == (1, 80)
    log.append(events(2, 5))
    log.close()
    assert verify(tmp_path / "log").last_seq == 6


def test_no_room_for_a_new_segment(log, monkeypatch, tmp_path):
    for first_seq in range(1, 23, 2):
        log.append(events(first_seq, 2))
    failing(monkeypatch, "open", errno.ENOSPC)
    with pytest.raises(StorageFullError, match="cannot make"):
        log.append(events(23))
    log.append(events(23))
    assert names(tmp_path / "log") == [segment_name(1), segment_name(23)]


def test_a_disk_that_fails_to_make_a_segment(log, monkeypatch):
    for first_seq in range(1, 23, 2):
        log.append(events(first_seq, 2))
    failing(monkeypatch, "open", errno.EIO)
    for _ in range(2):
        with pytest.raises(EngineError, match="Input/output error"):
            log.append(events(23))


def test_a_failing_write_is_the_end(log, monkeypatch, tmp_path):
    log.append(events(1))
    failing(monkeypatch, "write", -50, errno.EIO)
    with pytest.raises(EngineError, match="cannot append"):
        log.append(events(2, 5))
    refuses_everything(log, "until it is opened anew")
    log.close()
    again = Log.open(tmp_path / "log", OWNER, known_durable_seq=0)
    assert replayed(again) == [summary(events(1))]
    again.close()


def test_a_write_of_nothing_is_a_failure(log, monkeypatch):
    monkeypatch.setattr(os, "write", lambda *args: 0)
    with pytest.raises(EngineError, match="nothing was written"):
        log.append(events(1))


def test_a_failing_cut_is_the_end_and_opening_anew_cuts(log, monkeypatch, tmp_path):
    log.append(events(1))
    failing(monkeypatch, "write", -50, errno.ENOSPC)
    failing(monkeypatch, "ftruncate", errno.EIO)
    with pytest.raises(EngineError, match="cannot cut") as error:
        log.append(events(2, 5))
    assert not isinstance(error.value, StorageFullError)
    refuses_everything(log, "cannot cut")
    log.close()
    assert verify(tmp_path / "log") == (1, 1, 1, 80, 50)
    again = Log.open(tmp_path / "log", OWNER, known_durable_seq=0)
    again.append(events(2))
    assert replayed(again) == [summary(events(1)), summary(events(2))]
    again.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failing_sync_is_the_end(log, monkeypatch, number):
    log.append(events(1))
    failing(monkeypatch, "fdatasync", number)
    with pytest.raises(EngineError, match="cannot sync") as error:
        log.sync()
    assert not isinstance(error.value, StorageFullError)
    assert log.synced_seq == 0
    refuses_everything(log, "cannot sync")


def test_a_failing_directory_sync_is_the_end(log, monkeypatch):
    for first_seq in range(1, 31, 2):
        log.append(events(first_seq, 2))
    failing(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(EngineError, match="cannot sync"):
        log.sync()
    assert log.synced_seq == 22
    refuses_everything(log, "cannot sync")


def test_failures_of_drop(log, monkeypatch, tmp_path):
    for first_seq in range(1, 60, 2):
        log.append(events(first_seq, 2))
    failing(monkeypatch, "unlink", errno.EPERM)
    with pytest.raises(EngineError, match="cannot delete"):
        log.drop_through(60)
    log.append(events(61))
    failing(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(EngineError, match="cannot sync"):
        log.drop_through(60)
    refuses_everything(log, "cannot sync")
    log.close()
    assert verify(tmp_path / "log").first_seq == 23


@pytest.mark.parametrize("name", ["open", "ftruncate", "fsync"])
def test_failures_of_open(log, monkeypatch, tmp_path, name):
    log.append(events(1))
    with (tmp_path / "log" / segment_name(1)).open("ab") as file:
        file.write(b"torn")
    failing(monkeypatch, name, errno.EIO)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(EngineError, match="cannot open the log"):
        Log.open(tmp_path / "log", OWNER, known_durable_seq=0)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_an_interrupt_between_two_short_writes(log, monkeypatch):
    real = os.write

    def write(descriptor, data):
        real(descriptor, data[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(KeyboardInterrupt):
        log.append(events(1))
    monkeypatch.setattr(os, "write", real)
    log.append(events(1, 2))
    assert replayed(log) == [summary(events(1, 2))]


def test_an_interrupt_between_the_write_and_its_accounting(log, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append(events(1))
    refuses_everything(log, "interrupted")


FULL_DISK = """
import resource, sys, numpy as np
from pathlib import Path
from engine.contract.errors import StorageFullError
from engine.log import Log, Record
log = Log.create(Path(sys.argv[1]), 0x0123456789ABCDEF)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
ids = np.arange(50)
refused = 0
while refused < 3:
    try:
        log.append(Record(log.last_seq + 1, 1, ids, ids))
    except StorageFullError:
        refused += 1
assert log.last_seq == 550, log.last_seq
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(Record(551, 1, ids, ids))
log.sync()
assert log.synced_seq == 600
"""


def test_a_file_size_limit(tmp_path):
    """A real short write and a real EFBIG, in a process of their own; it ends without closing the log."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "log")], check=True, timeout=60)
    assert verify(tmp_path / "log")[1:3] == (600, 12)


KILLED = """
import os, signal, sys, numpy as np
from pathlib import Path
from engine.log import Log, Record
log = Log.create(Path(sys.argv[1]), 0x0123456789ABCDEF, segment_bytes=500)
for seq in range(1, 40):
    log.append(Record(seq, 1, np.array([seq]), np.array([-seq])))
    if seq == 37:
        log.sync()
real = os.write
os.write = lambda descriptor, data: real(descriptor, data[:70]) and os.kill(os.getpid(), signal.SIGKILL)
log.append(Record(40, 1, np.array([40]), np.array([-40])))
"""


def test_killed_in_the_middle_of_a_record(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "log")], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert verify(tmp_path / "log")[1:] == (39, 39, 39 * 80, 70)
    log = Log.open(tmp_path / "log", OWNER, known_durable_seq=0)
    assert [record.items.tolist() for record in log.replay(0)] == [[-seq] for seq in range(1, 40)]
    log.append(events(40))
    log.close()
    assert verify(tmp_path / "log").torn_bytes == 0


@pytest.mark.parametrize(
    ("name", "first_bad"),
    [("fdatasync", 0), ("open", 0), ("fsync", 0), ("fsync", 1), ("unlink", 0), ("fsync", 2), ("ftruncate", 0)],
)
def test_emptying_that_fails_leaves_a_whole_log(log, monkeypatch, tmp_path, name, first_bad):
    """Whatever was done of it: the log opens, ends at the same event, and can be emptied then."""
    for first_seq in range(1, 31, 2):
        log.append(events(first_seq, 2))
    if name == "ftruncate":  # a segment of records without events is cut in place
        log.empty()
        log.append(Record(31, 4, np.array([5]), np.array([-1]), operation="forget"))
    failing(monkeypatch, name, *[None] * first_bad, errno.EIO)
    with pytest.raises(EngineError):
        log.empty()
    log.close()
    monkeypatch.undo()
    assert verify(tmp_path / "log", known_durable_seq=30).last_seq == 30
    again = Log.open(tmp_path / "log", OWNER, known_durable_seq=30)
    again.empty()
    assert (again.bytes, again.first_seq, again.last_seq) == (0, 31, 30)
    again.append(events(31))
    assert [record.first_seq for record in again.replay(30)] == [31]
    again.close()


def opened(path):
    Log.create(path, ID).close()
    return partial(Log.open, path, OWNER, known_durable_seq=0)


def created(path):
    return partial(Log.create, path, ID)


@pytest.mark.parametrize("call_on", [opened, created])
def test_an_interrupt_while_it_is_opened_leaves_no_descriptor(tmp_path, monkeypatch, call_on):
    call = call_on(tmp_path / "log")
    before = len(os.listdir("/proc/self/fd"))

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert len(os.listdir("/proc/self/fd")) == before
