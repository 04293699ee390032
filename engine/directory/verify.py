"""verify: checks all that is read of a model directory and changes nothing, also beside a running writer.

Knows which parts there are and how their seqs must relate; how each part is checked is the part's own business.
"""

from dataclasses import dataclass
from typing import Any

from ..cold import cold
from ..contract.errors import ConfigError
from ..log import log
from ..store.created import Created
from ..store.state import State
from .directory import checked_path, exists


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was read and found whole. `torn_bytes`: an unfinished record at the log's end, which opening cuts off.

    `format`: of the directory; opening one of format 1 makes it one of format 2. `directory_id`: 16 hex digits, the
    same in rows and log; "" in format 1.
    """

    seq: int
    lmdb_seq: int
    log_records: int
    log_bytes: int
    torn_bytes: int
    entries: int
    lmdb_bytes: int
    format: int
    directory_id: str


def verify(path: Any) -> VerifyReport:
    """Checks log and LMDB, structure and CRCs, and that both belong to one directory. LMDB's free pages do not count.

    Raises CorruptionError (file, offset, seq); ConfigError, or EngineError from the log, for what a later version made.

    >>> with engine.open("shop") as eng:
    ...     report = eng.ingest([7, 8], [100, 101])
    >>> engine.verify("shop").seq
    2
    """
    path = checked_path(path)
    if not exists(path):
        raise ConfigError(f"path: {path} holds no model")
    found = cold.verify(path / "rows")
    state = State.from_meta(found["metadata"].get, path)
    state.require_rows(found["tables"], path)
    created = Created.from_meta(found["metadata"].get, path)
    saved = state.seq
    summary = log.verify(path / "log", created.owner, known_durable_seq=saved)
    return VerifyReport(
        seq=summary.last_seq,
        lmdb_seq=saved,
        log_records=summary.records,
        log_bytes=summary.bytes,
        torn_bytes=summary.torn_bytes,
        entries=found["entries"],
        lmdb_bytes=found["file_bytes"],
        format=created.format,
        directory_id=f"{created.directory_id:016x}" if created.directory_id else "",
    )
