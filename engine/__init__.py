"""Rowtide: an online-learning engine for recommendation, search and ads.

It learns from every event and shows what it learned in the next request.
"""

import os
from typing import Literal, overload

from . import evaluate
from .contract.errors import (
    BusyError,
    ConfigError,
    CorruptionError,
    DeviceError,
    EngineError,
    InputError,
    PositionError,
    ReadOnlyError,
    StorageFullError,
    UnknownIdError,
)
from .contract.losses import Loss, Optimizer
from .contract.reports import Explanation, IngestReport, TopK
from .directory.verify import VerifyReport, verify
from .engine import Engine
from .opening import open_engine
from .reader import Reader

__version__ = "0.1.0"  # pyproject.toml reads it here

__all__ = [
    "BusyError",
    "ConfigError",
    "CorruptionError",
    "DeviceError",
    "Engine",
    "EngineError",
    "Explanation",
    "IngestReport",
    "InputError",
    "PositionError",
    "ReadOnlyError",
    "Reader",
    "StorageFullError",
    "TopK",
    "UnknownIdError",
    "VerifyReport",
    "evaluate",
    "open",
    "verify",
]


# What type checkers are told: mode "r" gives a Reader.
@overload
def open(
    path: str | os.PathLike[str], *, mode: Literal["a", "x"] = "a",
    dim: int | None = None, loss: Loss | None = None, optimizer: Optimizer | None = None, lr: float | None = None,
    l2: float | None = None, negatives: int | None = None, batch_size: int | None = None, seed: int | None = None,
    row_ttl: int | None = None, admit_after: int | None = None, bag: int | None = None, repeats: int | None = None,
    recent_negatives: int | None = None, own_negatives: int | None = None, session_gap: float | None = None,
    neighbours: int | None = None, gate: int | None = None, gate_events: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto", hot_bytes: int | None = None, warm_bytes: int | None = None,
    epoch_seconds: float = 30, threads: int | None = None, untrusted: bool = False,
) -> Engine: ...  # fmt: skip


@overload
def open(
    path: str | os.PathLike[str], *, mode: Literal["r"],
    dim: int | None = None, loss: Loss | None = None, optimizer: Optimizer | None = None, lr: float | None = None,
    l2: float | None = None, negatives: int | None = None, batch_size: int | None = None, seed: int | None = None,
    row_ttl: int | None = None, admit_after: int | None = None, bag: int | None = None, repeats: int | None = None,
    recent_negatives: int | None = None, own_negatives: int | None = None, session_gap: float | None = None,
    neighbours: int | None = None, gate: int | None = None, gate_events: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto", hot_bytes: int | None = None, warm_bytes: int | None = None,
    epoch_seconds: float = 30, threads: int | None = None, untrusted: bool = False,
) -> Reader: ...  # fmt: skip


def open(
    path: str | os.PathLike[str], *, mode: Literal["r", "a", "x"] = "a",
    dim: int | None = None, loss: Loss | None = None, optimizer: Optimizer | None = None, lr: float | None = None,
    l2: float | None = None, negatives: int | None = None, batch_size: int | None = None, seed: int | None = None,
    row_ttl: int | None = None, admit_after: int | None = None, bag: int | None = None, repeats: int | None = None,
    recent_negatives: int | None = None, own_negatives: int | None = None, session_gap: float | None = None,
    neighbours: int | None = None, gate: int | None = None, gate_events: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto", hot_bytes: int | None = None, warm_bytes: int | None = None,
    epoch_seconds: float = 30, threads: int | None = None, untrusted: bool = False,
) -> Engine | Reader:  # fmt: skip
    """Opens the model in the directory `path`, or makes it; ":memory:" keeps everything in RAM and nothing on disk.

    Args:
        path: a directory; its parent must be there.
        mode: "a" opens or creates, "x" creates and refuses what is there already. "r" gives a `Reader`: it answers from
            the last epoch, beside a writer in another process, and refuses to write.
        dim, loss, optimizer, seed: fixed at creation; 64, "softmax", "adagrad", 0. `loss`: some, such as "softmax",
            learn to rank from positives; pointwise ones, such as "logistic" (0 or 1) and "squared" (ratings), learn to
            predict `values`, without negatives. `optimizer`: "adagrad", "adam" or "sgd", say.
        lr, l2, negatives, batch_size: may change at any opening; what is not given stays as it was. `batch_size` is the
            number of events per optimizer step.
        row_ttl: events that may go by without one that names a row until the row leaves; 0, the default: rows stay. May
            change, as lr may.
        admit_after: sightings, within some 100,000 events, before an id gets a row, at most 255; 0, the default: at
            once. An event that names an id without a row is not learned. May change, as lr may.
        bag, repeats, recent_negatives, own_negatives, session_gap: of models that look at what users have had, with
            `loss="softmax"`: 10, 1, 16, 16 and 60 are good values. All 0 by default, but for the seconds of silence
            that end a session. May change, as lr may.
        neighbours: how many items that came soon after it an item's row remembers, for the same models; fixed at
            creation. 0 by default; 16 is good.
        gate, gate_events: of the same models: so many known users must have had an item before others are shown it; so
            many events make a user known. 2 and 2 by default, 0 for other models. May change, as lr may.
        device: "cpu"; or "cuda": rows are learned and ranked in a GPU's memory, with RAM and LMDB behind it. "auto" is
            "cpu" in this version. More than 256 events a step have other last bits than on the CPU.
        hot_bytes: of the GPU's memory for rows; half of what is free by default. Changes speed, never results.
        warm_bytes: RAM for rows and histories; half of the machine's by default. Changes speed, never results.
        epoch_seconds: how old a change may get before it is written to LMDB.
        threads: that rank one call to `topk`; 1 by default.
        untrusted: checks all that is read first and works on a private copy, for a directory that somebody else has
            made or may be changing. The copy lies among the system's temporary files and is deleted on closing, with
            all that was learned since.

    Any thread may call any method. Calls that read, as `topk`, `history` and `stats` do, run together, also beside one
    that writes. Calls that write, and `digest` and `close`, run one at a time; the others wait. A progress function of
    `ingest` may only read. A forked child cannot use its parent's Engine.

    Raises ConfigError, DeviceError, BusyError, ReadOnlyError, CorruptionError, StorageFullError.

    >>> with engine.open("shop", dim=16) as eng:
    ...     report = eng.ingest([7, 7, 8], [100, 101, 100])
    >>> with engine.open("shop") as eng:  # what the directory keeps need not be said again
    ...     eng.seq, eng.settings["dim"]
    (3, 16)
    """
    settings = {
        "dim": dim, "loss": loss, "optimizer": optimizer, "lr": lr, "l2": l2, "negatives": negatives,
        "batch_size": batch_size, "seed": seed, "row_ttl": row_ttl, "admit_after": admit_after,
        "bag": bag, "repeats": repeats, "recent_negatives": recent_negatives, "own_negatives": own_negatives,
        "session_gap": session_gap, "neighbours": neighbours, "gate": gate, "gate_events": gate_events,
    }  # fmt: skip
    resources = {
        "device": device, "hot_bytes": hot_bytes, "warm_bytes": warm_bytes, "epoch_seconds": epoch_seconds,
        "threads": threads,
    }  # fmt: skip
    return open_engine(path, mode, settings, resources, untrusted)
