"""Many cold tiers in one process, many readers, processes that died or stand still, and a disk with little room."""

import errno
import os
import signal
import subprocess
import sys

import lmdb
import numpy as np
import pytest
from known_rows import column, put_rows, read_all, rows_for
from other_process import other_process

from engine.cold import file as cold_file
from engine.cold.cold import Cold
from engine.contract.errors import EngineError, StorageFullError

MANY = """
import sys
from pathlib import Path
import numpy as np
from engine.cold.cold import Cold
cold = [Cold.create(Path(sys.argv[1]) / str(n), {"n": str(n).encode()}) for n in range(200)]
for n, one in enumerate(cold):
    one.write((), {"n": str(n + 1).encode()})
maps = [one.stats()["map_bytes"] for one in cold]
assert maps[0] == maps[31] == 1 << 40, maps[:40]
assert maps == sorted(maps, reverse=True)
assert maps[-1] >= 1 << 34, maps[-1]
assert np.ones(1 << 20).sum() == 1 << 20  # there is address space for others
for one in cold[40:]:
    one.close()
with Cold.create(Path(sys.argv[1]) / "last", {}) as last:
    assert last.stats()["map_bytes"] == 1 << 39
print([one.meta("n") for one in cold[:40]] == [str(n + 1).encode() for n in range(40)])
"""


def test_two_hundred_in_one_process(tmp_path):
    command = ["bash", "-c", 'ulimit -n $(ulimit -Hn); exec "$0" "$@"', sys.executable, "-c", MANY, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("True\n", 0), run.stderr


def test_the_map_is_never_smaller_than_the_file_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(cold_file, "MAP_BYTES", 1 << 20)
    with Cold.create(tmp_path / "c", {}) as cold:
        with pytest.raises(StorageFullError, match="Open the directory again"):
            put_rows(cold, np.arange(60_000))
        file_bytes = cold.stats()["file_bytes"]
    with Cold.open(tmp_path / "c") as cold:
        assert cold.stats()["map_bytes"] >= 4 * file_bytes


@pytest.fixture
def crowded(tmp_path):
    """A cold tier with every place for a reader taken by a process, which is given, and one that rests beside it, which
    keeps LMDB from beginning anew."""
    directory = tmp_path / "c"
    with Cold.create(directory, {"a": b"b"}) as cold:
        put_rows(cold, np.arange(10))
    with other_process() as rests, other_process() as takes:
        for other in (rests, takes):
            other("from pathlib import Path; from engine.cold.cold import Cold")
            other(f"cold = Cold.open(Path({str(directory)!r}), readonly=True); taken = []")
        takes(
            "import lmdb\n"
            "def take():\n"
            "    while True:\n"
            "        try: taken.append(cold._mapped.env.begin())\n"
            "        except lmdb.ReadersFullError: return len(taken)\n"
        )
        assert takes("take()") >= cold_file.READERS
        yield directory, rests, takes


@pytest.mark.parametrize("readonly", [True, False])
def test_each_opening_frees_the_places_of_readers_that_died(crowded, readonly):
    directory, rests, takes = crowded
    takes("[taken.pop().abort() for _ in range(3)]; cold.meta('a')")
    takes.kill()
    with Cold.open(directory, readonly=readonly) as cold:
        assert cold.meta("a") == b"b"
    rests("taken = [cold._mapped.env.begin() for _ in range(500)]")


def test_places_of_dead_readers_are_free_for_whoever_is_open(crowded):
    _, rests, takes = crowded
    takes.kill()
    assert rests("cold.meta('a') == b'b'")


def test_more_readers_than_there_are_places(crowded):
    _, rests, takes = crowded
    answer = rests.ask("cold.meta('a')")
    assert answer["error"] == EngineError.__name__
    assert "No more reads at once" in answer["text"]
    takes("[taken.pop().abort() for _ in range(3)]")
    assert rests("cold.meta('a') == b'b'")


def test_a_reader_that_stands_still_is_named(tmp_path):
    with Cold.create(tmp_path / "c", {}) as cold, other_process() as other:
        put_rows(cold, np.arange(10))
        assert (cold.stats()["oldest_reader_pid"], cold.stats()["oldest_reader_lag"]) == (0, 0)
        other("from pathlib import Path; from engine.cold.cold import Cold; import os")
        other(f"cold = Cold.open(Path({str(tmp_path / 'c')!r}), readonly=True); inside = cold._mapped.env.begin()")
        other._process.send_signal(signal.SIGSTOP)
        for salt in range(5):
            put_rows(cold, np.arange(10), salt)
        assert cold.stats()["oldest_reader_pid"] == other._process.pid
        assert cold.stats()["oldest_reader_lag"] == 5
        other._process.send_signal(signal.SIGCONT)
        other("inside.abort()")
        assert cold.stats()["oldest_reader_lag"] == 0


@pytest.mark.parametrize(("room", "full"), [(100 << 10, True), (1 << 30, False)])
def test_a_write_that_was_cut_short(tmp_path, monkeypatch, room, full):
    """LMDB says "I/O error" for it. Whether the disk is full shows in a write that is as long as LMDB's may be."""
    plain, real = os.pwrite, Cold.create(tmp_path / "c", {})
    begin = real._mapped.env.begin

    class Short:
        reader_check = real._mapped.env.reader_check

        def begin(self, write=False):
            txn = begin(write=write)
            if not write:
                return txn

            class Txn:
                cursor, abort = txn.cursor, txn.abort

                def commit(self):
                    txn.abort()
                    error = lmdb.Error("mdb_txn_commit: Input/output error")
                    error.code = errno.EIO
                    raise error

            return Txn()

    with real as cold:
        put_rows(cold, np.arange(10), salt=1)
        env = cold._mapped.env
        monkeypatch.setattr(cold._mapped, "env", Short())
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: plain(fd, data[:room], at))
        with pytest.raises(EngineError) as caught:
            put_rows(cold, column(1), salt=2)
        assert isinstance(caught.value, StorageFullError) == full
        monkeypatch.undo()
        cold._mapped.env = env
        if full:
            put_rows(cold, np.arange(20), salt=3)  # there is room again
            assert np.array_equal(read_all(cold)[1], rows_for(np.arange(20), 3))
        else:
            with pytest.raises(EngineError, match="open the directory again"):
                put_rows(cold, column(1), salt=2)
