"""A model directory and what can be wrong with it: modes, settings, other writers, permissions, disks that are full."""

import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from directories import SMALL, mounted, refuse
from killed import kill
from unprivileged import modes_bind_root

import engine
from engine import BusyError, ConfigError, CorruptionError, EngineError, ReadOnlyError, StorageFullError
from engine.directory.directory import Directory


def test_modes(home, stream):
    with engine.open(home, mode="x", **SMALL) as eng:
        eng.ingest(*stream(20))
    refuse("'x'", lambda: engine.open(home, mode="x"))
    with engine.open(home, mode="a") as eng:
        assert eng.seq == 20


def test_an_empty_directory_becomes_a_model(home):
    home.mkdir()
    with engine.open(home, mode="x", **SMALL) as eng:
        eng.ingest(1, 2)
    assert engine.verify(home).seq == 1


@pytest.mark.parametrize("kind", [str, lambda path: path, lambda path: f"{path}/", os.path.relpath])
def test_paths_of_every_kind(home, kind):
    with engine.open(kind(home), **SMALL) as eng:
        eng.ingest(1, 2)
    with engine.open(home) as eng:
        assert eng.seq == 1


def test_reopening_gives_the_same_state(home, stream):
    users, items = stream(300)
    with engine.open(home, **SMALL) as eng:
        eng.ingest(users[:100], items[:100], position=("shop", b"100"))
        assert eng.checkpoint() == 100
        eng.ingest(users[100:], items[100:], weights=np.linspace(0, 2, 200), position=("ads", b"\xff"))
        digest, answer = eng.digest(), eng.topk(users, 7, exclude_seen=True)
        kill(eng)
    for replayed in (200, 0):
        with engine.open(home) as eng:
            assert (eng.seq, eng.digest()) == (300, digest)
            assert (eng.position("shop"), eng.position("ads"), eng.position("x")) == (b"100", b"\xff", None)
            assert eng.settings["batch_size"] == 4
            again = eng.topk(users, 7, exclude_seen=True)
            np.testing.assert_array_equal(again.ids, answer.ids)
            np.testing.assert_array_equal(again.scores, answer.scores)
            assert eng.stats()["opening"]["replayed_events"] == replayed


@pytest.mark.parametrize(("name", "other"), [("dim", 16), ("loss", "softmax"), ("seed", 4)])
def test_fixed_settings(home, contents, name, other):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(1, 2)
        eng.checkpoint()
    before = contents(home)
    refuse([name, repr(other), repr(SMALL[name])], lambda: engine.open(home, **{name: other}))
    assert contents(home) == before
    with engine.open(home, **SMALL) as eng:
        assert eng.seq == 1


def test_changed_settings_are_used_and_replayed_as_they_were(home, stream):
    users, items = stream(300)
    changes = [{}, {"lr": 0.5}, {"negatives": 3, "batch_size": 8}, {"l2": 0.01}, {"batch_size": 1, "lr": 0.05}]
    expected, digests = {}, []
    for part, change in enumerate(changes):
        expected |= change
        with engine.open(home, **(change if part else SMALL)) as eng:
            assert eng.settings == eng.settings | expected
            if part == 3:
                eng.checkpoint()
            cut = slice(part * 60, part * 60 + 60)
            eng.ingest(users[cut], items[cut])
            digests.append(eng.digest())
            kill(eng)
    with engine.open(home) as eng:
        assert eng.digest() == digests[-1]
        assert eng.settings == eng.settings | expected
    with engine.open(":memory:", **SMALL) as eng:
        eng.ingest(users, items)
        assert eng.digest() != digests[-1]


def test_a_setting_given_again_changes_nothing(home, contents):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(1, 2)
        eng.checkpoint()
    before = contents(home)
    engine.open(home, lr=0.1, **SMALL).close()
    assert contents(home) == before


def test_a_second_writer_in_this_process(home):
    with engine.open(home, **SMALL) as eng:
        refuse("model", lambda: engine.open(home), BusyError)
        eng.ingest(1, 2)
    engine.open(home).close()


def test_a_second_writer_in_another_process(home):
    code = "import engine, sys\ntry: engine.open(sys.argv[1])\nexcept engine.BusyError as e: print('busy', e)"
    with engine.open(home, **SMALL):
        other = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True)
    assert other.stdout.startswith("busy")
    with pytest.raises(BlockingIOError):
        raise BusyError


def test_what_is_no_model(tmp_path, contents):
    other, file = tmp_path / "photos", tmp_path / "file"
    (other / "log").mkdir(parents=True)
    (other / "cat.jpg").write_bytes(b"meow")
    file.write_bytes(b"text")
    before = contents(tmp_path)
    for path in (other, file):
        refuse(path.name, lambda path=path: engine.open(path))
        refuse(path.name, lambda path=path: engine.verify(path))
    refuse("parent", lambda: engine.open(tmp_path / "no" / "such"))
    refuse("such", lambda: engine.verify(tmp_path / "such"))
    refuse("file", lambda: engine.open(file / "below"), EngineError)
    refuse("n" * 300, lambda: engine.open(tmp_path / ("n" * 300)), EngineError)
    assert contents(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["file", "photos"]


def test_too_little_room_is_said_before_anything_is_made(home, contents):
    refuse("warm_bytes", lambda: engine.open(home, dim=64, warm_bytes=20_000))
    assert os.listdir(home.parent) == []
    with engine.open(home, **SMALL, warm_bytes=20_000) as eng:
        eng.ingest(1, 2)
        eng.checkpoint()
    before = contents(home)
    refuse(["warm_bytes", "batch_size 4096"], lambda: engine.open(home, batch_size=4096, warm_bytes=20_000))
    assert contents(home) == before
    with engine.open(home, warm_bytes=20_000) as eng:
        assert eng.settings["batch_size"] == 4


def test_the_room_that_an_error_asks_for_is_enough(home):
    with pytest.raises(ConfigError) as caught:
        engine.open(home, dim=24, batch_size=100, warm_bytes=1)
    wanted = int(str(caught.value).split("at least ")[1].split()[0])
    refuse("warm_bytes", lambda: engine.open(home, dim=24, batch_size=100, warm_bytes=wanted - 1))
    engine.open(home, dim=24, batch_size=100, warm_bytes=wanted).close()


def test_everything_is_private(home, stream):
    mask = os.umask(0)
    try:
        with engine.open(home, **SMALL) as eng:
            eng.ingest(*stream(50))
            eng.checkpoint()
            eng.ingest(*stream(50))
        engine.open(home).close()
    finally:
        os.umask(mask)
    for path in [home, *home.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_read_only_disk(tmp_path, home, stream):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
    view = tmp_path / "view"
    with mounted(view, "--bind", str(tmp_path)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        refuse("Read-only", lambda: engine.open(view / "model"), ReadOnlyError)
        refuse("Read-only", lambda: engine.open(view / "new"), ReadOnlyError)
    with engine.open(home) as eng:
        assert eng.seq == 50


def test_a_directory_that_may_not_be_written(home, stream):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
    for path in [*home.rglob("*"), home]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        with modes_bind_root():
            assert not os.access(home / "log", os.W_OK, effective_ids=True)
            with pytest.raises(ReadOnlyError):
                engine.open(home)
    finally:
        home.chmod(0o700)
        for path in home.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("step", [7, 900])
def test_a_full_disk_loses_nothing_and_goes_on(tmp_path, stream, step):
    disk = tmp_path / "disk"
    users, items = stream(60_000, 3000, 2000)
    with mounted(disk, "-t", "tmpfs", "-o", "size=600k", "tmpfs"):
        with engine.open(disk / "model", **SMALL, epoch_seconds=0.02) as eng:
            refused, start = 0, 0
            while start < len(users) and refused < 3:
                stop = start + step
                try:
                    acknowledged = eng.ingest(users[start:stop], items[start:stop]).seq
                    assert acknowledged == stop
                    start = stop
                except StorageFullError as e:
                    refused += 1
                    accepted = e.seq
                    start = max(start, accepted or 0)
                    assert eng.seq == start
                    assert eng.topk(users[0], 3).counts == 3
            assert refused == 3
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            report = eng.ingest(users[:500], items[:500])
            assert report.seq == start + 500
            digest = eng.digest()
        with engine.open(disk / "model") as eng:
            assert (eng.seq, eng.digest()) == (start + 500, digest)
        assert engine.verify(disk / "model").seq == start + 500
    with engine.open(":memory:", **SMALL) as eng:
        for first in range(0, start, step):
            eng.ingest(users[first : min(first + step, start)], items[first : min(first + step, start)])
        eng.ingest(users[:500], items[:500])
        assert eng.digest() == digest


def test_no_room_to_create(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        (disk / "ballast").write_bytes(bytes(60_000))
        refuse("model", lambda: engine.open(disk / "model", **SMALL), StorageFullError)
        assert os.listdir(disk) == ["ballast"]


def test_lmdb_ahead_of_its_log_is_refused(home, stream, contents):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
    shutil.copytree(home / "log", home.parent / "old")
    with engine.open(home) as eng:
        eng.ingest(*stream(50, seed=1))
        eng.checkpoint()
    shutil.rmtree(home / "log")
    shutil.copytree(home.parent / "old", home / "log")
    before = contents(home)
    refuse("", lambda: engine.open(home), CorruptionError)
    refuse("", lambda: engine.verify(home), CorruptionError)
    assert contents(home) == before


def test_verify_reads_and_changes_nothing(home, stream, contents):
    with engine.open(home, **SMALL) as eng:
        eng.ingest(*stream(50))
        eng.checkpoint()
        eng.ingest(*stream(30))
        before = contents(home)
        open_report = engine.verify(home)
        assert contents(home) == before
        eng.ingest(*stream(20))
        assert eng.seq == 100
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in home.rglob("*") if path.is_file()}
    report = engine.verify(os.fspath(home))
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in home.rglob("*") if p.is_file()} == before
    assert (open_report.seq, open_report.lmdb_seq, report.seq, report.lmdb_seq) == (80, 50, 100, 100)
    assert (report.torn_bytes, report.log_records) == (0, 3)


def test_an_interrupt_at_the_end_of_opening_leaves_no_descriptor(home, monkeypatch):
    engine.open(home, **SMALL).close()
    before = len(os.listdir("/proc/self/fd"))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Directory, "__init__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.open(home)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_that_no_file_system_can_have_is_refused(home):
    with engine.open(home, **SMALL) as eng:
        refuse("path: got str", lambda: engine.open(f"{home}\ud800"), ConfigError)
        refuse("path: got str", lambda: engine.open(f"{home}\ud800", mode="r"), ConfigError)
        refuse("path: got str", lambda: engine.verify(f"{home}\ud800"), ConfigError)
        refuse("dst: got str", lambda: eng.backup(f"{home}\ud800"), ConfigError)
    engine.open(f"{home}\udcff", **SMALL).close()  # bytes that are no UTF-8


@pytest.mark.parametrize("files", [[], ["NEW"]])
def test_what_was_killed_before_its_lock_is_swept_once_it_is_old(home, files):
    old, new = (home.with_name(f".model.rowtide-{end * 8}") for end in "on")
    for folder in (old, new):
        folder.mkdir()
        for name in files:
            (folder / name).touch()
    os.utime(old, (1e9, 1e9))
    engine.open(home, **SMALL).close()
    assert (old.exists(), new.exists()) == (False, True)


def test_an_old_folder_of_the_same_kind_with_something_in_it_stays(home):
    other = home.with_name(".model.rowtide-oooooooo")
    other.mkdir()
    (other / "mine").touch()
    os.utime(other, (1e9, 1e9))
    engine.open(home, **SMALL).close()
    assert (other / "mine").exists()
