"""What the event log costs: appends with and without durability, one-event records, and reading it back.

`python -m pytest benchmarks/bench_log.py`. Compare the durable append with `test_bare_write`: about the same bytes,
written and synced with nothing around them, which is what the disk gives. The log is made under pytest's base directory
(`--basetemp` says where): on tmpfs a sync costs nothing and the numbers mean nothing.
"""

import os

import numpy as np
import pytest

from engine.log import MAX_EVENTS, Log, Record, verify


@pytest.fixture
def log(tmp_path):
    log = Log.create(tmp_path / "log", 1)
    yield log
    log.close()


def columns(count):
    random = np.random.default_rng(0)
    return random.integers(0, 1 << 40, count), random.integers(0, 1 << 20, count)


def note_rate(benchmark, events, size):
    median = benchmark.stats.stats.median
    benchmark.extra_info["M events/s"] = round(events / median / 1e6, 3)
    benchmark.extra_info["MB/s"] = round(size / median / 1e6, 1)


@pytest.mark.parametrize("durable", [True, False])
def test_append_largest_record(benchmark, log, durable):
    users, items = columns(MAX_EVENTS)

    def append():
        log.append(Record(log.last_seq + 1, 256, users, items))
        if durable:
            log.sync()

    benchmark.pedantic(append, rounds=100, warmup_rounds=5)
    note_rate(benchmark, MAX_EVENTS, 16 * MAX_EVENTS + 64)


def test_bare_write(benchmark, tmp_path):
    data = os.urandom(16 * MAX_EVENTS + 64)
    descriptor = os.open(tmp_path / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write():
        os.write(descriptor, data)
        os.fdatasync(descriptor)

    benchmark.pedantic(write, rounds=100, warmup_rounds=5)
    note_rate(benchmark, MAX_EVENTS, len(data))
    os.close(descriptor)


@pytest.mark.parametrize("durable", [True, False])
def test_append_one_event(benchmark, log, durable):
    users, items = columns(1)

    def append():
        log.append(Record(log.last_seq + 1, 1, users, items))
        if durable:
            log.sync()

    benchmark.pedantic(append, rounds=200 if durable else 20_000, warmup_rounds=20)
    note_rate(benchmark, 1, 80)


@pytest.mark.parametrize("events", [MAX_EVENTS, 1])
@pytest.mark.parametrize("what", ["verify", "replay"])
def test_read_back(benchmark, log, tmp_path, what, events):
    records = 20_000 if events == 1 else 60
    users, items = columns(events)
    for _ in range(records):
        log.append(Record(log.last_seq + 1, 1, users, items))

    def read():
        if what == "verify":
            return verify(tmp_path / "log").last_seq
        return sum(record.count for record in log.replay(0))

    assert benchmark.pedantic(read, rounds=5, warmup_rounds=1) == records * events
    note_rate(benchmark, records * events, log.bytes)
