"""The exceptions that the engine raises on purpose. Anything else that escapes is a bug.

Each also derives from the built-in that a caller who knows nothing of Rowtide would catch.
"""


class EngineError(Exception):
    """Base of all. `seq`: where a call failed after a part of it was accepted, the last event that was; else None."""

    seq: int | None = None


class InputError(EngineError, ValueError):
    """An argument is wrong: the message names it, what came and what was wanted. Nothing was changed."""


class ConfigError(EngineError, ValueError):
    """A setting is wrong, or differs from the one that the directory was created with."""


class UnknownIdError(EngineError, KeyError):
    """An id that has no row, where only known ids make sense."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""


class PositionError(EngineError, RuntimeError):
    """A source is not where the caller of `ingest` expects it: somebody else has read on. Nothing was changed."""


class ReadOnlyError(EngineError, PermissionError):
    """A write into something that may only be read."""


class BusyError(EngineError, BlockingIOError):
    """Another process writes this directory; `pid`: which one, None where the system does not say."""

    pid: int | None = None


class CorruptionError(EngineError, ValueError):
    """Bytes on disk are not what was written. Nothing was touched.

    `file`, `offset` and `seq` say where, as far as it is known.
    """

    def __init__(self, message: str, *, file: str | None = None, offset: int | None = None, seq: int | None = None):
        where = [f"file {file}" if file else "", f"offset {offset}" if offset is not None else ""]
        where += [f"seq {seq}" if seq is not None else ""]
        place = ", ".join(w for w in where if w)
        super().__init__(f"{message} ({place})" if place else message)
        self.file = file
        self.offset = offset
        self.seq = seq


class StorageFullError(EngineError, OSError):
    """No room on the disk (or in its quota). What was acknowledged before is safe; free space and go on."""


class DeviceError(EngineError, RuntimeError):
    """The compute device that was asked for is missing or failed."""
