"""Ways to change a log as only a forger can, each a function (path, rng): the checksums of its records are right again.

forgeries.py says what that is for, and has the rest of a directory.
"""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.contract.arguments import MAX_EVENTS
from engine.log.encoding import _CRC, _HEADER, HEADER_BYTES, parse_header
from engine.log.parts import OPERATIONS
from engine.machine.backend import native

from .hostile import forged_json
from .mutators import TELLING, segments


def _records(file: Path) -> list[bytes]:
    data, out, at = file.read_bytes(), [], 0
    while (header := parse_header(data[at : at + HEADER_BYTES], at)) is not None:
        out.append(data[at : at + header.length])
        at += header.length
    return out


def sealed(record: bytes) -> bytes:
    """The record with its crc put right."""
    return record[:4] + _CRC.pack(native.crc32c(record[8:])) + record[8:]


def _rewrite(path: Path, rng: random.Random, change: Callable[[list[bytes]], None]) -> None:
    """Changes the records of a segment and puts their offsets right, mostly."""
    if not (files := [file for file in segments(path) if file.is_file()]):
        return
    file = rng.choice(files)
    records = _records(file)
    if not records:
        return
    change(records)
    out, honest = b"", rng.random() < 0.9
    for record in records:
        if honest and len(record) >= HEADER_BYTES:
            record = sealed(record[:16] + len(out).to_bytes(8, "little") + record[24:])
        out += record
    file.write_bytes(out)


def forge_a_header(path: Path, rng: random.Random) -> None:
    def change(records: list[bytes]) -> None:
        i = rng.randrange(len(records))
        fields = list(_HEADER.unpack(records[i][:HEADER_BYTES]))
        at = rng.randrange(2, len(fields))
        value = rng.choice([*TELLING, fields[at] + 1, max(0, fields[at] - 1)])
        fields[at] = value % 2 ** (8 * [0, 0, 2, 2, 4, 8, 8, 8, 8, 4, 4, 8][at])
        records[i] = sealed(_HEADER.pack(*fields) + records[i][HEADER_BYTES:])

    _rewrite(path, rng, change)


def forge_a_body(path: Path, rng: random.Random) -> None:
    def change(records: list[bytes]) -> None:
        i = rng.randrange(len(records))
        body = bytearray(records[i][HEADER_BYTES:])
        if body:
            at = rng.randrange(len(body)) & ~rng.choice([0, 3, 7])
            new = rng.choice([b"\xff" * 8, bytes(8), rng.randbytes(8), rng.randbytes(1), b"\xff", b"[" * 40])
            body[at : at + len(new)] = new[: len(body) - at]
        records[i] = sealed(records[i][:HEADER_BYTES] + bytes(body))

    _rewrite(path, rng, change)


def _texts_at(record: bytes) -> int:
    """Where in a record of version 2 the lengths of its texts stand; 0 if it has none."""
    fields = _HEADER.unpack(record[:HEADER_BYTES])
    columns, count = fields[3], fields[9]
    at = HEADER_BYTES + count * (16 + 8 * bool(columns & 4) + 4 * bool(columns & 1) + 4 * bool(columns & 2))
    return at if columns & 24 and at + 8 <= len(record) else 0


def _with_body(record: bytes, body: bytes, columns: int) -> bytes:
    """The record with another body, its length and crc put right."""
    body += bytes(-len(body) % 8)
    head = record[:10] + struct.pack("<HI", columns % 2**16, HEADER_BYTES + len(body)) + record[16:HEADER_BYTES]
    return sealed(head + body)


def forge_settings(path: Path, rng: random.Random) -> None:
    """Another text of settings, or lengths of texts that are not theirs."""

    def change(records: list[bytes]) -> None:
        holding = [i for i, r in enumerate(records) if len(r) >= HEADER_BYTES and _texts_at(r)]
        if not holding:
            return
        i = rng.choice(holding)
        record, at = records[i], _texts_at(records[i])
        position, source, settings = struct.unpack_from("<IHH", record, at)
        columns = _HEADER.unpack(record[:HEADER_BYTES])[3]
        texts = record[at + 8 :]
        start = source + position
        if rng.random() < 0.7:
            text = forged_json(texts[start : start + settings], rng)[:60_000]
            columns, settings, texts = columns | 16, len(text), texts[:start] + text
        else:
            lengths = [position, source, settings]
            n = rng.randrange(3)
            lengths[n] = rng.choice([*TELLING, lengths[n] + 1, max(0, lengths[n] - 1)]) % 2 ** [32, 16, 16][n]
            position, source, settings = lengths
            columns = rng.choice([columns, columns, columns ^ 8, columns ^ 16, columns & ~24])
        head = struct.pack("<IHH", position, source, settings)
        records[i] = _with_body(record, record[HEADER_BYTES:at] + head + texts, columns)

    _rewrite(path, rng, change)


def _named(code: int, name: bytes, data: bytes, length: int) -> bytes:
    head = struct.pack("<BBHI", code, len(name) % 256, 0, length % 2**32)
    return head + name + bytes(-len(name) % 8) + data + bytes(-len(data) % 8)


def forge_named_parts(path: Path, rng: random.Random) -> None:
    """Columns and operations behind what a record has: unknown ones, lengths that lie, several, of any code."""

    def change(records: list[bytes]) -> None:
        i = rng.randrange(len(records))
        record = records[i]
        if len(record) < HEADER_BYTES:
            return
        columns, parts = _HEADER.unpack(record[:HEADER_BYTES])[3], b""
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            code = rng.choice([0, 0, 1, 2, 3, 6, 7, 8, 127, 128, 129, 135, 255])
            names = [*(name.encode() for name in OPERATIONS), b"users", b"session", b"x" * 8, b"y" * 255, b"", b"\xff"]
            data = rng.randbytes(rng.choice([0, 0, 4, 8, 240, 60_000]))
            length = rng.choice([len(data)] * 6 + [len(data) + 1, max(0, len(data) - 1), *TELLING])
            parts += _named(code, rng.choice(names), data, length)
        if rng.random() < 0.2:
            parts = rng.choice([b"", parts[:-8], parts[:4], parts + bytes(8), b"\xff" * 16])
        columns = rng.choice([columns | 32, columns | 256, columns | 288, 32, 256, columns])
        records[i] = _with_body(record, record[HEADER_BYTES:] + parts, columns)

    _rewrite(path, rng, change)


def forge_a_version(path: Path, rng: random.Random) -> None:
    """Records that say that they are of another version: some of them are what version 1 wrote."""

    def change(records: list[bytes]) -> None:
        version = rng.choice([1, 1, 1, 1, 0, 3, 65_535])
        for i, record in enumerate(records):
            if len(record) >= HEADER_BYTES and rng.random() < rng.choice([0.2, 1]):
                fields = list(_HEADER.unpack(record[:HEADER_BYTES]))
                fields[2] = version
                at, body = _texts_at(record), record[HEADER_BYTES:]
                if version == 1:
                    fields[11] = int.from_bytes(record[at : at + 8], "little") if at else 0
                    body = record[HEADER_BYTES:at] + record[at + 8 :] if at else body
                records[i] = _with_body(_HEADER.pack(*fields), body, fields[3])

    _rewrite(path, rng, change)


def forge_an_id(path: Path, rng: random.Random) -> None:
    """Another directory's records: one, or all of a segment."""

    def change(records: list[bytes]) -> None:
        id = rng.choice([0, 1, 2**63, 2**64 - 1, rng.getrandbits(64)])
        some = rng.choice([0.2, 1])
        for i, record in enumerate(records):
            if len(record) >= HEADER_BYTES and rng.random() < some:
                records[i] = sealed(record[:56] + id.to_bytes(8, "little") + record[HEADER_BYTES:])

    _rewrite(path, rng, change)


def move_records(path: Path, rng: random.Random) -> None:
    def change(records: list[bytes]) -> None:
        i, j = (rng.randrange(len(records)) for _ in "ij")
        how = rng.randrange(4)
        if how == 0:
            records[i], records[j] = records[j], records[i]
        elif how == 1:
            records.insert(j, records[i])
        elif how == 2:
            del records[i]
        else:
            records[i] = rng.randbytes(8 * rng.randrange(1, 30))

    _rewrite(path, rng, change)


def forge_operation(path: Path, rng: random.Random) -> None:
    """A record of an operation: of other ids or another source, of another kind, of several, with what goes with
    events, at the end or in between."""

    def change(records: list[bytes]) -> None:
        i = rng.randrange(len(records))
        fields = list(_HEADER.unpack(records[i][:HEADER_BYTES]))
        n = rng.choice([0, 0, 1, 2, 3, 40, MAX_EVENTS, MAX_EVENTS + 1])
        known = [*range(-2, 60), 1000, 1100, 2**63 - 1, -(2**63)]
        columns = [np.array(rng.choices(known, k=n) if rng.random() < 0.8 else [-1] * n, "<i8") for _ in range(2)]
        body = b"".join(column.tobytes() for column in columns)
        bits = rng.choice([32, 32, 32, 32, 32, 64, 96, 33, 34, 256 + 32, 40, 40, 40, 48])
        name = rng.choice([*OPERATIONS, "forget", "forget", "merge", ""]).encode()
        body += bytes(4 * n) if bits & 3 else b""
        if bits & 24:
            source, position = rng.choice([b"a", b"a", b"other", b""]), rng.choice([b"", b"", b"", b"41"])
            body += struct.pack("<IHH", len(position), len(source), 0) + source + position
        body += bytes(-len(body) % 8) + _named(0, name, b"", 0)
        fields[3], fields[4], fields[9] = bits, HEADER_BYTES + len(body), n
        fields[10] = rng.choice([fields[10], 0, 2**32 - 1])
        fields[7] += rng.choice([0, 0, 0, 0, 1, fields[9]])
        forged = sealed(_HEADER.pack(*fields) + body)
        if rng.random() < 0.5:
            records[i] = forged
        else:
            records.insert(i + rng.randrange(2), forged)

    _rewrite(path, rng, change)


FORGED_LOGS = [forge_a_header, forge_a_body, forge_settings, move_records, forge_operation, forge_operation]
FORGED_LOGS += [forge_named_parts, forge_a_version, forge_an_id]
