"""Backup: a second directory that holds one epoch, made while the writer goes on.

Knows what a directory is made of; copying LMDB and beginning a log are their own business. Any thread, several at once.
"""

import os
from pathlib import Path
from typing import Any

from ..cold.cold import Snapshot, data_file
from ..contract.errors import ConfigError, CorruptionError, EngineError
from ..log.log import Log
from ..machine.files import as_engine_error, sync_directory
from ..store.created import Created
from ..store.state import State
from .directory import checked_path, made_aside
from .verify import verify


def checked_target(dst: Any, source: Path) -> Path:
    """Where a backup of `source` may be made: nothing there yet, its parent there, and not inside `source`."""
    path = checked_path(dst, "dst")
    if os.path.lexists(path):
        raise ConfigError(f"dst: {path} is there already")
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source)):
        raise ConfigError(f"dst: {path} is inside of the directory that is backed up, {source}")
    return path


def write_backup(snapshot: Snapshot, path: Path) -> int:
    """Makes the directory `path` of one epoch, verified and durable; returns its seq.

    Its log is empty and begins after that seq. It gets an id of its own, in its rows and in its log, since what it
    learns from here on is not what the original learns. If it fails, nothing is left of it, but where all is there and
    its name alone could not be made durable. ConfigError, StorageFullError, CorruptionError, EngineError.
    """
    try:
        with made_aside(path, "dst") as aside:
            rows = aside / "rows"
            rows.mkdir(mode=0o700)
            created = Created.from_meta(snapshot.meta, path).copied()
            snapshot.copy(data_file(rows), created.to_meta())
            sync_directory(rows)
            seq = State.from_meta(snapshot.meta, path).seq
            Log.create(aside / "log", created.directory_id, seq + 1).close()
            report = verify(aside)
            if (report.seq, report.lmdb_seq) != (seq, seq):
                raise CorruptionError(f"the backup stands at seq {report.seq}, not at {seq}", file=str(aside))
    except FileExistsError as e:
        raise ConfigError(f"dst: {path} was created by somebody else just now") from e
    except OSError as e:
        if isinstance(e, EngineError):
            raise
        raise as_engine_error(path, e) from e
    return seq
