"""Events: a batch as columns, checked once here. Any thread."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import describe, float_array, id_column, plain_array
from .arrays import Floats, Ids
from .errors import InputError
from .losses import POINTWISE

_MOST_YEARS = 290_000  # int64 microseconds reach a little further


def _timestamp_column(x: Any, n: int) -> NDArray[np.float64]:
    a = plain_array("timestamps", x, "Unix seconds or datetime64")
    if a.dtype.kind == "M":
        if np.isnat(a).any():
            raise InputError("timestamps: got NaT, wanted Unix seconds or datetime64")
        years = a.astype("datetime64[Y]").astype(np.int64)
        if (np.abs(years) > _MOST_YEARS).any():
            raise InputError("timestamps: got a date too far off for microseconds, wanted Unix seconds or datetime64")
        a = a.astype("datetime64[us]").astype(np.int64) / 1e6
    return float_array("timestamps", a, (n,), np.float64)


def _value_column(x: Any, n: int, loss: str) -> Floats | None:
    if loss not in POINTWISE:
        if x is not None:
            raise InputError(f"values: got {describe(x)}, wanted None: the loss {loss!r} learns from positives")
        return None
    wanted = f"{n} labels, each 0 or 1" if loss == "logistic" else f"{n} ratings"
    if x is None:
        if n:
            raise InputError(f"values: got None, wanted {wanted}: the loss {loss!r} learns to predict them")
        return np.empty(0, np.float32)
    a = plain_array("values", x, wanted)
    values = float_array("values", a.astype(np.int8) if a.dtype.kind == "b" else a, (n,))
    if loss == "logistic" and not ((values == 0) | (values == 1)).all():
        bad = int(np.flatnonzero((values != 0) & (values != 1))[0])
        raise InputError(f"values: got {values[bad]} at position {bad}, wanted {wanted}")
    return values


@dataclass(frozen=True, slots=True)
class Events:
    """Checked columns of equal length: what one call to `ingest` submits."""

    users: Ids
    items: Ids
    values: Floats | None = None
    weights: Floats | None = None
    timestamps: NDArray[np.float64] | None = None

    @classmethod
    def check(cls, users: Any, items: Any, *, values: Any, weights: Any, timestamps: Any, loss: str) -> "Events":
        """Raises InputError for anything that is not as `Engine.ingest` says."""
        u, i = id_column("users", users), id_column("items", items)
        if len(u) != len(i):
            raise InputError(f"items: got {len(i)} of them, wanted as many as users ({len(u)})")
        v = _value_column(values, len(u), loss)
        w = None if weights is None else float_array("weights", weights, (len(u),))
        if w is not None and w.size and w.min() < 0:
            raise InputError(f"weights: got {w.min()}, wanted numbers >= 0")
        t = None if timestamps is None else _timestamp_column(timestamps, len(u))
        return cls(u, i, v, w, t)

    def __len__(self) -> int:
        return len(self.users)

    def cut(self, start: int, stop: int) -> "Events":
        part = slice(start, stop)
        return Events(
            self.users[part],
            self.items[part],
            None if self.values is None else self.values[part],
            None if self.weights is None else self.weights[part],
            None if self.timestamps is None else self.timestamps[part],
        )
