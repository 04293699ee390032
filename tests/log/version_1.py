"""Records of version 1, which the engine reads and does not write any more, written from FORMAT.md's description."""

import json
import struct

from engine.machine.backend import native


def encode_version_1(record, offset=0, synced_bytes=0, synced_seq=0):
    """The bytes that format 1 had for a record."""
    columns, body = 0, record.users.tobytes() + record.items.tobytes()
    for bit, column in ((4, record.timestamps), (1, record.values), (2, record.weights)):
        if column is not None:
            columns |= bit
            body += column.tobytes()
    source = position = settings = b""
    if record.position is not None:
        columns |= 8
        source, position = record.position[0].encode(), record.position[1]
    if record.settings is not None:
        columns |= 16
        settings = json.dumps(record.settings, sort_keys=True, separators=(",", ":")).encode()
    columns |= {None: 0, "hide": 32, "show": 64, "forget": 128}[record.operation]
    body += source + position + settings
    body += bytes(-len(body) % 8)
    header = struct.pack(
        "<HHIQQQQIIIHH",
        *(1, columns, 64 + len(body), offset, synced_bytes, record.first_seq, synced_seq, len(record.users)),
        *(record.batch_size, len(position), len(source), len(settings)),
    )
    return b"\x89RTL" + struct.pack("<I", native.crc32c(header + body)) + header + body
