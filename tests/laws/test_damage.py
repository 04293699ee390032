"""Damaged files: a typed error, or what is there is right; never a crash of the process, never a silent wrong row.

Each case opens a copy of one small directory with some bytes changed, in a process of its own where a crash would show.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killed import kill

import engine
from engine import CorruptionError

SMALL = {"dim": 4, "loss": "bpr", "batch_size": 2, "negatives": 1, "seed": 3}
CALL, CALLS, SAVED = 10, 12, 6  # events a call, calls, of which so many are in LMDB
CASES = 60

JUDGE = """
import sys, engine
good, least = set(sys.argv[2].split(",")), int(sys.argv[3])
for path in open(sys.argv[1]).read().split("\\n"):
    try:
        with engine.open(path) as eng:
            found = eng.digest()
            eng.topk(list(range(30)), 50, exclude_seen=True)
            print("right" if found in good and eng.seq >= least else f"wrong {eng.seq}", flush=True)
    except engine.CorruptionError as e:
        print("refused", e, flush=True)
    except Exception as e:
        print("other", type(e).__name__, e, flush=True)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A directory whose writer was killed, and the digest after each of its calls."""
    home = tmp_path_factory.mktemp("damage") / "model"
    rng = np.random.default_rng(2)
    digests = []
    with engine.open(home, **SMALL, epoch_seconds=1e9) as eng:
        digests.append(eng.digest())
        for call in range(CALLS):
            eng.ingest(rng.integers(0, 25, CALL), rng.integers(0, 40, CALL))
            digests.append(eng.digest())
            if call == SAVED - 1:
                eng.checkpoint()
        kill(eng)
    return home, digests


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


def log_of(path: Path) -> Path:
    (segment,) = (path / "log").glob("*.log")
    return segment


def flip(file: Path, rng, bits=1):
    data = bytearray(file.read_bytes())
    for at in rng.integers(0, len(data), bits):
        data[at] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def cut(file: Path, rng):
    with file.open("r+b") as f:
        f.truncate(int(rng.integers(0, file.stat().st_size)))


def zero(file: Path, rng):
    data = bytearray(file.read_bytes())
    at = int(rng.integers(0, len(data)))
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    file.write_bytes(data)


def append(file: Path, rng):
    with file.open("ab") as f:
        f.write(rng.bytes(int(rng.integers(1, 5000))))


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
