"""Removing: the calls of an Engine that hide items and forget ids. Each is in the log before it is applied.

Responsible for arguments and order; what an operation changes is removal.py's. Any thread; one writer at a time.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from .contract.arguments import id_column
from .contract.arrays import NO_IDS, Ids
from .contract.errors import InputError
from .directory.directory import Directory
from .learn.model import Learned, Model
from .log.record import Record, operations


class Removing(ABC):
    """`hide`, `show` and `forget`, as of the end of a log record."""

    _directory: Directory | None
    _model: Model
    _seq: int
    _failure: str | None

    @abstractmethod
    def _writer(self, call: str) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _learn(self, record: Record, learned: Learned, start: int = 0) -> None: ...

    @abstractmethod
    def _sync(self) -> None: ...

    def hide(self, items: Any) -> None:
        """These items are in no answer of `topk` until `show` is called, not even by `include`; on disk at return.

        items: a scalar or a column of ids; an id that is no item yet is not ranked when it becomes one. Hidden items
        are learned as others, also as negatives, and have scores and vectors. Raises InputError, StorageFullError.
        """
        self._operate("hide", NO_IDS, id_column("items", items))

    def show(self, items: Any) -> None:
        """These items are ranked again; as `hide`."""
        self._operate("show", NO_IDS, id_column("items", items))

    def forget(self, users: Any = None, items: Any = None) -> None:
        """Removes rows, histories and catalogue entries of these ids; on disk at return.

        Forgotten items leave the histories of all users, too, and are hidden no more. After the next `checkpoint()` no
        byte of the ids or of their vectors is in log or LMDB. An id that comes again is new. Ids that are not there are
        fine. Forgetting an item reads all histories that are in LMDB. More than 65,536 ids are several log records: a
        call that fails may have done the first ones. Raises InputError, StorageFullError.
        """
        if users is None and items is None:
            raise InputError("users, items: got neither, wanted ids to forget")
        self._operate(
            "forget",
            NO_IDS if users is None else id_column("users", users),
            NO_IDS if items is None else id_column("items", items),
        )

    def _operate(self, kind: str, users: Ids, items: Ids) -> None:
        with self._writer(kind):
            for record in operations(kind, users, items, self._seq + 1, self._model.settings.batch_size):
                before = self._directory.log.appended_bytes if self._directory else 0
                try:
                    if self._directory:
                        self._directory.log.append(record)
                        self._sync()
                    self._learn(record, Learned())
                except BaseException as e:
                    if self._directory and self._directory.log.appended_bytes != before:
                        # An interrupt, perhaps: RAM is behind the log, and only a replay brings it there.
                        self._failure = self._failure or f"{type(e).__name__}: {e}"
                    raise
