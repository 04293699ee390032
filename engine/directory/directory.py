"""The model directory: its lock, its creation, and what is written down in it besides rows and log.

    LOCK    held by the one process that writes (lock.py)
    rows/   the cold tier (cold/FORMAT.md)
    log/    the event log (log/FORMAT.md)

A new directory is built aside, synced and renamed into place, so that one that can be seen is whole.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..cold.cold import Cold
from ..contract.arguments import describe
from ..contract.errors import ConfigError, EngineError
from ..contract.settings import Settings
from ..log.log import Log
from ..log.log import verify as verify_log
from ..log.segment import last_seq_in
from ..machine.files import Folder, as_engine_error, sync_directory
from ..store.created import FORMAT, Created
from ..store.state import State
from .lock import Lock, hold, make_lock, never_locked

_ASIDE = ".rowtide-"  # in the names of directories that are being made
_LEFT = re.compile(rf"\..+{re.escape(_ASIDE)}[a-z0-9_]{{8}}")
MEMORY = ":memory:"  # where `engine.open` takes a path: no directory at all


class Directory:
    """One model directory, locked. `cold`, `log` and the `state` of the last epoch are open while it is.

    `unsaved`: metadata that the next epoch must write beside the state, before anything is appended to the log. A
    directory of format 1 has some: what makes it one of the present format.
    """

    def __init__(self, path: Path, lock: Lock, cold: Cold, log: Log, state: State, unsaved: dict[str, bytes]):
        self.path = path
        self._lock = lock
        self.cold = cold
        self.log = log
        self.state = state
        self.unsaved = unsaved

    @property
    def deleted(self) -> bool:
        """Have its files been deleted while it is open? Writing goes on then, into files that nobody can open again."""
        return self._lock.deleted

    @classmethod
    def open(
        cls, path: Path, mode: str, given: dict[str, Any], fits: Callable[[Settings], None], kind: str = "cpu"
    ) -> "Directory":
        """Opens, or creates, the directory for writing. `given`: the settings of the call, None where not given;
        `fits` raises for settings that a new directory cannot be used with; `kind` of device will learn.

        Raises BusyError, ConfigError, ReadOnlyError, CorruptionError, StorageFullError.
        """
        try:
            if not exists(path):
                settings = Settings.resolve(given, None)
                fits(settings)
                _create(path, settings, mode, kind)
            elif mode == "x":
                raise ConfigError(f"path: {path} is there already, and mode 'x' wants to create it")
            return cls._open_existing(path, kind)
        except OSError as e:
            if isinstance(e, EngineError):
                raise
            raise as_engine_error(path, e) from e

    @classmethod
    def _open_existing(cls, path: Path, kind: str) -> "Directory":
        with Folder(path) as root:  # lock, rows and log are of one directory, though another takes its name meanwhile
            return cls._open_held(path, root, kind)

    @classmethod
    def _open_held(cls, path: Path, root: Folder, kind: str) -> "Directory":
        lock = hold(root)
        cold = log = None
        try:
            # Who made it may have been killed before its name was durable.
            with contextlib.suppress(PermissionError):  # a parent that can't be read can't be synced either
                sync_directory(path.absolute().parent)
            cold = Cold.open(root / "rows")
            state = State.from_meta(cold.meta, path, kind)
            state.require_rows(cold.entries, path)
            created, unsaved = Created.from_meta(cold.meta, path), {}
            if created.format != FORMAT:
                found = verify_log(Folder(root / "log"), created.owner, known_durable_seq=state.seq)
                created = created.migrated(found.last_seq)
                unsaved = created.to_meta()
            log = Log.open(root / "log", created.owner, known_durable_seq=state.seq)
            return cls(path, lock, cold, log, state, unsaved)
        except BaseException:
            with contextlib.ExitStack() as undo:
                undo.callback(lock.release)
                for opened in (cold, log):
                    if opened is not None:
                        undo.callback(opened.close)
            raise

    def close(self) -> None:
        """Closing twice is fine, and goes on where an interrupt has cut it off: the lock is let go of last."""
        try:
            self.log.close()
        finally:
            self.cold.close()
            self._lock.release()


def checked_path(path: Any, name: str = "path") -> Path:
    try:
        found = os.fspath(path)
    except Exception as e:  # the caller's own __fspath__ may raise anything
        raise ConfigError(f"{name}: got {describe(path)}, wanted a directory's path") from e
    if not isinstance(found, str) or not found or not _can_be_named(found):
        raise ConfigError(f"{name}: got {describe(found)}, wanted a directory's path")
    if found == MEMORY:
        raise ConfigError(f"{name}: got ':memory:', wanted a directory's path; engine.open alone takes it, as a str")
    return Path(os.path.abspath(found))  # a later chdir must not move it, and "." cannot be renamed onto


def _can_be_named(path: str) -> bool:
    """Whether the file system can be asked for it. A name need not be UTF-8."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def exists(path: Path) -> bool:
    """Is there an engine's directory? An empty or missing one is none; one of something else is a ConfigError.

    EngineError if it cannot be read.
    """
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return False
    except NotADirectoryError as e:
        raise ConfigError(f"path: {path} is a file, wanted a directory or nothing") from e
    except OSError as e:
        raise as_engine_error(path, e) from e
    if not names:
        return False
    if not {"rows", "log", "LOCK"} <= set(names):
        raise ConfigError(f"path: {path} is a directory of something else (no LOCK, rows and log in it)")
    return True


def _create(path: Path, settings: Settings, mode: str, kind: str) -> None:
    created = Created.now(kind)
    meta = created.to_meta() | State.initial(settings).to_meta()
    try:
        with made_aside(path, "path") as aside:
            Cold.create(aside / "rows", meta).close()
            Log.create(aside / "log", created.directory_id).close()
    except FileExistsError as e:
        if mode == "x":
            raise ConfigError(f"path: {path} was created by somebody else just now, and mode 'x' wants to") from e


def remove_unused(path: Path) -> None:
    """Deletes a directory that this process has made, if nobody has learned in it and nobody has it open now."""
    with contextlib.suppress(EngineError, OSError):
        lock = hold(path)
        try:
            if last_seq_in(path / "log") == 0:
                shutil.rmtree(path)
        finally:
            lock.release()


@contextlib.contextmanager
def made_aside(path: Path, name: str) -> Iterator[Path]:
    """A new folder with a LOCK, to be filled in the block, that then gets the name `path`, durable; else it is deleted.

    `name`: the argument that `path` came with. ConfigError without a parent directory; FileExistsError if somebody else
    made `path` meanwhile.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"{name}: the parent directory {parent} is not there")
    _sweep(parent)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}{_ASIDE}", dir=parent))
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, aside, ignore_errors=True)
        lock = make_lock(aside)
        undo.callback(lock.release)
        yield aside
        sync_directory(aside)
        try:
            os.rename(aside, path)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from e
        sync_directory(parent)
        undo.pop_all()
        lock.release()


def _sweep(parent: Path) -> None:
    """Deletes what processes left in `parent` that were killed while they made a directory there.

    A living one holds the lock of what it makes, but for its first moments. What is not ours to delete stays.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            if not _LEFT.fullmatch(name):
                continue
            with contextlib.suppress(EngineError, OSError):
                if never_locked(parent / name):
                    shutil.rmtree(parent / name)
                    continue
                lock = hold(parent / name)
                try:
                    shutil.rmtree(parent / name)
                finally:
                    lock.release()
