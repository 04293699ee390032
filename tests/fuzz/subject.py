"""The directory that is mutated, what it may turn into, and the process that tries.

`Subject` is made once; `Judge.verdict` says of one mutated copy what is wrong with what the engine made of it, "" for
nothing. Allowed is, after DESIGN.md: an error of the engine's own; or, where checksums were left alone, the digest at a
record's end that is not before what LMDB holds, and the right digest again after more was learned. A forgery that is
taken for true must only be gone on with in the same way. Never a signal, another exception, or no answer in time.
"""

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from killed import kill

import engine

from .judge import ITEMS, MORE, USERS

JUDGE = Path(__file__).with_name("judge.py")
SETTINGS: dict[str, Any] = {"dim": 6, "loss": "bpr", "batch_size": 2, "negatives": 2, "seed": 3}
CALLS, SAVED, EVENTS = 12, 6, 20
SECONDS = 60  # what one case may take, under a sanitizer on a busy machine


class Subject:
    """A killed writer's rows, histories of several chunks, positions and changed settings, half of it in LMDB."""

    def __init__(self, place: Path):
        self.path = place / "model"
        self.right: dict[str, tuple[int, str]] = {}  # digest at a record's end: its seq, and the digest after MORE
        rng = np.random.default_rng(2)
        for call in range(CALLS):
            lr = 0.1 if call < 4 else 0.05
            with engine.open(self.path, lr=lr, **SETTINGS) as eng:
                if call == 0:
                    self._remember(place)
                    eng.ingest(np.full(200, 3), np.arange(1000, 1200))  # more than one chunk
                    self._remember(place)
                n = EVENTS
                users, items = rng.integers(0, USERS, n), rng.integers(0, ITEMS, n)
                weights = rng.random(n).astype(np.float32) if call % 3 == 0 else None
                times = np.arange(n) + 1.7e9 if call % 2 else None
                eng.ingest(users, items, weights=weights, timestamps=times, position=("a", b"%d" % call))
                if call == SAVED:
                    eng.checkpoint()
                    self.least = eng.seq
                kill(eng)
            self._remember(place)

    def _remember(self, place: Path) -> None:
        copy = place / "copy"
        shutil.copytree(self.path, copy)
        (copy / "LOCK").unlink()
        (copy / "LOCK").touch()
        with engine.open(copy) as eng:
            digest, seq = eng.digest(), eng.seq
            eng.ingest(*MORE)
            self.right[digest] = (seq, eng.digest())
        shutil.rmtree(copy)

    def fault(self, found: dict[str, Any], forged: bool) -> str:
        """What is wrong with a verdict; "" for nothing."""
        for what, (how, result) in found.items():
            if how == "untyped":
                return f"{what} raised {result}"
        if found["open"][0] != "ok" or forged:
            return ""
        digest, seq = found["digest"][1], found["seq"][1]
        if digest not in self.right:
            return f"opened with a state that never was, at {seq}"
        right_seq, after = self.right[digest]
        if seq != right_seq or seq < self.least:
            return f"opened at {seq}; its state is of {right_seq}, LMDB held {self.least}"
        wanted = {"topk": "ok", "vectors": "ok", "ingest": "ok", "checkpoint": "ok", "close": "ok", "sound": "ok"}
        for what, how in wanted.items():
            if found[what][0] != how:
                return f"opened, but then {what}: {found[what][1]}"
        if found["after"] != ["ok", after] or found["again"] != ["ok", after]:
            return "opened right, and then learned something else"
        return ""


class Judge:
    """judge.py running; ended by `close`. One that died or hung is replaced by another."""

    def __init__(self, environment: Mapping[str, str] | None = None):
        self._environment = environment
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(JUDGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            text=True,
        )

    def verdict(self, subject: Subject, path: Path, forged: bool) -> str:
        process = self._process
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended("the process that judges was gone")
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        if not ready:
            return self._ended(f"no answer in {SECONDS} seconds")
        line = process.stdout.readline()
        if not line:
            return self._ended("the process ended")
        return subject.fault(json.loads(line), forged)

    def _ended(self, how: str) -> str:
        process = self._process
        process.kill()
        _, errors = process.communicate()
        self._start()
        return f"{how}, status {process.returncode}\n{errors[-6000:]}"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def copy_of(subject: Subject, place: Path) -> Path:
    """A copy of the directory to mutate, at `place`, whatever is there."""
    if os.path.lexists(place):
        shutil.rmtree(place)
    shutil.copytree(subject.path, place)
    return place
