"""Directories that somebody else may have made, or may be changing: copied, and every byte of the copy checked.

What is checked goes beyond `verify`, which is after accidents: here bytes may be wrong on purpose, with the right CRCs.
After it, opening and learning cannot be led to crash. Reads the original with plain reads alone, so that neither its
bytes nor their disappearance can raise a signal; nothing of it is changed.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from ..cold.cold import Cold, data_file, newest
from ..cold.keys import HISTORY, MOST_CHUNKS
from ..contract.errors import ConfigError, CorruptionError, EngineError
from ..contract.losses import POINTWISE
from ..contract.settings import Settings
from ..log.log import Log
from ..log.record import Record, require_sound
from ..log.segment import segments_in
from ..machine.files import AnyFile, as_engine_error
from ..store.created import Created
from ..store.history import ENTRY, stored_chunks
from ..store.state import State
from ..store.tables import ITEMS
from .directory import exists
from .lock import hold, make_lock
from .verify import verify

_COPY_BYTES = 1 << 20
_GAPS = 1 << 18  # ordinals that any catalogue may have beyond its items


def private_copy(path: Path) -> Path:
    """A checked copy of the directory `path`, in a new directory of this user's own among the temporary files.

    Nobody else may write that directory (mode 0700); the caller deletes it. Raises CorruptionError, about the original;
    BusyError if a process writes it now; ConfigError, StorageFullError, ReadOnlyError, EngineError.
    """
    if not exists(path):
        raise ConfigError(f"path: {path} holds no model, and untrusted=True makes none")
    try:
        copy = Path(tempfile.mkdtemp(prefix="rowtide-"))
    except OSError as e:
        raise as_engine_error("no room for a private copy", e) from e
    try:
        lock = hold(path, shared=True)
        try:
            _copy(path, copy)
        finally:
            lock.release()
        _check(copy)
    except BaseException as e:
        shutil.rmtree(copy, ignore_errors=True)
        if isinstance(e, EngineError):
            e.args = tuple(x.replace(str(copy), str(path)) if isinstance(x, str) else x for x in e.args)
        if isinstance(e, CorruptionError):
            e.file = e.file and e.file.replace(str(copy), str(path))
        elif isinstance(e, OSError) and not isinstance(e, EngineError):
            raise as_engine_error(path, e) from e
        raise
    return copy


def _copy(path: Path, copy: Path) -> None:
    make_lock(copy).release()
    for room in ("rows", "log"):
        (copy / room).mkdir(mode=0o700)
    _copy_file(data_file(path / "rows", newest(path / "rows")), data_file(copy / "rows"))
    for name in segments_in(path / "log"):
        _copy_file(path / "log" / name, copy / "log" / name)


def _copy_file(source: AnyFile, target: AnyFile) -> None:
    # No link is followed; a pipe is not waited for; what grows meanwhile is copied as far as it was.
    with contextlib.ExitStack() as opened:
        try:
            from_ = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as e:
            raise CorruptionError(f"cannot be opened: {e.strerror}", file=str(source)) from e
        opened.callback(os.close, from_)
        to = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        opened.callback(os.close, to)
        found = os.fstat(from_)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptionError("not a regular file", file=str(source))
        left = found.st_size
        while left and (part := os.read(from_, min(left, _COPY_BYTES))):
            left -= len(part)
            while part:
                part = part[os.write(to, part) :]


def _check(copy: Path) -> None:
    try:
        verify(copy)
        with Cold.open(copy / "rows", values=False) as cold:  # they were checked just now
            state, owner = State.from_meta(cold.meta, copy), Created.from_meta(cold.meta, copy).owner
            _require_file_for(state, copy)
            for user, number, payload in stored_chunks(cold.scan_raw(HISTORY)):
                if number >= MOST_CHUNKS or len(payload) % ENTRY.itemsize or len(payload) > 64 * ENTRY.itemsize:
                    raise CorruptionError(f"user {user} has an impossible history", file=str(cold.directory))
        log = Log.open(copy / "log", owner, known_durable_seq=state.seq)
        try:
            for record in log.replay(state.seq):
                _check_record(record, state.settings)
        finally:
            log.close()
    except ConfigError as e:
        raise CorruptionError(f"not what an engine writes: {e}", file=str(copy)) from e


def _require_file_for(state: State, copy: Path) -> None:
    """A catalogue takes memory up to its last ordinal, whatever stands below it: so many rows must the file have had
    room for, or nearly. A compacted file does not show any more what was in it; hence _GAPS."""
    data = data_file(copy / "rows")
    rows = os.stat(data).st_size // ITEMS.stored_bytes(state.settings)
    if state.ordinals > rows + _GAPS:
        raise CorruptionError(
            f"{state.items} items, the last in place {state.ordinals}, in a file with room for {rows} rows",
            file=str(data),
        )


def _check_record(record: Record, settings: Settings) -> None:
    """What `Events.check` and `Settings.resolve` made sure of when it was written."""
    require_sound(record)
    values = record.values if record.count else None
    fine = (values is not None) == (record.count > 0 and settings.loss in POINTWISE)
    if values is not None and settings.loss == "logistic":
        fine = fine and bool(((values == 0) | (values == 1)).all())
    changed: dict[str, Any] = dict(record.settings or {})
    if record.count:
        changed["batch_size"] = record.batch_size
    if not fine or not changed.keys() <= settings.as_dict().keys():
        raise CorruptionError("a log record that no engine writes", seq=record.first_seq)
    Settings.resolve(changed, settings)
