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
from engine.machine.backend import native

from .forged_logs import FORGED_LOGS
from .hostile import HOSTILE, forged_json
from .mutators import TELLING, data_file


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
                txn.put(key, payload + struct.pack("<I", native.crc32c(payload, native.crc32c(key))))


def get_payload(path: Path, key: bytes) -> bytes:
    with _lmdb(path) as env, env.begin() as txn:
        return bytes(txn.get(key))[:-4]


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
            txn.put(key, payload + struct.pack("<I", native.crc32c(payload, native.crc32c(key))))


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
    fields = ["ordinals", "hidden", "purge", "value_sums", "mean_count", "bit_exact", "rows", "seq", "schema", "parts"]
    settings = ["row_ttl", "admit_after", "optimizer", "loss", "negatives", "batch_size", "dim"]

    def change(stored: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
        if rng.random() < 0.4:
            name = rng.choice([*blobs])
            return {meta_key(name): rng.choice(blobs[name])}
        state = _state(stored)
        if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
            return {}
        places = [*((state, name) for name in fields), *((state["settings"], name) for name in settings)]
        if isinstance(state.get("rows"), dict):
            places += [(state["rows"], name) for name in ("users", "items", "tags")]
        at, name = rng.choice(places)
        near = [at[name] + 1, at[name] - 1] if type(at.get(name)) is int else []
        at[name] = rng.choice([*HOSTILE, *TELLING, *near, [0, 0], [1e300, 1e-300], [math.inf, 1], [0, -1], "12"])
        return {meta_key("state"): json.dumps(state).encode()}

    _rewrite_stored(path, change)


def forge_what_was_created(path: Path, rng: random.Random) -> None:
    """Of the format, the id, and where records of version 1 may stand."""

    def change(stored: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
        try:
            created = json.loads(stored[meta_key("created")])
            created |= rng.choice(
                [
                    {"format": rng.choice([0, 1, 3, True, *HOSTILE])},
                    {"id": rng.choice([f"{rng.getrandbits(64):016x}", "0" * 16, "f" * 16, *HOSTILE])},
                    {"version_1_through": rng.choice([0, 1, 50, 10**6, *TELLING, *HOSTILE])},
                    {"fingerprint": rng.choice(HOSTILE)},
                ]
            )
            if rng.random() < 0.3:
                del created[rng.choice([*created])]
        except (KeyError, ValueError, TypeError, RecursionError):  # another forger was here
            return {}
        return {meta_key("created"): json.dumps(created).encode()}

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


FORGERY = [*FORGED_LOGS, forge_what_was_created]
FORGERY += [forge_rows, forge_rows, forge_rows, forge_a_part_of_the_state, forge_a_part_of_the_state]
FORGERY += [forge_hidden_ids, forge_ordinals, forge_a_generation]
UNTRUSTED = [*FORGERY, forge_far_ordinals, forge_far_ordinals]
# While a reader has it open.
BESIDE = [forge_rows, forge_a_part_of_the_state, forge_what_was_created, forge_hidden_ids, forge_ordinals]


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
