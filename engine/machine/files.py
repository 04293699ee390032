"""What the log, the cold tier and the directory all need of a file system: directories that are held, durable names,
and its errors as ours."""

import errno
import os
from pathlib import Path
from typing import Self

from ..contract.errors import EngineError, ReadOnlyError, StorageFullError

NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
NOT_OURS = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


class Folder(os.PathLike[str]):
    """A directory that is held by its descriptor: what is done through it is done in that one, wherever it was moved to
    and whatever has its name now.

    As a path it is one that the kernel follows to what the descriptor holds; LMDB takes nothing but paths. As text it
    is the name that it was opened by.
    """

    _descriptor = -1  # also where an interrupt comes before there is one

    def __init__(self, path: "AnyPath"):
        self._name = str(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __fspath__(self) -> str:
        if self._descriptor < 0:
            raise EngineError(f"{self._name} is closed")
        return f"/proc/self/fd/{self._descriptor}"

    def __str__(self) -> str:
        return self._name

    def __truediv__(self, name: str) -> "Entry":
        return Entry(self, name)

    def is_at(self, path: Path) -> bool:
        """Is it this directory that has the name `path`? OSError if nothing has."""
        return os.path.samestat(os.stat(path), os.fstat(self._descriptor))

    def close(self) -> None:
        """Again is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Entry(os.PathLike[str]):
    """A name in a directory that is held; has what of `Path` is asked for."""

    def __init__(self, parent: Folder, name: str):
        self.parent = parent
        self.name = name

    def __fspath__(self) -> str:
        return f"{os.fspath(self.parent)}/{self.name}"

    def __str__(self) -> str:
        return f"{self.parent}/{self.name}"

    def with_name(self, name: str) -> "Entry":
        return Entry(self.parent, name)


AnyFolder = Path | Folder
AnyFile = Path | Entry
AnyPath = Path | Folder | Entry


def sync_directory(directory: AnyPath) -> None:
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
    return EngineError(f"{what}: {error.strerror or error}")
