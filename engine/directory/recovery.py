"""Recovery: the state of the last epoch is taken over, then the log beyond it is learned again.

The mirror of epochs.py. The thread that opens; nothing else runs meanwhile.
"""

from collections.abc import Callable
from typing import Any

from ..cold.keys import HIDDEN, ITEMS
from ..contract.errors import CorruptionError, EngineError
from ..log.record import require_sound
from ..store.admission import Admission
from ..store.catalogue import Catalogue
from ..store.removal import Removal
from ..table.table import Table
from .directory import Directory


def restore(
    directory: Directory,
    tables: tuple[Table, Table],
    catalogue: Catalogue,
    removal: Removal,
    admission: Admission,
    model: Any,
) -> None:
    """Takes over the state of the last epoch: table states, hidden items, and the catalogue by a scan of the item
    rows."""
    state = directory.state
    model.restore(state.mean, state.mean_count, state.users, state.items, state.value_sums)
    removal.purge = state.purge
    admission.restore(state.sightings, state.decided)
    items = tables[1]
    cold = directory.cold
    hidden = cold.scan(HIDDEN, 0), state.hidden
    catalogue.restore(cold.scan(ITEMS, items.warm.stored_bytes), state.items, state.ordinals, *hidden)


def replay(directory: Directory, learn: Callable[[Any, int], None]) -> int:
    """Learns what the log has beyond the last epoch; returns how many events. learn(record, start within it)."""
    saved = directory.state.seq
    events = 0
    for record in directory.log.replay(saved):
        require_sound(record)
        start = max(0, saved + 1 - record.first_seq)
        learn(record, start)
        events += record.count - start
    if directory.state.decided and not events:
        raise CorruptionError("the state in LMDB is of the middle of a record that the log lacks", seq=saved)
    if directory.log.last_seq < saved:
        raise EngineError("the log ends before the state in LMDB")
    return events
