"""Settings: frozen, each field with its default, its effect and its cost. Checked where they are made. Any thread."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial
from typing import Any

from .arguments import choice, number, whole_number
from .arrays import MAX_DIM
from .errors import ConfigError, CorruptionError
from .losses import (
    DEFAULT_LR,
    DEFAULT_NEGATIVES,
    LOSSES,
    OPTIMIZERS,
    POINTWISE,
    SEQUENCE_BATCH,
    SEQUENCE_GATE,
    SEQUENCE_LR,
    SEQUENCE_NEGATIVES,
)

MOST_TERMS = 2**26  # of a micro-batch: about 1.5 GiB of working memory


_LEAST_LR = 1e-30  # less would be 0 in float32

_whole = partial(whole_number, error=ConfigError)
_number = partial(number, error=ConfigError)
_choice = partial(choice, error=ConfigError)

# How each setting is checked, given its name and what came.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "dim": partial(_whole, low=1, high=MAX_DIM),
    "loss": partial(_choice, choices=LOSSES),
    "optimizer": partial(_choice, choices=OPTIMIZERS),
    "seed": partial(_whole, low=0, high=2**63 - 1),
    "lr": partial(_number, low=_LEAST_LR, high=1e6),
    "l2": partial(_number, low=0.0, high=1e6),
    "negatives": partial(_whole, low=0, high=65_536),
    "batch_size": partial(_whole, low=1, high=65_536),
    "row_ttl": partial(_whole, low=0, high=2**53),
    "admit_after": partial(_whole, low=0, high=255),
    "bag": partial(_whole, low=0, high=16),
    "repeats": partial(_whole, low=0, high=1),
    "recent_negatives": partial(_whole, low=0, high=4096),
    "own_negatives": partial(_whole, low=0, high=1024),
    "session_gap": partial(_number, low=0.0, high=1e9),
    "neighbours": partial(_whole, low=0, high=64),
    "gate": partial(_whole, low=0, high=255),
    "gate_events": partial(_whole, low=0, high=1_000_000),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the results, kept in the directory. `FIXED` ones are fixed at creation.

    A setting that a later version adds has a default here: the value of the directories that were made before it.
    """

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
    bag: int = 0
    """softmax: how many of a user's latest items count towards the user's vector, 0 to 16; default 0. 10 is good."""
    repeats: int = 0
    """softmax: 1: what it is worth to have had an item before is learned, too; default 0."""
    recent_negatives: int = 0
    """softmax: per event, drawn from the items of the latest 16,384 events; default 0. 16 is good."""
    own_negatives: int = 0
    """softmax: per event, drawn from the items that the user has had; default 0. 16 is good."""
    session_gap: float = 60.0
    """Seconds of a user's silence, by `timestamps`, after which a session ends; default 60."""

    neighbours: int = 0
    """softmax: how many items that came soon after it an item's row remembers, 0 to 64; default 0. 16 is good."""

    gate: int = 0
    """Known users who must have had an item before others are shown it; 2 by default with a setting of the five above,
    else 0. A new item is shown later; it takes more than some made-up users to bring one in."""
    gate_events: int = 0
    """How many events make a user known for `gate`; 2 by default where that is 2."""

    FIXED = ("dim", "loss", "optimizer", "seed", "neighbours")
    SEQUENCE = ("bag", "repeats", "recent_negatives", "own_negatives", "neighbours")

    @property
    def sequence(self) -> bool:
        """Does learning look at what the user has had?"""
        return any(getattr(self, name) for name in self.SEQUENCE)

    def require_device(self) -> None:
        """Raises ConfigError for what a device does not learn yet."""
        if name := next((name for name in self.SEQUENCE if getattr(self, name)), None):
            raise ConfigError(f"{name}: got {getattr(self, name)}, wanted 0: a device does not learn it yet")

    @classmethod
    def resolve(cls, given: dict[str, Any], stored: "Settings | None", *, whole: bool = True) -> "Settings":
        """The settings in force: `given` where not None, else what the directory has, else the defaults. Not `whole`:
        what the directory has is still to be read.

        Raises ConfigError for a bad value, and for another value of a fixed setting than the stored one.
        """
        checked = {name: _CHECKS[name](name, x) for name, x in given.items() if x is not None}
        loss = checked.get("loss", stored.loss if stored else "softmax")
        optimizer = checked.get("optimizer", stored.optimizer if stored else "adagrad")
        sequence = any(checked.get(name) for name in cls.SEQUENCE)
        base = stored or cls(
            dim=64,
            loss=loss,
            optimizer=optimizer,
            seed=0,
            lr=(SEQUENCE_LR if sequence else DEFAULT_LR[loss])[optimizer],
            l2=0.0,
            negatives=SEQUENCE_NEGATIVES if sequence else DEFAULT_NEGATIVES[loss],
            batch_size=SEQUENCE_BATCH if sequence else 1,
            row_ttl=0,
            admit_after=0,
            gate=SEQUENCE_GATE if sequence else 0,
            gate_events=SEQUENCE_GATE if sequence else 0,
        )
        if "negatives" in checked:
            _require_negatives(loss, checked["negatives"])
        if stored:
            for name in cls.FIXED:
                if name in checked and checked[name] != getattr(stored, name):
                    raise ConfigError(
                        f"{name}: got {checked[name]!r}, but the directory was created with {getattr(stored, name)!r}, "
                        "and it is fixed"
                    )
        settings = replace(base, **checked)
        if settings.sequence and loss != "softmax":
            name = next(name for name in cls.SEQUENCE if getattr(settings, name))
            raise ConfigError(f"{name}: got {getattr(settings, name)}, wanted 0: the loss {loss!r} does not have it")
        if whole and checked.get("gate") and not settings.sequence:
            raise ConfigError(f"gate: got {settings.gate}, wanted 0: without {', '.join(cls.SEQUENCE)} there is none")
        if settings.batch_size * (1 + settings.negatives) > MOST_TERMS:
            raise ConfigError(
                f"batch_size, negatives: got {settings.batch_size} and {settings.negatives}, wanted at most "
                f"{MOST_TERMS} gradient terms a micro-batch: batch_size x (1 + negatives)"
            )
        return settings

    @classmethod
    def stored(cls, found: Any) -> "Settings":
        """The settings that a file holds, as `resolve` would have them. ConfigError for one of a later version, by its
        name; CorruptionError if one is missing that has no default, or has a value that no engine gives it."""
        names, always = {f.name for f in fields(cls)}, {f.name for f in fields(cls) if f.default is MISSING}
        if not isinstance(found, dict) or not always <= found.keys() or None in found.values():
            raise CorruptionError("stored settings are not the settings of an engine")
        if unknown := sorted(found.keys() - names):
            raise ConfigError(f"stored settings have {unknown[0]!r}, which this version of Rowtide does not know")
        try:
            return cls.resolve(found, None)
        except ConfigError as e:
            raise CorruptionError(f"stored settings that no engine has: {e}") from e

    def changed(self, by: dict[str, Any]) -> "Settings":
        """These settings with some changed, as a log record says. CorruptionError if no engine can have written it."""
        if fixed := by.keys() & set(self.FIXED):
            raise CorruptionError(f"a log record changes {', '.join(sorted(fixed))}, which is fixed")
        if unknown := sorted(by.keys() - self.as_dict().keys()):
            raise CorruptionError(f"a log record changes {unknown[0]!r}, which this version of Rowtide does not know")
        return self.stored(self.as_dict() | by)

    def written(self) -> dict[str, Any]:
        """Those that a state or a log record says: all without a default here, and what is not its default."""
        return {f.name: x for f in fields(self) if (x := getattr(self, f.name)) != f.default}

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _require_negatives(loss: str, negatives: int) -> None:
    if loss in POINTWISE and negatives:
        raise ConfigError(f"negatives: got {negatives}, wanted 0: the loss {loss!r} learns from values")
    if loss not in POINTWISE and not negatives:
        raise ConfigError(f"negatives: got int 0, wanted an integer from 1 to 65536: the loss {loss!r} needs them")
