"""The event log of a model directory: append, sync, replay, drop, empty. FORMAT.md has the whole story.

Responsible for every change to the log's files, and for what is on disk when each call returns. Not responsible for
what records mean, nor for when to sync or drop.

Invariants: only the last segment can have bytes that are not durable. The file ends where the last accepted record
ends, or the log has failed and takes nothing more. `synced_seq` never runs ahead of the disk.

Threads: one at a time, save that `drop_through` or `replay` may run beside `append` and `sync`, and the properties
may be read anywhere.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..contract import logger
from ..contract.errors import CorruptionError, EngineError
from ..machine.files import NO_ROOM, AnyFile, AnyFolder, AnyPath, Folder, as_engine_error, sync_directory
from .encoding import decode_record, encode_record
from .record import Record
from .segment import Owner, Segment, open_segment, read_records, segment_name, survey

SEGMENT_BYTES = 64 << 20
_COPY_BYTES = 1 << 20
# Stands while file and numbers may disagree, so that a KeyboardInterrupt at the wrong place leaves a log that has
# failed rather than one that writes records where they will not be found.
_INTERRUPTED = "an append was interrupted"


class LogSummary(NamedTuple):
    """What `verify` saw. Without an event `last_seq` is the one before `first_seq`; `torn_bytes` are not in `bytes`."""

    first_seq: int
    last_seq: int
    records: int
    bytes: int
    torn_bytes: int


class Log:
    """A log open for writing. Made by `Log.create` or `Log.open`; ends with `close`."""

    def __init__(self, directory: Folder, directory_id: int, segments: list[Segment], tail: int, segment_bytes: int):
        """For `create` and `open`, with everything in `segments` durable and `tail` the last one's descriptor."""
        self._directory = directory
        self._directory_id = directory_id
        self._segments = segments
        self._tail = tail
        self._segment_bytes = segment_bytes
        self._last_seq = self._synced_seq = segments[-1].last_seq
        self._synced_bytes = segments[-1].size  # of the last segment
        self._directory_synced, self._drop_unsynced = True, False
        self._appended_bytes = self._appended_records = 0
        self._failure: str | None = None  # why nothing more is taken
        self._writing: tuple[int, int] | None = None  # where the record under way will end, and with which event

    @classmethod
    def create(cls, directory: Path, directory_id: int, next_seq: int = 1, segment_bytes: int = SEGMENT_BYTES) -> "Log":
        """Make the directory, which must not be there, with an empty log whose first event will be `next_seq`; durable.

        `directory_id`: of the model directory, not 0; every record will say it. Raises StorageFullError, or EngineError
        when the directory cannot be made.
        """
        try:
            os.mkdir(directory, 0o700)
            held = Folder(directory)
            segment = Segment(held / segment_name(next_seq), next_seq, next_seq - 1, next_seq - 1)
            tail = _open_tail(segment.path, os.O_CREAT | os.O_EXCL)
            try:
                os.fsync(tail)
                sync_directory(held)
                sync_directory(directory.absolute().parent)
                return cls(held, directory_id, [segment], tail, segment_bytes)
            except BaseException:
                os.close(tail)
                raise
        except OSError as error:
            raise as_engine_error(f"cannot create the log {directory}", error) from error

    @classmethod
    def open(
        cls, directory: AnyPath, owner: Owner, *, segment_bytes: int = SEGMENT_BYTES, known_durable_seq: int
    ) -> "Log":
        """Open for writing: read every byte, cut a torn tail, make what is left durable.

        `owner`: whose log it must be; `known_durable_seq`: the last event that LMDB holds. Raises CorruptionError, with
        nothing touched, when something that was durable is damaged, missing or of another directory; EngineError when
        the files cannot be read or cut, or when they hold something that this release does not know.
        """
        try:
            held = Folder(directory)
            segments = survey(held, owner, known_durable_seq)
            last = segments[-1]
            tail = _open_tail(last.path)
            try:
                if last.torn_bytes:
                    os.ftruncate(tail, last.size)
                    last.torn_bytes = 0
                # A process that was killed may have left records, and the segment's name, in the page cache alone.
                _write_again(last)
                os.fsync(tail)
                sync_directory(held)
                return cls(held, owner.directory_id, segments, tail, segment_bytes)
            except BaseException:
                os.close(tail)
                raise
        except OSError as error:
            raise as_engine_error(f"cannot open the log {directory}", error) from error

    @property
    def first_seq(self) -> int:
        """Seq that the log begins with, be there an event or not."""
        return self._segments[0].first_seq

    @property
    def last_seq(self) -> int:
        """Seq of the last event appended; the one before the log's first if there is none."""
        return self._last_seq

    @property
    def synced_seq(self) -> int:
        """Seq of the last event that is known to survive power loss."""
        return self._synced_seq

    @property
    def bytes(self) -> int:
        """Bytes on disk, all segments together."""
        return sum(segment.size for segment in self._segments.copy())

    @property
    def appended_bytes(self) -> int:
        """Bytes appended since this log was opened or created; never falls."""
        return self._appended_bytes

    @property
    def appended_records(self) -> int:
        """Records appended since this log was opened or created."""
        return self._appended_records

    def append(self, record: Record) -> None:
        """Write one record: it survives SIGKILL when this returns, and power loss after the next `sync`.

        Raises InputError for a record that cannot be encoded; StorageFullError when there is no room: the log is as
        before, and goes on when there is room again; EngineError when the disk fails: nothing more is taken until the
        log is opened anew.
        """
        self._require_usable()
        if record.first_seq != self._last_seq + 1:
            raise EngineError(f"a record from event {record.first_seq:,} on, where {self._last_seq + 1:,} is due")
        segment = self._segments[-1]
        if segment.size >= self._segment_bytes and segment.last_seq >= segment.first_seq:
            segment = self._begin_segment()
        data = encode_record(
            record,
            directory_id=self._directory_id,
            offset=segment.size,
            synced_bytes=self._synced_bytes,
            synced_seq=self._synced_seq,
        )
        self._failure = _INTERRUPTED
        self._writing = segment.size + len(data), record.last_seq
        self._write(memoryview(data), segment)
        segment.last_seq = self._last_seq = record.last_seq
        segment.reach = max(record.first_seq, record.last_seq)
        segment.size += len(data)
        segment.records += 1
        self._appended_bytes += len(data)
        self._appended_records += 1
        self._failure = self._writing = None

    def settle(self, durable: bool) -> int:
        """The last event that the next opening finds, after an interrupt, too; synced first if `durable`."""
        held, sound = self._last_seq, self._failure in (None, _INTERRUPTED)
        try:
            if self._failure and sound and self._writing and os.fstat(self._tail).st_size >= self._writing[0]:
                held = self._writing[1]
            if durable and sound:
                os.fdatasync(self._tail) if self._failure else self.sync()
        except (OSError, EngineError):
            sound = False
        return held if sound else self._synced_seq

    def sync(self) -> None:
        """Make everything appended so far durable. May run on another thread while nobody appends.

        Raises EngineError when the disk fails: nothing more is taken until the log is opened anew, since what the
        kernel dropped can't be known.
        """
        self._require_usable()
        segment, seq = self._segments[-1], self._last_seq
        size = segment.size
        began = time.monotonic()
        try:
            if size != self._synced_bytes:
                os.fdatasync(self._tail)
            if not self._directory_synced:
                sync_directory(self._directory)
                self._directory_synced = True
        except OSError as error:
            raise self._fail(f"cannot sync {segment.path}", error) from error
        self._synced_bytes, self._synced_seq = size, seq
        if (took := time.monotonic() - began) >= logger.SLOW_SYNC_SECONDS:
            logger.LOGGER.warning("%s: the disk took %.1f s to make the log durable", self._directory, took)

    def replay(self, after_seq: int) -> Iterator[Record]:
        """Every record that a state at `after_seq` lacks, in order.

        Up to what has been appended when the first one is asked for. Those are the records with later events, and the
        records without events that stand behind event `after_seq`: the state may have them already, so applying one
        twice must be harmless. The first record may begin at or before `after_seq`: an epoch can end inside one. Raises
        CorruptionError when `after_seq` is before the log's beginning, or a record can no longer be read; EngineError
        when a file can't be.
        """
        segments = [(segment, segment.size) for segment in self._segments.copy()]
        first = segments[0][0]
        if after_seq < first.first_seq - 1:
            message = f"replay after event {after_seq:,} of a log that begins with {first.first_seq:,}"
            raise CorruptionError(message, file=str(first.path), offset=0, seq=after_seq + 1)
        for segment, size in segments:
            if segment.reach > after_seq:
                yield from _replay_segment(segment, size, after_seq)

    def drop_through(self, seq: int) -> None:
        """Delete the segments of which `replay(seq)` needs nothing, oldest first; never the last one.

        Raises EngineError when that fails. What is left of the log is whole; if it was the directory that could not be
        synced, nothing more is taken until the log is opened anew.
        """
        while len(self._segments) > 1 and self._segments[0].reach <= seq:
            self._drop_first()

    def _drop_first(self) -> None:
        if self._drop_unsynced:  # an interrupt came in between
            self._sync_drop()
        path = self._segments[0].path
        self._drop_unsynced = True
        try:
            with contextlib.suppress(FileNotFoundError):  # an interrupt came after it
                os.unlink(path)
        except OSError as error:
            self._drop_unsynced = False
            raise as_engine_error(f"cannot delete {path}", error) from error
        self._segments.pop(0)
        self._sync_drop()

    def _sync_drop(self) -> None:
        """After each one, so that no order of the disk's own can leave a gap between those that stay."""
        try:
            sync_directory(self._directory)
        except OSError as error:
            raise self._fail(f"cannot sync {self._directory}", error) from error
        self._drop_unsynced = False

    def empty(self) -> None:
        """Delete every record. Only when a state saved elsewhere, and durable, has all that they say.

        Whatever of it is done when it fails or is cut off, the log is whole; call it again. Raises StorageFullError, or
        EngineError when the disk fails.
        """
        self._require_usable()
        self.sync()
        if self._segments[-1].last_seq >= self._segments[-1].first_seq:
            self._begin_segment()
            try:
                os.fsync(self._tail)
            except OSError as error:
                raise self._fail(f"cannot sync {self._segments[-1].path}", error) from error
            self.sync()
        while len(self._segments) > 1:
            self._drop_first()
        segment = self._segments[-1]
        if segment.size == 0:
            return
        self._failure = _INTERRUPTED
        try:
            os.ftruncate(self._tail, 0)
            os.fsync(self._tail)
        except OSError as error:
            raise self._fail(f"cannot empty {segment.path}", error) from error
        segment.size = segment.records = segment.synced_bytes = self._synced_bytes = 0
        segment.reach = segment.last_seq
        self._failure = None

    def close(self) -> None:
        """Sync and close. A log that has failed is closed as it is. Closing twice is fine."""
        if self._tail < 0:
            return
        try:
            if self._failure is None:
                self.sync()
        finally:
            tail, self._tail = self._tail, -1  # first: no interrupt may have it closed twice
            os.close(tail)
            self._directory.close()
            self._failure = self._failure or "it is closed"

    def _require_usable(self) -> None:
        if self._failure is not None:
            raise EngineError(f"the log {self._directory} takes nothing more until it is opened anew: {self._failure}")

    def _fail(self, what: str, error: OSError) -> EngineError:
        self._failure = f"{what}: {error.strerror or error}"
        return EngineError(self._failure)  # no StorageFullError: one cannot free space and go on

    def _write(self, data: memoryview, segment: Segment) -> None:
        try:
            while data:
                written = os.write(self._tail, data)
                if written == 0:
                    raise OSError(errno.EIO, "nothing was written")
                data = data[written:]
        except BaseException as error:  # also KeyboardInterrupt, between two short writes
            try:
                os.ftruncate(self._tail, segment.size)
            except OSError as failed_cut:
                raise self._fail(f"cannot cut {segment.path} back to byte {segment.size}", failed_cut) from error
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise self._fail(f"cannot append to {segment.path}", error) from error
            self._failure = None
            if isinstance(error, OSError):
                raise as_engine_error(f"cannot append to {segment.path}", error) from error
            raise

    def _begin_segment(self) -> Segment:
        # The old segment, name and content, must be durable before a new one can be seen: see FORMAT.md.
        self.sync()
        next_seq = self._last_seq + 1
        segment = Segment(self._directory / segment_name(next_seq), next_seq, self._last_seq, self._last_seq)
        try:
            tail = _open_tail(segment.path, os.O_CREAT | os.O_EXCL)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise as_engine_error(f"cannot make {segment.path}", error) from error
            raise self._fail(f"cannot make {segment.path}", error) from error
        self._failure = _INTERRUPTED
        old, self._tail = self._tail, tail
        self._directory_synced = False
        self._synced_bytes = 0
        self._segments.append(segment)
        self._failure = None
        os.close(old)
        return segment


def verify(directory: AnyFolder, owner: Owner | None = None, *, known_durable_seq: int | None = None) -> LogSummary:
    """Read every byte, change nothing.

    `owner`, `known_durable_seq`: as for `Log.open`, if they are to be held against the log. Raises what that would.
    """
    try:
        segments = survey(directory, owner, known_durable_seq)
    except OSError as error:
        raise as_engine_error(f"cannot read the log {directory}", error) from error
    return LogSummary(
        segments[0].first_seq,
        segments[-1].last_seq,
        sum(segment.records for segment in segments),
        sum(segment.size for segment in segments),
        segments[-1].torn_bytes,
    )


def _replay_segment(segment: Segment, size: int, after_seq: int) -> Iterator[Record]:
    done = 0
    try:
        with open_segment(segment.path) as file:
            for header, body in read_records(file, segment.path, segment.first_seq, size):
                if header.reach > after_seq:
                    yield decode_record(header, body)
                done += header.length
    except OSError as error:
        raise as_engine_error(f"cannot read {segment.path}", error) from error
    if done != size:
        raise CorruptionError("a log record can no longer be read", file=str(segment.path), offset=done)


def _write_again(segment: Segment) -> None:
    """Writes what may not be durable once more, in place.

    If an fsync failed before, the kernel may hold these bytes as clean: the next fsync would succeed and write nothing.
    """
    descriptor = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        at = segment.synced_bytes
        while at < segment.size:
            written = os.pwrite(descriptor, os.pread(descriptor, min(_COPY_BYTES, segment.size - at), at), at)
            if written == 0:
                raise OSError(errno.EIO, "nothing was written")
            at += written
    finally:
        os.close(descriptor)


def _open_tail(path: AnyFile, make: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | make, 0o600)
