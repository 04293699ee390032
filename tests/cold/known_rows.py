"""Rows that tell which id and version they are, for the tests of the cold tier."""

import numpy as np

from engine.cold.cold import Cold
from engine.machine.backend import native

WIDTH = 64


def rows_for(ids: np.ndarray, salt: int = 0, width: int = WIDTH) -> np.ndarray:
    """Rows that tell which id and version they are, in every byte pair."""
    words = (ids.astype(np.int64) * 31 + salt).astype("<i8")
    return np.ascontiguousarray(np.tile(words.view(np.uint8).reshape(len(ids), 8), (1, width // 8)))


def column(*ids: int) -> np.ndarray:
    return np.array(ids, np.int64)


def read_all(cold: Cold, table: int = 1, **how) -> tuple[np.ndarray, np.ndarray]:
    parts = list(cold.scan(table, WIDTH, **how)) or [(column(), np.empty((0, WIDTH), np.uint8))]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def put_rows(cold: Cold, ids: np.ndarray, salt: int = 0, table: int = 1) -> None:
    ids = np.ascontiguousarray(ids)
    cold.write([native.seal_rows(table, ids, rows_for(ids, salt))], {"salt": str(salt).encode()})
