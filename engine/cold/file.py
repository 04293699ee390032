"""The cold tier's files: found, checked, mapped by LMDB, copied; and what LMDB and the disk say, as our errors.

Responsible for data-<generation>.mdb and its lock file as files. Not for keys and values (snapshot.py, cold.py).
Invariants: `check_file` and `verify` write nothing and need no lock; a file that fails the check is never mapped; a
file that has its name is whole. Any thread.
"""

import contextlib
import ctypes
import errno
import os
import re
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import lmdb

from ..contract.errors import BusyError, CorruptionError, EngineError, ReadOnlyError, StorageFullError
from ..machine.backend import native
from ..machine.files import NO_ROOM, NOT_OURS, AnyFile, AnyFolder, AnyPath, Folder, sync_directory
from .keys import Pair

__all__ = [
    "aside_file",
    "check_file",
    "data_file",
    "disown",
    "lock_file",
    "map_file",
    "newest",
    "reserve_lock",
    "sweep",
    "translated",
    "unmap",
    "verify",
    "write_copy",
]

MAP_BYTES = 1 << 40  # of address space; a process has 128 times as much
FULL_MAPS = 32  # so many have it at once, and each further so many less: all together never more than 67 times as much
READERS = 1000  # transactions at once, over all processes
LOCK_BYTES = 1 << 16  # room for so many, 64 bytes each
PROBE_BYTES = 1 << 22  # more than LMDB writes at a time
_MOST_GENERATIONS = 10**17
_NAME = re.compile(r"data-([1-9][0-9]{0,17})\.mdb")
# Between the end of close() and its own book-keeping, lmdb takes a new file with the old one's inode for one that is
# open. So nobody opens while anybody closes, but for garbage that is collected meanwhile: it must not wait for ever.
_opening = threading.RLock()
_maps: weakref.WeakSet[Any] = weakref.WeakSet()  # that are open
_OURS = re.compile(r"data-([1-9][0-9]{0,17})\.mdb(|-lock|\.new)")


def disown(parents: Any) -> None:
    """For a forked child: keeps an environment or a transaction of its parent for ever, also as the interpreter ends.

    Its places in the table of readers are the parent's, and what frees them is the end of the object.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(parents))


def _forked() -> None:
    _opening.release()
    for env in list(_maps):
        disown(env)


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_forked)


def data_file(directory: AnyFolder, generation: int = 1) -> AnyFile:
    return directory / f"data-{generation}.mdb"


def lock_file(data: AnyFile) -> AnyFile:
    """Where LMDB keeps the table of readers of a data file."""
    return data.with_name(f"{data.name}-lock")


def aside_file(data: AnyFile) -> AnyFile:
    """Where a data file is made before it gets its name."""
    return data.with_name(f"{data.name}.new")


def newest(directory: AnyFolder) -> int:
    """The generation that counts: the highest. CorruptionError if there is none."""
    try:
        found = [int(match[1]) for name in os.listdir(directory) if (match := _NAME.fullmatch(name))]
    except FileNotFoundError:
        found = []
    except OSError as e:
        raise translated(e, directory) from e
    if not found:
        raise CorruptionError("the data file is missing", file=str(data_file(directory)))
    if (generation := max(found)) > _MOST_GENERATIONS:  # the name of the one after it must be one, too
        raise CorruptionError("a generation that no engine comes to", file=str(data_file(directory, generation)))
    return generation


def sweep(directory: AnyFolder, keep: int) -> None:
    """Deletes the data and lock files of all generations but `keep`, and what was left half made; durable.

    Only once the name of the one that is kept is durable. Processes that have the others open go on with them.
    """
    try:
        names = [m for name in sorted(os.listdir(directory)) if (m := _OURS.fullmatch(name))]
        gone = [m for m in names if int(m[1]) != keep or m[2] == ".new"]
        for match in gone:
            os.unlink(directory / match[0])
        if gone:
            sync_directory(directory)
    except OSError as e:
        raise translated(e, directory) from e


def verify(directory: AnyFolder) -> dict[str, Any]:
    """Reads every page and every value of a cold tier, also beside a running writer; changes nothing.

    Returns counts: `file_bytes`, `page_size`, `txnid`, `last_page`, `used_pages`, `list_pages` (of the list of free
    pages), `free_pages`, `lost_pages` (neither used nor free), `entries`, `tables`: entries by table number, and
    `metadata`: its items by name.
    CorruptionError says where the first damage is.
    """
    while True:
        generation = newest(directory)
        try:
            return check_file(data_file(directory, generation), values=True)
        except CorruptionError:
            if newest(directory) == generation:
                raise  # else it was compacted meanwhile


def check_file(path: AnyFile, *, values: bool) -> dict[str, Any]:
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


def map_file(data: AnyFile, *, readonly: bool, lock: bool = True) -> Any:
    """Opens the LMDB environment. The map is far larger than the file, less where address space is limited or many are
    open. Places in the table of readers that dead processes left are freed.

    Without `lock` nobody else may have it open.
    """
    lmdb.enable_drop_gil()
    if lock:
        reserve_lock(data)
    length = 1 << 19
    with contextlib.suppress(FileNotFoundError):  # not made yet, or compacted away by another process
        length = max(length, os.stat(data).st_size)
    floor, size = 2 * length, max(4 * length, MAP_BYTES // (1 + (len(_maps) // FULL_MAPS) ** 2))
    while True:
        try:
            with _opening:
                env = lmdb.open(
                    os.fsencode(data),  # a name need not be UTF-8
                    map_size=size,
                    subdir=False,
                    readonly=readonly,
                    mode=0o600,
                    create=False,
                    max_readers=READERS,
                    max_spare_txns=1,
                    lock=lock,
                    lib_version=0,
                )
                _maps.add(env)
            env.reader_check()
            return env
        except lmdb.Error as e:
            if "already open in this process" in str(e):  # LMDB's rule: once per process
                where = str(data).rpartition("/rows/")[0] or data
                raise BusyError(
                    f"{where}: this process has this directory open already, as reader or writer, or the one that it "
                    "was forked from had; use that one, or close it first"
                ) from e
            if e.code != errno.ENOMEM or size // 2 < floor:
                raise translated(e, data) from e
            size //= 2


def unmap(env: Any) -> None:
    """Closes what `map_file` opened."""
    with _opening:
        env.close()
    _maps.discard(env)


def write_copy(batches: Iterable[list[Pair]], data: AnyFile) -> None:
    """Makes a data file of sealed pairs in rising order, in one transaction; durable and checked when it returns.

    LMDB's own copy takes pages as they are, with what was deleted in the gaps between their nodes. Here the file never
    holds anything but these pairs. If it fails, no file is left. StorageFullError, CorruptionError.
    """
    entries = 0
    try:
        env = map_file(data, readonly=False, lock=False)
        try:
            with env.begin(write=True) as txn:
                cursor = txn.cursor()
                for batch in batches:
                    cursor.putmulti(batch, append=True)
                    entries += len(batch)
        except lmdb.Error as e:
            raise translated(e, data) from e
        finally:
            unmap(env)
        found = check_file(data, values=True)["entries"]
        if found != entries:
            raise CorruptionError(f"the copy holds {found} entries, not {entries}", file=str(data))
    except BaseException:
        with contextlib.suppress(OSError):  # `sweep` finds what cannot be deleted now
            os.unlink(data)
        raise


def reserve_lock(data: AnyFile) -> None:
    """Gives the lock file its blocks. LMDB makes it sparse and writes it through a map, which on a full disk is SIGBUS.

    A file that has them is not touched: closing a descriptor of it would release the locks of an environment that this
    process has open on it.
    """
    path = lock_file(data)
    try:
        if os.path.exists(path) and os.stat(path).st_blocks * 512 >= LOCK_BYTES:
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


def translated(error: Any, path: AnyPath) -> EngineError:
    """An lmdb.Error or OSError as one of ours, with its text."""
    code = error.errno if isinstance(error, OSError) else error.code
    words = (isinstance(error, OSError) and error.strerror) or str(error).replace(os.fspath(path), str(path))
    text = f"{path}: {words}"
    if isinstance(error, lmdb.MapFullError):
        return StorageFullError(f"{text}. Open the directory again, with fewer others open: the map is larger then")
    if isinstance(error, lmdb.ReadersFullError):
        return EngineError(f"{text}. No more reads at once, over all processes: retry when some have ended")
    if isinstance(error, lmdb.PanicError):
        return EngineError(f"{text}. Open the directory again")
    if code in NO_ROOM:
        return StorageFullError(text)
    if code == errno.EIO and _no_room(path):  # what LMDB makes of a write that was cut short
        return StorageFullError(f"{text} (no room to write)")
    if code in NOT_OURS:
        return ReadOnlyError(text)
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)):
        return CorruptionError(words, file=str(path))
    return EngineError(text)


def _no_room(path: AnyPath) -> bool:
    """Whether a write behind the end of `path` is cut short for want of space, quota or allowed file size: tried out on
    a file without a name."""
    try:
        end = os.stat(path).st_size if os.path.exists(path) else 0
        place = path if isinstance(path, Folder) else path.parent
        fd = os.open(place, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as e:
        return e.errno in NO_ROOM
    try:
        return os.pwrite(fd, bytes(PROBE_BYTES), end) < PROBE_BYTES
    except OSError as e:
        return e.errno in NO_ROOM
    finally:
        os.close(fd)
