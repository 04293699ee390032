"""Settings: frozen, each field with its default, its effect and its cost. Checked where they are made. Any thread."""

import math
import os
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .backend import free_bytes, require_device
from .errors import ConfigError, CorruptionError, DeviceError
from .events import POINTWISE, describe

# The C++ core numbers them by their place here.
LOSSES = ("softmax", "bpr", "logistic", "squared")
OPTIMIZERS = ("adagrad", "adam", "sgd")

MOST_TERMS = 2**26  # of a micro-batch: about 1.5 GiB of working memory

# Of a new directory: learning rate by loss and optimizer, number of negatives by loss. engine/learn/README.md has the
# measurements.
DEFAULT_LR = {
    "softmax": {"adagrad": 0.25, "adam": 0.01, "sgd": 0.1},
    "bpr": {"adagrad": 0.1, "adam": 0.01, "sgd": 0.3},
    "logistic": {"adagrad": 0.1, "adam": 0.005, "sgd": 0.05},
    "squared": {"adagrad": 0.1, "adam": 0.005, "sgd": 0.03},
}
DEFAULT_NEGATIVES = {"softmax": 64, "bpr": 16, "logistic": 0, "squared": 0}

_LEAST_LR = 1e-30  # less would be 0 in float32


def _number(name: str, x: Any, low: float, high: float, *, open_low: bool = False) -> float:
    number = isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)
    try:
        value = float(x) if number else math.nan
    except OverflowError:
        value = math.inf
    if not low <= value <= high or (open_low and value == low):
        raise ConfigError(f"{name}: got {describe(x)}, wanted a number {'>' if open_low else '>='} {low} and <= {high}")
    return value


def _whole(name: str, x: Any, low: int, high: int) -> int:
    if isinstance(x, bool) or not isinstance(x, (int, np.integer)) or not low <= x <= high:
        raise ConfigError(f"{name}: got {describe(x)}, wanted an integer from {low} to {high}")
    return int(x)


def choice(name: str, x: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(x, str) or x not in choices:
        raise ConfigError(f"{name}: got {describe(x)}, wanted one of {', '.join(map(repr, choices))}")
    return str(x)


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the results, kept in the directory. `dim`, `loss`, `optimizer` and `seed` are fixed at creation."""

    dim: int
    """Floats in a vector; default 64. Memory, disk and time grow with it."""
    loss: str
    """"softmax" (default) or "bpr" rank what came above negatives; "logistic" (0 or 1) and "squared" (ratings) predict
    `values`."""
    optimizer: str
    """"adagrad" (default, row-wise: two floats a row), "adam" (twice the vector more) or "sgd" (nothing)."""
    seed: int
    """Of the noise in new rows and of the negatives; default 0."""
    lr: float
    """Learning rate; the default depends on loss and optimizer."""
    l2: float
    """Pull of touched rows towards 0, per step; default 0."""
    negatives: int
    """softmax: items drawn per micro-batch; bpr: per event. More rank better and cost time in proportion. Else 0."""
    batch_size: int
    """Events per optimizer step; default 1. Larger is faster and learns worse."""
    row_ttl: int
    """Events without a touch until a row leaves; default 0: rows stay. Bounds the disk; a sweep reads all rows."""
    admit_after: int
    """Sightings before an id gets a row; default 0: at once. Made-up ids cost no row; real ones learn later."""

    FIXED = ("dim", "loss", "optimizer", "seed")

    @classmethod
    def resolve(cls, given: dict[str, Any], stored: "Settings | None") -> "Settings":
        """The settings in force: `given` where not None, else what the directory has, else the defaults.

        Raises ConfigError for a bad value, and for another value of a fixed setting than the stored one.
        """
        given = {name: x for name, x in given.items() if x is not None}
        loss = choice("loss", given.get("loss", stored.loss if stored else "softmax"), LOSSES)
        optimizer = choice("optimizer", given.get("optimizer", stored.optimizer if stored else "adagrad"), OPTIMIZERS)
        lr = DEFAULT_LR[loss][optimizer]
        base = stored or cls(64, loss, optimizer, 0, lr, 0.0, DEFAULT_NEGATIVES[loss], 1, 0, 0)
        checked: dict[str, Any] = {}
        for name, x in given.items():
            if name == "dim":
                checked[name] = _whole(name, x, 1, 4096)
            elif name == "loss":
                checked[name] = loss
            elif name == "optimizer":
                checked[name] = optimizer
            elif name == "seed":
                checked[name] = _whole(name, x, 0, 2**63 - 1)
            elif name == "lr":
                checked[name] = _number(name, x, _LEAST_LR, 1e6)
            elif name == "l2":
                checked[name] = _number(name, x, 0.0, 1e6)
            elif name == "batch_size":
                checked[name] = _whole(name, x, 1, 65_536)
            elif name == "negatives":
                if loss in POINTWISE and _whole(name, x, 0, 65_536):
                    raise ConfigError(f"negatives: got {x}, wanted 0: the loss {loss!r} learns from values")
                checked[name] = 0 if loss in POINTWISE else _whole(name, x, 1, 65_536)
            elif name == "row_ttl":
                checked[name] = _whole(name, x, 0, 2**53)
            elif name == "admit_after":
                checked[name] = _whole(name, x, 0, 255)
        if stored:
            for name in cls.FIXED:
                if name in checked and checked[name] != getattr(stored, name):
                    raise ConfigError(
                        f"{name}: got {checked[name]!r}, but the directory was created with {getattr(stored, name)!r}, "
                        "and it is fixed"
                    )
        settings = replace(base, **checked)
        if settings.batch_size * (1 + settings.negatives) > MOST_TERMS:
            raise ConfigError(
                f"batch_size, negatives: got {settings.batch_size} and {settings.negatives}, wanted at most "
                f"{MOST_TERMS} gradient terms a micro-batch: batch_size x (1 + negatives)"
            )
        return settings

    @classmethod
    def stored(cls, found: Any) -> "Settings":
        """The settings that a file holds: all of them, and as `resolve` would have them. CorruptionError."""
        names = {f.name for f in fields(cls)}
        if not isinstance(found, dict) or found.keys() != names or None in found.values():
            raise CorruptionError("stored settings are not the settings of an engine")
        try:
            return cls.resolve(found, None)
        except ConfigError as e:
            raise CorruptionError(f"stored settings that no engine has: {e}") from e

    def changed(self, by: dict[str, Any]) -> "Settings":
        """These settings with some changed, as a log record says. CorruptionError if no engine can have written it."""
        fixed = by.keys() & set(self.FIXED)
        if fixed:
            raise CorruptionError(f"a log record changes {', '.join(sorted(fixed))}, which is fixed")
        return self.stored(self.as_dict() | by)

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Resources:
    """What decides speed and memory, never results; not kept."""

    device: str
    """Where rows are learned and ranked: "cpu", or "cuda", a GPU's memory in front of RAM."""
    hot_bytes: int | None
    """Memory of the device for rows; default half of what is free there. The catalogue comes on top."""
    warm_bytes: int
    """RAM for rows and histories; default half of the machine's. The catalogue comes on top."""
    epoch_seconds: float
    """How old a change may get before it is written to LMDB; default 30. Shorter: less to replay, more to write."""
    threads: int
    """Threads that rank one call to `topk`; default 1, for servers call it from many threads. Learning uses one."""

    @classmethod
    def check(cls, *, device: Any, hot_bytes: Any, warm_bytes: Any, epoch_seconds: Any, threads: Any) -> "Resources":
        device = choice("device", device, ("auto", "cpu", "cuda"))
        if hot_bytes is not None:
            if device != "cuda":
                given = describe(hot_bytes)
                raise ConfigError(f"hot_bytes: got {given}, but device is {device!r}; wanted it with 'cuda'")
            _whole("hot_bytes", hot_bytes, 1, 2**62)
        if device == "cuda":
            _, found = require_device()
            if hot_bytes is not None and found.type == "cuda" and hot_bytes > (free := free_bytes(found)):
                raise DeviceError(f"hot_bytes: got {hot_bytes}, but the GPU has {free} bytes free")
        if warm_bytes is None:
            warm_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        return cls(
            "cuda" if device == "cuda" else "cpu",
            None if hot_bytes is None else int(hot_bytes),
            _whole("warm_bytes", warm_bytes, 1, 2**62),
            _number("epoch_seconds", epoch_seconds, 0.0, 1e9, open_low=True),
            1 if threads is None else _whole("threads", threads, 1, 1024),
        )
