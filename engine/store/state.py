"""State: what an epoch saves beside rows and histories, as metadata of the cold tier, and back.

Responsible for its bytes and for refusing what no engine writes. Pure functions over bytes; any thread.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cold.keys import HIDDEN
from ..contract.arguments import describe
from ..contract.arrays import Floats
from ..contract.errors import ConfigError, CorruptionError
from ..contract.losses import LOSSES
from ..contract.settings import Settings
from ..learn.model import Sequence
from ..machine.backend import fingerprint, native
from .created import Created, making_sense, numbered, require_known
from .tables import TABLES

SCHEMA = 2

_GONE = 2**32 - 1  # in `recent`, in place of an item that was removed
_COUNTS = ("seq", "mean_count", "ordinals", "hidden")
_PARTS = ("mean", "sightings", "decided")  # items of the metadata beside the JSON
_SEQUENCE_PARTS = ("weights", "recent")  # of models that have looked at what users had, and so are these:
_SEQUENCE_FIELDS = ("recent_events", "clock")
_FIELDS = {*_COUNTS, "schema", "rows", "parts", "settings", "positions", "value_sums", "bit_exact", "purge"}
_FIELDS |= {*_SEQUENCE_FIELDS}


@dataclass(frozen=True, slots=True)
class State:
    """What an epoch saves beside rows and histories: the engine as of `seq`."""

    seq: int
    rows: dict[str, int]  # by table
    mean: Floats
    mean_count: int
    settings: Settings
    positions: dict[str, bytes]
    value_sums: tuple[float, float] = (0.0, 0.0)
    bit_exact: bool = True
    ordinals: int = 0  # the last item's, and one more
    hidden: int = 0  # ids
    purge: bool = False  # log and LMDB may hold bytes of forgotten ids
    sightings: bytes = b""  # the sketch of admission
    decided: bytes = b""  # in the middle of a record: which of its events are learned, a byte each
    weights: bytes = b""  # of the sequence model: float32s that all events share
    recent: bytes = b""  # ordinals of the latest events' items, uint32s
    recent_events: int = 0  # that came to `recent`
    clock: tuple[int, ...] = ()  # seconds of the latest events that had a time

    @property
    def users(self) -> int:
        return self.rows["users"]

    @property
    def items(self) -> int:
        return self.rows["items"]

    def facts(self) -> dict[str, Any]:
        """What follows from the log alone: all but the parts, and what is of this machine or of its files."""
        return {
            "seq": self.seq,
            **self.rows,
            "mean_count": self.mean_count,
            "value_sums": self.value_sums,
            "settings": self.settings.written(),
            "positions": {source: position.hex() for source, position in self.positions.items()},
            "ordinals": self.ordinals,
            "hidden": self.hidden,
            **({name: getattr(self, name) for name in _SEQUENCE_FIELDS} if self.weights else {}),
        }

    def to_meta(self) -> dict[str, bytes]:
        fields = {name: value for name, value in self.facts().items() if name not in self.rows}
        fields |= {"schema": SCHEMA, "rows": self.rows, "parts": _PARTS + _SEQUENCE_PARTS * bool(self.weights)}
        fields |= {"bit_exact": self.bit_exact, "purge": self.purge}
        return {
            "state": json.dumps(fields).encode(),
            "mean": self.mean.astype("<f4").tobytes(),
            "sightings": self.sightings,
            "decided": self.decided,
            **({name: getattr(self, name) for name in _SEQUENCE_PARTS} if self.weights else {}),
        }

    @classmethod
    def from_meta(cls, meta: Callable[[str], bytes | None], directory: Path, kind: str = "cpu") -> "State":
        """The mirror of `to_meta`; `meta` looks up the cold tier's metadata by name, `kind` of device will learn.

        A state of format 1 is read as what it would be in this one. ConfigError for a later format, schema, field,
        table or part; CorruptionError.
        """
        created = Created.from_meta(meta, directory)
        state, mean = meta("state"), meta("mean")
        if state is None or mean is None:
            raise CorruptionError("the cold tier holds no state of an engine", file=str(directory))
        with making_sense(directory):
            fields = json.loads(state)
            if created.format == 1:
                fields = _of_format_1(fields)
            if type(fields["schema"]) is not int or fields["schema"] != SCHEMA:
                written = numbered(fields["schema"])
                raise ConfigError(f"{directory}: a state of schema {written}, this version reads schema {SCHEMA}")
            require_known(fields, _FIELDS, directory)
            require_known(fields["parts"], {*_PARTS, *_SEQUENCE_PARTS}, directory)
            if any(meta(name) is None for name in fields["parts"]):
                raise ValueError("a part of it is missing")
            require_known(fields["rows"], set(TABLES), directory)
            require_known(fields["settings"], {setting.name for setting in dataclasses.fields(Settings)}, directory)
            settings = Settings.stored(fields["settings"])
            read = cls(
                **{name: _count(fields[name]) for name in _COUNTS},
                rows={name: _count(fields["rows"].get(name, 0)) for name in TABLES},
                mean=_mean(mean, settings.dim),
                settings=settings,
                positions={str(source): bytes.fromhex(position) for source, position in fields["positions"].items()},
                value_sums=_finite_pair(fields["value_sums"]),
                bit_exact=fields["bit_exact"] is True and created.fingerprint == fingerprint(kind),
                purge=_flag(fields["purge"]),
                sightings=meta("sightings") or b"",
                decided=meta("decided") or b"",
                weights=meta("weights") or b"",
                recent=meta("recent") or b"",
                recent_events=_count(fields.get("recent_events", 0)),
                clock=tuple(_count(time) for time in fields.get("clock", ())),
            )
            if read.ordinals >= 2**32 or len(read.sightings) not in (0, native.SKETCH_BYTES):
                raise ValueError("a part that cannot be so long")
            read.require_weights()
            return read

    def require_weights(self) -> None:
        """Raises ValueError for what no engine saves of the sequence model."""
        weights, recent = np.frombuffer(self.weights, "<f4"), np.frombuffer(self.recent, "<u4")
        if len(weights) not in (0, 4 * native.GLOBAL_WEIGHTS) or not np.isfinite(weights).all():
            raise ValueError("the weights of the sequence model are not its weights")
        if not len(recent) <= self.recent_events or ((recent >= self.ordinals) & (recent != _GONE)).any():
            raise ValueError("recent items that cannot be")

    def require_rows(self, entries: dict[int, int], directory: Path) -> None:
        """Raises CorruptionError unless the cold tier has as many rows as the state says; `entries` is by table."""
        counts = [(table.name, table.number, self.rows[table.name]) for table in TABLES.values()]
        for name, number, rows in [*counts, ("hidden items", HIDDEN, self.hidden)]:
            if entries.get(number, 0) != rows:
                raise CorruptionError(
                    f"LMDB holds {entries.get(number, 0)} rows of {name}, its state says {rows}",
                    file=str(directory / "rows"),
                    seq=self.seq,
                )

    @property
    def base(self) -> float:
        """The score of a pair of which nothing is known: what all scores of pointwise losses add to. Else 0."""
        return float(native.base_score(LOSSES.index(self.settings.loss), *self.value_sums))

    @property
    def sequence(self) -> Sequence | None:
        """What lists need of the sequence model; None where there is none."""
        weights = np.frombuffer(self.weights, np.float32) if self.weights else native.first_global_weights()
        return Sequence.of(self.settings, weights, self.clock)

    @classmethod
    def initial(cls, settings: Settings) -> "State":
        return cls(0, dict.fromkeys(TABLES, 0), np.zeros(settings.dim, np.float32), 0, settings, {})


def _of_format_1(fields: Any) -> dict[str, Any]:
    """The same in this format: it had two tables, as fields of their own, and no schema."""
    rows = {name: fields[name] for name in ("users", "items")}
    kept = {name: value for name, value in fields.items() if name not in rows}
    return {"schema": SCHEMA, "rows": rows, "parts": _PARTS, **kept}


def _count(x: Any) -> int:
    """A number of events or rows; none that is real comes near the end of int64."""
    if type(x) is not int or not 0 <= x < 2**62:
        raise ValueError(f"{describe(x)} is no count")
    return x


def _mean(raw: bytes, dim: int) -> Floats:
    mean = np.frombuffer(raw, "<f4").astype(np.float32)
    if len(mean) != dim or not np.isfinite(mean).all():
        raise ValueError("the running mean has another dim than the settings, or is not finite")
    return mean


def _flag(x: Any) -> bool:
    if type(x) is not bool:
        raise ValueError(f"{describe(x)} is no flag")
    return x


def _finite_pair(found: Any) -> tuple[float, float]:
    total, weight = map(float, found)
    if not (math.isfinite(total) and math.isfinite(weight) and weight >= 0):
        raise ValueError("sums of values that cannot be")
    return total, weight
