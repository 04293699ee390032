"""The cold tier's files: checked, then mapped by LMDB; and what LMDB and the disk say about them, as our errors.

Responsible for data.mdb and lock.mdb as files. Not for keys and values (cold.py). Invariants: `check_file` and `verify`
write nothing and need no lock; a file that fails the check is never mapped. Any thread.
"""

import errno
import os
from pathlib import Path
from typing import Any

import lmdb

from ..backend import native
from ..errors import CorruptionError, EngineError, ReadOnlyError, StorageFullError
from ..files import NO_ROOM, NOT_OURS

__all__ = ["DATA", "check_file", "map_file", "translated", "verify"]

DATA = "data.mdb"
MAP_BYTES = 1 << 40
READERS = 1000  # transactions at once, over all processes
LOCK_BYTES = 1 << 16  # room for so many, 64 bytes each
PROBE_BYTES = 1 << 16


def verify(directory: Path) -> dict[str, Any]:
    """Reads every page and every value of a cold tier, also beside a running writer; changes nothing.

    Returns counts: `file_bytes`, `page_size`, `txnid`, `last_page`, `used_pages`, `list_pages` (of the list of free
    pages), `free_pages`, `lost_pages` (neither used nor free), `entries`, `tables`: entries by table number, and
    `metadata`: its items by name.
    CorruptionError says where the first damage is.
    """
    return check_file(directory / DATA, values=True)


def check_file(path: Path, *, values: bool) -> dict[str, Any]:
    """check_pages on a file that a writer may be changing: LMDB's last snapshot stays whole for two commits more, so
    damage counts only if a second look finds the same."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as e:
        raise CorruptionError("the data file is missing", file=str(path)) from e
    except OSError as e:
        raise translated(e, path) from e
    try:
        before: dict[str, Any] = {}
        for _ in range(8):
            report: dict[str, Any] = native.check_pages(fd, values)
            if report["ok"]:
                return {k: v for k, v in report.items() if k not in ("ok", "message", "offset")}
            if report == before:
                raise CorruptionError(report["message"], file=str(path), offset=report["offset"])
            before = report
    finally:
        os.close(fd)
    raise EngineError(f"{path} changes faster than it can be checked")


def map_file(directory: Path, *, readonly: bool) -> Any:
    """Opens the LMDB environment. The map is far larger than the file, less where address space is limited."""
    lmdb.enable_drop_gil()
    _reserve_lock(directory / "lock.mdb")
    data = directory / DATA
    floor = 2 * data.stat().st_size if data.exists() else 1 << 20
    size = max(MAP_BYTES, floor)
    while True:
        try:
            return lmdb.open(
                os.fspath(directory),
                map_size=size,
                readonly=readonly,
                mode=0o700,
                create=False,
                max_readers=READERS,
                max_spare_txns=1,
                lib_version=0,
            )
        except lmdb.Error as e:
            if e.code != errno.ENOMEM or size // 2 < floor:
                raise translated(e, data) from e
            size //= 2


def _reserve_lock(path: Path) -> None:
    """Gives the lock file its blocks. LMDB makes it sparse and writes it through a map, which on a full disk is SIGBUS.

    A file that has them is not touched: closing a descriptor of it would release the locks of an environment that this
    process has open on it.
    """
    try:
        if path.exists() and path.stat().st_blocks * 512 >= LOCK_BYTES:
            return
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # not ours to write: LMDB knows better what that means, and says so
    try:
        os.posix_fallocate(fd, 0, LOCK_BYTES)
    except OSError as e:
        raise translated(e, path) from e
    finally:
        os.close(fd)


def translated(error: Any, path: Path) -> EngineError:
    """An lmdb.Error or OSError as one of ours, with its text."""
    code = error.errno if isinstance(error, OSError) else error.code
    text = f"{path}: {error}"
    if isinstance(error, lmdb.MapFullError) or code in NO_ROOM:
        return StorageFullError(text)
    if code == errno.EIO and _no_room(path):  # what LMDB makes of a write that was cut short
        return StorageFullError(f"{text} (no room to write)")
    if code in NOT_OURS:
        return ReadOnlyError(text)
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)):
        return CorruptionError(str(error), file=str(path))
    return EngineError(text)


def _no_room(path: Path) -> bool:
    """Whether a write behind the end of `path` is cut short for want of space, quota or allowed file size: tried out on
    a file without a name."""
    try:
        end = path.stat().st_size
        fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as e:
        return e.errno in NO_ROOM
    try:
        return os.pwrite(fd, bytes(PROBE_BYTES), end) < PROBE_BYTES
    except OSError as e:
        return e.errno in NO_ROOM
    finally:
        os.close(fd)
