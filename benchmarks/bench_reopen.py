"""Reopening: the check of the pages, the scan of the item rows, and the replay of what the log has beyond LMDB.

`scan` should be at 2 M rows/s, `replay` at the speed of learning. The page cache is warm.

The scan fills 268 MB of new memory. A virtual machine may have to get it from its host first, at less than a tenth of
the speed of memory that it has. So that rate is measured beside, and the scan twice: as it comes, and after as much
memory was touched and given back.
"""

import mmap
import shutil
import time

import numpy as np
import pytest

import engine

NEW_MEMORY = 512 << 20
ROWS = 1_000_000
EVENTS = 300_000


def find_memory():
    """GB/s of touching new memory, a byte a page; given back when it returns."""
    with mmap.mmap(-1, NEW_MEMORY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        began = time.perf_counter()
        memory[:: mmap.PAGESIZE] = bytes(NEW_MEMORY // mmap.PAGESIZE)
        return NEW_MEMORY / (time.perf_counter() - began) / 1e9


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("behind", [0, EVENTS])
def test_reopen(benchmark, tmp_path, behind, touched):
    """`behind`: events that only the log has; `touched`: memory for it was found just before."""
    path, filled, killed = (tmp_path / name for name in ("shop", "filled", "killed"))
    rng = np.random.default_rng(0)
    with engine.open(filled, loss="bpr", batch_size=256, negatives=1) as eng:
        ids = np.arange(ROWS)
        eng.ingest(ids, ids)
        eng.checkpoint()
        if behind:
            eng.ingest(rng.integers(0, ROWS, behind), rng.integers(0, ROWS, behind))
        shutil.copytree(filled, killed)  # closing writes an epoch, and leaves nothing to replay
    opened = []
    found = []

    def prepare():
        if opened:
            opened.pop().close()
            shutil.rmtree(path)
        shutil.copytree(killed, path)
        if touched:
            find_memory()
        else:
            time.sleep(5)  # what was given back has gone to the host meanwhile, where a host wants it
            found.append(find_memory())
            time.sleep(5)

    def reopen():
        opened.append(engine.open(path, epoch_seconds=1e6))

    benchmark.pedantic(reopen, setup=prepare, rounds=3)
    opening = opened[0].stats()["opening"]
    opened[0].close()
    benchmark.extra_info["scan M rows/s"] = round(opening["scanned_items"] / opening["scan_seconds"] / 1e6, 3)
    if found:
        benchmark.extra_info["new memory GB/s"] = round(min(found), 2)
    if behind:
        replay = opening["replayed_events"] / opening["replay_seconds"] / 1e6
        benchmark.extra_info["replay M events/s"] = round(replay, 3)
