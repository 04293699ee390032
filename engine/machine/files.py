"""What the log, the cold tier and the directory all need of a file system: durable names, and its errors as ours."""

import errno
import os
from pathlib import Path

from ..contract.errors import EngineError, ReadOnlyError, StorageFullError

NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
NOT_OURS = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_engine_error(what: object, error: OSError) -> EngineError:
    """`error` as one of ours; `what` says what was tried, on which file."""
    if error.errno in NO_ROOM:
        return StorageFullError(error.errno, f"{what}: {error.strerror}")
    if error.errno in NOT_OURS:
        return ReadOnlyError(error.errno, f"{what}: {error.strerror}")
    return EngineError(f"{what}: {error}")
