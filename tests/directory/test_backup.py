"""Backups: another directory, whole and verified, at one seq, whatever goes on meanwhile."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from directories import SMALL, mounted, refuse
from junk import but
from other_process import other_process

import engine
from engine import ConfigError, EngineError, StorageFullError
from engine.cold.snapshot import Snapshot


def test_a_backup_is_a_directory_like_any_other(home, tmp_path, stream, loss):
    users, items = stream(400)
    settings = SMALL | {"loss": loss}
    with engine.open(home, **settings) as eng:
        eng.ingest(users[:150], items[:150], position=("shop", b"150"))
        mask = os.umask(0)
        try:
            assert eng.backup(tmp_path / "b") == 150
        finally:
            os.umask(mask)
        digest = eng.digest()
        eng.ingest(users[150:], items[150:])
        later = eng.digest()
        assert eng.stats()["lmdb_seq"] == 150
    for path in [tmp_path / "b", *(tmp_path / "b").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    report = engine.verify(tmp_path / "b")
    assert (report.seq, report.lmdb_seq, report.log_records) == (150, 150, 0)
    with engine.open(tmp_path / "b", mode="r") as reader:
        assert reader.digest() == digest
    with engine.open(tmp_path / "b") as copy:
        assert (copy.seq, copy.digest(), copy.position("shop")) == (150, digest, b"150")
        copy.ingest(users[150:], items[150:])
        assert copy.digest() == later
        assert copy.backup(tmp_path / "c") == 400
    with engine.open(tmp_path / "c") as copy:
        assert copy.digest() == later
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "model"]


def test_an_empty_model(home, tmp_path):
    with engine.open(home, **SMALL) as eng:
        assert eng.backup(f"{tmp_path}/b/") == 0
        digest = eng.digest()
    with engine.open(tmp_path / "b") as copy:
        assert copy.digest() == digest


def test_learning_goes_on(home, tmp_path, stream):
    users, items = stream(6000, 500, 800)
    step, backups, errors, one = 40, {}, [], threading.Event()
    with engine.open(home, **SMALL, warm_bytes=100_000, epoch_seconds=0.05) as eng:

        def learn():
            try:
                for at in range(0, len(users), step):
                    if at == len(users) // 2:
                        one.wait()
                    eng.ingest(users[at : at + step], items[at : at + step])
            except BaseException as e:
                errors.append(e)

        thread = threading.Thread(target=learn)
        thread.start()
        try:
            while len(set(backups.values())) < 2 or (thread.is_alive() and len(backups) < 6):
                path = tmp_path / f"b{len(backups)}"
                backups[path] = eng.backup(path)
                one.set()
        finally:
            one.set()
            thread.join()
        assert not errors, errors
        assert eng.seq == len(users)
    assert len(set(backups.values())) > 1
    with engine.open(":memory:", **SMALL) as eng:
        for path, seq in backups.items():
            for at in range(eng.seq, seq, step):
                eng.ingest(users[at : at + step], items[at : at + step])
            with engine.open(path) as copy:
                assert (copy.seq, copy.digest()) == (seq, eng.digest())


def test_epochs_compaction_and_closing_meanwhile(home, tmp_path, stream, monkeypatch):
    users, items = stream(300)
    closing = []
    with engine.open(home, **SMALL, epoch_seconds=1e9) as eng:
        eng.ingest(users[:100], items[:100])
        digest, plain = eng.digest(), Snapshot.copy

        def copy(self, data, *meta):
            if "/.b.rowtide-" in str(data):
                eng.ingest(users[100:200], items[100:200])
                eng.checkpoint()
                eng._directory.cold.compact()
                eng.ingest(users[200:], items[200:])
                eng.checkpoint()
                closing.append(threading.Thread(target=eng.close))
                closing[0].start()
            plain(self, data, *meta)

        monkeypatch.setattr(Snapshot, "copy", copy)
        assert eng.backup(tmp_path / "b") == 100
        closing[0].join()
    with engine.open(tmp_path / "b") as copy:
        assert (copy.seq, copy.digest()) == (100, digest)
    with engine.open(home) as eng:
        assert eng.seq == 300


def test_where_no_backup_can_be(home, tmp_path, stream, contents):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to("nowhere")
        (tmp_path / "into").symlink_to(home)
        there = sorted(os.listdir(tmp_path)), sorted(os.listdir(home))
        for name in ("file", "empty", "link", "model", "into"):
            refuse(["dst", "already"], lambda name=name: eng.backup(tmp_path / name))
        for inside in (home / "b", home / "rows" / "b", home / ".." / "model" / "b", tmp_path / "into" / "b"):
            refuse(["dst", "inside"], lambda inside=inside: eng.backup(inside))
        refuse(["dst", "':memory:'"], lambda: eng.backup(":memory:"))
        for nowhere in (tmp_path / "no" / "b", tmp_path / "file" / "b"):
            refuse("dst", lambda nowhere=nowhere: eng.backup(nowhere))
        for junk in but("text"):
            if not isinstance(junk, str):
                refuse("dst", lambda junk=junk: eng.backup(junk))
        refuse("n" * 250, lambda: eng.backup(tmp_path / ("n" * 250)), EngineError)
        assert (sorted(os.listdir(tmp_path)), sorted(os.listdir(home))) == there
        eng.ingest(1, 2)
    refuse("closed", lambda: eng.backup(tmp_path / "b"), EngineError)
    with engine.open(":memory:", **SMALL) as eng:
        refuse("memory", lambda: eng.backup(tmp_path / "b"))


def test_no_room(home, tmp_path, stream):
    disk = tmp_path / "disk"
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(3000, 3000, 2000))
        with mounted(disk, "-t", "tmpfs", "-o", "size=300k", "tmpfs"):
            refuse("", lambda: eng.backup(disk / "b"), StorageFullError)
            assert os.listdir(disk) == []
        assert eng.backup(tmp_path / "b") == 3000


@pytest.mark.parametrize("call", ["rename", "fsync", "mkdir"])
def test_disk_errors(home, tmp_path, stream, monkeypatch, call):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
        eng.checkpoint()

        def fail(*_, **__):
            raise OSError(errno.EIO, "out of order")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            refuse("", lambda: eng.backup(tmp_path / "b"), EngineError)
        assert os.listdir(tmp_path) == ["model"]
        assert eng.backup(tmp_path / "b") == 50
        eng.ingest(1, 2)


def test_somebody_else_makes_it_meanwhile(home, tmp_path, stream, monkeypatch):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
        plain = Snapshot.copy

        def copy(self, data, *meta):
            plain(self, data, *meta)
            (tmp_path / "b").mkdir()
            (tmp_path / "b" / "theirs").touch()

        monkeypatch.setattr(Snapshot, "copy", copy)
        refuse("dst", lambda: eng.backup(tmp_path / "b"), ConfigError)
        assert os.listdir(tmp_path / "b") == ["theirs"]
    assert np.array_equal(sorted(os.listdir(tmp_path)), ["b", "model"])


def test_a_reader_makes_a_backup_of_the_last_epoch_beside_the_writer(home, tmp_path, stream, contents):
    users, items = stream(300)
    with other_process() as other:
        other(f"eng = engine.open({str(home)!r}, dim=8, epoch_seconds=1e9)")
        other(f"users, items = {users.tolist()}, {items.tolist()}")
        other("eng.ingest(users[:200], items[:200], position=('shop', b'200')).seq, eng.checkpoint()")
        digest = other("eng.digest()")
        other("eng.ingest(users[200:], items[200:]).seq")
        before = contents(home)
        with engine.open(home, mode="r") as reader:
            refuse("is there already", lambda: reader.backup(tmp_path))
            refuse("inside", lambda: reader.backup(home / "rows" / "b"))
            assert reader.backup(tmp_path / "b") == 200
            assert contents(home) == before
            assert other("eng.checkpoint()") == 300
            assert reader.backup(tmp_path / "c") == 300
            later = reader.digest()
    for name, expected in (("b", digest), ("c", later)):
        report = engine.verify(tmp_path / name)
        assert report.seq == report.lmdb_seq
        with engine.open(tmp_path / name) as copy:
            assert (copy.digest(), copy.position("shop")) == (expected, b"200")
    assert engine.verify(tmp_path / "b").directory_id != engine.verify(home).directory_id


def test_a_closed_reader_makes_no_backup(home, tmp_path):
    engine.open(home, **SMALL).close()
    reader = engine.open(home, mode="r")
    reader.close()
    refuse("closed", lambda: reader.backup(tmp_path / "b"), EngineError)
    assert not (tmp_path / "b").exists()


KILLED = """
import os, signal, sys
import engine
from engine.cold.snapshot import Snapshot
eng = engine.open(sys.argv[1], dim=8)
eng.ingest([1, 2], [3, 4])
plain = Snapshot.copy
def copy(self, data, *meta):
    plain(self, data, *meta)
    if sys.argv[3] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("there", flush=True)
    sys.stdin.read()
Snapshot.copy = copy
eng.backup(sys.argv[2])
"""


def hidden(path):
    return sorted(name for name in os.listdir(path) if name.startswith("."))


def test_what_a_killed_backup_left_goes_with_the_next(home, tmp_path):
    """What a living process makes stays, and so does what only looks like it."""
    for name in ("a", "b"):
        command = [sys.executable, "-c", KILLED, home.with_name(f"model-{name}"), tmp_path / name, "kill"]
        assert subprocess.run(command).returncode == -signal.SIGKILL
    left = hidden(tmp_path)
    assert len(left) >= 1
    theirs = [".mine", ".mine.rowtide-abcdefgh"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    command = [sys.executable, "-c", KILLED, home.with_name("model-c"), tmp_path / "c", "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "there\n"
        assert len(hidden(tmp_path)) == len(theirs) + 1
        with engine.open(home, **SMALL) as eng:
            eng.ingest(1, 2)
            eng.backup(tmp_path / "d")
        (making,) = set(hidden(tmp_path)) - set(theirs)
        assert making.startswith(".c.rowtide-")
        other.stdin.close()
        assert other.wait() == 0
    assert hidden(tmp_path) == theirs
    for name in ("c", "d"):
        assert engine.verify(tmp_path / name).seq > 0
