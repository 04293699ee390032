"""The cold tier: scattered and dense reads, scans, epochs, and the check before a file is opened.

`pytest benchmarks/bench_cold.py`; rows/s or bytes/s stand in extra_info. Rows of 296 bytes (dim 64, with optimizer
state), the page cache warm.
"""

import numpy as np
import pytest

from engine.cold.cold import Cold, verify
from engine.cold.file import data_file
from engine.machine.backend import native

ROWS, WIDTH, BATCH = 500_000, 296, 8192


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    rng = np.random.default_rng(0)
    ids = np.arange(ROWS, dtype=np.int64)

    def batches():
        for i in range(0, ROWS, BATCH):
            part = ids[i : i + BATCH]
            yield native.seal_rows(1, part, rng.integers(0, 256, (len(part), WIDTH), dtype=np.uint8))

    with Cold.create(tmp_path_factory.mktemp("bench") / "cold", {}) as made:
        made.write(batches(), {})
        yield made


def rate(benchmark, unit: str, amount: float) -> None:
    benchmark.extra_info[unit] = round(amount / benchmark.stats["median"])


def test_scan(benchmark, cold):
    assert benchmark.pedantic(lambda: sum(len(i) for i, _ in cold.scan(1, WIDTH)), rounds=5) == ROWS
    rate(benchmark, "rows/s", ROWS)


@pytest.mark.parametrize("spread", ["scattered", "dense"])
def test_fetch(benchmark, cold, spread):
    rng = np.random.default_rng(1)

    def ids():
        start = rng.integers(ROWS - BATCH)
        some = rng.choice(ROWS, BATCH, replace=False) if spread == "scattered" else np.arange(start, start + BATCH)
        return (1, np.sort(some).astype(np.int64), WIDTH), {}

    found, _ = benchmark.pedantic(cold.fetch, setup=ids, rounds=30)
    assert found.all()
    rate(benchmark, "rows/s", BATCH)


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_epoch(benchmark, cold, share):
    rng = np.random.default_rng(2)
    count = int(ROWS * share)

    def rows():
        ids = np.sort(rng.choice(ROWS, count, replace=False)).astype(np.int64)
        data = rng.integers(0, 256, (count, WIDTH), dtype=np.uint8)
        parts = range(0, count, BATCH)
        return ((native.seal_rows(1, ids[i : i + BATCH], data[i : i + BATCH]) for i in parts), {}), {}

    benchmark.pedantic(cold.write, setup=rows, rounds=3)
    rate(benchmark, "rows/s", count)


def test_seal(benchmark):
    ids, rows = np.arange(BATCH, dtype=np.int64), np.zeros((BATCH, WIDTH), np.uint8)
    benchmark(native.seal_rows, 1, ids, rows)
    rate(benchmark, "rows/s", BATCH)


@pytest.mark.parametrize("values", [False, True], ids=["pages", "values"])
def test_check(benchmark, cold, values):
    size = cold.stats()["file_bytes"]
    with open(data_file(cold.directory), "rb") as file:
        report = benchmark.pedantic(native.check_pages, (file.fileno(), values), rounds=5)
    assert report["ok"]
    assert verify(cold.directory)["entries"] == ROWS
    rate(benchmark, "bytes/s", size)
