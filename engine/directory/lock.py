"""The lock of a model directory: one process writes it, and others can learn which one.

The lock is a flock on the file LOCK. It belongs to the open file, so it also keeps two Engines of one process apart,
and the kernel lets go of it when the process dies. A forked child has copies of the open files, and would keep the lock
after its parent: it closes them as it begins. Nothing is written to the file: /proc/locks names the holder. Any thread.
"""

import contextlib
import fcntl
import os
import re
import threading
import time
import weakref
from pathlib import Path

from ..contract.errors import BusyError
from ..machine.files import AnyFile, AnyFolder

_NAME = "LOCK"
_UNNAMED = "NEW"  # until it is locked
_SURELY_LOCKED = 3600  # seconds after a directory was made
LOCKS = Path("/proc/locks")
_HELD = re.compile(r"\d+: FLOCK +\w+ +(?P<how>READ|WRITE) +(?P<pid>\d+) +(?P<device>\w+:\w+):(?P<inode>\d+) .*")

_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()
_locking = threading.RLock()  # nobody forks between the locking of a file and its entry in `_locks`


class Lock:
    """A lock that this process holds, until `release` or until the object is lost."""

    _descriptor = -1  # also where an interrupt comes before there is one
    _pid = 0

    def __init__(self, path: AnyFile, how: int):
        """Opens the file. Whoever makes it locks it then."""
        self._pid = os.getpid()
        self._descriptor = os.open(path, how | os.O_CLOEXEC, 0o600)

    @property
    def deleted(self) -> bool:
        """Does the file that is locked have no name any more?"""
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0

    def release(self) -> None:
        """Lets go of the lock. Doing it twice is fine. A child of a process that holds it only loses its copy."""
        with _locking:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor < 0:
                return
            try:
                if self._pid == os.getpid():
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # whoever else has the open file
            finally:
                os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def _forked() -> None:
    _locking.release()
    for lock in list(_locks):
        lock.release()


os.register_at_fork(before=_locking.acquire, after_in_parent=_locking.release, after_in_child=_forked)


def make_lock(path: Path) -> Lock:
    """Makes the file that `hold` locks. Whoever sees it finds it held, until the Lock is let go of."""
    with _locking:
        lock = Lock(path / _UNNAMED, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        _locks.add(lock)
        fcntl.flock(lock._descriptor, fcntl.LOCK_EX)
        os.rename(path / _UNNAMED, path / _NAME)
        return lock


def never_locked(path: Path) -> bool:
    """Is this a directory that nobody came to lock after making it? A new one may be about to be locked."""
    return set(os.listdir(path)) <= {_UNNAMED} and time.time() - os.stat(path).st_mtime > _SURELY_LOCKED


def hold(path: AnyFolder, *, shared: bool = False) -> Lock:
    """Locks the directory against everybody, or against a writer alone. BusyError names who has it."""
    how = os.O_RDONLY if shared else os.O_RDWR
    with _locking:
        lock = Lock(path / _NAME, how | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(lock._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            _locks.add(lock)
            return lock
        except BlockingIOError as e:
            lock.release()
            raise _busy(path, shared) from e


def holder(path: AnyFolder) -> int | None:
    """The process that has the directory open for writing; None for nobody, and where the system does not say."""
    found = _holder(path)
    return found[1] if found and found[0] == "WRITE" else None


def _holder(path: AnyFolder) -> tuple[str, int] | None:
    """How the directory is locked, and by which process. It may have ended, and have left the lock to a child."""
    try:
        file, lines = os.stat(path / _NAME), LOCKS.read_text().splitlines()
    except OSError:
        return None
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    for line in lines:
        held = _HELD.fullmatch(line)
        if held and int(held["inode"]) == file.st_ino:
            pid = int(held["pid"])
            if held["device"] == device or _has_open(pid, file):  # Btrfs has one device there, and another in `stat`
                return held["how"], pid
    return None


def _has_open(pid: int, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), file):
                    return True
    return False


def _busy(path: AnyFolder, shared: bool) -> BusyError:
    found = _holder(path)
    how, pid = found or ("WRITE", None)
    what = "has it open for writing" if how == "WRITE" else "reads it and keeps writers out"
    if pid is None:
        who = "a process that cannot be seen from here, in another container perhaps,"
    elif pid == os.getpid():
        who = f"this process, {pid},"
    elif os.path.exists(f"/proc/{pid}"):
        who = f"process {pid}, which is running,"
    else:
        who, what = f"process {pid}, which has ended,", f"{what}, through a process that it started"
    hint = "" if shared or pid == os.getpid() else "; mode='r' reads beside a writer"
    error = BusyError(f"{path}: {who} {what}{hint}")
    error.pid = pid
    return error
