"""The digest: one hash over all state, in id order, wherever it lives.

A function of the log alone: neither tiers, epochs nor how rows are grouped on the way here may show in it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract.arrays import Ids
from .history import named
from .state import State


class HasRows(Protocol):
    """A table, as far as the digest needs it."""

    def rows(self) -> Iterator[tuple[Ids, NDArray[np.uint8]]]: ...


def digest(state: State, tables: Iterable[HasRows], hidden: Ids, chunks: Iterable[tuple[int, int, bytes]]) -> str:
    """Hex of 16 bytes. `hidden`: ids of items, rising; `chunks`: of all histories, (user, number, bytes) in order.
    Nothing may change meanwhile. Of a model that does not look at what users had, when they had it does not count."""
    h = hashlib.blake2b(digest_size=16)
    mean = state.mean.astype("<f4").tobytes()
    h.update(json.dumps(state.facts(), sort_keys=True).encode() + mean + hidden.tobytes() + state.sightings)
    for table in tables:
        for ids, rows in table.rows():
            h.update(np.hstack([ids.reshape(-1, 1).view(np.uint8), rows]).tobytes())  # each id beside its row
    h.update(state.weights + state.recent)
    for user, number, payload in chunks:
        h.update(b"%d %d " % (user, number) + (payload if state.weights else named(payload)))
    return h.hexdigest()
