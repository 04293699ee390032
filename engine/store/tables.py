"""The tables of a model, each declared once in `TABLES`, and all of them together for whoever treats them alike.

Who plans, pins, tiers, freezes, recovers, digests, compacts, backs up, verifies, forgets or counts rows goes through
`TABLES` and `Tables`, and names none of them. Not for what the rows of users and items mean (learn/), nor for when an
epoch is due. The writer's thread, but where it says so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..cold import keys
from ..cold.cold import Cold
from ..cold.keys import Pair
from ..contract.arrays import Ids
from ..contract.errors import ConfigError, CorruptionError
from ..contract.settings import Settings
from ..learn.model import native_settings
from ..machine.backend import native
from ..table.layout import MOST_ROWS, item_floats, stored_row_bytes, vector_floats, warm_row_bytes
from ..table.table import FrozenRows, Table
from .history import History
from .neighbours import Neighbours


@dataclass(frozen=True, slots=True)
class Declared:
    """One table, as all that follows from it needs it."""

    name: str
    """As `stats()` and the state in LMDB have it."""
    number: int
    """The first byte of its keys in LMDB (cold/keys.py)."""
    keyed_by: str
    """"user" or "item": a row for each id; "one": a single row, of id 0."""
    share: int
    """Its part of `warm_bytes`, beside the shares of all others and of the histories."""
    floats: Callable[[Settings], int]
    """Floats in a row."""
    ranked: bool = False
    """Are its rows the items of the catalogue?"""
    rule: Callable[[Settings], native.RowRule] | None = None
    """How a new row is made, and what an event does to it. None: users and items, whose rows learn/ makes."""

    def stored_bytes(self, settings: Settings) -> int:
        """Bytes of a row in LMDB."""
        return stored_row_bytes(self.floats(settings))


def _user_floats(settings: Settings) -> int:
    return vector_floats(settings.dim, settings.optimizer)


def _item_floats(settings: Settings) -> int:
    return item_floats(settings.dim, settings.optimizer, settings.neighbours)


USERS = Declared("users", keys.USERS, "user", 7, _user_floats)
ITEMS = Declared("items", keys.ITEMS, "item", 7, _item_floats, ranked=True)
HISTORY_SHARE = 2  # of `warm_bytes`

TABLES: dict[str, Declared] = {table.name: table for table in (USERS, ITEMS)}
"""By name: users and items, then those that every event touches beside them."""


def capacity_of(declared: Declared, settings: Settings, warm_bytes: int | None) -> int:
    """Rows of a table that `warm_bytes` has room for; None: all."""
    if declared.keyed_by == "one":
        return 1
    if warm_bytes is None:
        return MOST_ROWS
    room = _part(warm_bytes, declared.share)
    return max(1, min(MOST_ROWS, room // warm_row_bytes(declared.floats(settings))))


def _part(warm_bytes: int, share: int) -> int:
    return warm_bytes * share // _shares()


def _shares() -> int:
    return HISTORY_SHARE + sum(declared.share for declared in TABLES.values())


def rows_needed(declared: Declared, settings: Settings) -> int:
    """Rows of a table that one micro-batch can need at most."""
    s = native_settings(settings)
    if declared is USERS:
        return s.users_needed
    if declared is ITEMS:
        return s.items_needed
    return 1 if declared.keyed_by == "one" else settings.batch_size


def require_capacity(settings: Settings, warm_bytes: int | None) -> None:
    """Raises ConfigError if RAM can't hold the rows of one micro-batch, for a micro-batch is never split."""
    short = []  # of each table with too few rows: what it would take, and what it has
    for declared in TABLES.values():
        capacity, needed = capacity_of(declared, settings, warm_bytes), rows_needed(declared, settings)
        if needed > capacity:
            wanted = -(-needed * warm_row_bytes(declared.floats(settings)) * _shares() // declared.share)
            short.append((wanted, needed, capacity))
    if short:
        wanted, needed, capacity = max(short)
        raise ConfigError(no_room("warm_bytes", capacity, settings, (needed, wanted)))


def no_room(what: str, capacity: int, settings: Settings, needed: tuple[int, int]) -> str:
    """The message for too little memory; `needed`: rows, bytes."""
    return (
        f"{what}: room for {capacity} rows of a table, but a micro-batch of batch_size "
        f"{settings.batch_size} with negatives {settings.negatives} can need {needed[0]}; wanted at "
        f"least {needed[1]} bytes"
    )


class Tables:
    def __init__(self, settings: Settings, warm_bytes: int | None, cold: Cold | None):
        """warm_bytes: RAM for rows and histories; None: all of them in RAM."""
        self._cold = cold
        self._warm_bytes = warm_bytes
        self._tables: dict[str, Table] = {}
        for declared in TABLES.values():
            capacity = capacity_of(declared, settings, warm_bytes)
            warm = native.Warm(declared.floats(settings), capacity, declared.ranked)
            self._tables[declared.name] = Table(declared.name, declared.number, warm, cold)
        budget = 2**62 if warm_bytes is None else _part(warm_bytes, HISTORY_SHARE)
        self.history = History(self.users, budget)
        at = vector_floats(settings.dim, settings.optimizer)
        self.neighbours = Neighbours(self.items, at, settings.neighbours) if settings.neighbours else None

    @property
    def users(self) -> Table:
        return self._tables[USERS.name]

    @property
    def items(self) -> Table:
        return self._tables[ITEMS.name]

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables.values())

    def keyed_by(self, who: str) -> list[Table]:
        """The tables that have a row for each "user", or for each "item"."""
        return [self._tables[declared.name] for declared in TABLES.values() if declared.keyed_by == who]

    def accompany(self, learner: native.Learner, settings: Settings) -> None:
        """Has a learner touch the tables beside users and items."""
        for declared in TABLES.values():
            if declared.rule is not None:
                by = getattr(native.KeyedBy, declared.keyed_by)
                learner.accompany(self._tables[declared.name].warm, by, declared.rule(settings))

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table as of the last learned window, by name."""
        return {table.name: table.warm.learned for table in self}

    def restore(self, rows: dict[str, int]) -> None:
        """At opening: how many rows of each there are in LMDB."""
        for table in self:
            table.warm.restore_rows(rows[table.name])

    def require_capacity(self, settings: Settings) -> None:
        """`require_capacity` for these tables."""
        require_capacity(settings, self._warm_bytes)

    # --- rows on their way to RAM

    def deliver(self, wanted: Sequence[Ids]) -> None:
        """Fills the slots that wait for `wanted`, ids by table, with what LMDB has."""
        for table, missing in zip(self, wanted, strict=True):
            self._deliver(table, missing)

    def _deliver(self, table: Table, missing: Ids) -> int:
        found, rows = table.stored(missing)
        if table is self.users:
            self.history.load(found)  # before readers find the rows in RAM
        table.warm.fill(found, rows)
        return len(found)

    def bring(self, table: Table, ids: Ids) -> int:
        """Brings the rows of `ids`, rising, into RAM, as many as there is room for; returns how many. All of them must
        exist; they stay until `warm.unpin`."""
        n, missing = table.warm.bring(ids)
        if self._deliver(table, missing) < len(missing):
            raise CorruptionError("LMDB names an id that has no row there")
        return n

    # --- epochs

    @property
    def dirty(self) -> int:
        """Rows that LMDB lacks or has otherwise. Any thread."""
        return sum(table.warm.dirty for table in self)

    @property
    def crowded(self) -> bool:
        """Can nothing leave RAM before an epoch has ended? Any thread."""
        return any(table.warm.crowded for table in self)

    @property
    def kept_bytes(self) -> int:
        """Copies of frozen rows that changed while an epoch writes. Any thread."""
        return sum(table.warm.kept_bytes for table in self)

    def freeze(self) -> None:
        """What is dirty now is the epoch's that begins."""
        for table in self:
            table.warm.freeze()
        self.history.freeze()

    def frozen(self) -> Iterator[tuple[Table, FrozenRows]]:
        """The frozen rows, table after table, by rising key. Epoch thread."""
        for table in self:
            for part in table.frozen():
                yield table, part

    def frozen_histories(self, users: int) -> Iterator[list[Pair]]:
        """The dirty chunks of the frozen users, after their rows. Epoch thread."""
        return self.history.frozen(users)

    def deleted(self) -> None:
        """LMDB has lost what was removed. Epoch thread."""
        for table in self:
            table.deleted()

    def thaw(self, committed: bool) -> None:
        """The epoch ended: its rows are clean, or dirty again. Epoch thread."""
        self.history.thaw(committed)  # it needs the frozen users, so it comes first
        for table in self:
            table.warm.thaw(committed)
