"""Events: a batch as columns, checked once here; and what comes back, IngestReport and TopK.

Every array that a caller passes anywhere is turned into a plain int64 / float32 array by the functions of this file, or
refused with an InputError that names the argument, what came and what was wanted. Any thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .tensors import array_of, is_tensor

# The losses that learn a value for each pair, instead of ranking the positive above negatives.
POINTWISE = ("logistic", "squared")

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with defaults, as from 3.13 on; type checkers know it by themselves

    IdsT = TypeVar("IdsT", default=Ids)
    ScoresT = TypeVar("ScoresT", default=Floats)
else:
    from typing import TypeVar

    IdsT, ScoresT = TypeVar("IdsT"), TypeVar("ScoresT")

PADDING = -1
_INT64 = np.dtype(np.int64)
_MOST_YEARS = 290_000  # int64 microseconds reach a little further


def describe(x: Any) -> str:
    """What came, in a few words, for a message."""
    if isinstance(x, np.ndarray):
        return f"{x.dtype} array of shape {x.shape}"
    if is_tensor(x):
        return f"{x.dtype} tensor of shape {tuple(x.shape)} on {x.device}"
    if isinstance(x, (list, tuple)):
        return f"{type(x).__name__} of {len(x)}"
    try:
        text = repr(x)
    except Exception:  # the caller's own code, or an integer with too many digits to print
        return type(x).__name__
    return f"{type(x).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def _array(name: str, x: Any, wanted: str) -> NDArray[Any]:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InputError(f"{name}: got {describe(x)} with masked elements, wanted {wanted}")
    try:
        return array_of(x) if is_tensor(x) else np.asarray(x)
    except MemoryError:
        raise
    except Exception as e:  # whatever the __array__ of an unknown type raises
        raise InputError(f"{name}: got {describe(x)}, wanted {wanted}") from e


def id_array(name: str, x: Any, *, padding: bool = False) -> Ids:
    """Ids of any shape as a C-contiguous int64 array that nobody else holds. -1 only where `padding` allows it."""
    wanted = "integers that fit int64" + ("" if padding else ", none of them -1 (the padding of answers)")
    a = _array(name, x, wanted)
    if a.dtype != _INT64:
        if a.size == 0 and a.dtype.kind == "f" and not isinstance(x, np.ndarray):
            a = a.astype(np.int64)  # an empty list has no type of its own
        elif a.dtype.kind not in "iu":
            raise InputError(f"{name}: got {describe(x)}, wanted {wanted}")
        elif a.dtype.kind == "u" and a.size and a.max() > np.iinfo(np.int64).max:
            raise InputError(f"{name}: got {int(a.max())}, wanted {wanted}")
    out = np.array(a, dtype=np.int64, order="C")
    if not padding and out.size and (out == PADDING).any():
        where = f" at position {int(np.flatnonzero(out == PADDING)[0])}" if out.ndim else ""
        raise InputError(f"{name}: got -1{where}, wanted {wanted}")
    return out


def id_column(name: str, x: Any) -> Ids:
    """A scalar or a column of ids as int64[n]."""
    a = id_array(name, x)
    if a.ndim > 1:
        raise InputError(f"{name}: got {describe(a)}, wanted a scalar or a 1-D column")
    return a.reshape(-1)


def query_vectors(name: str, x: Any, dim: int) -> tuple[Floats, bool]:
    """Finite float32 [n, dim], and whether it was one vector [dim]."""
    a = _array(name, x, f"finite numbers of shape ({dim},) or (n, {dim})")
    shape = (len(a), dim) if a.ndim == 2 else (dim,)
    return float_array(name, a, shape).reshape(-1, dim), a.ndim == 1


def float_array(name: str, x: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    """Finite numbers of the given shape (a scalar counts as one of shape (1,)), C-contiguous, nobody else's."""
    wanted = f"finite numbers of shape {shape}"
    a = _array(name, x, wanted)
    if a.dtype.kind not in "fiu":
        raise InputError(f"{name}: got {describe(x)}, wanted {wanted}")
    if a.ndim == 0:
        a = a.reshape(1)
    if a.shape != shape:
        raise InputError(f"{name}: got shape {a.shape}, wanted {wanted}")
    with np.errstate(over="ignore"):
        out = np.array(a, dtype=dtype, order="C")
    if not np.isfinite(out).all():
        bad = np.flatnonzero(~np.isfinite(out.reshape(-1)))[0]
        raise InputError(f"{name}: got {a.reshape(-1)[bad]} at position {int(bad)}, wanted {wanted}")
    return out


def whole_number(name: str, x: Any, low: int, high: int) -> int:
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)) or not low <= x <= high:
        raise InputError(f"{name}: got {describe(x)}, wanted an integer from {low} to {high}")
    return int(x)


def choice(name: str, x: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(x, str) or x not in choices:
        raise InputError(f"{name}: got {describe(x)}, wanted one of {', '.join(map(repr, choices))}")
    return x


def flag(name: str, x: Any) -> bool:
    if not isinstance(x, (bool, np.bool_)):
        raise InputError(f"{name}: got {describe(x)}, wanted True or False")
    return bool(x)


def _timestamp_column(x: Any, n: int) -> NDArray[np.float64]:
    a = _array("timestamps", x, "Unix seconds or datetime64")
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
    a = _array("values", x, wanted)
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


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one call to `ingest` did.

    `loss` is the mean over the events, each taken before the step that learned it (NaN for an empty batch); `found`
    counts where the rows were that the call needed: "warm", "cold" (fetched from LMDB) or "made". `unlearned` of the
    events named an id that `admit_after` keeps out; they are in `events` and not in `loss`.

    >>> eng.ingest([7, 7], [100, 101]).found
    {'warm': 0, 'cold': 0, 'made': 3}
    """

    events: int
    seq: int
    loss: float
    new_users: int
    new_items: int
    seconds: float
    found: dict[str, int]
    unlearned: int


@dataclass(frozen=True, slots=True)
class TopK(Generic[IdsT, ScoresT]):
    """The answer of `topk`; unpacks as `ids, scores`.

    ids: int64 [k] or [n, k], -1 where there are fewer than k; scores: float32 of the same shape, -inf there, falling,
    ids rising where scores are equal; counts: how many are real, an int or int64 [n]; seq: every event up to this one
    is reflected (later ones may be). Where the call was given a tensor, tensors take the place of arrays. As a type,
    `TopK` is of arrays, `TopK[Tensor, Tensor]` of tensors.

    >>> report = eng.ingest([7, 7], [100, 101])
    >>> ids, scores = found = eng.topk([7, 8], k=3, exclude=[100])
    >>> found.counts.tolist(), found.seq, ids[0].tolist()
    ([1, 1], 2, [101, -1, -1])
    """

    ids: IdsT
    scores: ScoresT
    counts: Any
    seq: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ids, self.scores))
