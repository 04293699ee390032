"""The engine at work, profiled: the workloads of `rowtide profile`, a line for each kernel that runs in them.

`measure(report)`: seconds and bytes are of one call of the kernel, on the device, as the profile of the whole engine
has them, so beside whatever else runs there. The profile's own table is printed above the lines. Traces are not kept.
"""

import tempfile
from pathlib import Path

from report import columns

from engine.profiling.run import profile
from engine.profiling.trace import HEAD, Workload, cells

WORKLOADS = [
    Workload(kind="ingest"),
    Workload(kind="ingest", batch_size=8192, events=131_072),
    Workload(kind="topk"),
    Workload(kind="topk", at_once=64, queries=50),
    Workload(kind="mixed"),
]


def measure(report):
    for workload in WORKLOADS:
        with tempfile.TemporaryDirectory() as folder:
            found = profile(workload, Path(folder))
        print(f"{workload.kind}: {workload.shape}")
        print(columns([HEAD, *cells(found)], right=range(1, len(HEAD))), flush=True)
        for row in found.rows:
            if row.work is None or not row.device_seconds:
                continue
            note, moved = f"{row.calls} calls", row.work.bytes / row.calls
            if row.work.host:  # not to be held against copies within the device
                note, moved = f"{note}, {row.rate / 1e9:.1f} GB/s to or from the host", None
            seconds = row.device_seconds / row.calls
            report(f"engine, {workload.kind}: {row.range}", workload.shape, seconds, moved, note=note)
