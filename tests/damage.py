"""Kinds of damage to a small directory, and the process that says what opening a damaged one gives."""

from pathlib import Path

import numpy as np
from killed import kill

import engine

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


def killed_model(home):
    """Makes a directory whose writer was killed; it, and the digest after each of its calls."""
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
