"""Admission: with `admit_after`, an id gets a row only when it has been seen often enough.

Responsible for which events of a record are learned, and for the sketch that counts sightings (csrc/table/sightings.h).
An event is learned when both its ids have a row or have been seen `admit_after` times, this one included. One that is
not leaves nothing but its sightings, and its seq in the row that it does name. It ends the micro-batch that it stands
in. Decided once for a record, before its first event: an epoch in the middle of the record saves what was decided. The
writer's thread only.
"""

from collections.abc import Iterator

import numpy as np

from ..contract.arrays import Mask
from ..contract.errors import CorruptionError
from ..log.record import Record
from ..machine.backend import native
from .catalogue import Catalogue
from .tables import Tables

_HALF_LIFE = 65_536  # events; a quarter as many as the sketch has cells in a row


class Admission:
    def __init__(self, tables: Tables, catalogue: Catalogue, seed: int):
        self._tables = tables
        self._catalogue = catalogue
        self._seed = seed
        self._sightings = native.Sightings()
        self._learned: Mask | None = None  # of the record in progress

    @property
    def sightings(self) -> bytes:
        """The sketch; empty where it never counted."""
        return bytes(self._sightings.cells)

    @property
    def decided(self) -> bytes:
        """Which events of the record in progress are learned, a byte each; empty between records."""
        return b"" if self._learned is None else self._learned.tobytes()

    def restore(self, sightings: bytes, decided: bytes) -> None:
        """At opening: what the last epoch saved."""
        if sightings:
            self._sightings.cells = sightings
        self._learned = np.frombuffer(decided, np.uint8) != 0 if decided else None

    def begin(self, record: Record, start: int, admit_after: int) -> list[tuple[int, int]]:
        """The runs [from, to) of events of the record that are to be learned, from `start` on. `name` and `end` must
        follow."""
        if admit_after <= 1:
            return [(start, record.count)]
        if self._learned is None:
            self._learned = self._decide(record, admit_after)
        elif len(self._learned) != record.count:
            raise CorruptionError("the state in LMDB is of another log record", seq=record.first_seq)
        edges = np.flatnonzero(np.diff(self._learned[start:], prepend=False, append=False)) + start
        return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]

    def end(self) -> None:
        """The record is learned."""
        self._learned = None

    def _decide(self, record: Record, admit_after: int) -> Mask:
        if (record.first_seq - 1) // _HALF_LIFE != record.last_seq // _HALF_LIFE:
            self._sightings.halve()
        users, user = np.unique(record.users, return_inverse=True)
        users_known = self._tables.users.has(users)[user]
        items_known = self._catalogue.ordinals(record.items) >= 0
        return self._sightings.admit(self._seed, record.users, record.items, users_known, items_known, admit_after)

    def name(self, record: Record, start: int) -> Iterator[None]:
        """Notes in the rows that events name which are not learned that they were named. Yields where an epoch must end
        before it can go on, so that rows can leave RAM. May be done again."""
        if self._learned is None or start:
            return
        at = np.flatnonzero(~self._learned)[::-1]  # the last one of each id counts
        for table, column in ((self._tables.users, record.users), (self._tables.items, record.items)):
            ids, last = np.unique(column[at], return_index=True)
            seqs = record.first_seq + at[last]
            known = table.has(ids)
            ids, seqs = ids[known], seqs[known]
            while len(ids):
                n = self._tables.bring(table, ids)
                table.warm.name(ids[:n], seqs[:n])
                table.warm.unpin()
                ids, seqs = ids[n:], seqs[n:]
                if len(ids):
                    yield
