"""One data file, mapped by LMDB: the calls that are using it, its reads, and what can be told of it.

Responsible for what LMDB wants to have done about processes that died. Not for when it is mapped and unmapped, nor for
the order among calls (cold.py). Any thread.
"""

import os
from collections.abc import Iterator
from typing import Any

import lmdb

from ..machine.calls import Calls
from ..machine.files import Folder
from .file import data_file, disown, map_file


class Mapped:
    """One generation, mapped. Its counts are guarded by the Cold's lock."""

    def __init__(self, folder: Folder, generation: int, *, readonly: bool):
        self.generation = generation
        self.path = data_file(folder, generation)
        self.env: Any = map_file(self.path, readonly=readonly)
        self.inside = Calls()  # that are using the map now; closing waits for them
        self._pid = os.getpid()
        self.scans = 0  # unfinished ones: a newer generation leaves the map to them, closing does not

    def begin_reading(self) -> Any:
        """A read transaction, to be ended by `end`.

        The places of processes that died are free only once somebody has looked for them. A place that a forked child
        has freed is lost to this process, and the next one is not.
        """
        try:
            return self.env.begin()
        except lmdb.BadRslotError:
            return self.env.begin()
        except lmdb.ReadersFullError:
            self.env.reader_check()
            return self.env.begin()

    def end(self, txn: Any) -> None:
        """Aborts a transaction; again is fine. In a forked child it stays, for it is the parent's."""
        if os.getpid() == self._pid:
            txn.abort()
        else:
            disown(txn)

    def settle(self) -> None:
        """Has LMDB look for its newest transaction in the file, which was checked.

        Its lock file says which one that is. A writer that was killed in a commit leaves it one behind the file, and a
        process that has it open keeps it so. To begin a write, LMDB mends what a dead writer left.
        """
        self.env.begin(write=True).abort()

    def stats(self) -> dict[str, int]:
        """`Cold.stats`."""
        stat, info = self.env.stat(), self.env.info()
        try:
            file = os.stat(self.path)
            sizes = file.st_size, file.st_blocks * 512
        except FileNotFoundError:  # another process has compacted it away: what it has without a name
            sizes = ((info["last_pgno"] + 1) * stat["psize"],) * 2
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        oldest, pid = min(self._reads(), default=(info["last_txnid"], 0))
        return {
            "file_bytes": sizes[0],
            "disk_bytes": sizes[1],
            "map_bytes": info["map_size"],
            "page_bytes": stat["psize"],
            "used_pages": used,
            "free_pages": info["last_pgno"] + 1 - 2 - used,
            "entries": stat["entries"],
            "txnid": info["last_txnid"],
            "generation": self.generation,
            "readers": info["num_readers"],
            "oldest_reader_pid": pid,
            "oldest_reader_lag": max(0, info["last_txnid"] - oldest),
        }

    def _reads(self) -> Iterator[tuple[int, int]]:
        """Of every read transaction of every process: its number, and the process."""
        for line in self.env.readers().splitlines()[1:]:
            pid, _, txnid = line.split()
            if txnid != "-":
                yield int(txnid), int(pid)
