"""One case: what is done to a copy of a subject, and who judges it. A function of its number and its random numbers."""

import random
from pathlib import Path

from .forgeries import BESIDE, FORGERY, UNTRUSTED, forge_an_epoch
from .mutators import DAMAGE, apply
from .subject import Judge, Subject, copy_of

WAYS = 6  # of a case's number, which follow each other


def judged(judge: Judge | None, subject: Subject, path: Path, n: int, rng: random.Random) -> tuple[str, str]:
    """What was done at `path`, and what is wrong with what came of it, "" for nothing. Without a judge: only done."""
    copy_of(subject, path)
    way = n % WAYS
    if way < 4:
        forged, untrusted = way % 2 == 1, way >= 2
        how = apply((UNTRUSTED if untrusted else FORGERY) if forged else DAMAGE, path, rng)
        fault = judge.verdict(subject, path, forged=forged, untrusted=untrusted) if judge else ""
        return how + " untrusted" * untrusted, fault
    done: list[str] = []

    def forge() -> None:
        if way == 5:
            done.append(apply(BESIDE, path, rng))
        done.append("forge_an_epoch")
        forge_an_epoch(path, rng)

    fault = ""
    if judge is None:
        forge()
    else:
        fault = judge.follows(path, forge, unchanged=way == 4)
    return " ".join(done) + " beside a reader", fault
