"""The lock of a directory: who is told to have it, and when it is let go of."""

import gc
import os
import signal
import time

import pytest
from directories import SMALL, refuse
from other_process import other_process

import engine
from engine import BusyError
from engine.directory import lock as lock_file
from engine.directory.lock import hold, holder
from engine.machine.files import Folder


@pytest.fixture
def other():
    with other_process() as process:
        yield process


@pytest.fixture
def child():
    """Call it for a forked child that waits; it is killed at the end."""
    made = []

    def fork():
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        made.append(pid)
        return pid

    yield fork
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def shown():
    """Does the system show who has a lock?"""
    return os.path.exists("/proc/locks")


def test_a_busy_directory_names_the_process(home, other):
    other(f"eng = engine.open({str(home)!r}, dim=8)")
    pid = other("__import__('os').getpid()")
    with pytest.raises(BusyError, match="writing; mode='r' reads beside a writer") as caught:
        engine.open(home)
    if shown():
        assert f"process {pid}, which is running, has it open" in str(caught.value)
        assert caught.value.pid == holder(home) == pid
    other("eng.close()")
    assert holder(home) is None


def test_a_busy_directory_names_this_process(home):
    with engine.open(home, **SMALL):
        with pytest.raises(BusyError) as caught:
            engine.open(home)
        if shown():
            assert f"this process, {os.getpid()}, has it open for writing" in str(caught.value)
        assert "mode='r'" not in str(caught.value)  # it would be refused, too


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("", ["cannot be seen from here", "mode='r'"]),
        ("7: -> FLOCK  ADVISORY  WRITE {pid} {device}:{inode} 0 EOF", ["cannot be seen"]),
        ("7: FLOCK  ADVISORY  WRITE {pid} ff:ff:{inode} 0 EOF", ["this process"]),
        ("7: FLOCK  ADVISORY  WRITE 4194305 {device}:{inode} 0 EOF", ["4194305, which has ended", "that it started"]),
        ("7: FLOCK  ADVISORY  READ 4194305 {device}:{inode} 0 EOF", ["4194305", "reads it and keeps writers out"]),
        ("7: FLOCK  ADVISORY  WRITE 4194305 ff:ff:{inode} 0 EOF", ["cannot be seen"]),
    ],
)
def test_what_the_system_says_of_the_holder(home, tmp_path, monkeypatch, listed, says):
    engine.open(home, **SMALL).close()
    file = os.stat(home / "LOCK")
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    said = tmp_path / "locks"
    said.write_text(listed.format(pid=os.getpid(), device=device, inode=file.st_ino))
    monkeypatch.setattr(lock_file, "LOCKS", said)
    with engine.open(home):
        refuse(says, lambda: engine.open(home), BusyError)
        said.unlink()
        refuse("cannot be seen", lambda: engine.open(home), BusyError)


def test_a_forked_child_does_not_keep_the_lock_after_close(home, child):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(1, 2)
        child()
        refuse("model", lambda: hold(home), BusyError)  # nor does it let go of it
    with engine.open(home) as eng:
        assert eng.seq == 1


def test_a_forked_child_does_not_keep_the_lock_after_the_parent_died(home, other):
    other(f"eng = engine.open({str(home)!r}, dim=8); import os, signal")
    other("eng.ingest(1, 2).seq")
    pid = other("globals().update(pid=os.fork()) or pid or (os.close(0), signal.pause())")
    other.kill()
    try:
        deadline = time.monotonic() + 60
        while True:  # a killed process lets go of its files a moment after it can be waited for
            try:
                engine.open(home).close()
                break
            except BusyError:
                assert time.monotonic() < deadline
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_that_closes_its_copy_leaves_the_lock_to_the_parent(home, other):
    lock = hold(_made(home))
    pid = os.fork()
    if pid == 0:
        lock.release()
        os._exit(0)
    os.waitpid(pid, 0)
    assert other.error(f"engine.open({str(home)!r})") == "BusyError"
    lock.release()
    lock.release()
    assert other(f"engine.open({str(home)!r}).seq") == 0


def test_a_lost_lock_is_let_go_of(home):
    hold(_made(home))
    gc.collect()
    hold(home).release()


def _made(home):
    engine.open(home, **SMALL).close()
    return home


@pytest.mark.parametrize("kind", [lock_file.Lock, Folder])
def test_one_that_an_interrupt_has_left_unmade_is_lost_in_silence(kind):
    kind.__new__(kind).__del__()
