"""Is there room in RAM for the rows that come again? Told from where learning found them; warns once if not.

Counts calls of `ingest` together until they have so many events. Rows that have never been in RAM are no sign, so it
begins to look when rows have had to leave. The writer's thread.
"""

from ..contract.logger import LOGGER
from ..learn.model import Tally
from .tables import Tables

EVENTS = 100_000  # that are looked at together
MOST_COLD = 0.5  # of the rows that they looked up
MOST_WAITS = 3  # for an epoch, because every row in RAM was dirty


class WorkingSet:
    def __init__(self, name: str):
        """`name`: of the model, for the warning."""
        self._name = name
        self._full = self._warned = False
        self._begin()

    def _begin(self) -> None:
        self._events = self._lookups = self._cold = self._waits = 0

    def add(self, tally: Tally, tables: Tables) -> None:
        """What a call came to, and the tables that it learned in."""
        if self._warned:
            return
        self._events += tally.events
        self._lookups += tally.warm + tally.cold + tally.new_users + tally.new_items
        self._cold += tally.cold
        self._waits += tally.waits
        if self._events >= EVENTS:
            self._judge()
            self._full = any(table.warm.evicted for table in tables)
            self._begin()

    def _judge(self) -> None:
        if self._full and (self._cold > MOST_COLD * self._lookups or self._waits >= MOST_WAITS):
            self._warned = True
            LOGGER.warning(
                "%s: warm_bytes is small for these events: of %d rows that %d events looked up, %d were read from LMDB,"
                " and learning waited %d times for an epoch to make room",
                *(self._name, self._lookups, self._events, self._cold, self._waits),
            )
