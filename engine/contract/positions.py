"""Positions: how far a source was read, opaque bytes under the source's name; their checks. Any thread."""

from typing import Any

from .arguments import MAX_EVENTS, describe
from .errors import InputError

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
    pair = isinstance(position, tuple) and len(position) == 2
    if not pair or not isinstance(position[0], str) or not isinstance(position[1], (bytes, bytearray)):
        raise InputError(f"position: got {describe(position)}, wanted (source, bytes)")
    if events > MAX_EVENTS:
        raise InputError(
            f"position: got {events} events with it, wanted at most {MAX_EVENTS}: it must stand in one log record"
        )
    check_position(position[0], bytes(position[1]))
    return position[0], bytes(position[1])
