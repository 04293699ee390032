"""A million queries in one call: right answers, and scratch memory that does not grow with their number.

Measured in a process of its own: the most memory that a call ever held beyond what was there before it, less its
answer and its copy of the arguments.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
import engine

n = int(sys.argv[1])
rng = np.random.default_rng(0)
users = np.arange(n)

def peak(call):
    before = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in l).split()[1])
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is there now
    answer = call()
    most = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l).split()[1])
    parts = [answer] if isinstance(answer, np.ndarray) else [answer.ids, answer.scores, answer.counts]
    return answer, (most - before) * 1024, sum(x.nbytes for x in parts)

with engine.open(":memory:", dim=16, loss="bpr", batch_size=8192, negatives=1) as eng:
    items = rng.integers(0, 300, n)
    eng.ingest(users, items)
    each = np.stack([items, items[::-1]], axis=1)
    out = {}
    for name, call in {
        "topk": lambda: eng.topk(users, 10),
        "topk, seen": lambda: eng.topk(users, 10, exclude_seen=True),
        "topk, exclude": lambda: eng.topk(users, 10, exclude=each),
        "topk, include": lambda: eng.topk(users, 10, include=items[:50]),
        "topk, vectors": lambda: eng.topk(vectors=np.ones((n, 16), np.float32), k=10),
        "similar": lambda: eng.similar(items, 10),
        "score": lambda: eng.score(users, items),
        "vectors": lambda: eng.vectors(users),
    }.items():
        answer, grew, size = peak(call)
        out[name] = [grew, size]
        if name == "topk":
            some = rng.integers(0, n, 50)
            one = eng.topk(some, 10)
            assert (answer.ids[some] == one.ids).all() and (answer.scores[some] == one.scores).all()
            assert (answer.counts == 10).all()
        if name == "topk, seen":
            assert not (answer.ids == items[:, None]).any()
        if name == "topk, exclude":
            assert not (answer.ids[:, :, None] == each[:, None, :]).any()
    print(json.dumps(out))
"""


@pytest.mark.parametrize("n", [50_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
def test_scratch_memory_is_bounded(n):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(n)], capture_output=True, text=True, timeout=280,
        cwd=Path(__file__).parents[2],
        # Under AddressSanitizer: what was freed counts, unless it is told to let go of it.
        env=os.environ | {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, (grew, answer) in json.loads(done.stdout).items():
        arguments = {"topk, exclude": 24 * n, "topk, vectors": 145 * n}.get(name, 16 * n)
        scratch = grew - answer - arguments
        print(f"{name}: {n} queries, answer {answer >> 20} MiB, beyond it and the arguments {scratch >> 20} MiB")
        assert scratch < 48 << 20, name


def test_large_k_of_many_queries():
    """Answers are cut into parts by k too."""
    with engine.open(":memory:", dim=2, loss="bpr", batch_size=4096) as eng:
        eng.ingest(np.arange(5000) % 700, np.arange(5000))
        found = eng.topk(np.arange(700), 5000)
        every = np.arange(5000)
        assert (np.sort(found.ids, axis=1) == every).all()
        assert (found.counts == 5000).all()
        assert eng.topk(13, 5000).ids.tolist() == found.ids[13].tolist()
