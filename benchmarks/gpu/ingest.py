"""Learning through the API on a GPU, in memory: by loss, events a step and items, and by the share of rows that is hot.

`measure(report)` gives a line a shape; seconds are of one event. 200,000 users, dim 64, Adagrad; every id has a row
before the clock starts. The hot share is of a million rows a table; the working set of 40,000 fits where all do not.
"""

import time

import numpy as np

import engine
from engine.device.hot import hot_row_bytes

USERS, ROWS, WORKING_SET = 200_000, 1_000_000, 40_000


def per_event(eng, events, users, items, valued=False, rounds=3):
    """Median seconds of an event, in calls of so many."""
    rng, seconds = np.random.default_rng(0), []
    for _ in range(rounds):
        columns = [rng.integers(0, users, events), rng.integers(0, items, events)]
        columns += [rng.integers(0, 2, events)] if valued else []
        begin = time.perf_counter()
        eng.ingest(*columns)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) / events


def softmax(items, batch_size, events, device="cuda", users=USERS):
    """Seconds of an event, and the median of a topk for one user."""
    settings = {"dim": 64, "loss": "softmax", "negatives": 64, "batch_size": batch_size, "device": device}
    with engine.open(":memory:", **settings) as eng:
        eng.ingest(np.arange(users), np.arange(users) % items)
        for start in range(users, items, users):
            ids = np.arange(start, min(items, start + users))
            eng.ingest(ids % users, ids)
        learned = per_event(eng, events, users, items)
        asked = []
        for user in range(60):
            begin = time.perf_counter()
            eng.topk(user, 10)
            asked.append(time.perf_counter() - begin)
        return learned, float(np.median(asked[10:]))


def measure(report):
    for items, batch_size, events in ((10_000, 1, 100_000), (10_000, 16, 200_000), (1_000_000, 16, 200_000)):
        seconds, _ = softmax(items, batch_size, events)
        report("engine, ingest", f"softmax, 64 negatives, {items} items, {batch_size} events a step", seconds, None)
    (seconds, asked), (on_cpu, asked_cpu) = (
        softmax(ROWS, 1, n, device) for n, device in ((100_000, "cuda"), (60_000, "cpu"))
    )
    shape = f"softmax, 64 negatives, {ROWS} items, 1 event a step"
    report("engine, ingest", shape, seconds, None, peer="the engine on this CPU, one thread", peer_seconds=on_cpu)
    report(
        "engine, topk", f"{ROWS} items, one user", asked, None, peer="the engine on this CPU", peer_seconds=asked_cpu
    )
    for share in (None, 0.05):
        limit = {} if share is None else {"hot_bytes": int(2 * hot_row_bytes(64, "adagrad") * ROWS * share)}
        with engine.open(":memory:", dim=64, loss="logistic", batch_size=8192, device="cuda", **limit) as eng:
            eng.ingest(np.arange(ROWS), np.arange(ROWS), np.ones(ROWS))
            for rows in (WORKING_SET, ROWS):
                seconds = per_event(eng, 400_000, rows, rows, valued=True)
                hot = "all" if share is None else f"{share:.0%}"
                report(
                    "engine, ingest", f"logistic, 8192 events a step, {rows} of {ROWS} rows, {hot} hot", seconds, None
                )
