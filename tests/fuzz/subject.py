"""The directories that are mutated, what they may turn into, and the process that tries.

A `Subject` is made once; `Judge.verdict` says of one mutated copy what is wrong with what the engine made of it, "" for
nothing. What is allowed stands in docs/how-it-works/memory-safety-and-fuzzing.md: an error of the engine's own; or,
where checksums were left alone, the digest at a record's end that is not before what LMDB holds, and the right digest
again after more was learned. A forgery that is taken for true must only be gone on with in the same way. Never a
signal, another exception, no answer in time, or more memory than such a directory can need.
"""

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from killed import kill

import engine

from .judge import ITEMS, USERS, go_on

JUDGE = Path(__file__).with_name("judge.py")
SMALL = {"batch_size": 2, "negatives": 2, "seed": 3}
# "events": rows, histories of several chunks, positions. "removing": hidden, forgotten, expired and not admitted ids, a
# compacted file, lists of changes. "ratings": values and the base of scores, hidden items.
KINDS: dict[str, dict[str, Any]] = {
    "events": SMALL | {"dim": 6, "loss": "bpr"},
    "removing": SMALL | {"dim": 6, "loss": "softmax", "optimizer": "adam", "row_ttl": 120, "admit_after": 2},
    "ratings": SMALL | {"dim": 5, "loss": "squared", "optimizer": "sgd", "negatives": 0},
}
CALLS, SAVED, EVENTS = 8, 5, 30
SECONDS = 60  # what one case may take, under a sanitizer on a busy machine
MEMORY = 2 << 30  # what one may take; most of it would be the engine's working memory at its largest settings


class Subject:
    """A killed writer's directory, with changed settings, half of it in LMDB. `kind`: one of KINDS."""

    def __init__(self, place: Path, kind: str):
        place.mkdir(exist_ok=True)
        self.path = place / "model"
        # Digest at a record's end: the last such record, and the digest after judge.go_on.
        self.right: dict[str, tuple[int, str]] = {}
        self._place, self._settings, self._lr, self._records = place, KINDS[kind], 0.1, 0
        rng = np.random.default_rng(2)
        rated = kind == "ratings"
        self._do(lambda eng: None)
        self._do(lambda eng: eng.ingest(np.full(200, 3), np.arange(1000, 1200), np.ones(200) if rated else None))
        for call in range(CALLS):
            if call == 4:
                self._lr = 0.05
                self._do(lambda eng: None)
            self._do(lambda eng, call=call: self._ingest(eng, rng, call))
            if kind != "events":
                self._do(lambda eng, call=call: eng.hide([call, 30 + call, 10**9 + call]))
                self._do(lambda eng, call=call: eng.show([30 + call]))
            if kind == "removing" and call % 3 == 2:
                self._do(lambda eng, call=call: eng.forget(users=[call], items=[call + 20, 1000 + call]))
            if kind == "events" and call in (3, 6):
                self._do(lambda eng: eng.forget_position("a"))
            if call in (2, 4, SAVED):  # the first of them compacts
                self._do(lambda eng: eng.checkpoint())
                self.least = self._records

    def _ingest(self, eng: engine.Engine, rng: np.random.Generator, call: int) -> None:
        n = EVENTS
        users, items = rng.integers(0, USERS, n), rng.integers(0, ITEMS, n)
        weights = rng.random(n).astype(np.float32) if call % 3 == 0 else None
        times = np.arange(n) + 1.7e9 if call % 2 else None
        values = rng.random(n).astype(np.float32) if eng.settings["loss"] == "squared" else None
        eng.ingest(users, items, values, weights=weights, timestamps=times, position=("a", b"%d" % call))

    def _do(self, what: Callable[[engine.Engine], Any]) -> None:
        with engine.open(self.path, lr=self._lr, epoch_seconds=1e9, **self._settings) as eng:
            what(eng)
            kill(eng)
        self._remember()

    def _remember(self) -> None:
        copy = self._place / "copy"
        shutil.copytree(self.path, copy)
        (copy / "LOCK").unlink()
        (copy / "LOCK").touch()
        with engine.open(copy) as eng:
            digest = eng.digest()
            if digest not in self.right:
                self._records += 1
            go_on(eng)
            self.right[digest] = (self._records, eng.digest())
        shutil.rmtree(copy)

    def fault(self, found: dict[str, Any], forged: bool) -> str:
        """What is wrong with a verdict; "" for nothing."""
        for what, (how, result) in found.items():
            if how == "untyped":
                return f"{what} raised {result}"
        if forged:
            return ""
        if found["read"][0] == "ok" and (wrong := self._wrong(*found["read"][1])):
            return f"a reader {wrong}"
        if found["open"][0] != "ok":
            return ""
        digest = found["digest"][1]
        if wrong := self._wrong(digest, found["seq"][1]):
            return wrong
        after = self.right[digest][1]
        for what in ("topk", "similar", "vectors", "go on", "checkpoint", "backup", "close", "sound"):
            if found[what][0] != "ok":
                return f"opened, but then {what}: {found[what][1]}"
        if found["after"] != ["ok", after] or found["again"] != ["ok", after]:
            return "opened right, and then learned something else"
        return ""

    def _wrong(self, digest: str, seq: int) -> str:
        if digest not in self.right:
            return f"opened with a state that never was, at {seq}"
        if self.right[digest][0] < self.least:
            return f"opened at {seq}, before what LMDB held"
        return ""


class Judge:
    """judge.py running; ended by `close`. One that died or hung is replaced by another. `environment`: another than
    this process's own, for a sanitizer."""

    def __init__(self, environment: Mapping[str, str] | None = None):
        self._environment = dict(environment or os.environ)
        self._limited = [str(MEMORY)]
        if options := self._environment.get("ASAN_OPTIONS"):  # it maps far more than it uses, so it must count itself
            self._environment["ASAN_OPTIONS"] = f"{options}:hard_rss_limit_mb={MEMORY >> 20}"
            self._limited = []
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(JUDGE), *self._limited],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            text=True,
        )

    def verdict(self, subject: Subject, path: Path, *, forged: bool, untrusted: bool = False) -> str:
        found = self._asked({"path": str(path), "untrusted": untrusted, "follow": False})
        return found if isinstance(found, str) else subject.fault(found, forged)

    def follows(self, path: Path, forge: Callable[[], None], *, unchanged: bool) -> str:
        """What is wrong with what a reader makes of `forge`, done while it has the directory open. `unchanged`: the
        right answers are those from before."""
        ready = self._asked({"path": str(path), "untrusted": False, "follow": True})
        if isinstance(ready, dict) and "ready" not in ready:
            return f"the directory could not be read to begin with: {ready}"
        forge()
        found = ready if isinstance(ready, str) else self._asked({})
        if isinstance(found, str):
            return found
        for what, (how, result) in found.items():
            if how == "untyped":
                return f"{what} raised {result}"
        if unchanged and found["moved"][0] == "ok" and found["moved"] != found["read"]:
            return "the items are the same, and the reader answers something else"
        return ""

    def _asked(self, question: dict[str, Any]) -> Any:
        """The answer, or a text: how the process ended instead."""
        process = self._process
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(f"{json.dumps(question)}\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended("the process that judges was gone")
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        if not ready:
            return self._ended(f"no answer in {SECONDS} seconds")
        line = process.stdout.readline()
        if not line:
            return self._ended("the process ended")
        return json.loads(line)

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
