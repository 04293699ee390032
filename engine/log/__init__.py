"""What happened, in order: an append-only log of events, and what crashes leave of it. FORMAT.md has the bytes."""

from ..contract.arguments import MAX_EVENTS
from .log import Log, LogSummary, verify
from .record import Record
from .segment import Owner

__all__ = ["MAX_EVENTS", "Log", "LogSummary", "Owner", "Record", "verify"]
