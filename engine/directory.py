"""The model directory: its lock, its creation, and what is written down in it besides rows and log.

    LOCK    held with flock by the one process that writes
    rows/   the cold tier (table/FORMAT.md)
    log/    the event log (log/FORMAT.md)

A new directory is built aside, synced and renamed into place, so that one that can be seen is whole.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .backend import fingerprint
from .config import Settings
from .errors import BusyError, ConfigError, CorruptionError, EngineError
from .events import Floats, describe
from .files import as_engine_error, sync_directory
from .log.log import Log
from .table.cold import Cold

FORMAT = 1


@dataclass(frozen=True, slots=True)
class State:
    """What an epoch saves beside rows and histories: the engine as of `seq`."""

    seq: int
    users: int
    items: int
    mean: Floats
    mean_count: int
    settings: Settings
    positions: dict[str, bytes]
    bit_exact: bool = True
    ordinals: int = 0  # the last item's, and one more
    hidden: int = 0  # ids
    purge: bool = False  # log and LMDB may hold bytes of forgotten ids
    sightings: bytes = b""  # the sketch of admission
    decided: bytes = b""  # in the middle of a record: which of its events are learned, a byte each

    def to_meta(self) -> dict[str, bytes]:
        fields: dict[str, Any] = {
            "seq": self.seq,
            "users": self.users,
            "items": self.items,
            "mean_count": self.mean_count,
            "settings": self.settings.as_dict(),
            "positions": {source: position.hex() for source, position in self.positions.items()},
            "bit_exact": self.bit_exact,
            "ordinals": self.ordinals,
            "hidden": self.hidden,
            "purge": self.purge,
        }
        return {
            "state": json.dumps(fields).encode(),
            "mean": self.mean.astype("<f4").tobytes(),
            "sightings": self.sightings,
            "decided": self.decided,
        }

    @classmethod
    def from_meta(cls, meta: Callable[[str], bytes | None], directory: Path) -> "State":
        """The mirror of `to_meta`; `meta` looks up the cold tier's metadata by name."""
        created, state, mean = meta("created"), meta("state"), meta("mean")
        if created is None or state is None or mean is None:
            raise CorruptionError("the cold tier holds no state of an engine", file=str(directory))
        made = json.loads(created)
        if made["format"] != FORMAT:
            raise ConfigError(f"{directory}: made in format {made['format']}, this version reads format {FORMAT}")
        fields = json.loads(state)
        return cls(
            seq=fields["seq"],
            users=fields["users"],
            items=fields["items"],
            mean=np.frombuffer(mean, "<f4").astype(np.float32),
            mean_count=fields["mean_count"],
            settings=Settings(**fields["settings"]),
            positions={source: bytes.fromhex(position) for source, position in fields["positions"].items()},
            bit_exact=fields["bit_exact"] and made["fingerprint"] == fingerprint(),
            ordinals=fields["ordinals"],
            hidden=fields["hidden"],
            purge=fields["purge"],
            sightings=meta("sightings") or b"",
            decided=meta("decided") or b"",
        )

    @classmethod
    def initial(cls, settings: Settings) -> "State":
        return cls(0, 0, 0, np.zeros(settings.dim, np.float32), 0, settings, {})


class Directory:
    """One model directory, locked. `cold`, `log` and the `state` of the last epoch are open while it is."""

    def __init__(self, path: Path, lock: int, cold: Cold, log: Log, state: State):
        self.path = path
        self._lock = lock
        self.cold = cold
        self.log = log
        self.state = state

    @classmethod
    def open(cls, path: Path, mode: str, given: dict[str, Any], fits: Callable[[Settings], None]) -> "Directory":
        """Opens, or creates, the directory for writing. `given`: the settings of the call, None where not given;
        `fits` raises for settings that a new directory cannot be used with.

        Raises BusyError, ConfigError, ReadOnlyError, CorruptionError, StorageFullError.
        """
        try:
            if not exists(path):
                settings = Settings.resolve(given, None)
                fits(settings)
                _create(path, settings, mode)
            elif mode == "x":
                raise ConfigError(f"path: {path} is there already, and mode 'x' wants to create it")
            return cls._open_existing(path)
        except OSError as e:
            if isinstance(e, EngineError):
                raise
            raise as_engine_error(path, e) from e

    @classmethod
    def _open_existing(cls, path: Path) -> "Directory":
        lock = _lock(path)
        cold = log = None
        try:
            # Who made it may have been killed before its name was durable.
            with contextlib.suppress(PermissionError):  # a parent that can't be read can't be synced either
                sync_directory(path.absolute().parent)
            cold = Cold.open(path / "rows")
            state = State.from_meta(cold.meta, path)
            log = Log.open(path / "log", known_durable_seq=state.seq)
            return cls(path, lock, cold, log, state)
        except BaseException:
            if cold is not None:
                cold.close()
            os.close(lock)
            raise

    def close(self) -> None:
        try:
            self.log.close()
        finally:
            self.cold.close()
            os.close(self._lock)


def checked_path(path: Any) -> Path:
    try:
        found = os.fspath(path)
    except Exception as e:  # the caller's own __fspath__ may raise anything
        raise ConfigError(f"path: got {describe(path)}, wanted a directory's path or ':memory:'") from e
    if not isinstance(found, str) or not found or "\0" in found:
        raise ConfigError(f"path: got {describe(found)}, wanted a directory's path or ':memory:'")
    return Path(os.path.abspath(found))  # a later chdir must not move it, and "." cannot be renamed onto


def exists(path: Path) -> bool:
    """Is there an engine's directory? An empty or missing one is none; one of something else is a ConfigError."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return False
    except NotADirectoryError as e:
        raise ConfigError(f"path: {path} is a file, wanted a directory or nothing") from e
    if not names:
        return False
    if not {"rows", "log", "LOCK"} <= set(names):
        raise ConfigError(f"path: {path} is a directory of something else (no LOCK, rows and log in it)")
    return True


def _create(path: Path, settings: Settings, mode: str) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"path: the parent directory {parent} is not there")
    # A creation that was cut off leaves such a folder behind; nobody opens it, and it can be deleted.
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=parent))
    try:
        made = {"format": FORMAT, "fingerprint": fingerprint()}
        os.close(os.open(aside / "LOCK", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        meta = {"created": json.dumps(made).encode(), **State.initial(settings).to_meta()}
        Cold.create(aside / "rows", meta).close()
        Log.create(aside / "log").close()
        sync_directory(aside)
        try:
            os.rename(aside, path)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if mode == "x":
                raise ConfigError(f"path: {path} was created by somebody else just now, and mode 'x' wants to") from e
            shutil.rmtree(aside)  # theirs is opened
        sync_directory(parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _lock(path: Path) -> int:
    fd = os.open(path / "LOCK", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(fd)
        raise BusyError(f"{path}: another process, or another Engine of this one, has it open for writing") from e
    return fd
