"""Ways to change a model directory, each a function (path, rng): some as accidents do, some as only a forger can.

DAMAGE changes bytes and files: checksums then tell, so what opens must be right. FORGERY puts the checksums right
again, so the content itself is what arrives: wrong numbers, wrong texts, wrong order. Nothing can tell a good forgery
from the truth; what is asked of the engine is that it refuses or goes on, and nothing else.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

import engine
from engine.backend import native
from engine.log.record import _CRC, _HEADER, HEADER_BYTES, parse_header
from engine.table import cold_file
from engine.table.cold_file import lock_file

PAGE = 4096
TELLING = [0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 255, 256, 65_535, 65_536, 65_537, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
TELLING += [2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]

Mutator = Callable[[Path, random.Random], None]


def apply(mutators: list[Mutator], path: Path, rng: random.Random) -> str:
    """One to three of the mutators on a directory; returns their names."""
    chosen = [rng.choice(mutators) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    for mutate in chosen:
        mutate(path, rng)
    return " ".join(mutate.__name__ for mutate in chosen)


def segments(path: Path) -> list[Path]:
    return sorted((path / "log").glob("*.log"))


def data_file(path: Path) -> Path:
    return newest_data_file(path / "rows")


def newest_data_file(rows: Path) -> Path:
    try:
        return cold_file.data_file(rows, cold_file.newest(rows))
    except engine.EngineError:  # it has been lost
        return cold_file.data_file(rows)


def _lmdb(path: Path) -> Any:
    return lmdb.open(os.fspath(data_file(path)), subdir=False, create=False, map_size=1 << 26, lib_version=0)


def _some_file(path: Path, rng: random.Random) -> Path:
    files = [*segments(path), data_file(path), data_file(path)]
    return rng.choice([file for file in files if file.is_file()] or [path / "LOCK"])


def _any_file(path: Path, rng: random.Random) -> Path:
    """A file of the directory, also one that is not there (any more); nothing that a folder has replaced."""
    files = [path / "LOCK", data_file(path), lock_file(data_file(path)), *segments(path)]
    return rng.choice([file for file in files if not file.is_dir()])


def _edit(file: Path, change: Callable[[bytearray], None]) -> None:
    if not file.is_file():
        return
    data = bytearray(file.read_bytes())
    if data:
        change(data)
    file.write_bytes(data)


# --- accidents


def flip_bits(path: Path, rng: random.Random) -> None:
    def change(data: bytearray) -> None:
        for _ in range(rng.choice([1, 1, 2, 30])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)

    _edit(_some_file(path, rng), change)


def write_number(path: Path, rng: random.Random) -> None:
    """A telling number over two, four or eight bytes, often in a header."""

    def change(data: bytearray) -> None:
        size = rng.choice([2, 4, 8])
        at = rng.choice([rng.randrange(len(data)), rng.randrange(min(len(data), 200))])
        if rng.random() < 0.4:
            at = rng.randrange(max(1, len(data) // PAGE)) * PAGE + rng.randrange(32)
        at = min(at & ~1, max(0, len(data) - size))
        data[at : at + size] = (rng.choice(TELLING) % 2 ** (8 * size)).to_bytes(size, "little")

    _edit(_some_file(path, rng), change)


def zero_block(path: Path, rng: random.Random) -> None:
    def change(data: bytearray) -> None:
        size = rng.choice([1, 64, 512, PAGE])
        at = rng.randrange(len(data)) // size * size
        data[at : at + size] = bytes(len(data[at : at + size]))

    _edit(_some_file(path, rng), change)


def truncate(path: Path, rng: random.Random) -> None:
    file = _some_file(path, rng)
    size = file.stat().st_size
    os.truncate(file, rng.choice([rng.randrange(size + 1), size // PAGE * PAGE, max(0, size - rng.randrange(200))]))


def extend(path: Path, rng: random.Random) -> None:
    file = _some_file(path, rng)
    with file.open("ab") as f:
        f.write(rng.choice([bytes(rng.randrange(9000)), rng.randbytes(rng.randrange(9000)), file.read_bytes()[-5000:]]))


def move_page(path: Path, rng: random.Random) -> None:
    """A block over another, or the two swapped."""

    def change(data: bytearray) -> None:
        size = rng.choice([8, 64, 512, PAGE, PAGE])
        blocks = max(1, len(data) // size)
        a, b = (rng.randrange(blocks) * size for _ in "ab")
        if len(data) >= max(a, b) + size:
            first, second = data[a : a + size], data[b : b + size]
            data[a : a + size] = second
            if rng.random() < 0.5:
                data[b : b + size] = first

    _edit(_some_file(path, rng), change)


def lose_a_file(path: Path, rng: random.Random) -> None:
    file = _any_file(path, rng)
    file.unlink(missing_ok=True)


def replace_a_file(path: Path, rng: random.Random) -> None:
    """By a pipe, a folder, a link to nothing, an empty file, or another file of the directory."""
    file = _any_file(path, rng)
    others = [other for other in (data_file(path), *segments(path)) if other.is_file() and other != file]
    content = rng.choice(others).read_bytes() if others else b""
    file.unlink(missing_ok=True)
    how = rng.randrange(5)
    if how == 0:
        os.mkfifo(file)
    elif how == 1:
        file.mkdir()
    elif how == 2:
        file.symlink_to(path / "nowhere")
    else:
        file.write_bytes(content if how == 3 else b"")


def rename_a_segment(path: Path, rng: random.Random) -> None:
    if not (files := [file for file in segments(path) if file.is_file()]):
        return
    file = rng.choice(files)
    name = f"{rng.choice([0, 1, 2, int(file.name[:20]) + 1, 2**62, 10**20 - 1]):020d}.log"
    if rng.random() < 0.5:
        shutil.copyfile(file, path / "log" / "copy")
        (path / "log" / "copy").rename(path / "log" / name)
    else:
        file.rename(path / "log" / name)


DAMAGE = [flip_bits, flip_bits, write_number, write_number, zero_block, truncate, extend, move_page, move_page]
DAMAGE += [lose_a_file, replace_a_file, rename_a_segment]


# --- forgeries


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
        fields[at] = value % 2 ** (8 * [0, 0, 2, 2, 4, 8, 8, 8, 8, 4, 4, 4, 2, 2][at])
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


def forge_settings(path: Path, rng: random.Random) -> None:
    def change(records: list[bytes]) -> None:
        holding = [i for i, r in enumerate(records) if _HEADER.unpack(r[:HEADER_BYTES])[13]]
        if not holding:
            return
        i = rng.choice(holding)
        fields = list(_HEADER.unpack(records[i][:HEADER_BYTES]))
        whole = records[i][HEADER_BYTES:].rstrip(b"\0")
        end, start = len(whole), len(whole) - fields[13]
        text = forged_json(whole[start:end], rng)[:60_000]
        body = whole[:start] + text
        body += bytes(-len(body) % 8)
        fields[13], fields[4] = len(text), HEADER_BYTES + len(body)
        records[i] = sealed(_HEADER.pack(*fields) + body)

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


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    0.5,
    -0.0,
    2**31,
    2**32,
    2**53,
    2**63,
    2**200,
    -(2**63),
    1e300,
    math.inf,
    math.nan,
]
HOSTILE += ["", "x", "ff", "\ud800", [], [1], {}, {"a": 1}, [[[[]]]], "adagrad", "bpr"]


def forged_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with one thing in it replaced, lost or added; sometimes no JSON at all."""
    if rng.random() < 0.1:
        return rng.choice([b"", b"{", b"null", b"[" * 50_000, b"\xff\xfe", b"1e999", b"{}", text + text])
    try:
        tree = json.loads(text)
    except ValueError:
        return text
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            visit(node[key])

    visit(tree)
    if not places:
        return json.dumps(rng.choice(HOSTILE)).encode()
    node, key = rng.choice(places)
    how = rng.random()
    if how < 0.75:
        node[key] = rng.choice([*HOSTILE, *([node[key] + 1, node[key] - 1] if type(node[key]) is int else [])])
    elif how < 0.9:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(["new", "", "seed", "lr"])] = rng.choice(HOSTILE)
    return json.dumps(tree).encode()


def forge_rows(path: Path, rng: random.Random) -> None:
    """Keys and values of LMDB changed through LMDB, their CRCs right: what only the meaning can give away."""
    if not data_file(path).is_file():
        return
    try:
        env = _lmdb(path)
    except lmdb.Error:
        return
    with env, env.begin(write=True) as txn:
        pairs = [(bytes(k), bytes(v)) for k, v in txn.cursor()]
        table = rng.choice([0, 0, 1, 2, 3])
        mine = [pair for pair in pairs if pair[0][:1] == bytes([table])]
        if not mine:
            return
        key, value = rng.choice(mine)
        payload = value[:-4]
        txn.delete(key)
        how = rng.random()
        if how < 0.6:
            if key in (b"\0state", b"\0created"):
                payload = forged_json(payload, rng)
            elif how < 0.4 and payload:
                size = rng.choice([1, 4, 8])
                at = min(rng.randrange(len(payload)) & ~(size - 1), max(0, len(payload) - size))
                new = (rng.choice(TELLING) % 2 ** (8 * size)).to_bytes(size, "little")
                payload = (payload[:at] + new + payload[at + size :])[: len(payload)]
            else:
                payload = rng.choice([b"", payload[:-1], payload + b"\0", payload * 2, payload[: len(payload) // 2]])
        elif how < 0.85:
            at = rng.choice([1, len(key) - 1, rng.randrange(len(key))])
            changed = bytearray(key)
            changed[at] = rng.choice([0, 1, 16, 255, 0x80, rng.randrange(256)])
            key = rng.choice([bytes(changed), key + b"\0", key[:-1] or b"\1", key[:1] + b"\x7f" + b"\xff" * 7])
        elif how < 0.95:
            return  # it is lost
        if how >= 0.95:
            txn.put(key, value)
            key = key[:9] + bytes([rng.randrange(256)])
        if len(payload) < 100_000:
            txn.put(key, payload + _CRC.pack(native.crc32c(payload, native.crc32c(key))))


FORGERY = [forge_a_header, forge_a_body, forge_settings, move_records, forge_rows, forge_rows, forge_rows]


def put_pairs(path: Path, pairs: dict[bytes, bytes | None]) -> None:
    """Writes payloads under keys of LMDB, sealed, or deletes where None."""
    with (
        _lmdb(path) as env,
        env.begin(write=True) as txn,
    ):
        for key, payload in pairs.items():
            if payload is None:
                txn.delete(key)
            else:
                txn.put(key, payload + _CRC.pack(native.crc32c(payload, native.crc32c(key))))


def get_payload(path: Path, key: bytes) -> bytes:
    with _lmdb(path) as env, env.begin() as txn:
        return bytes(txn.get(key))[:-4]
