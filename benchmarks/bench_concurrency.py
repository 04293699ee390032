"""topk of eight threads while a ninth ingests: p50 and p99 of a call, the writer silent and at 20,000 events a second.

Each reader asks for one user's top 10 at random moments (a Poisson process), and the writer hands in 200 events a
hundred times a second, so that the machine is busy but not overloaded: the load, in processor seconds per second and
core, is noted beside. Silent and writing stretches take turns in one process; what counts is their ratio. Writers:
`same ids`: all events name users and items that are there; `new users`: every event brings a new user, so that slabs
and index grow all the while.
"""

import os
import threading
import time

import numpy as np
import pytest

import engine

DIM, K, READERS, ITEMS, USERS = 64, 10, 8, 10_000, 100_000
READS_PER_SECOND = 50  # of each reader
EVENTS, CALLS_PER_SECOND = 200, 100
STRETCH, STRETCHES = 4.0, 5  # seconds; of each kind


def arrivals(rate, done, rng):
    """Yields at random moments, `rate` a second in the mean, until `done`; who is late does not catch up."""
    due = time.perf_counter()
    while True:
        due = max(due + rng.exponential(1 / rate), time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        if done.is_set():
            return
        yield


def reads(eng, seconds):
    """Latencies in seconds of all calls of the readers, in a stretch of time."""
    done, parts = threading.Event(), [[] for _ in range(READERS)]

    def read(which):
        rng = np.random.default_rng(which)
        for _ in arrivals(READS_PER_SECOND, done, rng):
            user = int(rng.integers(USERS))
            began = time.perf_counter()
            eng.topk(user, K)
            parts[which].append(time.perf_counter() - began)

    threads = [threading.Thread(target=read, args=(which,)) for which in range(READERS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    done.set()
    for thread in threads:
        thread.join()
    return np.concatenate(parts)


class Writer:
    """Ingests at its rate while it is in use as a context."""

    def __init__(self, eng, fresh):
        self.eng, self.fresh, self.events, self.seconds = eng, fresh, 0, 0.0
        self.rng, self.next_id = np.random.default_rng(9), USERS

    def __enter__(self):
        self.done, self.began = threading.Event(), time.perf_counter()
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.seconds += time.perf_counter() - self.began

    def write(self):
        due = time.perf_counter()
        while not self.done.is_set():
            due = max(due + 1 / CALLS_PER_SECOND, time.perf_counter() - 0.1)  # catches up with a tenth of a second
            time.sleep(max(0.0, due - time.perf_counter()))
            users = (
                np.arange(self.next_id, self.next_id + EVENTS) if self.fresh else self.rng.integers(USERS, size=EVENTS)
            )
            self.next_id += EVENTS
            self.eng.ingest(users, self.rng.integers(ITEMS, size=EVENTS), durable=True)
            self.events += EVENTS


@pytest.mark.parametrize("writer", ["same ids", "new users"])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_topk_beside_a_writer(benchmark, tmp_path, loss, writer):
    taken: dict[str, list[np.ndarray]] = {"silent": [], "writing": []}
    with engine.open(
        tmp_path / "shop", dim=DIM, loss=loss, batch_size=1, negatives=64 if loss == "softmax" else 1
    ) as eng:
        for start in range(0, USERS, 10_000):
            eng.ingest(np.arange(start, start + 10_000), np.arange(10_000) % ITEMS)
        eng.checkpoint()
        load, ingest = dict.fromkeys(taken, 0.0), Writer(eng, writer == "new users")

        def stretches():
            for _ in range(STRETCHES):
                for kind, part in taken.items():
                    began = sum(os.times()[:2])
                    if kind == "silent":
                        part.append(reads(eng, STRETCH))
                    else:
                        with ingest:
                            part.append(reads(eng, STRETCH))
                    load[kind] += (sum(os.times()[:2]) - began) / STRETCH / STRETCHES / len(os.sched_getaffinity(0))

        benchmark.pedantic(stretches, rounds=1)
    p99 = {}
    for kind, parts in taken.items():
        calls = np.concatenate(parts) * 1e3
        p50, p99[kind] = np.percentile(calls, 50), np.percentile(calls, 99)
        benchmark.extra_info[f"{kind} p50 / p99 / most ms"] = f"{p50:.3f} / {p99[kind]:.3f} / {calls.max():.3f}"
        benchmark.extra_info[f"{kind} load"] = round(load[kind], 2)
    benchmark.extra_info["p99 ratio"] = round(p99["writing"] / p99["silent"], 2)
    benchmark.extra_info["calls/s"] = READERS * READS_PER_SECOND
    benchmark.extra_info["events/s"] = round(ingest.events / ingest.seconds)
