"""Positions: how far a source was read, opaque bytes under the source's name; their checks. Any thread."""

from collections.abc import Mapping
from types import EllipsisType
from typing import Any

from .arguments import MAX_EVENTS, describe, shown
from .errors import InputError, PositionError

MAX_POSITION_BYTES = 1 << 20

MAX_NAME_BYTES = 0xFFFF  # of a source name, and of the settings as JSON


def check_position(source: str, position: bytes) -> tuple[bytes, bytes]:
    try:
        name = source.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"position: source {source!r} is not text: {error}") from error
    if type(position) is not bytes or len(position) > MAX_POSITION_BYTES or len(name) > MAX_NAME_BYTES:
        raise InputError(
            f"position: a name of {len(name):,} bytes, {len(position):,} of {type(position).__name__}; "
            f"a record takes {MAX_NAME_BYTES:,}, and {MAX_POSITION_BYTES:,} of bytes, at most"
        )
    return name, position


def checked_position(position: Any, events: int) -> tuple[str, bytes] | None:
    """What `ingest` was given as position beside so many events, checked. InputError."""
    if position is None:
        return None
    if not isinstance(position, tuple) or len(position) != 2:
        raise InputError(f"position: got {describe(position)}, wanted (source, bytes)")
    if not isinstance(position[0], str):
        raise InputError(f"position[0]: got {describe(position[0])}, wanted the source's name, a str")
    if not position[0]:
        raise InputError("position[0]: got an empty str, wanted the source's name")
    if not isinstance(position[1], (bytes, bytearray)):
        raise InputError(f"position[1]: got {describe(position[1])}, wanted bytes")
    if events > MAX_EVENTS:
        raise InputError(
            f"position: got {events} events with it, wanted at most {MAX_EVENTS}: it must stand in one log record"
        )
    check_position(position[0], bytes(position[1]))
    return position[0], bytes(position[1])


def checked_source(source: Any) -> str:
    """The name of a source. InputError."""
    if not isinstance(source, str):
        raise InputError(f"source: got {describe(source)}, wanted a str")
    return source


Expected = bytes | EllipsisType | None
"""What the stored position must be: bytes, None for that there is none yet, `...` for whatever it is."""


def checked_expected(expect: Any, position: tuple[str, bytes] | None) -> Expected:
    """What `ingest` was given as `expect` beside this position. InputError."""
    if expect is ...:
        return expect
    if position is None:
        raise InputError(f"expect: got {describe(expect)} without a position; wanted position=(source, bytes) with it")
    if expect is not None and not isinstance(expect, (bytes, bytearray)):
        raise InputError(f"expect: got {describe(expect)}, wanted bytes, or None where no position is stored yet")
    return None if expect is None else bytes(expect)


def require_expected(positions: Mapping[str, bytes], position: tuple[str, bytes] | None, expect: Expected) -> None:
    """Raises PositionError unless the source is at what the caller expects it to be at."""
    if position is None or expect is ...:
        return
    stored = positions.get(position[0])
    if stored != expect:
        there, wanted = ("none" if x is None else shown(x, 200) for x in (stored, expect))
        raise PositionError(f"position: {shown(position[0])} has {there}, expected {wanted}; nothing was learned")
