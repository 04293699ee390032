"""A directory of format 1 as a program under test: it is opened, so that it becomes one of format 2, and goes on.

`make(words)`: the name of an old model, with `_` for a space, and perhaps the sabotage that appends to its log before
the epoch that migrates it. The root must hold it as `m` (tests/old_models.py makes it); state n is that after
n calls. It is opened anew before each call but the first, so that both kinds of record are replayed.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from old_models import FOUND, tight, unpack

import engine
from engine.cold.cold import Cold
from engine.directory.directory import Directory
from engine.log.record import Record

CALLS, EVENTS = 4, 7


class Program:
    """In the shape that server.py asks for."""

    typed = (engine.StorageFullError, engine.EngineError)

    def __init__(self, name: str):
        self.name = name
        self.first = FOUND[name]["seq"]

    def open(self, root: Path):
        return engine.open(root / "m", warm_bytes=tight(self.name), epoch_seconds=1e9)

    def call(self, eng, number: int):
        """The call after state `number`; the second one is followed by an epoch."""
        rng = np.random.default_rng(number)
        values = {"logistic": rng.integers(0, 2, EVENTS), "squared": rng.integers(1, 6, EVENTS)}
        users, items = rng.integers(0, 12, EVENTS) * 7 - 30, rng.integers(0, 20, EVENTS) * 10**9
        eng.ingest(users, items, values.get(eng.settings["loss"]))
        if number == 1:
            eng.checkpoint()

    def state(self, eng) -> int:
        number, rest = divmod(eng.seq - self.first, EVENTS)
        assert rest == 0, f"{eng.seq} is no call's end"
        return number

    def references(self, root: Path):
        unpack(self.name, root / "m")
        digests = [FOUND[self.name]["digest"]]  # as the old release had it
        with self.open(root) as eng:
            assert eng.digest() == digests[0]
            for number in range(CALLS):
                self.call(eng, number)
                digests.append(eng.digest())
        return digests

    def run(self, root: Path, mark):
        mark.submitted(0)
        while True:
            eng = self.open(root)
            try:
                number = self.state(eng)
                mark.acked(number)
                if number == CALLS:
                    return
                mark.submitted(number + 1)
                self.call(eng, number)
                mark.acked(number + 1)
                eng._failure = "killed"  # so that closing makes no epoch
            finally:
                eng.close()

    def check(self, root: Path, acked, submitted, references):
        before = engine.verify(root / "m")
        with Cold.open(root / "m" / "rows", readonly=True) as cold:
            assert json.loads(cold.meta("created"))["format"] == before.format
        if before.format == 1:
            assert before.seq == self.first, "something was appended before it was migrated"
        with self.open(root) as eng:
            number = self.state(eng)
            assert acked <= number <= submitted, f"found state {number}, not in {acked}..{submitted}"
            assert eng.digest() == references[number], f"state {number} has other bits"
            if number < CALLS:
                self.call(eng, number)
                assert eng.digest() == references[number + 1], f"going on from state {number} gives other bits"
        after = engine.verify(root / "m")
        assert after.format == 2
        assert before.directory_id in ("", after.directory_id), "it has another id"


def append_before_the_epoch():
    """What is opened gets a record that the rows do not know of, before they have the id that it names."""
    opened = Directory.open.__func__

    def open_and_append(cls, *args):
        place = opened(cls, *args)
        if place.unsaved:
            no_ids = np.empty(0, np.int64)
            place.log.append(Record(place.log.last_seq + 1, 1, no_ids, no_ids, settings={}))
            place.log.sync()
        return place

    Directory.open = classmethod(open_and_append)


def make(words):
    name, *sabotage = words.split()
    if sabotage:
        append_before_the_epoch()
    return Program(name.replace("_", " "))
