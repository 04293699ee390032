"""Damaged files: a typed error, or what is there is right; never a crash of the process, never a silent wrong row.

Each case opens a copy of one small directory with some bytes changed, in a process of its own where a crash would show.
"""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from damage import CALL, CALLS, CASES, JUDGE, SAVED, append, cut, flip, log_of, zero

import engine
from engine import CorruptionError


def verdicts(whole, tmp_path, damage):
    """Runs damage(path, rng) on CASES copies; one line for each of what opening it gave."""
    home, digests = whole
    paths = []
    for case in range(CASES):
        path = tmp_path / str(case)
        shutil.copytree(home, path)
        damage(path, np.random.default_rng(case))
        paths.append(str(path))
    (tmp_path / "list").write_text("\n".join(paths))
    judge = [sys.executable, "-c", JUDGE, tmp_path / "list", ",".join(digests), str(CALL * SAVED)]
    run = subprocess.run(judge, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == CASES
    assert [line for line in lines if not line.startswith(("right", "refused"))] == []
    return lines


@pytest.mark.parametrize("damage", [flip, cut, zero, append])
def test_a_damaged_log(whole, tmp_path, damage):
    lines = verdicts(whole, tmp_path, lambda path, rng: damage(log_of(path), rng))
    if damage is append:
        assert all(line == "right" for line in lines)
    else:
        assert any(line.startswith("refused") for line in lines)


@pytest.mark.parametrize("damage", [flip, cut, zero, append])
def test_a_damaged_tier(whole, tmp_path, damage):
    lines = verdicts(whole, tmp_path, lambda path, rng: damage(path / "rows" / "data-1.mdb", rng))
    if damage is not append:
        assert any(line.startswith("refused") for line in lines)


def test_many_flips_everywhere(whole, tmp_path):
    def damage(path, rng):
        flip(path / "rows" / "data-1.mdb", rng, bits=40)
        flip(log_of(path), rng, bits=3)

    verdicts(whole, tmp_path, damage)


def test_a_damaged_lock_file_is_of_no_matter(whole, tmp_path):
    def damage(path, rng):
        (zero, flip, append)[int(rng.integers(3))](path / "rows" / "data-1.mdb-lock", rng)

    assert set(verdicts(whole, tmp_path, damage)) == {"right"}


@pytest.mark.parametrize("missing", ["LOCK", "log", "rows", "rows/data-1.mdb", "segment"])
def test_missing_files(whole, tmp_path, contents, missing):
    path = tmp_path / "model"
    shutil.copytree(whole[0], path)
    gone = log_of(path) if missing == "segment" else path / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    before = contents(path)
    for call in (engine.open, engine.verify):
        with pytest.raises((CorruptionError, engine.ConfigError)):
            call(path)
    assert contents(path) == before


def test_the_error_says_where(whole, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(whole[0], path)
    segment = log_of(path)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CorruptionError) as caught:
        engine.open(path)
    assert caught.value.file == str(segment)
    assert 0 < caught.value.offset < len(data)
    assert str(segment) in str(caught.value)


def test_a_torn_tail_is_cut_and_the_stream_goes_on(whole, tmp_path):
    home, digests = whole
    path = tmp_path / "model"
    shutil.copytree(home, path)
    segment = log_of(path)
    with segment.open("r+b") as f:
        f.truncate(segment.stat().st_size - 5)
    assert engine.verify(path).torn_bytes > 0
    with engine.open(path) as eng:
        assert (eng.seq, eng.digest()) == (CALL * (CALLS - 1), digests[-2])
        eng.ingest(1, 2)
        digest = eng.digest()
    assert engine.verify(path).torn_bytes == 0
    with engine.open(path) as eng:
        assert eng.digest() == digest
