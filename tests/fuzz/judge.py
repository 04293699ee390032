"""Opens directories that were mutated and says what came of it: a line of JSON in, a line of JSON out.

Runs as a process of its own, `python judge.py [BYTES OF MEMORY]`, since what is looked for may end it. Only says what
happened; whether that is allowed is for subject.py to decide.
"""

import json
import resource
import shutil
import sys
import traceback
from typing import Any

import numpy as np

import engine

USERS, ITEMS = 25, 40
MORE = np.arange(12) % USERS, np.arange(12) * 7 % ITEMS  # ids that the directory has, and a new pair


def go_on(eng: engine.Engine) -> int:
    """More events, and an operation of each kind; returns the seq."""
    pointwise = eng.settings["loss"] in ("logistic", "squared")
    seq = eng.ingest(*MORE, MORE[0] % 2 if pointwise else None).seq
    eng.hide([5, 6])
    eng.show(6)
    eng.forget(users=3, items=[7, 1150])
    eng.forget_position("a")
    return seq


def tried(call: Any) -> Any:
    """("ok", result), ("refused", type) for an error of the engine's own, ("untyped", traceback) for any other."""
    try:
        return "ok", call()
    except engine.EngineError as e:
        return "refused", f"{type(e).__name__}: {e}"
    except Exception:
        return "untyped", traceback.format_exc()


def answers(eng: engine.Engine) -> Any:
    """What a reader of any kind is asked."""
    top = eng.topk(np.arange(30), 50, exclude_seen=True)
    return [eng.digest(), eng.seq, top.ids.tolist(), top.scores.tolist()]


def use(eng: engine.Engine, backup: str) -> dict[str, Any]:
    """Everything that reads what came from the files, then a write on top, and an epoch."""
    return {
        "digest": tried(eng.digest),
        "seq": tried(lambda: eng.seq),
        "topk": tried(lambda: eng.topk(np.arange(30), 50, exclude_seen=True).counts.sum().item()),
        "similar": tried(lambda: len(eng.similar(eng.topk(1, 5).ids[:1], 5).ids)),
        "vectors": tried(lambda: len(eng.vectors(items=eng.topk(1, 5).ids))),
        "stats": tried(lambda: len(json.dumps(eng.stats()))),
        "position": tried(lambda: repr((eng.position("a"), eng.positions()))),
        "hidden": tried(lambda: len(eng.hidden())),
        "history": tried(lambda: [len(eng.history(user)) for user in (3, 4)]),
        "go on": tried(lambda: go_on(eng)),
        "after": tried(eng.digest),
        "checkpoint": tried(eng.checkpoint),
        "again": tried(eng.digest),
        "backup": tried(lambda: eng.backup(backup)),
        "close": tried(eng.close),
    }


def judged(path: str, untrusted: bool) -> dict[str, Any]:
    # warm_bytes: histories and rows come from LMDB, a few at a time
    out: dict[str, Any] = {"verify": tried(lambda: repr(engine.verify(path)))}
    out["read"] = tried(lambda: read(path, untrusted))
    opened = tried(lambda: engine.open(path, warm_bytes=60_000, untrusted=untrusted))
    if opened[0] == "ok":
        try:
            out |= use(opened[1], f"{path}.backup")
        finally:
            tried(opened[1].close)
            shutil.rmtree(f"{path}.backup", ignore_errors=True)
        out["sound"] = tried(lambda: repr(engine.verify(path)))
        opened = ("ok", None)
    return out | {"open": opened}


def read(path: str, untrusted: bool) -> Any:
    with engine.open(path, mode="r", untrusted=untrusted) as eng:
        return answers(eng)[:2]


def followed(path: str) -> dict[str, Any]:
    """A reader that has it open while it is changed: says so, is told, and moves on."""
    reader = tried(lambda: engine.open(path, mode="r"))
    if reader[0] != "ok":
        return {"read": reader}
    with reader[1] as eng:
        before = tried(lambda: answers(eng))
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        return {"read": before, "moved": tried(lambda: answers(eng)), "refresh": tried(eng.refresh)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
    for line in sys.stdin:
        asked = json.loads(line)
        found = followed(asked["path"]) if asked["follow"] else judged(asked["path"], asked["untrusted"])
        print(json.dumps(found), flush=True)
