"""What can be trusted of the bytes on disk: segments found, read, and judged whole, torn or corrupt as FORMAT.md says.

Reads only; cutting a torn tail and everything else that changes a file is log.py's. Memory is bounded by a record while
records are whole, and by a segment while looking for whole ones behind damage. Any thread, as long as nobody cuts or
drops segments meanwhile.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from ..contract.errors import CorruptionError, EngineError
from ..machine.files import AnyFile, AnyFolder, as_engine_error
from .encoding import HEADER_BYTES, MAGIC, Header, is_whole, parse_header, require_readable

_NAME = re.compile(r"([0-9]{20})\.log")
_READ_AHEAD = 1 << 18
_SEARCH_BYTES = 1 << 20  # a multiple of 8


class Owner(NamedTuple):
    """The directory that a log belongs to, as its state says.

    `directory_id`: in every record of version 2; 0 for a directory of format 1, whose log has none. Records of version
    1, which name no directory, may stand up to event `version_1_through`: -1 for nowhere.
    """

    directory_id: int
    version_1_through: int = -1

    def require_version_1(self, header: Header, path: AnyFile) -> None:
        """CorruptionError for a whole record that does not name this directory, unless it is a version 1 that may."""
        found = header.directory_id
        if found is None and header.last_seq <= self.version_1_through:
            return
        theirs = "no directory, as in format 1" if found is None else f"directory {found:016x}"
        ours = f"directory {self.directory_id:016x}" if self.directory_id else "a directory of format 1, without an id"
        raise CorruptionError(
            f"the log has a record of {theirs}, but the rows are those of {ours}",
            file=str(path),
            offset=header.offset,
            seq=header.first_seq,
        )


@dataclass(slots=True)
class Segment:
    """One file of the log, as far as its records are whole. The writer keeps the last one's numbers up to date."""

    path: AnyFile
    first_seq: int  # its name
    last_seq: int  # of its last event; first_seq - 1 without one
    reach: int = 0  # the highest `Header.reach` of its records: replay after this or later needs none of them
    size: int = 0  # bytes of whole records
    synced_bytes: int = 0  # of these, known durable by the last of them
    records: int = 0
    torn_bytes: int = 0  # that follow them

    def add(self, header: Header) -> None:
        """Count one more whole record."""
        self.last_seq, self.reach = header.last_seq, header.reach
        self.synced_bytes = header.synced_bytes
        self.size += header.length
        self.records += 1


def segment_name(first_seq: int) -> str:
    """File name of the segment that begins with event `first_seq`."""
    return f"{first_seq:020d}.log"


def segments_in(directory: AnyFolder) -> list[str]:
    """The names of the segments, in order."""
    return sorted(name for name in os.listdir(directory) if _NAME.fullmatch(name))


def open_segment(path: AnyFile) -> BinaryIO:
    """The file for reading; a symbolic link is refused with OSError, what is no file with CorruptionError."""
    # O_NONBLOCK: a pipe would wait for its writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptionError("a log segment is not a regular file", file=str(path))
    return os.fdopen(descriptor, "rb", buffering=_READ_AHEAD)


def read_records(file: BinaryIO, path: AnyFile, next_seq: int, end: int) -> Iterator[tuple[Header, bytes]]:
    """The whole records from the start of the file to the first bad place or to byte `end`, as (header, body).

    Raises CorruptionError where a whole record does not begin with the seq that the one before calls for, or its parts
    do not add up; EngineError where there is something in it that this release does not know.
    """
    offset = 0
    while offset < end and (whole := _read_whole(file, path, offset)) is not None:
        header = whole[0]
        if header.first_seq != next_seq:
            message = f"a log record begins with event {header.first_seq:,} where {next_seq:,} is due"
            raise CorruptionError(message, file=str(path), offset=offset, seq=next_seq)
        yield whole
        offset += header.length
        next_seq = header.last_seq + 1


def last_seq_in(directory: AnyFolder) -> int:
    """Seq of the last whole record, also beside a writer: reads the last segment alone, and changes nothing.

    Raises CorruptionError, and EngineError where the log cannot be read.
    """
    try:
        while True:
            names = segments_in(directory)
            if not names:
                raise CorruptionError("a log without a segment", file=str(directory))
            path, last_seq = directory / names[-1], int(names[-1][:20]) - 1
            try:
                with open_segment(path) as file:
                    for header, _ in read_records(file, path, last_seq + 1, os.fstat(file.fileno()).st_size):
                        last_seq = header.last_seq
                return last_seq
            except FileNotFoundError:  # the writer has begun another one, and has dropped this one
                continue
    except OSError as error:
        if isinstance(error, EngineError):
            raise
        raise as_engine_error(f"cannot read the log {directory}", error) from error


def survey(directory: AnyFolder, owner: Owner | None, known_durable_seq: int | None) -> list[Segment]:
    """All segments in order, every byte read. Only the last one may have torn bytes; it may have no record.

    `owner`: whose log it must be; `known_durable_seq`: the last event that LMDB holds. None: not held against the log.
    Raises CorruptionError where anything that was durable once is not whole now, or of another directory; EngineError
    where there is something in it that this release does not know; OSError when a file cannot be read.
    """
    names = segments_in(directory)
    if not names:
        raise CorruptionError("a log without a segment", file=str(directory))
    segments: list[Segment] = []
    next_seq = first_seq = int(names[0][:20])
    for number, name in enumerate(names, 1):
        if int(name[:20]) != next_seq:
            message = f"the log goes on with segment {name} where event {next_seq:,} is due"
            raise CorruptionError(message, file=str(directory), seq=next_seq)
        segment = Segment(directory / name, next_seq, next_seq - 1, next_seq - 1)
        _survey_segment(segment, owner, known_durable_seq, number == len(names))
        segments.append(segment)
        next_seq = segment.last_seq + 1
    if known_durable_seq is None:
        return segments
    if next_seq - 1 < known_durable_seq:
        message = (
            f"LMDB is ahead of its log: it holds events up to {known_durable_seq:,}, the log ends at {next_seq - 1:,}"
        )
        raise CorruptionError(message, file=str(segments[-1].path), offset=segments[-1].size, seq=next_seq)
    if first_seq > known_durable_seq + 1:
        message = f"the log begins with event {first_seq:,}, but LMDB holds events up to {known_durable_seq:,} only"
        raise CorruptionError(message, file=str(segments[0].path), offset=0, seq=known_durable_seq + 1)
    return segments


def _survey_segment(segment: Segment, owner: Owner | None, known_durable_seq: int | None, is_last: bool) -> None:
    path = segment.path
    with open_segment(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        for header, _ in read_records(file, path, segment.first_seq, file_bytes):
            if owner is not None and header.directory_id != owner.directory_id:
                owner.require_version_1(header, path)
            segment.add(header)
        bad, bad_seq = segment.size, segment.last_seq + 1
        if bad == file_bytes:
            return
        why = None
        if not is_last:
            why = "a later segment proves that it was durable"
        elif known_durable_seq is not None and bad_seq <= known_durable_seq:
            why = f"LMDB holds events up to {known_durable_seq:,}"
        elif (witness := _find_witness(file, path, bad, file_bytes)) is not None:
            why = f"a later record says that events up to {witness.synced_seq:,} were durable"
        if why:
            raise CorruptionError(f"the log is damaged; {why}", file=str(path), offset=bad, seq=bad_seq)
    segment.torn_bytes = file_bytes - bad


def _read_whole(file: BinaryIO, path: AnyFile, offset: int) -> tuple[Header, bytes] | None:
    """The whole record at `offset`, where the file stands, as (header, body); None if there is none."""
    head = file.read(HEADER_BYTES)
    header = parse_header(head, offset)
    if header is None:
        return None
    body = file.read(header.length - HEADER_BYTES)
    if not is_whole(header, head, body):
        return None
    try:
        require_readable(header, body)
    except CorruptionError as error:
        raise CorruptionError(str(error), file=str(path), offset=offset) from error
    except EngineError as error:
        raise EngineError(f"{path}, offset {offset}: {error}") from error
    return header, body


def _find_witness(file: BinaryIO, path: AnyFile, bad: int, end: int) -> Header | None:
    """The first whole record after `bad` that knew `bad` to be durable."""
    for start in range(bad, end, _SEARCH_BYTES):
        file.seek(start)
        chunk = file.read(_SEARCH_BYTES)
        found = chunk.find(MAGIC)
        while found >= 0:
            if found % 8 == 0 and start + found > bad:
                file.seek(start + found)
                whole = _read_whole(file, path, start + found)
                if whole is not None and whole[0].synced_bytes > bad:
                    return whole[0]
            found = chunk.find(MAGIC, found + 1)
    return None
