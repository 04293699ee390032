"""Recovery: what the log has beyond the last epoch, to be learned again. The mirror of epochs.py.

The thread that opens; nothing else runs meanwhile.
"""

from collections.abc import Iterator

from ..contract.errors import CorruptionError, EngineError
from ..contract.logger import LOGGER
from ..log.record import Record, require_sound
from .directory import Directory


def beyond(directory: Directory) -> Iterator[tuple[Record, int]]:
    """The records that the state in LMDB lacks, in order, each with the event in it to start from. CorruptionError."""
    saved = directory.state.seq
    events = 0
    if (ahead := directory.log.last_seq - saved) > 0:
        LOGGER.info("%s: replaying %d events, which the log has beyond the last epoch", directory.path, ahead)
    for record in directory.log.replay(saved):
        require_sound(record)
        start = max(0, saved + 1 - record.first_seq)
        yield record, start
        events += record.count - start
    if directory.state.decided and not events:
        raise CorruptionError("the state in LMDB is of the middle of a record that the log lacks", seq=saved)
    if directory.log.last_seq < saved:
        raise EngineError("the log ends before the state in LMDB")
    if events:
        said = "%s: the last epoch is at seq %d; %d events that the log has beyond it were replayed"
        LOGGER.warning(said, directory.path, saved, events)
