"""`rowtide profile`: a made-up workload on a device, seen by torch.profiler; what each range and kernel took and moved.

Responsible for the workload, for the trace, and for who launched which kernel. Not for the marks (machine/marks.py),
for what a kernel must move (kernels/work.py), for roofs and the picture (roofline.py). Needs a GPU; in Triton's
interpreter everything runs too, but then a device's number is "not measured", never the CPU's. Prints nothing, needs
neither rich nor matplotlib. One profile at a time in a process.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.errors import EngineError, InputError
from ..contract.losses import POINTWISE
from ..engine import Engine
from ..machine.backend import device_errors, device_name, require_device
from ..machine.files import NO_ROOM, as_engine_error
from ..machine.marks import Watch, marked, watching
from ..opening import open_engine
from .roofline import Roofs
from .trace import Profile, Workload, attributed, reckoned, rows_of

__all__ = ["PICTURE", "TRACE", "profile", "run_marked", "writing"]

TRACE, PICTURE = "trace.json", "roofline.png"
_CALL = 65_536  # events of a call


def profile(workload: Workload, folder: Path) -> Profile:
    """Runs the workload once unseen, which compiles, and once profiled; writes `trace.json` into the folder.

    Raises DeviceError that says what is missing, ConfigError for a setting. InputError for the folder, before anything
    runs: both `trace.json` and `roofline.png`, which a caller may draw, must be writable there. StorageFullError and
    EngineError if the trace could not be written; one of an earlier run is still there then.
    """
    torch, device = require_device()
    on_gpu = device.type == "cuda"
    _try_folder(folder)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    all_threads = torch.profiler._ExperimentalConfig(profile_all_threads=True)  # also the one that ingests
    with _engine(workload) as eng:
        roofs = Roofs()
        if on_gpu:
            with device_errors("measuring its copies"):
                roofs = Roofs.measured()
                torch.cuda.empty_cache()
        run = _passes(eng, workload)
        run()
        watch = Watch(nvtx=on_gpu)
        with (
            torch.profiler.profile(activities=activities, experimental_config=all_threads) as seen,
            watching(watch),
        ):
            run()
            if on_gpu:
                torch.cuda.synchronize()
        ranges = attributed(_exported(seen, folder / TRACE))
        work = reckoned(watch.calls)
    rows = tuple(rows_of(ranges, work, roofs, on_gpu))
    return Profile(workload, device_name(), on_gpu, roofs, rows, folder / TRACE)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields where to write a file that takes the place of `path` when the block ends; if it raises, `path` stays.

    Raises InputError that names `out`, or StorageFullError.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as fresh:
            yield Path(fresh, path.name)
            os.replace(Path(fresh, path.name), path)
    except OSError as e:
        raise _refused(path.parent, e) from e


def _try_folder(folder: Path) -> None:
    """Refuses at once where `writing` would after the run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".probe-") as fresh:
            Path(fresh, TRACE).write_bytes(b"{}")
        for name in (TRACE, PICTURE):
            if (folder / name).is_dir():
                raise IsADirectoryError(f"{name} is a directory")
    except OSError as e:
        raise _refused(folder, e) from e


def _refused(folder: Path, error: OSError) -> EngineError:
    if error.errno in NO_ROOM:
        return as_engine_error(f"out: {folder}", error)
    return InputError(f"out: got {folder}, wanted a directory where {TRACE} and {PICTURE} can be written: {error}")


def _exported(seen: Any, path: Path) -> list[Mapping[str, Any]]:
    """Writes the trace and returns its events. torch only logs that it could not write: what counts is there."""
    with writing(path) as fresh:
        seen.export_chrome_trace(str(fresh))
        try:
            with fresh.open(encoding="utf-8") as f:
                events: list[Mapping[str, Any]] = json.load(f)["traceEvents"]
        except (OSError, ValueError, KeyError) as e:
            says = f"torch could not write {path.name}, or not all of it; is there room?"
            raise EngineError(f"out: got {path.parent}, but {says} ({type(e).__name__}: {e})") from e
    return events


def run_marked(workload: Workload) -> None:
    """Runs the workload as `profile` does, with ranges alone: for profilers from outside, Nsight's above all, since the
    counters of a GPU have one user at a time. What is to warm up has no ranges. Raises as `profile`.
    """
    torch, device = require_device()
    on_gpu = device.type == "cuda"
    with _engine(workload) as eng:
        run = _passes(eng, workload)
        run()
        with watching(Watch(nvtx=on_gpu, keep=False)):
            run()
        if on_gpu:
            torch.cuda.synchronize()


@contextmanager
def _engine(workload: Workload) -> Iterator[Engine]:
    """In memory, on the device; every user and item of the workload has a row."""
    settings = {name: getattr(workload, name) for name in ("dim", "loss", "optimizer", "batch_size", "seed")}
    resources = {"device": "cuda", "hot_bytes": workload.hot_bytes, "warm_bytes": None}
    with open_engine(":memory:", "a", settings, {**resources, "epoch_seconds": 30.0, "threads": None}) as eng:
        assert isinstance(eng, Engine)
        count = max(workload.items, workload.users)
        for start in range(0, count, _CALL):
            n = np.arange(start, min(count, start + _CALL))
            eng.ingest(n % workload.users, n % workload.items, _values(workload, np.random.default_rng(start), len(n)))
        yield eng


def _values(workload: Workload, rng: np.random.Generator, n: int) -> Any:
    if workload.loss == "logistic":
        return rng.integers(0, 2, n)
    return rng.integers(1, 6, n) if workload.loss in POINTWISE else None


def _passes(eng: Engine, workload: Workload) -> Callable[[], None]:
    """What runs the workload, on other draws each time. Users to ask for are drawn before; events between the calls,
    outside of every range, so that memory does not grow with them."""
    seeds = list(np.random.SeedSequence(workload.seed).spawn(2))
    ingest, topk = marked("ingest")(eng.ingest), marked("topk")(eng.topk)

    def run() -> None:
        of_events, of_users = (np.random.default_rng(seed) for seed in seeds.pop().spawn(2))
        stopped = threading.Event()

        def learn() -> None:
            for start in range(0, workload.events, _CALL):
                if stopped.is_set():
                    return
                n = min(_CALL, workload.events - start)
                users, items = of_events.integers(0, workload.users, n), of_events.integers(0, workload.items, n)
                ingest(users, items, _values(workload, of_events, n))

        def ask() -> None:
            for some in asked:
                topk(some, workload.k)

        if workload.kind == "ingest":
            learn()
            return
        asked = of_users.integers(0, workload.users, (workload.queries, workload.at_once))
        if workload.kind == "topk":
            ask()
            return
        with ThreadPoolExecutor(1) as writer:
            learning = writer.submit(learn)
            try:
                ask()
                learning.result()
            finally:  # an interrupt, say: the executor waits for learn, which ends with its call
                stopped.set()

    return run
