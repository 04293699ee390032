"""The cold tier: what was written is what is read, whole or not at all, in the order of ids, from any thread."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backend import native
from engine.errors import CorruptionError, EngineError, InputError, StorageFullError
from engine.table import cold as cold_module
from engine.table.cold import DATA, Cold, chunk_key, verify

WIDTH = 64
LOW, HIGH = -(1 << 63), (1 << 63) - 1
INT64 = st.integers(LOW, HIGH)


def rows_for(ids: np.ndarray, salt: int = 0, width: int = WIDTH) -> np.ndarray:
    """Rows that tell which id and version they are, in every byte pair."""
    words = (ids.astype(np.int64) * 31 + salt).astype("<i8")
    return np.ascontiguousarray(np.tile(words.view(np.uint8).reshape(len(ids), 8), (1, width // 8)))


def column(*ids: int) -> np.ndarray:
    return np.array(ids, np.int64)


def read_all(cold: Cold, table: int = 1, **how) -> tuple[np.ndarray, np.ndarray]:
    parts = list(cold.scan(table, WIDTH, **how)) or [(column(), np.empty((0, WIDTH), np.uint8))]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def put_rows(cold: Cold, ids: np.ndarray, salt: int = 0, table: int = 1) -> None:
    ids = np.ascontiguousarray(ids)
    cold.write([native.seal_rows(table, ids, rows_for(ids, salt))], {"salt": str(salt).encode()})


@pytest.fixture
def cold(tmp_path):
    with Cold.create(tmp_path / "cold", {"settings": b"dim=4"}) as made:
        yield made


# Keys and values


@given(st.lists(INT64, max_size=40))
def test_keys_sort_as_ids_do(ids):
    ids = [*ids, LOW, -1, 0, 1, HIGH]
    keys = native.row_keys(1, np.array(ids, np.int64))
    assert sorted(keys) == native.row_keys(1, np.array(sorted(ids), np.int64))
    assert [k + b"\x05" for k in keys] == [chunk_key(1, i, 5) for i in ids]


@given(st.dictionaries(INT64, st.binary(min_size=24, max_size=24), max_size=20), st.integers(0, 255))
def test_rows_come_back_as_they_were_sealed(rows, table):
    ids = np.array(list(rows), np.int64)
    data = np.frombuffer(b"".join(rows.values()), np.uint8).reshape(-1, 24)
    pairs = native.seal_rows(table, ids, data)
    assert all(value[:24] == row for (_, value), row in zip(pairs, rows.values(), strict=True))
    assert all(int.from_bytes(v[24:], "little") == native.crc32c(k + v[:24]) for k, v in pairs)
    for view in (bytes, memoryview):
        got, out = np.empty(len(ids), np.int64), np.empty((len(ids), 24), np.uint8)
        assert native.unseal_rows(table, [(view(k), view(v)) for k, v in pairs], got, out) == len(ids)
        assert np.array_equal(got, ids)
        assert np.array_equal(out, data)


def test_a_damaged_pair_is_named():
    ids = column(1, 2, 3)
    pairs = native.seal_rows(1, ids, rows_for(ids))
    key, value = pairs[1]
    out = np.empty(3, np.int64), np.empty((3, WIDTH), np.uint8)
    for bad in (
        (key, value[:-1]),
        (key, b""),
        (key, value + b"\0"),
        (key, bytes([value[0] ^ 1]) + value[1:]),
        (key[:-1] + b"\x07", value),
        (b"\x02" + key[1:], value),
        (b"", value),
        (key + b"\0", value),
    ):
        assert native.unseal_rows(1, [pairs[0], bad, pairs[2]], *out) == -2
        if bad[0] != key + b"\0" and bad[1] != value + b"\0":
            assert native.unseal_values(1, [pairs[0], bad, pairs[2]])[1] == 1


def test_native_refuses_what_it_would_have_to_convert():
    ids, rows = column(1), rows_for(column(1))
    pairs = native.seal_rows(1, ids, rows)
    with pytest.raises(TypeError):
        native.seal_rows(1, ids.astype(np.float64), rows)
    with pytest.raises(TypeError):
        native.unseal_rows(1, pairs, ids.astype(np.int32), rows)
    with pytest.raises(TypeError):
        native.unseal_rows(1, pairs, ids, np.zeros((1, 2 * WIDTH), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="place for every pair"):
        native.unseal_rows(1, pairs * 2, ids, rows)
    rows.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        native.unseal_rows(1, pairs, ids, rows)
    for offsets in ([0, 5], [-1, 1], [1, 0], [0]):
        with pytest.raises(ValueError, match="offsets"):
            native.seal_chunks(3, ids, np.zeros(1, np.uint8), np.zeros(4, np.uint8), np.array(offsets, np.int64))


# Reading and writing


def test_rows_are_found_in_the_order_of_ids(cold):
    ids = column(LOW, LOW + 1, -5, -2, 0, 3, 9, HIGH - 1, HIGH)
    put_rows(cold, ids)
    put_rows(cold, column(7, 8), table=2)
    put_rows(cold, column(-4), table=0x80)
    for chunk in (1, 3, 9, 10, 1000):
        got, rows = read_all(cold, chunk=chunk)
        assert np.array_equal(got, ids)
        assert np.array_equal(rows, rows_for(ids))
    asked = column(LOW, -3, -2, 4, HIGH)
    found, rows = cold.fetch(1, asked, WIDTH)
    assert found.tolist() == [True, False, True, False, True]
    assert np.array_equal(rows, rows_for(asked[found]))
    assert cold.fetch(1, column(), WIDTH)[1].shape == (0, WIDTH)
    assert cold.fetch(9, asked, WIDTH)[0].sum() == 0
    assert list(cold.scan(9, WIDTH)) == []
    with pytest.raises(InputError):
        cold.fetch(1, column(3, 3), WIDTH)


def test_a_row_of_another_width_is_refused(cold):
    put_rows(cold, column(5))
    for width in (WIDTH - 8, WIDTH + 8):
        with pytest.raises(CorruptionError):
            cold.fetch(1, column(5), width)
        with pytest.raises(CorruptionError):
            list(cold.scan(1, width))


def test_chunks_of_a_history(cold):
    ids, numbers = column(-3, -3, 8, 9), np.array([0, 1, 0, 255], np.uint8)
    payload, offsets = np.arange(12, dtype=np.uint8), np.array([0, 4, 5, 5, 12], np.int64)
    pairs = native.seal_chunks(3, ids, numbers, payload, offsets)
    cold.write([pairs], {})
    assert cold.fetch_chunks(-3) == [(0, bytes([0, 1, 2, 3])), (1, b"\x04")]
    assert cold.fetch_chunks(8) == [(0, b"")]
    assert cold.fetch_chunks(9) == [(255, bytes(range(5, 12)))]
    assert cold.fetch_chunks(10) == cold.fetch_chunks(HIGH) == []
    keys = [chunk_key(3, int(i), int(c)) for i, c in zip(ids, numbers, strict=True)]
    assert [k for part in cold.scan_raw(3, chunk=2) for k, _ in part] == keys
    full = [(chunk_key(3, 20, c), bytes([c])) for c in range(256)]
    cold.write([native.seal_values(full)], {})
    assert cold.fetch_chunks(20) == [(c, bytes([c])) for c in range(256)]


def test_meta(tmp_path):
    with Cold.create(tmp_path / "c", {"settings": b"dim=4", "empty": b""}) as cold:
        assert (cold.meta("settings"), cold.meta("empty"), cold.meta("none")) == (b"dim=4", b"", None)
        cold.write([], {"seq": b"7"})
    with Cold.open(tmp_path / "c", readonly=True) as cold:
        assert (cold.meta("settings"), cold.meta("seq")) == (b"dim=4", b"7")


def test_what_is_written_is_there_after_reopening(tmp_path):
    rng = np.random.default_rng(4)
    expected: dict[int, int] = {}
    Cold.create(tmp_path / "c", {}).close()
    for salt in range(6):
        ids = np.unique(rng.integers(-3000, 3000, 900))
        with Cold.open(tmp_path / "c") as cold:
            half = len(ids) // 2
            cold.write(
                (native.seal_rows(1, part, rows_for(part, salt)) for part in (ids[:half], ids[half:])), {"a": b"b"}
            )
        expected.update(dict.fromkeys(ids.tolist(), salt))
    with Cold.open(tmp_path / "c") as cold:
        ids, rows = read_all(cold)
        assert ids.tolist() == sorted(expected)
        for i, row in zip(ids, rows, strict=True):
            assert np.array_equal(row, rows_for(column(i), expected[int(i)])[0])
        stats = cold.stats()
    assert stats["entries"] == len(expected) + 1 == verify(tmp_path / "c")["entries"]
    assert stats["file_bytes"] >= (stats["used_pages"] + 2) * stats["page_bytes"]


def test_a_write_that_fails_leaves_nothing(cold):
    put_rows(cold, column(1, 2), salt=1)

    def batches():
        yield native.seal_rows(1, column(2, 3), rows_for(column(2, 3), 2))
        raise KeyError("from the caller")

    with pytest.raises(KeyError, match="from the caller"):
        cold.write(batches(), {"salt": b"2"})
    with pytest.raises(EngineError, match="BAD_VALSIZE"):
        cold.write([native.seal_rows(1, column(2), rows_for(column(2), 2)), [(b"k" * 600, b"v")]], {})
    with pytest.raises(TypeError):
        cold.write([[(b"k", 3)]], {})
    assert np.array_equal(read_all(cold)[1], rows_for(column(1, 2), 1))
    assert cold.meta("salt") == b"1"
    put_rows(cold, column(2), salt=3)
    assert np.array_equal(read_all(cold)[1][1:], rows_for(column(2), 3))


def test_a_second_writer_is_refused(cold):
    def batches():
        with pytest.raises(EngineError, match="another thread"):
            cold.write([], {})
        yield native.seal_rows(1, column(1), rows_for(column(1)))

    cold.write(batches(), {})
    assert cold.fetch(1, column(1), WIDTH)[0].all()


def test_a_closed_tier_and_an_unfinished_scan(cold):
    put_rows(cold, np.arange(3000))
    scan = cold.scan(1, WIDTH, chunk=10)
    next(scan)
    cold.close()
    cold.close()
    for call in (lambda: next(scan), lambda: cold.meta("x"), cold.stats, lambda: cold.write([], {})):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_readers_beside_the_writer_see_whole_transactions(cold):
    ids = np.arange(400, dtype=np.int64)
    put_rows(cold, ids, salt=0)
    stop, errors = threading.Event(), []

    def salt_of(rows):
        salts = rows.view("<i8")[:, 0] - ids * 31
        assert (salts == salts[0]).all()
        assert np.array_equal(rows, rows_for(ids, int(salts[0])))
        return int(salts[0])

    def read():
        try:
            last = 0
            while not stop.is_set():
                for rows in (cold.fetch(1, ids, WIDTH)[1], read_all(cold, chunk=64)[1]):
                    assert salt_of(rows) >= last
                    last = salt_of(rows)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for t in threads:
        t.start()
    for salt in range(1, 40):
        put_rows(cold, ids, salt)
    stop.set()
    for t in threads:
        t.join()
    assert not errors, errors
    assert salt_of(read_all(cold)[1]) == 39


def test_closing_waits_for_readers(cold):
    put_rows(cold, np.arange(2000))
    outcomes = []

    def read():
        try:
            while True:
                read_all(cold)
        except EngineError as e:
            outcomes.append(str(e))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for t in threads:
        t.start()
    time.sleep(0.05)
    cold.close()
    for t in threads:
        t.join()
    assert outcomes == ["the cold tier is closed"] * 3


# Files, rights, limits


def test_modes_and_what_is_there_already(tmp_path):
    old = os.umask(0)
    try:
        Cold.create(tmp_path / "c", {}).close()
    finally:
        os.umask(old)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "c").iterdir()} == {DATA: 0o600, "lock.mdb": 0o600}
    with pytest.raises(EngineError, match="there already"):
        Cold.create(tmp_path / "c", {})


def test_verify_works_beside_the_writer_and_changes_nothing(cold):
    put_rows(cold, np.arange(500))
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in [cold.directory / DATA]}
    (cold.directory / "lock.mdb").rename(cold.directory / "aside")
    assert verify(cold.directory)["tables"] == {0: 2, 1: 500}
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files} == files
    assert not (cold.directory / "lock.mdb").exists()


def run_script(text: str, *arguments: object, **how) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys\nfrom pathlib import Path\n" + text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **how)


def test_another_process_reads_while_this_one_writes(cold):
    ids = np.arange(3000, dtype=np.int64)
    put_rows(cold, ids)
    script = """
from engine.table.cold import Cold, verify
from engine.errors import ReadOnlyError
for _ in range(30):
    verify(Path(sys.argv[1]))
    with Cold.open(Path(sys.argv[1]), readonly=True) as cold:
        assert sum(len(i) for i, _ in cold.scan(1, 64)) == 3000
        try: cold.write([], {})
        except ReadOnlyError: pass
        else: raise SystemExit("wrote")
"""
    command = [sys.executable, "-c", "import sys\nfrom pathlib import Path\n" + script, str(cold.directory)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as other:
        salt = 0
        while other.poll() is None:
            salt += 1
            put_rows(cold, ids[salt % 7 :: 7], salt)
        assert other.returncode == 0, other.stderr and other.stderr.read()


def test_without_the_right_to_write(tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs root, to give its rights up")
    directory = tmp_path / "c"
    Cold.create(directory, {"a": b"b"}).close()
    script = """
import os
from engine.table.cold import Cold
from engine.errors import ReadOnlyError
os.setgid(65534); os.setuid(65534)  # after the imports, which it might not be able to read
for call in (lambda p: Cold.open(p), lambda p: Cold.open(p, readonly=True), lambda p: Cold.create(p / "new", {})):
    try: call(Path(sys.argv[1]))
    except ReadOnlyError as e: print(e)
    else: raise SystemExit("was allowed")
"""
    for path in [directory, *directory.iterdir()]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in [tmp_path, *tmp_path.parents]:
        if path.stat().st_uid == os.getuid() and str(path).startswith(str(tmp_path.parents[1])):
            path.chmod(0o755)
    run = run_script(script, directory)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Permission denied") == 3


def test_less_address_space_gives_a_smaller_map(tmp_path):
    script = """
import resource
from engine.table.cold import Cold
resource.setrlimit(resource.RLIMIT_AS, (1 << 35, 1 << 35))
with Cold.create(Path(sys.argv[1]), {"a": b"b"}) as cold:
    print(cold.stats()["map_bytes"])
"""
    run = run_script(script, tmp_path / "c")
    assert run.returncode == 0, run.stderr
    assert 1 << 32 <= int(run.stdout) <= 1 << 35
    with Cold.open(tmp_path / "c") as cold:
        assert (cold.meta("a"), cold.stats()["map_bytes"]) == (b"b", 1 << 40)


def overfill(cold: Cold) -> None:
    put_rows(cold, np.arange(10), salt=1)
    ids = np.arange(200_000, dtype=np.int64)
    for _ in range(2):
        with pytest.raises(StorageFullError):
            put_rows(cold, ids, salt=2)
        assert np.array_equal(read_all(cold)[1], rows_for(np.arange(10), 1))
        assert cold.meta("salt") == b"1"


def test_a_full_map(tmp_path, monkeypatch):
    monkeypatch.setattr(cold_module, "MAP_BYTES", 1 << 20)
    with Cold.create(tmp_path / "c", {}) as cold:
        overfill(cold)
        put_rows(cold, np.arange(10), salt=3)
    verify(tmp_path / "c")


@pytest.mark.parametrize("limit", [5_000_000, (1 << 22) + 1000])
def test_a_limit_on_file_size(tmp_path, limit):
    with Cold.create(tmp_path / "c", {}) as cold:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            overfill(cold)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        put_rows(cold, np.arange(20), salt=3)
        assert np.array_equal(read_all(cold)[1], rows_for(np.arange(20), 3))
    verify(tmp_path / "c")


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("cannot mount a small tmpfs here")
    try:
        with Cold.create(disk / "c", {}) as cold:
            overfill(cold)
        verify(disk / "c")
        with pytest.raises(StorageFullError):  # the failed writes left the file long, and the disk full
            Cold.create(disk / "d", {})
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_error_stops_writing_until_reopened(cold, monkeypatch):
    real = cold._env

    class Broken:
        def begin(self, write=False):
            txn = real.begin(write=write)

            class Txn:
                cursor, abort = txn.cursor, txn.abort

                def commit(self):
                    txn.abort()
                    error = lmdb.Error("mdb_txn_commit: Input/output error")
                    error.code = 5
                    raise error

            return Txn() if write else txn

        reader_check = real.reader_check

    monkeypatch.setattr(cold, "_env", Broken())
    with pytest.raises(EngineError, match="Input/output") as caught:
        put_rows(cold, column(1))
    assert not isinstance(caught.value, StorageFullError)
    monkeypatch.setattr(cold, "_env", real)
    with pytest.raises(EngineError, match="open the directory again"):
        put_rows(cold, column(1))


def test_killed_in_the_middle_of_a_write(tmp_path):
    """The state before the transaction is there, whatever part of it had reached the file."""
    directory = tmp_path / "c"
    ids = np.arange(2000, dtype=np.int64)
    with Cold.create(directory, {}) as cold:
        put_rows(cold, ids, salt=1)
    script = """
import numpy as np
from engine.backend import native
from engine.table.cold import Cold
cold = Cold.open(Path(sys.argv[1]))
def batches():
    for n in range(int(sys.argv[2])):  # more than the 512 MiB that LMDB keeps in memory before it writes pages early
        ids = np.arange(n * 100_000, (n + 1) * 100_000)
        yield native.seal_rows(1, ids, np.zeros((len(ids), 64), np.uint8))
    print("now", flush=True)
    sys.stdin.read()
cold.write(batches(), {"salt": b"2"})
"""
    command = [sys.executable, "-c", "import sys\nfrom pathlib import Path\n" + script, str(directory), "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "now\n"
        other.send_signal(signal.SIGKILL)
    with Cold.open(directory) as cold:
        got, rows = read_all(cold)
        assert np.array_equal(got, ids)
        assert np.array_equal(rows, rows_for(ids, 1))
        assert cold.meta("salt") == b"1"
        put_rows(cold, ids, salt=2)
        assert np.array_equal(read_all(cold)[1], rows_for(ids, 2))


def test_killed_at_any_time(tmp_path):
    """A process commits one version after the other until it is killed: what is there is one of them, whole, and no
    older than the last that it reported."""
    directory = tmp_path / "c"
    ids = np.arange(3000, dtype=np.int64)
    Cold.create(directory, {"salt": b"0"}).close()
    script = """
import numpy as np
from engine.backend import native
from engine.table.cold import Cold
cold = Cold.open(Path(sys.argv[1]))
ids = np.arange(3000)
salt = int(cold.meta("salt"))
while True:
    salt += 1
    words = (ids * 31 + salt).astype("<i8").view(np.uint8).reshape(-1, 8)
    cold.write([native.seal_rows(1, ids, np.ascontiguousarray(np.tile(words, (1, 8))))], {"salt": str(salt).encode()})
    print(salt, flush=True)
"""
    command = [sys.executable, "-c", "import sys\nfrom pathlib import Path\n" + script, str(directory)]
    rng = np.random.default_rng(8)
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            other.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            other.send_signal(signal.SIGKILL)
            reported = [int(line) for line in other.stdout.read().splitlines() if line]
        with Cold.open(directory) as cold:
            salt = int(cold.meta("salt") or b"")
            assert salt >= max(reported, default=1)
            assert np.array_equal(read_all(cold)[1], rows_for(ids, salt))


def test_a_forked_child_is_refused(cold):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            cold.meta("settings")
        except EngineError as e:
            status = 0 if "fork" in str(e) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert cold.meta("settings") == b"dim=4"
