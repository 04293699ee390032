"""What is fixed when a directory is made: its id and its format, as one item of the cold tier's metadata.

Responsible for its bytes, for refusing formats and fields of later versions by name, and for what becomes of a
directory of format 1. Pure functions over bytes, but for the id, which is drawn; any thread.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contract.arguments import describe
from ..contract.errors import ConfigError, CorruptionError, EngineError
from ..log.segment import Owner
from ..machine.backend import fingerprint

FORMAT = 2

_EVERY_SEQ = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Created:
    """`directory_id`: 64 random bits, in the state and in every log record; 0 in format 1, which had none.

    `fingerprint`: of the machine that it was made on. `version_1_through`: up to this event the log may hold records of
    version 1, which carry no id; -1 for none. Format 1 may hold them anywhere.
    """

    directory_id: int
    fingerprint: str
    version_1_through: int = -1
    format: int = FORMAT

    @classmethod
    def now(cls, kind: str) -> "Created":
        """Of a new directory; `kind` of device will learn."""
        return cls(_draw_id(), fingerprint(kind))

    def copied(self) -> "Created":
        """Of a backup: its log will go on otherwise, so it gets an id of its own."""
        return Created(_draw_id(), self.fingerprint)

    def migrated(self, last_seq: int) -> "Created":
        """Of a directory of format 1 that becomes one of this format; its log ends with event `last_seq`."""
        return replace(self, directory_id=_draw_id(), version_1_through=last_seq, format=FORMAT)

    @property
    def owner(self) -> Owner:
        """What the records of its log must say."""
        return Owner(self.directory_id, self.version_1_through)

    def to_meta(self) -> dict[str, bytes]:
        fields: dict[str, Any] = {"format": FORMAT, "fingerprint": self.fingerprint, "id": f"{self.directory_id:016x}"}
        if self.version_1_through >= 0:
            fields["version_1_through"] = self.version_1_through
        return {"created": json.dumps(fields).encode()}

    @classmethod
    def from_meta(cls, meta: Callable[[str], bytes | None], directory: Path) -> "Created":
        """The mirror of `to_meta`. ConfigError for a later format or field; CorruptionError."""
        raw = meta("created")
        if raw is None:
            raise CorruptionError("the cold tier holds no state of an engine", file=str(directory))
        with making_sense(directory):
            fields = json.loads(raw)
            found = fields["format"]
            if type(found) is not int or found not in (1, FORMAT):
                raise ConfigError(f"{directory}: made in format {numbered(found)}, this version reads formats 1 and 2")
            if found == 1:
                require_known(fields, {"format", "fingerprint"}, directory)
                return cls(0, _text(fields["fingerprint"]), _EVERY_SEQ, 1)
            require_known(fields, {"format", "fingerprint", "id", "version_1_through"}, directory)
            return cls(_id(fields["id"]), _text(fields["fingerprint"]), _seq(fields.get("version_1_through", -1)))


@contextmanager
def making_sense(directory: Path) -> Iterator[None]:
    """What Python raises over JSON that no engine writes is CorruptionError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as e:
        if isinstance(e, EngineError):
            raise
        raise CorruptionError(f"the state in the cold tier makes no sense: {e!r}", file=str(directory)) from e


def require_known(found: Any, known: set[str], directory: Path) -> None:
    """ConfigError for names that a later version has brought: what they stand for cannot be left out."""
    if unknown := sorted(set(found) - known):
        raise ConfigError(
            f"{directory}: its state has {describe(unknown[0])}, which this version of Rowtide does not know"
        )


def numbered(found: Any) -> str:
    """The number of a format, or what stands in its place."""
    return str(found) if type(found) is int else describe(found)


def _draw_id() -> int:
    return int.from_bytes(os.urandom(8), "little") or 1


def _id(x: Any) -> int:
    if type(x) is not str or len(x) != 16 or not (found := int(x, 16)) or f"{found:016x}" != x:
        raise ValueError(f"{describe(x)} is no id of a directory")
    return found


def _seq(x: Any) -> int:
    if type(x) is not int or not -1 <= x < 2**62:
        raise ValueError(f"{describe(x)} is no seq")
    return x


def _text(x: Any) -> str:
    if type(x) is not str:
        raise ValueError(f"{describe(x)} is no text")
    return x
