"""The fault sweep: every file-changing call of a program, times every way in which it can go wrong.

`Server` starts a fork server under the shim and talks to it; `sweep` counts the calls of an undisturbed run, then runs
the program again from a fresh directory for each (call, kind of fault) and has the directory checked. Where asked, the
run's journal gives one more state, that of a disk that kept only what was synced (powerloss.py), and it is checked too.
Not its job: random disk states (powerloss.explore).

One thread drives one server; `sweep` starts its own threads and waits for them.
"""

import atexit
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .powerloss import Journal, Snapshot

HERE = Path(__file__).parent
# "-on": every later call fails as well. "full": one write comes up short, then there is no room, as on a real disk.
FAULTS = {"none": 0, "kill": 1, "kill-half": 2, "kill-after": 3, "eio": 4, "enospc": 4, "eio-on": 4, "enospc-on": 4}
FAULTS |= {"short": 5, "full": 5}
ERRNO = {"eio": errno.EIO, "eio-on": errno.EIO, "enospc": errno.ENOSPC, "enospc-on": errno.ENOSPC, "full": errno.ENOSPC}
KILLS = ("kill", "kill-half", "kill-after")
ROOM = 1 << 28  # bytes; two servers took 91 MB, and a container's share of memory is often 64 MB
KINDS = ("kill", "kill-half", "eio", "enospc", "enospc-on", "short", "full")


@cache
def build_shim() -> Path:
    """Compile the shim once per test process; RuntimeError with the compiler's words if that fails."""
    folder = tempfile.mkdtemp(prefix="crash-shim-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder) / "shim.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-D_LARGEFILE64_SOURCE", "-pthread"]
    made = subprocess.run(["cc", *flags, str(HERE / "shim.c"), "-o", str(target)], capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"the shim did not compile:\n{made.stderr}")
    return target


@contextmanager
def workspace():
    """A scratch folder in memory where there is room (syncs are not the point here), removed at the end."""
    shm = Path("/dev/shm")
    roomy = os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > ROOM
    place = tempfile.mkdtemp(prefix="crash-", dir=shm if roomy else None)
    try:
        yield Path(place)
    finally:
        shutil.rmtree(place)


@dataclass(frozen=True)
class Start:
    """A directory to begin from, and what had been promised when it came to be."""

    root: Path | None = None
    acked: int = 0
    submitted: int = 0


@dataclass(frozen=True)
class Failure:
    """A broken promise and how to see it again."""

    what: str
    kind: str
    at: int
    call: str
    acked: int
    submitted: int
    detail: str

    def __str__(self) -> str:
        where = f"{self.kind} at call {self.at} ({self.call})" if self.call else f"{self.kind} {self.at}"
        return f"{self.what}: {where}, acked {self.acked}, submitted {self.submitted}\n{self.detail}"


@dataclass
class Report:
    """What was tried and what broke. `points` by kind, `ends` by how runs ended."""

    calls: int = 0
    points: Counter = field(default_factory=Counter)
    ends: Counter = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.calls} calls; points {dict(self.points)}; ends {dict(self.ends)}; {len(self.failures)} failures"
        ]
        return "\n".join(lines + [str(f) for f in self.failures[:3]])


class Server:
    """One fork server with a program loaded and its references made. Use with `with`; one thread at a time."""

    def __init__(self, program: Path, sabotage: str = "", seconds: int = 120):
        self.seconds = seconds
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            str(HERE / "server.py"),
            str(theirs.fileno()),
            str(build_shim()),
            str(program),
            sabotage,
        ]
        # One thread per array library: the server forks, and threads do not survive that.
        environment = {
            **os.environ,
            "LD_PRELOAD": str(build_shim()),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self._socket, self._stream = ours, ours.makefile("rw")
        with workspace() as scratch:
            answer = self.ask(do="references", root=str(scratch))
        if answer["end"] != "ok":
            self.close()
            raise RuntimeError(f"the undisturbed reference run failed: {answer}")

    def ask(self, **request) -> dict:
        """Send one request, wait for its answer."""
        self._stream.write(json.dumps({"seconds": self.seconds, **request}) + "\n")
        self._stream.flush()
        line = self._stream.readline()
        if not line:
            raise RuntimeError(f"the fork server ended with {self._process.wait()}")
        return json.loads(line)

    def run(self, root: Path, kind="none", at=0, *, trace="", journal="", start=Start(), sync_delay_us=0) -> dict:
        """One run in `root` with the fault `kind` at call `at`."""
        sticky = int(kind.endswith("-on") or kind == "full")
        settings = {"fault": FAULTS[kind], "at": at, "errno": ERRNO.get(kind, 0), "sticky": sticky}
        settings |= {"trace": str(trace), "journal": str(journal), "sync_delay_us": sync_delay_us}
        return self.ask(do="run", root=str(root), acked=start.acked, submitted=start.submitted, **settings)

    def check(self, root: Path, acked: int, submitted: int) -> dict:
        """The program's own judgement of `root`."""
        return self.ask(do="check", root=str(root), acked=acked, submitted=submitted)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def begin(place: Path, start: Start) -> Path:
    """A fresh root under `place`, a copy of `start`'s where it has one."""
    root = place / "root"
    if start.root:
        shutil.copytree(start.root, root, symlinks=True)
    else:
        root.mkdir()
    return root


def trace_calls(server: Server, start: Start) -> list[str]:
    """The lines of an undisturbed run, which must end well and be wholly visible to the shim."""
    with workspace() as place:
        root, journal = begin(place, start), place / "journal"
        before = Snapshot.of(root)
        answer = server.run(root, trace=place / "trace", journal=journal, start=start)
        if answer["end"] != "ok" or answer["unsupported"]:
            raise RuntimeError(f"the undisturbed run failed: {answer}")
        Journal.read(journal, before).check_whole(root)
        return (place / "trace").read_text().splitlines() if answer["calls"] else []


def applies(kind: str, line: str) -> bool:
    """Whether the call in a trace line can go wrong in this way."""
    words = line.split()
    if kind in ("kill-half", "short", "full"):
        return "write" in words[-2:] and "len=1" not in words
    return not kind.startswith("enospc") or words[-1] == "room"


def try_point(server: Server, kind: str, at: int, start: Start, power: bool) -> tuple[str, list[Failure]]:
    """One fault in a fresh directory: how the run ended, and every promise that it broke."""
    with workspace() as place:
        root, journal = begin(place, start), place / "journal"
        before = Snapshot.of(root) if power else None
        ran = server.run(root, kind, at, journal=journal if power else "", start=start)
        promised = ran["acked"], ran["submitted"]

        def failure(what, detail):
            return Failure(what, kind, at, ran["call"], *promised, detail)

        end, failures = ran["end"], []
        if ran["end"] == "ok" and not ran["fired"]:
            end = "not reached"
        elif ran["fired"] and ran["end"] == "raised" and ran["typed"]:
            end = ran["type"]
        elif ran["end"] != ("killed" if kind in KILLS else "ok"):
            failures.append(failure(f"the run ended with {ran['end']}", ran.get("error", "")))
        if before is not None:
            lost = place / "lost"
            Journal.read(journal, before).worst().write(lost)
            judged = server.check(lost, *promised)
            if judged["end"] != "ok":
                failures.append(failure("after power loss", judged.get("error", judged["end"])))
        judged = server.check(root, max(ran["acked"], ran["accepted"]), ran["submitted"])
        if judged["end"] != "ok":
            failures.append(failure("after the fault", judged.get("error", judged["end"])))
        return end, failures


def crashed(server: Server, place: Path, kind: str, at: int) -> Start:
    """Run in `place`/root, killed by `kind` at call `at`: a start for sweeping over the recovery."""
    ran = server.run(begin(place, Start()), kind, at)
    return Start(place / "root", max(ran["acked"], ran["accepted"]), ran["submitted"])


def on_servers(servers: list[Server], tasks: list, work) -> list:
    """`work(server, task)` for all tasks, in order of tasks, on as many threads as there are servers."""
    free, own = list(servers), threading.local()

    def one(task):
        if not hasattr(own, "server"):
            own.server = free.pop()
        return work(own.server, task)

    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(one, tasks))


@contextmanager
def serving(program: Path, sabotage: str = "", count: int | None = None, seconds: int = 120):
    """`count` servers (default: one per core, two at most), closed at the end."""
    servers: list[Server] = []
    try:
        for _ in range(count or min(2, os.cpu_count() or 1)):
            servers.append(Server(program, sabotage, seconds))
        yield servers
    finally:
        for server in servers:
            server.close()


def sweep(servers, *, kinds=KINDS, start=Start(), power=True, first=None, sample=None, seed=0) -> Report:
    """Every call (the `first` so many) with every fault kind, or a seeded `sample` of those points: so many, or below 1
    so large a share.

    `start`: a directory to begin from, for crashes during recovery. `power`: also judge, after every fault, the disk
    that lost all that was not synced.
    """
    lines = trace_calls(servers[0], start)
    report = Report(calls=len(lines))
    points = [(kind, n) for n, line in enumerate(lines[:first], 1) for kind in kinds if applies(kind, line)]
    count = len(points) if sample is None else round(sample * len(points)) if sample < 1 else sample
    if count < len(points):
        points = sorted(random.Random(seed).sample(points, count), key=lambda p: p[1])
    for (kind, _), (end, failures) in zip(
        points, on_servers(servers, points, lambda s, p: try_point(s, *p, start, power)), strict=True
    ):
        report.points[kind] += 1
        report.ends[end] += 1
        report.failures += failures
    return report
