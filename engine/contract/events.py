"""Events: a batch as columns, checked once here. Any thread."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import Wanted, bad_element, describe, first_place, float_column, ids_or_one, is_finite, plain_array
from .arrays import Floats, Ids
from .errors import InputError
from .losses import POINTWISE
from .times import timestamp_column


def _id_columns(users: Any, items: Any) -> tuple[Ids, Ids]:
    """Ids of equal length; a scalar counts for the whole of the other column."""
    (u, one_user), (i, one_item) = ids_or_one("users", users), ids_or_one("items", items)
    if len(u) == len(i):
        return u, i
    if one_user:
        return np.repeat(u, len(i)), i
    if one_item:
        return u, np.repeat(i, len(u))
    raise InputError(f"items: got {len(i)} of them, wanted a scalar or as many as users ({len(u)})")


def _value_column(x: Any, n: int, loss: str) -> Floats | None:
    if loss not in POINTWISE:
        if x is not None:
            raise InputError(f"values: got {describe(x)}, wanted None: the loss {loss!r} learns from positives")
        return None
    wanted = "0 or 1" if loss == "logistic" else "a rating"
    if x is None:
        if n:
            raise InputError(
                f"values: got None, wanted {wanted} for each event: the loss {loss!r} learns to predict it"
            )
        return np.empty(0, np.float32)
    a = plain_array("values", x, Wanted(f"{wanted} for each event", wanted, is_finite))
    given = a.astype(np.int8) if a.dtype.kind == "b" else a if a.dtype.kind in "fiu" or not a.size else x
    values = float_column("values", given, n)
    if loss == "logistic" and not ((values == 0) | (values == 1)).all():
        place = first_place((values != 0) & (values != 1))
        raise bad_element("values", place, values[place], wanted)
    return values


def _weight_column(x: Any, n: int) -> Floats | None:
    if x is None:
        return None
    weights = float_column("weights", x, n)
    if n and weights.min() < 0:
        place = first_place(weights < 0)
        raise bad_element("weights", place, weights[place], "a finite number >= 0")
    return weights


def _session_column(x: Any, n: int) -> Ids:
    """Ids of sessions; one counts for all events."""
    sessions, one = ids_or_one("sessions", x)
    if one:
        return np.repeat(sessions, n)
    if len(sessions) != n:
        raise InputError(f"sessions: got {len(sessions)} of them, wanted a scalar or as many as events ({n})")
    return sessions


@dataclass(frozen=True, slots=True)
class Events:
    """Checked columns of equal length: what one call to `ingest` submits."""

    users: Ids
    items: Ids
    values: Floats | None = None
    weights: Floats | None = None
    timestamps: NDArray[np.float64] | None = None
    sessions: Ids | None = None

    @classmethod
    def check(cls, users: Any, items: Any, columns: dict[str, Any], loss: str) -> "Events":
        """`columns`: the others of `Engine.ingest`, by name. Raises InputError for what is not as it says."""
        u, i = _id_columns(users, items)
        n, times, sessions = len(u), columns["timestamps"], columns["sessions"]
        v, w = _value_column(columns["values"], n, loss), _weight_column(columns["weights"], n)
        t = None if times is None else timestamp_column(times, n)
        return cls(u, i, v, w, t, None if sessions is None else _session_column(sessions, n))

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
            None if self.sessions is None else self.sessions[part],
        )
