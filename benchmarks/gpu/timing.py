"""How long work on the device takes: medians of CUDA events, after a warm-up.

`calls` do the same on different inputs, in rotation; together these should be several times the L2 cache, or repeated
runs measure the cache. Short calls are captured once and replayed as a CUDA graph, so that the gaps of launching stay
out (`host_seconds` measures those); a call that cannot be captured, since it waits for the device, is launched. From
one thread; asserts nothing. Bandwidths of copies are the engine's own to measure.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.profiling.roofline import copy_bandwidth, host_copy_bandwidth

__all__ = ["copy_bandwidth", "host_copy_bandwidth", "host_seconds", "median_seconds"]

Call = Callable[[], Any]

LONG = 2e-3  # seconds from which launching does not matter
BUDGET = 0.5  # seconds of one measurement
ROUNDS = (7, 50)  # at least, at most


def median_seconds(calls: Sequence[Call]) -> float:
    """Seconds of one call on the device: the median over rounds of all of them."""
    for call in calls:  # compiles, and allocates what is kept
        call()
    torch.cuda.synchronize()
    once = _round(calls)
    round_ = _captured(calls) if once / len(calls) < LONG else None
    if round_ is not None:
        once = _round([round_])
    rounds = int(min(max(BUDGET / max(once, 1e-6), ROUNDS[0]), ROUNDS[1]))
    taken = [_round(calls if round_ is None else [round_]) for _ in range(rounds)]
    return statistics.median(taken) / len(calls)


def host_seconds(calls: Sequence[Call], repeats: int = 20) -> float:
    """Seconds that the host is busy for one call, the device not waited for: a median."""
    taken = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for call in calls:
            call()
        taken.append(time.perf_counter() - begin)
    torch.cuda.synchronize()
    return statistics.median(taken) / len(calls)


def _round(calls: Sequence[Call]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for call in calls:
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _captured(calls: Sequence[Call]) -> Call | None:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for call in calls:
                call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay
