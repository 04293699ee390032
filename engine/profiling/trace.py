"""What a profile found: its workload, and rows of ranges and kernels read off a trace.

Responsible for checking a workload and for attributing kernels to ranges. Pure functions; run.py runs the workload.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contract.arguments import choice, whole_number
from ..contract.errors import InputError
from ..machine.marks import PREFIX, Reckoned, Work
from .roofline import NOT_MEASURED, Point, Roofs

WORKLOADS = ("ingest", "topk", "mixed")

HEAD = ("range / kernel", "calls", "host ms", "device ms", "bytes", "GB/s", "of copy")

OUTSIDE = "(no range)"

_ASKED = 2**24  # users of all calls of topk: they are drawn before the first

_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}

_LAUNCHES = {"cuda_runtime", "cuda_driver"}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What runs: `events` that are learned, or `queries` calls of topk for `at_once` users each, or both beside each
    other; over items and users that all have a row, drawn uniformly from `seed`. Raises InputError that names a field.
    """

    kind: str
    items: int = 1_000_000
    users: int = 100_000
    dim: int = 64
    loss: str = "softmax"
    optimizer: str = "adagrad"
    batch_size: int = 16
    events: int = 65_536
    queries: int = 200
    at_once: int = 1
    k: int = 10
    hot_bytes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choice("workload", self.kind, WORKLOADS)
        most = {
            "items": 2**31 - 1,
            "users": 2**31 - 1,
            "events": 2**24,  # what each call named is kept until the profile's end
            "queries": 2**20,
            "at_once": 2**16,
            "k": 1000,
        }
        for name, high in most.items():
            whole_number(name, getattr(self, name), 1, high)
        if (asked := self.queries * self.at_once) > _ASKED:
            got = f"{self.queries} x {self.at_once} = {asked}"
            raise InputError(f"queries, at_once: got {got} users to ask for, wanted at most {_ASKED} in all")

    @property
    def shape(self) -> str:
        asked = f"{self.queries} calls of topk for {self.at_once}, k {self.k}"
        learned = f"{self.events} events, {self.loss}, {self.optimizer}, {self.batch_size} a step"
        parts = {"ingest": [learned], "topk": [asked], "mixed": [learned, asked]}[self.kind]
        return f"{'; '.join(parts)}; {self.items} items, {self.users} users, dim {self.dim}"


@dataclass(frozen=True)
class Row:
    """A range, or a kernel of the device that was launched in it and in no range further in.

    Of a range: `calls`; `host_seconds` from begin to end, ranges inside included; `device_seconds`, the sum over those
    kernels; `work`, None where nothing was reckoned. Of a kernel: its launches and seconds alone. `copy`: bytes per
    second that its bytes are a fraction of. None: not measured.
    """

    range: str
    kernel: str | None
    calls: int
    host_seconds: float | None
    device_seconds: float | None
    work: Work | None = None
    copy: float | None = None

    @property
    def rate(self) -> float | None:
        """Bytes per second."""
        return self.work.bytes / self.device_seconds if self.work and self.device_seconds else None

    @property
    def of_copy(self) -> float | None:
        return self.rate / self.copy if self.rate and self.copy else None


@dataclass(frozen=True)
class Profile:
    workload: Workload
    device: str
    measured: bool  # False: in the interpreter
    roofs: Roofs
    rows: tuple[Row, ...]  # ranges, each followed by its kernels; the longest first
    trace: Path

    @property
    def points(self) -> list[Point]:
        """Where the ranges that compute something stand in the roofline."""
        return [
            Point(
                row.range, row.work.flops / row.work.bytes, row.device_seconds and row.work.flops / row.device_seconds
            )
            for row in self.rows
            if row.work and row.work.flops and row.work.bytes
        ]


def reckoned(calls: Iterable[tuple[str, Reckoned | None]]) -> dict[str, Work]:
    """The sum of the work of each range, for those that have any."""
    sums: dict[str, Work] = {}
    for name, reckon in calls:
        if reckon is not None:
            more, so_far = reckon(), sums.get(name, Work(0))
            sums[name] = Work(so_far.bytes + more.bytes, so_far.flops + more.flops, more.host)
    return sums


@dataclass
class TracedRange:
    """Of one range in a trace: how often, how long on the host; launches and seconds of its own kernels."""

    calls: int = 0
    host_seconds: float = 0.0
    launches: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def attributed(events: Iterable[Mapping[str, Any]]) -> dict[str, TracedRange]:
    """The engine's ranges in a Chrome trace by name, each with the kernels launched in it and in none further in.

    A kernel has the correlation of the call of CUDA that launched it; that call lies in a thread, as ranges do. What
    was launched in no range is under OUTSIDE.
    """
    by_thread: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    on_device: list[Mapping[str, Any]] = []
    found: defaultdict[str, TracedRange] = defaultdict(TracedRange)
    for event in events:
        kind = event.get("cat")
        if kind in _ON_DEVICE:
            on_device.append(event)
        elif kind in _LAUNCHES or (kind == "user_annotation" and str(event["name"]).startswith(PREFIX)):
            by_thread[event["pid"], event["tid"]].append(event)
    launched: dict[Any, str] = {}
    for thread in by_thread.values():
        inside: list[tuple[float, str]] = []  # where ranges end, and their names, from without to within
        for event in sorted(thread, key=lambda event: (event["ts"], -event.get("dur", 0))):
            while inside and inside[-1][0] <= event["ts"]:
                inside.pop()
            if event["cat"] in _LAUNCHES:
                launched[event.get("args", {}).get("correlation")] = inside[-1][1] if inside else OUTSIDE
                continue
            name = str(event["name"]).removeprefix(PREFIX)
            inside.append((event["ts"] + event["dur"], name))
            found[name].calls += 1
            found[name].host_seconds += event["dur"] / 1e6
    for event in on_device:
        seen = found[launched.get(event.get("args", {}).get("correlation"), OUTSIDE)]
        seen.launches[event["name"]] += 1
        seen.seconds[event["name"]] += event["dur"] / 1e6
    return dict(found)


def rows_of(ranges: Mapping[str, TracedRange], work: Mapping[str, Work], roofs: Roofs, measured: bool) -> Iterator[Row]:
    """Ranges, each with its kernels below, the longest on the device first; where not measured, on the host."""
    longest = sorted(ranges, key=lambda name: (-sum(ranges[name].seconds.values()), -ranges[name].host_seconds))
    for name in longest:
        seen, its = ranges[name], work.get(name)
        copy = roofs.host_copy if its and its.host else roofs.copy
        seconds = sum(seen.seconds.values()) if measured else None
        yield Row(name, None, seen.calls, seen.host_seconds, seconds, its, copy)
        for kernel in sorted(seen.seconds, key=lambda kernel: -seen.seconds[kernel]) if measured else ():
            yield Row(name, kernel, seen.launches[kernel], None, seen.seconds[kernel])


def cells(found: Profile) -> list[tuple[str, ...]]:
    """The rows as text, under HEAD."""
    table: list[tuple[str, ...]] = []
    for row in found.rows:
        if row.kernel is not None:
            table.append((f"  {row.kernel[:32]}", f"{row.calls:,}", "", _milliseconds(row.device_seconds), "", "", ""))
            continue
        moved, rate, share = "", "", ""
        if row.work is not None:
            link = " (host)" if row.work.host else ""
            moved = f"{row.work.bytes:,}"
            rate = NOT_MEASURED if row.rate is None else f"{row.rate / 1e9:,.0f}"
            share = NOT_MEASURED if row.of_copy is None else f"{row.of_copy:.0%}{link}"
        times = _milliseconds(row.host_seconds), _milliseconds(row.device_seconds)
        table.append((row.range, f"{row.calls:,}", *times, moved, rate, share))
    return table


def _milliseconds(seconds: float | None) -> str:
    return NOT_MEASURED if seconds is None else f"{seconds * 1e3:,.3f}"
