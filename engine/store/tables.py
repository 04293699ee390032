"""The tables of a model, each declared once: its name, its key byte, its rows, and what else follows from it.

Whoever plans, pins, tiers, freezes, recovers, digests, compacts, backs up, verifies, forgets or counts rows goes
through `TABLES`, and names none of them. Constants alone.
"""

from dataclasses import dataclass

from ..cold import keys


@dataclass(frozen=True, slots=True)
class Declared:
    """One table. `number`: the first byte of its keys in LMDB."""

    name: str
    number: int


TABLES: tuple[Declared, ...] = (Declared("users", keys.USERS), Declared("items", keys.ITEMS))
