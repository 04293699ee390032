"""What the host does for an event that a device learns: softmax, 64 negatives, one event a step, 1 M items, in memory.

The device is Triton's interpreter on the CPU, and what it would do is left out: launches, draws, links and what comes
back take no time. So this is the host's share alone, and no speed of any device: planning, places, marks, with the
negatives looked up on the host, and drawn on the device. Needs torch and triton. Asserts no times.
"""

import numpy as np
import pytest

import engine
from engine.device.hot import hot_row_bytes

USERS, ITEMS, EVENTS = 200_000, 1_000_000, 65_536


@pytest.mark.parametrize("draws", ["host", "device"])
def test_host_share(benchmark, monkeypatch, draws):
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # kernels look at it when they are defined: before the import
    from engine.device import steps as learning

    def nothing(self, settings, batch_size, refs, fresh, window, mean, mean_count):
        if isinstance(refs[2], np.ndarray):
            self._ordered(settings, batch_size, refs, None, window)  # the host's order is its share, too
        results = [np.zeros(len(fresh), np.float32), mean.numpy().copy(), np.array(0)]
        return lambda: results

    monkeypatch.setattr(learning.DeviceSteps, "_steps", nothing)
    monkeypatch.setattr(learning.DeviceSteps, "_draw", lambda self, *args: torch.empty(0, dtype=torch.int32))
    if draws == "host":
        monkeypatch.setattr(learning, "_LEAST_DRAWS", 1 << 60)
    rng = np.random.default_rng(0)
    hot = 2 * (ITEMS + 2 * EVENTS) * hot_row_bytes(64, "adagrad")
    with engine.open(":memory:", dim=64, negatives=64, batch_size=1, device="cuda", hot_bytes=hot) as eng:
        for start in range(0, ITEMS, 50_000):
            ids = np.arange(start, start + 50_000)
            eng.ingest(ids % USERS, ids)
        benchmark.pedantic(
            eng.ingest, setup=lambda: ((rng.integers(0, USERS, EVENTS), rng.integers(0, ITEMS, EVENTS)), {}), rounds=7
        )
    benchmark.extra_info["us/event"] = round(benchmark.stats.stats.median / EVENTS * 1e6, 2)
