"""The check of a data file: a damaged one is refused, or still gives exactly the right rows. Never a signal.

Run as a script, `test_check_pages.py DIRECTORY SEED COUNT`, it damages a cold tier COUNT times: the tests do that in a
process of its own, since what they look for would end the process.
"""

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.cold.cold import Cold, verify
from engine.cold.file import data_file, lock_file
from engine.contract.errors import CorruptionError, EngineError
from engine.machine.backend import native

PAGE = 4096
WIDTHS = {1: 100, 2: 5000}  # rows of table 2 lie on overflow pages
SOUND = {1: 5000, 2: 20}


def rows_of(table: int, ids: np.ndarray, version: int) -> np.ndarray:
    rng = np.random.default_rng([table, version])
    return rng.integers(0, 256, (len(ids), WIDTHS[table]), dtype=np.uint8)


def ids_of(table: int) -> np.ndarray:
    rng = np.random.default_rng(table)
    return np.unique(rng.integers(-(1 << 63), (1 << 63) - 1, SOUND[table], dtype=np.int64))


def build(directory: Path, versions: int = 5) -> None:
    """Several hundred pages, some of them free, after transactions of every kind that the engine makes."""
    with Cold.create(directory, {"settings": b"dim=25"}) as cold:
        for version in range(versions):
            batches = []
            for table in WIDTHS:
                ids = ids_of(table)
                batches.append(native.seal_rows(table, ids, rows_of(table, ids, version)))
            users = np.arange(-40, 40, dtype=np.int64).repeat(3)
            numbers = np.tile(np.arange(3, dtype=np.uint8), 80)
            payload = np.full(240 * 64, version, np.uint8)
            batches.append(native.seal_chunks(3, users, numbers, payload, np.arange(241, dtype=np.int64) * 64))
            if version == 2:  # a list of free pages with branch pages: many small records that a reader holds back
                reader = cold.scan(1, WIDTHS[1], chunk=1)
                next(reader)
                for n in range(150):
                    cold.write([], {"seq": str(n).encode()})
                reader.close()
            cold.write(batches, {"seq": str(version).encode()})


def contents(cold: Cold) -> list[Any]:
    out: list[Any] = [cold.meta("settings"), cold.meta("seq")]
    for table, width in WIDTHS.items():
        parts = list(cold.scan(table, width, chunk=500))
        ids, rows = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
        found, fetched = cold.fetch(table, ids_of(table)[::7], width)
        out += [ids.tobytes(), rows.tobytes(), found.tobytes(), fetched.tobytes()]
    out.append([pair for part in cold.scan_raw(3) for pair in part])
    out.append(cold.fetch_chunks(-40))
    return out


def damage(data: bytearray, rng: random.Random) -> str:
    """Damages `data` in one random way, and says how."""
    pages = len(data) // PAGE
    page = rng.choice([0, 1, rng.randrange(pages), rng.randrange(pages)])
    at = page * PAGE + rng.choice([rng.randrange(64), rng.randrange(160), rng.randrange(PAGE)])
    if rng.random() < 0.3:  # the header of some node
        low = int.from_bytes(data[page * PAGE + 12 : page * PAGE + 14], "little")
        slot = page * PAGE + 16 + 2 * rng.randrange(max(1, (min(low, PAGE) - 16) // 2))
        at = min(page * PAGE + int.from_bytes(data[slot : slot + 2], "little") + rng.randrange(16), len(data) - 8)
    kind = rng.randrange(8)
    if kind <= 2:
        data[at] ^= 1 << rng.randrange(8)
        return f"bit flip at {at}"
    if kind == 3:
        data[at] = rng.randrange(256)
        return f"byte at {at}"
    if kind == 4:
        size = rng.choice([2, 4, 8])
        data[at : at + size] = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)])
        return f"{size} bytes at {at}"
    if kind == 5:
        source = rng.randrange(pages) * PAGE
        data[page * PAGE : (page + 1) * PAGE] = data[source : source + PAGE]
        return f"page {source // PAGE} over page {page}"
    if kind == 6:
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        return f"page {page} zeroed"
    del data[rng.randrange(len(data)) :]
    return f"cut to {len(data)}"


def torture(directory: Path, seed: int, count: int) -> None:
    file = data_file(directory)
    good = file.read_bytes()
    with Cold.open(directory) as cold:
        right = [contents(cold)]
    build(directory / "previous", 4)
    with Cold.open(directory / "previous") as cold:  # FORMAT.md: what one damaged transaction number may lead back to
        right.append(contents(cold))
    refused = 0
    for n in range(count):
        rng = random.Random(f"{seed}/{n}")
        data = bytearray(good)
        how = damage(data, rng)
        print(n, how, flush=True)  # the last line tells what killed the process
        file.write_bytes(data)
        lock_file(data_file(directory)).unlink(missing_ok=True)
        try:
            with Cold.open(directory, values=rng.random() < 0.5) as cold:
                assert contents(cold) in right, how
                if n % 8 == 0:  # the list of free pages must be sound, too
                    ids = ids_of(1)
                    cold.write([native.seal_rows(1, ids, rows_of(1, ids, 9))], {})
                    assert np.array_equal(np.concatenate([r for _, r in cold.scan(1, 100)]), rows_of(1, ids, 9)), how
                    verify(directory)
        except CorruptionError as e:
            refused += e.file == str(file)
    file.write_bytes(good)
    assert count < 50 or refused > count // 5


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    directory = tmp_path_factory.mktemp("sound") / "cold"
    build(directory)
    return data_file(directory).read_bytes()


def put(tmp_path: Path, data: bytes) -> Path:
    directory = tmp_path / "cold"
    directory.mkdir(exist_ok=True)
    data_file(directory).write_bytes(data)
    return directory


def refusal(tmp_path: Path, data: bytes) -> CorruptionError:
    directory = put(tmp_path, data)
    with pytest.raises(CorruptionError) as caught:
        Cold.open(directory)
    assert data_file(directory).read_bytes() == data
    assert not lock_file(data_file(directory)).exists()  # LMDB has not seen it
    return caught.value


def test_a_sound_file_passes_and_is_counted(tmp_path, sound):
    report = verify(put(tmp_path, sound))
    chunks = 240
    assert report["tables"] == {0: 2, 1: SOUND[1], 2: SOUND[2], 3: chunks}
    assert report["entries"] == 2 + SOUND[1] + SOUND[2] + chunks
    assert report["free_pages"] > 50
    assert report["lost_pages"] == 0
    total = report["used_pages"] + report["list_pages"] + report["free_pages"] + 2
    assert total == report["last_page"] + 1 > 200


@pytest.mark.parametrize("seed", range(2))
def test_whatever_lmdb_writes_passes(tmp_path, seed):
    """Transactions of all sizes, some given up, beside readers that hold pages back: never refused, no page lost."""
    rng = np.random.default_rng(seed)
    with Cold.create(tmp_path / "cold", {}) as cold:
        readers = []
        for _ in range(60):
            count = int(rng.choice([1, 5, 50, 500, 3000]))
            ids = np.unique(rng.integers(-20_000, 20_000, count))
            batches = [native.seal_rows(1, ids, np.zeros((len(ids), 100), np.uint8))]
            users = np.unique(rng.integers(0, 200, 20))
            offsets = np.concatenate([[0], rng.integers(0, 9000, len(users)).cumsum()]).astype(np.int64)
            numbers, payload = np.zeros(len(users), np.uint8), np.zeros(offsets[-1], np.uint8)
            batches.append(native.seal_chunks(3, users, numbers, payload, offsets))
            if rng.random() < 0.1:
                batches.append([(b"k" * 600, b"")])  # LMDB refuses it
            with contextlib.suppress(EngineError):
                cold.write(batches, {})
            if rng.random() < 0.2:
                readers.append(cold.scan(1, 100, chunk=1))
                next(readers[-1], None)
            if readers and rng.random() < 0.15:
                readers.pop(int(rng.integers(len(readers)))).close()
            assert verify(cold.directory)["lost_pages"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_never_kills_and_never_lies(tmp_path, sound, seed):
    directory = put(tmp_path, sound)
    run = subprocess.run(
        [sys.executable, __file__, str(directory), str(seed), "250"], capture_output=True, text=True, timeout=250
    )
    assert run.returncode == 0, (run.returncode, run.stdout.splitlines()[-1:], run.stderr)


def test_every_bit_of_the_meta_pages(tmp_path, sound):
    """What LMDB reads of a meta page is either refused or without effect; one bit falls back by one transaction."""
    directory = put(tmp_path, sound)
    before = verify(directory)
    with open(data_file(directory), "r+b", buffering=0) as file:
        for page in (0, 1):
            for bit in range(152 * 8):
                at = page * PAGE + bit // 8
                os.pwrite(file.fileno(), bytes([sound[at] ^ 1 << bit % 8]), at)
                try:
                    report = verify(directory)
                    fallen_back = report["txnid"] == before["txnid"] - 1
                    assert fallen_back or report["tables"] == before["tables"], (page, bit)
                except CorruptionError:
                    pass
                os.pwrite(file.fileno(), sound[at : at + 1], at)
    assert verify(directory) == before


def test_truncation_is_refused_wherever_it_cuts_a_page_in_use(tmp_path, sound):
    for pages in (0, 1, 2, 3, 50):
        for extra in (0, 1, 17, PAGE - 1):
            error = refusal(tmp_path, sound[: pages * PAGE + extra])
            assert error.file is not None


def test_free_pages_at_the_end_may_be_missing(tmp_path):
    """LMDB never writes a page that was taken and freed in one transaction: a sound file can be that much shorter."""
    directory = tmp_path / "cold"
    ids = np.arange(2000, dtype=np.int64)
    with Cold.create(directory, {}) as cold:
        for version in range(3):
            cold.write([native.seal_rows(1, ids, rows_of(1, ids, version))], {})
    data = data_file(directory).read_bytes()
    report = verify(directory)
    shortest = None
    for cut in range(1, report["free_pages"]):
        data_file(directory).write_bytes(data[: len(data) - cut * PAGE])
        try:
            assert verify(directory)["tables"] == report["tables"]
            shortest = cut
        except CorruptionError:
            break
    if shortest:  # what is left opens, reads and takes writes
        data_file(directory).write_bytes(data[: len(data) - shortest * PAGE])
        with Cold.open(directory) as cold:
            cold.write([native.seal_rows(1, ids, rows_of(1, ids, 7))], {})
            assert np.array_equal(cold.fetch(1, ids, 100)[1], rows_of(1, ids, 7))
        verify(directory)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"x" * 5000, bytes(100_000), b"SQLite format 3\0" * 4096], ids=["empty", "1", "x", "0", "sql"]
)
def test_something_else_is_refused(tmp_path, data):
    assert refusal(tmp_path, data).offset == 0


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(CorruptionError, match="missing"):
        Cold.open(tmp_path)
    os.mkfifo(data_file(tmp_path))
    with pytest.raises(CorruptionError, match="regular"):
        Cold.open(tmp_path)


def test_a_damaged_meta_page_is_refused_even_if_it_is_the_older(tmp_path, sound):
    for page in (0, 1):
        data = bytearray(sound)
        data[page * PAGE + 16] ^= 1
        assert refusal(tmp_path, bytes(data)).offset == page * PAGE


def test_damage_to_a_key_is_found_before_the_row_looks_absent(tmp_path, sound):
    ids = ids_of(1)
    key = native.row_keys(1, ids[700:701])[0]
    data = bytearray(sound)
    at = [i for i in range(len(data) - 9) if data[i] == 1 and data[i : i + 9] == key]
    for i in at:  # all versions of the row; the lowest bit of a random id rarely changes the order
        data[i + 8] ^= 1
    error = refusal(tmp_path, bytes(data))
    assert "checksum" in str(error)
    with (
        Cold.open(put(tmp_path, bytes(data)), values=False) as cold,
        pytest.raises(CorruptionError, match=key[:8].hex()),
    ):
        list(cold.scan(1, 100))


if __name__ == "__main__":
    torture(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
