"""Opens directories that were mutated and says what came of it: one line in (a path), one line of JSON out.

Runs as a process of its own, `python judge.py`, since what is looked for may end it. Only says what happened; whether
that is allowed is for subject.py to decide.
"""

import json
import sys
import traceback
from typing import Any

import numpy as np

import engine

USERS, ITEMS = 25, 40
MORE = np.arange(12) % USERS, np.arange(12) * 7 % ITEMS  # ids that the directory has, and a new pair


def tried(call: Any) -> Any:
    """("ok", result), ("refused", type) for an error of the engine's own, ("untyped", traceback) for any other."""
    try:
        return "ok", call()
    except engine.EngineError as e:
        return "refused", f"{type(e).__name__}: {e}"
    except Exception:
        return "untyped", traceback.format_exc()


def use(eng: engine.Engine) -> dict[str, Any]:
    """Everything that reads what came from the files, then a write on top, and an epoch."""
    return {
        "digest": tried(eng.digest),
        "seq": tried(lambda: eng.seq),
        "topk": tried(lambda: eng.topk(np.arange(30), 50, exclude_seen=True).counts.sum().item()),
        "vectors": tried(lambda: len(eng.vectors(items=eng.topk(1, 5).ids))),
        "stats": tried(lambda: len(json.dumps(eng.stats()))),
        "position": tried(lambda: repr(eng.position("a"))),
        "ingest": tried(lambda: eng.ingest(*MORE).seq),
        "after": tried(eng.digest),
        "checkpoint": tried(eng.checkpoint),
        "again": tried(eng.digest),
        "close": tried(eng.close),
    }


def judged(path: str) -> dict[str, Any]:
    # warm_bytes: histories and rows come from LMDB, a few at a time
    out: dict[str, Any] = {"verify": tried(lambda: repr(engine.verify(path)))}
    opened = tried(lambda: engine.open(path, warm_bytes=40_000))
    if opened[0] == "ok":
        try:
            out |= use(opened[1])
        finally:
            tried(opened[1].close)
        out["sound"] = tried(lambda: repr(engine.verify(path)))
        opened = ("ok", None)
    return out | {"open": opened}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(judged(line.rstrip("\n"))), flush=True)
