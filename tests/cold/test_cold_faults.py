"""The cold tier when something is in the way: rights, a full disk or map, a disk error, kill -9, other processes."""

import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial

import lmdb
import numpy as np
import pytest
from known_rows import column, put_rows, read_all, rows_for
from unprivileged import modes_bind_root

from engine.cold import file as cold_file
from engine.cold.cold import Cold, verify
from engine.cold.file import data_file, lock_file
from engine.contract.errors import EngineError, ReadOnlyError, StorageFullError


@pytest.fixture
def cold(tmp_path):
    with Cold.create(tmp_path / "cold", {"settings": b"dim=4"}) as made:
        yield made


def test_modes_and_what_is_there_already(tmp_path):
    old = os.umask(0)
    try:
        Cold.create(tmp_path / "c", {}).close()
    finally:
        os.umask(old)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "c").iterdir()}
    assert modes == {"data-1.mdb": 0o600, "data-1.mdb-lock": 0o600}
    with pytest.raises(EngineError, match="there already"):
        Cold.create(tmp_path / "c", {})


def test_verify_works_beside_the_writer_and_changes_nothing(cold):
    put_rows(cold, np.arange(500))
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in [data_file(cold.directory)]}
    lock_file(data_file(cold.directory)).rename(cold.directory / "aside")
    assert verify(cold.directory)["tables"] == {0: 2, 1: 500}
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files} == files
    assert not lock_file(data_file(cold.directory)).exists()


def run_script(text: str, *arguments: object, **how) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys\nfrom pathlib import Path\n" + text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **how)


def test_another_process_reads_while_this_one_writes(cold):
    ids = np.arange(3000, dtype=np.int64)
    put_rows(cold, ids)
    script = """
from engine.cold.cold import Cold, verify
from engine.contract.errors import ReadOnlyError
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
    directory = tmp_path / "c"
    Cold.create(directory, {"a": b"b"}).close()
    for path in [directory, *directory.iterdir()]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with modes_bind_root():
        for call in (Cold.open, partial(Cold.open, readonly=True), lambda path: Cold.create(path / "new", {})):
            with pytest.raises(ReadOnlyError, match="Permission denied"):
                call(directory)


def test_less_address_space_gives_a_smaller_map(tmp_path):
    script = """
import resource
from engine.cold.cold import Cold
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
    monkeypatch.setattr(cold_file, "MAP_BYTES", 1 << 20)
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
    real = cold._mapped.env

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

    monkeypatch.setattr(cold._mapped, "env", Broken())
    with pytest.raises(EngineError, match="Input/output") as caught:
        put_rows(cold, column(1))
    assert not isinstance(caught.value, StorageFullError)
    monkeypatch.setattr(cold._mapped, "env", real)
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
from engine.machine.backend import native
from engine.cold.cold import Cold
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
from engine.machine.backend import native
from engine.cold.cold import Cold
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


def test_a_read_that_a_child_gives_up_stays_its_parents(cold):
    with cold.snapshot():
        child = os.fork()
        if child > 0:
            assert os.waitpid(child, 0)[1] == 0
            cold.write((), {"settings": b"dim=5"})
            assert cold.stats()["oldest_reader_lag"] == 1
    if child == 0:
        os._exit(0)
    assert cold.stats()["oldest_reader_lag"] == 0


def test_a_place_that_a_child_has_freed_costs_nothing(cold):
    cold.meta("settings")
    child = os.fork()
    if child == 0:
        cold._mapped.env.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert cold.meta("settings") == b"dim=4"
