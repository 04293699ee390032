"""Ways to change a model directory as only a forger can, each a function (path, rng): its checksums are right again.

So the content itself is what arrives: wrong numbers, wrong texts, wrong order. Nothing can tell a good forgery from the
truth; what is asked of the engine is that it refuses or goes on, and nothing else. FORGERY is what is done to a
directory that nobody has open. UNTRUSTED adds what asks for much memory, and is for directories that are not trusted.
`forge_an_epoch` is for one beside a reader, and says nothing that is not true of the rows.
"""

import json
import math
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from engine.cold import changes
from engine.cold.file import data_file as generation_file
from engine.cold.file import lock_file
from engine.cold.keys import CHANGES, HIDDEN, ITEMS, meta_key
from engine.contract.arguments import MAX_EVENTS
from engine.log.record import _CRC, _HEADER, HEADER_BYTES, parse_header
from engine.machine.backend import native

from .mutators import TELLING, data_file, segments

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


def _lmdb(path: Path) -> Any:
    return lmdb.open(os.fspath(data_file(path)), subdir=False, create=False, map_size=1 << 26, lib_version=0)


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


# --- the log


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


def forged_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with one thing in it replaced, lost or added; sometimes no JSON at all."""
    if rng.random() < 0.1:
        return rng.choice([b"", b"{", b"null", b"[" * 50_000, b"\xff\xfe", b"1e999", b"{}", text + text])
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):  # another forger was here
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


def forge_operation(path: Path, rng: random.Random) -> None:
    """A record of hide, show or forget: of other ids, of another kind, of several, with what goes with events, at the
    end or in between."""

    def change(records: list[bytes]) -> None:
        i = rng.randrange(len(records))
        fields = list(_HEADER.unpack(records[i][:HEADER_BYTES]))
        n = rng.choice([0, 1, 2, 3, 40, MAX_EVENTS, MAX_EVENTS + 1])
        known = [*range(-2, 60), 1000, 1100, 2**63 - 1, -(2**63)]
        columns = [np.array(rng.choices(known, k=n) if rng.random() < 0.8 else [-1] * n, "<i8") for _ in range(2)]
        body = b"".join(column.tobytes() for column in columns)
        bits = rng.choice([32, 64, 128, 128, 128, 96, 224, 33, 34, 256 + 32])
        body += bytes(4 * n) if bits & 3 else b""
        body += bytes(-len(body) % 8)
        fields[3], fields[4], fields[9], fields[11:14] = bits, HEADER_BYTES + len(body), n, (0, 0, 0)
        fields[10] = rng.choice([fields[10], 0, 2**32 - 1])
        fields[7] += rng.choice([0, 0, 0, 0, 1, fields[9]])
        forged = sealed(_HEADER.pack(*fields) + body)
        if rng.random() < 0.5:
            records[i] = forged
        else:
            records.insert(i + rng.randrange(2), forged)

    _rewrite(path, rng, change)


# --- LMDB, through LMDB


def _rewrite_stored(path: Path, change: Callable[[dict[bytes, bytes]], dict[bytes, bytes | None]]) -> None:
    """Puts what `change` makes of all payloads by key: sealed, or deleted where None."""
    if not data_file(path).is_file():
        return
    try:
        with _lmdb(path) as env, env.begin() as txn:
            stored = {bytes(key): bytes(value)[:-4] for key, value in txn.cursor()}
    except lmdb.Error:
        return
    put_pairs(path, change(stored))


def _state(stored: dict[bytes, bytes]) -> Any:
    try:
        return json.loads(stored[meta_key("state")])
    except (KeyError, ValueError, RecursionError):
        return None  # another forger was here


def forge_a_part_of_the_state(path: Path, rng: random.Random) -> None:
    """Of the parts that belong to removal and admission, and the number of the epoch."""
    sketch = native.SKETCH_BYTES
    blobs = {
        "sightings": [
            b"",
            bytes(sketch),
            b"\xff" * sketch,
            rng.randbytes(64) * (sketch // 64),
            bytes(sketch - 1),
            b"x",
        ],
        "decided": [rng.choice([b"\0", b"\1", b"\xff", b"\0\1"]) * n for n in (1, 6, 10, 20, 200, 65_536)],
        changes.EPOCH: [n.to_bytes(8, "little") for n in TELLING if n < 2**64] + [b"", b"\1", b"\1" * 9],
        "mean": [rng.randbytes(4 * n) for n in (1, 5, 6)],
    }
    fields = ["ordinals", "hidden", "purge", "value_sums", "mean_count", "bit_exact", "users", "items", "seq"]
    settings = ["row_ttl", "admit_after", "optimizer", "loss", "negatives", "batch_size", "dim"]

    def change(stored: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
        if rng.random() < 0.4:
            name = rng.choice([*blobs])
            return {meta_key(name): rng.choice(blobs[name])}
        state = _state(stored)
        if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
            return {}
        at, name = rng.choice([*((state, name) for name in fields), *((state["settings"], name) for name in settings)])
        near = [at[name] + 1, at[name] - 1] if type(at.get(name)) is int else []
        at[name] = rng.choice([*HOSTILE, *TELLING, *near, [0, 0], [1e300, 1e-300], [math.inf, 1], [0, -1], "12"])
        return {meta_key("state"): json.dumps(state).encode()}

    _rewrite_stored(path, change)


def forge_hidden_ids(path: Path, rng: random.Random) -> None:
    def change(stored: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
        ids = [rng.choice([-1, 0, 1, 5, 39, 1100, 10**9, 2**63 - 1, -(2**63)]) for _ in range(rng.randrange(1, 5))]
        keys = native.row_keys(HIDDEN, np.array(ids, np.int64))
        put: dict[bytes, bytes | None] = dict.fromkeys(keys, rng.choice([b"", b"", b"", b"x", bytes(8)]))
        put |= dict.fromkeys([key for key in stored if key[0] == HIDDEN and rng.random() < 0.3])
        if (state := _state(stored)) and rng.random() < 0.7:
            after = {**dict.fromkeys(key for key in stored if key[0] == HIDDEN), **put}
            state["hidden"] = sum(key not in put or put[key] is not None for key in after)
            put[meta_key("state")] = json.dumps(state).encode()
        return put

    _rewrite_stored(path, change)


def forge_ordinals(path: Path, rng: random.Random, far: int = 2**20) -> None:
    """Items in other places of the catalogue: swapped, two in one, gaps before them; the state agrees, mostly."""

    def change(stored: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
        rows = {key: value for key, value in stored.items() if key[0] == ITEMS and len(key) == 9 and len(value) > 8}
        if not rows or not (state := _state(stored)):
            return {}
        ordinals = {key: int.from_bytes(row[-8:], "little") for key, row in rows.items()}
        for _ in range(rng.choice([1, 1, 2, 5])):
            a, b = rng.choice([*rows]), rng.choice([*rows])
            how = rng.randrange(4)
            if how == 0:
                ordinals[a], ordinals[b] = ordinals[b], ordinals[a]
            elif how == 1:
                ordinals[a] = ordinals[b]
            elif how == 2:
                ordinals[a] += rng.choice([1, 40, 16_384, rng.randrange(far)])
            else:
                ordinals[a] = rng.choice([n for n in TELLING if n < far] + [far - 1])
        if isinstance(state, dict) and rng.random() < 0.85:
            state["ordinals"] = max(ordinals.values()) + 1
        put: dict[bytes, bytes | None] = {meta_key("state"): json.dumps(state).encode()}
        return put | {key: row[:-8] + (ordinals[key] % 2**64).to_bytes(8, "little") for key, row in rows.items()}

    _rewrite_stored(path, change)


def forge_far_ordinals(path: Path, rng: random.Random) -> None:
    forge_ordinals(path, rng, 2**32 - 1)


def forge_a_generation(path: Path, rng: random.Random) -> None:
    """Another number in the name of the data file, or the same file under two."""
    file = data_file(path)
    if not file.is_file():
        return
    number = int(file.stem.partition("-")[2])
    other = rng.choice([number + 1, number + 7, 2**31, 2**53, 10**17 - 1, 10**17, 10**17 + 1, 10**18 - 1, 10**18])
    to = generation_file(path / "rows", other)
    if rng.random() < 0.5:
        to.write_bytes(file.read_bytes())
        return
    file.rename(to)
    if rng.random() < 0.5 and lock_file(file).is_file():
        lock_file(file).rename(lock_file(to))


FORGERY = [forge_a_header, forge_a_body, forge_settings, move_records, forge_operation, forge_operation]
FORGERY += [forge_rows, forge_rows, forge_rows, forge_a_part_of_the_state, forge_a_part_of_the_state]
FORGERY += [forge_hidden_ids, forge_ordinals, forge_a_generation]
UNTRUSTED = [*FORGERY, forge_far_ordinals, forge_far_ordinals]
BESIDE = [forge_rows, forge_a_part_of_the_state, forge_hidden_ids, forge_ordinals]  # while a reader has it open


def forge_an_epoch(path: Path, rng: random.Random) -> None:
    """A later epoch that changed nothing, with lists of changes that lie: what a reader makes of it must still be true,
    for the items are what they were."""

    def change(stored: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
        last = int.from_bytes(stored.get(meta_key(changes.EPOCH), b""), "little") % 2**60
        epoch = last + rng.choice([1, 1, 1, 2, 3, 8, 9])
        put: dict[bytes, bytes | None] = {meta_key(changes.EPOCH): epoch.to_bytes(8, "little")}
        for one in range(last + 1, epoch + 1):
            if rng.random() < 0.9:
                put |= _a_list(one, stored, rng)
        return put

    _rewrite_stored(path, change)


def _a_list(epoch: int, stored: dict[bytes, bytes], rng: random.Random) -> dict[bytes, bytes]:
    items = [int.from_bytes(key[1:], "big") - (1 << 63) for key in stored if key[0] == ITEMS and len(key) == 9]
    n = rng.choice([0, 1, 5, 239, 240, 241, 700])
    ids = np.array(rng.choices(rng.choice([items or [0], [*items, 7**9, -1, 2**63 - 1]]), k=n), "<i8")
    count = rng.choice([n, n, n, n + 1, max(0, n - 1), *TELLING]) % 2**64
    named = rng.choice([epoch, epoch, epoch, epoch, epoch - 8, *TELLING]) % 2**64
    out = {}
    for k in range(max(1, -(-n // 240))):
        payload = struct.pack("<QQ", named, count) + ids[k * 240 : (k + 1) * 240].tobytes()
        if rng.random() < 0.15:
            payload = rng.choice([b"", payload[:8], payload[:-1], payload + bytes(3), payload + bytes(8)])
        place = np.array([(epoch % changes.EPOCHS << 32) + k], np.int64)
        if rng.random() < 0.95:
            out[native.row_keys(CHANGES, place)[0]] = payload
    return out
