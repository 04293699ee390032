"""Compaction: the same entries in a new file, no byte of what was deleted, and whoever reads is not disturbed."""

import errno
import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_rows import WIDTH, column, put_rows, read_all, rows_for

from engine.cold import cold as cold_module
from engine.cold import file as cold_file
from engine.cold import snapshot
from engine.cold.cold import CHANGES, Cold, verify
from engine.cold.file import data_file
from engine.contract.errors import CorruptionError, EngineError, ReadOnlyError, StorageFullError
from engine.machine.backend import native

SECRET = b"so secret that it must go"


@pytest.fixture
def cold(tmp_path):
    with Cold.create(tmp_path / "cold", {"settings": b"dim=4"}) as made:
        yield made


def names(cold: Cold) -> list[str]:
    return sorted(os.listdir(cold.directory))


def everything(cold: Cold) -> list[tuple[bytes, bytes]]:
    return [pair for table in range(256) if table != CHANGES for part in cold.scan_raw(table) for pair in part]


def delete(cold: Cold, table: int, ids: np.ndarray) -> None:
    with cold._mapped.env.begin(write=True) as txn:
        for key in native.row_keys(table, np.ascontiguousarray(ids)):
            assert txn.delete(key)


def bytes_of(cold: Cold) -> bytes:
    return b"".join(path.read_bytes() for path in cold.directory.iterdir())


def put_secrets(cold: Cold, ids: np.ndarray) -> None:
    row = np.frombuffer(SECRET.ljust(WIDTH, b"."), np.uint8)
    cold.write([native.seal_rows(1, ids, np.ascontiguousarray(np.tile(row, (len(ids), 1))))], {})


def test_the_same_entries_in_one_new_file(cold):
    put_rows(cold, np.arange(5000))
    put_rows(cold, np.arange(0, 5000, 3), salt=1)
    put_rows(cold, np.arange(-9, 9), table=2)
    cold.write(
        [native.seal_chunks(3, column(4), np.zeros(1, np.uint8), np.arange(9, dtype=np.uint8), column(0, 9))], {}
    )
    before, free = everything(cold), cold.stats()["free_pages"]
    for generation in (2, 3):
        cold.compact()
        assert cold.generation == generation
        assert names(cold) == [f"data-{generation}.mdb", f"data-{generation}.mdb-lock"]
        assert everything(cold) == before
        report = verify(cold.directory)
        assert report["lost_pages"] == 0
        assert report["entries"] == len(before)
    assert cold.stats()["free_pages"] < free
    put_rows(cold, column(7), salt=5)
    cold.close()
    with Cold.open(cold.directory) as again:
        assert again.generation == 3
        assert np.array_equal(again.fetch(1, column(7), WIDTH)[1], rows_for(column(7), 5))


def test_an_empty_tier(tmp_path):
    with Cold.create(tmp_path / "c", {}) as cold:
        cold.compact()
        assert everything(cold) == []
        put_rows(cold, column(1))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_byte_of_what_was_deleted_or_overwritten(tmp_path_factory, data):
    ids = np.arange(data.draw(st.integers(1, 2000)), dtype=np.int64)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    secret = np.sort(rng.choice(ids, data.draw(st.integers(1, len(ids))), replace=False))
    with Cold.create(tmp_path_factory.mktemp("secret") / "c", {}) as cold:
        put_rows(cold, ids)
        put_secrets(cold, secret)
        put_rows(cold, ids[::2], table=2)
        assert SECRET in bytes_of(cold)
        gone, overwritten = secret[::2].copy(), secret[1::2].copy()
        delete(cold, 1, gone)
        put_rows(cold, overwritten, salt=3)
        cold.compact()
        kept = np.setdiff1d(ids, gone)
        assert SECRET not in bytes_of(cold)
        assert native.row_keys(1, gone[:1].copy())[0] not in bytes_of(cold)
        assert np.array_equal(read_all(cold)[0], kept)
        put_rows(cold, kept[::3], salt=4)  # nor in what is written after it
        assert SECRET not in bytes_of(cold)


def test_lists_of_changes_stay_behind(cold):
    put_rows(cold, column(1, 2), table=CHANGES)
    put_rows(cold, column(1, 2), table=5)
    cold.compact()
    assert list(cold.scan_raw(CHANGES)) == []
    assert sum(map(len, cold.scan_raw(5))) == 2


def test_scans_and_snapshots_end_where_they_began(cold):
    ids = np.arange(3000, dtype=np.int64)
    put_rows(cold, ids, salt=1)
    scan = cold.scan(1, WIDTH, chunk=100)
    got = [next(scan)]
    with cold.snapshot() as then:
        cold.compact()
        put_rows(cold, ids, salt=2)
        assert np.array_equal(then.fetch(1, ids, WIDTH)[1], rows_for(ids, 1))
        assert then.meta("salt") == b"1"
        assert np.array_equal(cold.fetch(1, ids, WIDTH)[1], rows_for(ids, 2))
        cold.compact()
    got += scan
    assert np.array_equal(np.concatenate([rows for _, rows in got]), rows_for(ids, 1))
    assert cold._retired == []  # the old maps are closed when nobody needs them
    left = cold.scan(1, WIDTH, chunk=100)
    next(left)
    cold.compact()
    assert len(cold._retired) == 1
    left.close()
    assert cold._retired == []


def test_closing_with_a_scan_on_an_old_file(cold):
    put_rows(cold, np.arange(3000))
    scan = cold.scan(1, WIDTH, chunk=10)
    next(scan)
    cold.compact()
    cold.close()
    with pytest.raises(EngineError, match="closed"):
        next(scan)


def test_threads_read_while_it_compacts(cold):
    ids = np.arange(500, dtype=np.int64)
    put_rows(cold, ids)
    stop, errors, reads = threading.Event(), [], [0] * 3

    def read(which):
        try:
            while not stop.is_set() or not reads[which]:
                for rows in (cold.fetch(1, ids, WIDTH)[1], read_all(cold, chunk=64)[1]):
                    salt = int(rows[:1].view("<i8")[0, 0])
                    assert np.array_equal(rows, rows_for(ids, salt))
                reads[which] += 1
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for salt in range(1, 13):
        put_rows(cold, ids, salt)
        cold.compact()
    stop.set()
    for t in threads:
        t.join()
    assert not errors, errors
    assert cold._retired == []


def test_a_second_writer_and_a_reader_are_refused(cold):
    def batches():
        with pytest.raises(EngineError, match="another thread"):
            cold.compact()
        yield []

    cold.write(batches(), {})
    assert cold.generation == 1
    path = cold.directory
    cold.close()
    with Cold.open(path, readonly=True) as reader, pytest.raises(ReadOnlyError):
        reader.compact()


def test_another_process_goes_on_with_the_old_file(cold):
    put_rows(cold, np.arange(2000))
    script = """
import sys
from pathlib import Path
from engine.cold.cold import Cold, newest
path = Path(sys.argv[1])
with Cold.open(path, readonly=True) as cold:
    scan = cold.scan(1, 64, chunk=10)
    next(scan)
    print("open", flush=True)
    assert sys.stdin.readline() == "compacted\\n"
    assert sum(len(ids) for ids, _ in scan) == 1990
    assert (cold.meta("salt"), newest(path), cold.current) == (b"0", 2, False)
    assert cold.stats()["file_bytes"] > 0
with Cold.open(path, readonly=True) as cold:
    assert (cold.meta("salt"), cold.generation) == (b"1", 2)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, cold.directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        cold.compact()
        put_rows(cold, np.arange(2000), salt=1)
        print("compacted", file=other.stdin, flush=True)
        assert other.wait() == 0


def test_verifying_and_opening_while_it_compacts(cold):
    """Whoever looks for the newest file may find it gone a moment later, and looks again."""
    put_rows(cold, np.arange(500))
    script = """
import sys
from pathlib import Path
from engine.cold.cold import Cold, verify
print("open", flush=True)
for _ in range(40):
    assert verify(Path(sys.argv[1]))["tables"][1] == 500
    with Cold.open(Path(sys.argv[1]), readonly=True) as cold:
        assert sum(len(ids) for ids, _ in cold.scan(1, 64)) == 500
"""
    with subprocess.Popen([sys.executable, "-c", script, cold.directory], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        while other.poll() is None:
            cold.compact()
        assert other.returncode == 0


def test_what_a_crash_leaves_behind_is_deleted(cold):
    put_rows(cold, np.arange(100), salt=1)
    path = cold.directory
    cold.compact()
    cold.close()
    newest = data_file(path, 2).read_bytes()
    data_file(path, 1).write_bytes(b"older, of no matter")
    (path / "data-1.mdb-lock").write_bytes(b"")
    (path / "data-3.mdb.new").write_bytes(newest[:9000])
    (path / "data-3.mdb-lock").write_bytes(b"left")
    (path / "notes.txt").write_bytes(b"not ours")
    with Cold.open(path, readonly=True) as reader:
        assert reader.meta("salt") == b"1"
    assert len(names(cold)) == 7
    with Cold.open(path) as again:
        assert (again.generation, again.meta("salt")) == (2, b"1")
        assert names(again) == ["data-2.mdb", "data-2.mdb-lock", "notes.txt"]
    data_file(path, 11).write_bytes(newest[: len(newest) // 2])  # the newest counts, even damaged
    with pytest.raises(CorruptionError) as caught:
        Cold.open(path)
    assert caught.value.file == str(data_file(path, 11))


def test_no_room_for_the_copy(cold):
    ids = np.arange(20_000, dtype=np.int64)
    put_rows(cold, ids, salt=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(StorageFullError):
                cold.compact()
            assert names(cold) == ["data-1.mdb", "data-1.mdb-lock"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    put_rows(cold, ids[:9], salt=2)
    cold.compact()
    assert np.array_equal(read_all(cold)[1], np.concatenate([rows_for(ids[:9], 2), rows_for(ids[9:], 1)]))


@pytest.mark.parametrize("step", ["lock", "rename", "names", "delete"])
def test_errors_at_each_step(cold, monkeypatch, step):
    put_rows(cold, np.arange(100), salt=1)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC if step == "lock" else errno.EIO, "out of order")

    with monkeypatch.context() as patch:
        where = {"lock": os, "rename": os, "names": cold_module, "delete": os}[step]
        name = {"lock": "posix_fallocate", "rename": "rename", "names": "sync_directory", "delete": "unlink"}[step]
        patch.setattr(where, name, fail)
        with pytest.raises(StorageFullError if step == "lock" else EngineError):
            cold.compact()
    assert np.array_equal(read_all(cold)[1], rows_for(np.arange(100), 1))
    if step == "names":
        for call in (cold.compact, lambda: put_rows(cold, column(1))):
            with pytest.raises(EngineError, match="open the directory again"):
                call()
    else:
        assert cold.generation == (2 if step == "delete" else 1)
        put_rows(cold, np.arange(100), salt=2)
        cold.compact()
        assert len(names(cold)) == 2
    cold.close()
    with Cold.open(cold.directory) as again:
        assert np.array_equal(read_all(again)[1], rows_for(np.arange(100), 1 if step == "names" else 2))
        assert len(names(again)) == 2


def test_a_copy_that_is_not_whole_is_not_used(cold, monkeypatch):
    put_rows(cold, np.arange(100))
    monkeypatch.setattr(snapshot, "write_copy", lambda pairs, data: cold_file.write_copy(list(pairs)[::-1], data))
    put_rows(cold, np.arange(2000))
    with pytest.raises(EngineError):
        cold.compact()
    assert names(cold) == ["data-1.mdb", "data-1.mdb-lock"]
    assert len(read_all(cold)[0]) == 2000
