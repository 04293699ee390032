"""Saving: the calls of an Engine that write what it has learned, or tell it apart: checkpoint, backup, digest.

Responsible for their order; what an epoch or a backup writes is epoch.py's and backup.py's. Any thread; one writer at a
time.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from .cold.keys import HISTORY
from .contract.errors import ConfigError
from .directory import backup
from .directory.directory import Directory
from .directory.epochs import Epochs
from .store.catalogue import Catalogue
from .store.digest import digest
from .store.history import History
from .store.removal import Removal
from .store.state import State
from .table.table import Table


class Saving(ABC):
    """`checkpoint`, `backup` and `digest`, as of the end of a log record."""

    _directory: Directory | None
    _epochs: Epochs | None
    _users: Table
    _items: Table
    _catalogue: Catalogue
    _history: History
    _removal: Removal
    _seq: int

    @abstractmethod
    def _writer(self, call: str) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _snapshot(self) -> State: ...

    def checkpoint(self) -> int:
        """Writes everything learned to LMDB now; returns the seq that is in LMDB.

        After a `forget` it also copies LMDB's file without its free pages, and empties the log.

        >>> seq = eng.ingest(7, [100]).seq
        >>> eng.checkpoint() == seq
        True
        """
        with self._writer("checkpoint"):
            if self._epochs is not None:
                self._epochs.complete()
                if self._removal.purge:
                    self._epochs.purge()
            return self._seq

    def backup(self, dst: Any) -> int:
        """Makes a second directory `dst` of what is learned now, while learning goes on; returns its seq.

        It is verified and durable when this returns, opens like any other, and has the digest of that seq. `dst` must
        not be there yet, its parent must. Raises ConfigError, StorageFullError, EngineError, with nothing left there.

        >>> with engine.open("shop", dim=8) as shop:
        ...     report = shop.ingest([7, 8], [100, 101])
        ...     seq = shop.backup("shop-2")
        >>> with engine.open("shop-2") as copy:
        ...     copy.seq == seq == 2
        True
        """
        if self._directory is None or self._epochs is None:
            raise ConfigError("backup: ':memory:' has no directory to make a second one of")
        path = backup.checked_target(dst, self._directory.path)
        with ExitStack() as until_written:
            with self._writer("backup"):
                self._epochs.complete()
                snapshot = until_written.enter_context(self._directory.cold.snapshot())
            return backup.write_backup(snapshot, path)

    def digest(self) -> str:
        """Hex digest over all state, in id order, wherever it lives: a function of the log alone.

        >>> empty = eng.digest()
        >>> report = eng.ingest(7, 100)
        >>> eng.digest() == empty
        False
        """
        with self._writer("digest"):
            stored = self._directory.cold.scan_raw(HISTORY) if self._directory else iter(())
            hidden = self._catalogue.native.hidden
            return digest(self._snapshot(), (self._users, self._items), hidden, self._history.chunks(stored))
