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
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .backend import fingerprint, native
from .config import LOSSES, Settings
from .errors import BusyError, ConfigError, CorruptionError, EngineError
from .events import Floats, describe
from .files import as_engine_error, sync_directory
from .log.log import Log
from .table.cold import Cold
from .table.table import HIDDEN, ITEMS, USERS

FORMAT = 1
MEMORY = ":memory:"  # where `engine.open` takes a path: no directory at all
_COUNTS = ("seq", "users", "items", "mean_count", "ordinals", "hidden")


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
    value_sums: tuple[float, float] = (0.0, 0.0)
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
            "value_sums": self.value_sums,
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
    def from_meta(cls, meta: Callable[[str], bytes | None], directory: Path, kind: str = "cpu") -> "State":
        """The mirror of `to_meta`; `meta` looks up the cold tier's metadata by name, `kind` of device will learn."""
        created, state, mean = meta("created"), meta("state"), meta("mean")
        if created is None or state is None or mean is None:
            raise CorruptionError("the cold tier holds no state of an engine", file=str(directory))
        try:
            made = json.loads(created)
            if made["format"] != FORMAT:
                written = describe(made["format"])
                raise ConfigError(f"{directory}: made in format {written}, this version reads format {FORMAT}")
            fields = json.loads(state)
            settings = Settings.stored(fields["settings"])
            read = cls(
                **{name: _count(fields[name]) for name in _COUNTS},
                mean=_mean(mean, settings.dim),
                settings=settings,
                positions={str(source): bytes.fromhex(position) for source, position in fields["positions"].items()},
                value_sums=_finite_pair(fields["value_sums"]),
                bit_exact=fields["bit_exact"] is True and made["fingerprint"] == fingerprint(kind),
                purge=_flag(fields["purge"]),
                sightings=meta("sightings") or b"",
                decided=meta("decided") or b"",
            )
            if read.ordinals >= 2**32 or len(read.sightings) not in (0, native.SKETCH_BYTES):
                raise ValueError("a part that cannot be so long")
            return read
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as e:
            if isinstance(e, EngineError):
                raise
            raise CorruptionError(f"the state in the cold tier makes no sense: {e!r}", file=str(directory)) from e

    def require_rows(self, entries: dict[int, int], directory: Path) -> None:
        """Raises CorruptionError unless the cold tier has as many rows as the state says; `entries` is by table."""
        counts = (("users", USERS, self.users), ("items", ITEMS, self.items), ("hidden items", HIDDEN, self.hidden))
        for name, table, rows in counts:
            if entries.get(table, 0) != rows:
                raise CorruptionError(
                    f"LMDB holds {entries.get(table, 0)} rows of {name}, its state says {rows}",
                    file=str(directory / "rows"),
                    seq=self.seq,
                )

    @property
    def base(self) -> float:
        """The score of a pair of which nothing is known: what all scores of logistic and squared add to. Else 0."""
        return float(native.base_score(LOSSES.index(self.settings.loss), *self.value_sums))

    @classmethod
    def initial(cls, settings: Settings) -> "State":
        return cls(0, 0, 0, np.zeros(settings.dim, np.float32), 0, settings, {})


def _count(x: Any) -> int:
    """A number of events or rows; none that is real comes near the end of int64."""
    if type(x) is not int or not 0 <= x < 2**62:
        raise ValueError(f"{describe(x)} is no count")
    return x


def _mean(raw: bytes, dim: int) -> Floats:
    mean = np.frombuffer(raw, "<f4").astype(np.float32)
    if len(mean) != dim or not np.isfinite(mean).all():
        raise ValueError("the running mean has another dim than the settings, or is not finite")
    return mean


def _flag(x: Any) -> bool:
    if type(x) is not bool:
        raise ValueError(f"{describe(x)} is no flag")
    return x


def _finite_pair(found: Any) -> tuple[float, float]:
    total, weight = map(float, found)
    if not (math.isfinite(total) and math.isfinite(weight) and weight >= 0):
        raise ValueError("sums of values that cannot be")
    return total, weight


class Directory:
    """One model directory, locked. `cold`, `log` and the `state` of the last epoch are open while it is."""

    def __init__(self, path: Path, lock: int, cold: Cold, log: Log, state: State):
        self.path = path
        self._lock = lock
        self.cold = cold
        self.log = log
        self.state = state

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
        lock = hold(path)
        cold = log = None
        try:
            # Who made it may have been killed before its name was durable.
            with contextlib.suppress(PermissionError):  # a parent that can't be read can't be synced either
                sync_directory(path.absolute().parent)
            cold = Cold.open(path / "rows")
            state = State.from_meta(cold.meta, path, kind)
            state.require_rows(cold.entries, path)
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


def checked_path(path: Any, name: str = "path") -> Path:
    try:
        found = os.fspath(path)
    except Exception as e:  # the caller's own __fspath__ may raise anything
        raise ConfigError(f"{name}: got {describe(path)}, wanted a directory's path") from e
    if not isinstance(found, str) or not found or "\0" in found:
        raise ConfigError(f"{name}: got {describe(found)}, wanted a directory's path")
    if found == MEMORY:
        raise ConfigError(f"{name}: got ':memory:', wanted a directory's path; engine.open alone takes it, as a str")
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


def _create(path: Path, settings: Settings, mode: str, kind: str) -> None:
    made = {"format": FORMAT, "fingerprint": fingerprint(kind)}
    meta = {"created": json.dumps(made).encode(), **State.initial(settings).to_meta()}
    try:
        with made_aside(path, "path") as aside:
            Cold.create(aside / "rows", meta).close()
            Log.create(aside / "log").close()
    except FileExistsError as e:
        if mode == "x":
            raise ConfigError(f"path: {path} was created by somebody else just now, and mode 'x' wants to") from e


@contextlib.contextmanager
def made_aside(path: Path, name: str) -> Iterator[Path]:
    """A new folder with a LOCK, to be filled in the block, that then gets the name `path`, durable; else it is deleted.

    `name`: the argument that `path` came with. ConfigError without a parent directory; FileExistsError if somebody else
    made `path` meanwhile.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"{name}: the parent directory {parent} is not there")
    # A creation that was cut off leaves such a folder behind; nobody opens it, and it can be deleted.
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=parent))
    try:
        make_lock(aside)
        yield aside
        sync_directory(aside)
        try:
            os.rename(aside, path)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from e
        sync_directory(parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def make_lock(path: Path) -> None:
    """The file that `hold` locks."""
    os.close(os.open(path / "LOCK", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def hold(path: Path, *, shared: bool = False) -> int:
    """Locks the directory and returns the descriptor that holds it: against everybody, or against a writer alone."""
    how = os.O_RDONLY if shared else os.O_RDWR
    fd = os.open(path / "LOCK", how | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(fd)
        raise BusyError(f"{path}: another process, or another Engine of this one, has it open for writing") from e
    return fd
