"""A writer beside a reader that outlives it: the program under test for crashes with two processes.

Every step changes the model and ends in a checkpoint; one forgets, so that LMDB and the log are rewritten. The reader
is a process of its own. Before each call that changes a file it refreshes and asks for lists, while the writer waits,
so that a run is always the same. It has the directory open all along, also while the check opens it for writing. It
leaves when it is told, or when the directory is gone.

`make(words)`: the words break the engine on purpose (engine_sabotage.py).
"""

import contextlib
import importlib
import json
import os
import select
import socket
import traceback
from pathlib import Path

import numpy as np
from engine_sabotage import SABOTAGES

import engine

SETTINGS = {"dim": 4, "loss": "bpr", "negatives": 1, "batch_size": 4, "seed": 5, "epoch_seconds": 1e9}
EVENTS = 6  # of a step that learns
LEARN, FORGET, HIDE, SHOW = "learn", "forget", "hide", "show"
STEPS = [LEARN, LEARN, HIDE, LEARN, FORGET, LEARN, SHOW, LEARN]
USERS, ITEMS = np.arange(len(STEPS) * EVENTS) % 11, np.arange(len(STEPS) * EVENTS) % 7 * 100
HIDDEN = ITEMS[2:4]
LOOKS = 0.5  # seconds between looks whether the directory is still there


def view(eng) -> str:
    """What can be seen of a state: the digest, and lists for users and a stranger, with and without what they had."""
    tops = [eng.topk([*range(4), 404], 5, exclude_seen=had) for had in (False, True)]
    return json.dumps([eng.digest(), *(top.ids.tolist() + top.scores.tolist() for top in tops)])


class Reader:
    """The process's side of the questions, and how to ask them."""

    def __init__(self, root: Path):
        self._address = str(root.parent / "reader")
        self._root = root
        self._reader = None
        self._seen: list[str] = []  # each view once, in order

    def start(self) -> socket.socket:
        """In a process that is nobody's child; before this one opens the directory, for LMDB wants it so. Returns where
        to ask for a look by a byte; it answers with one."""
        ours, theirs = socket.socketpair()
        with socket.socket(socket.AF_UNIX) as door, theirs:
            door.bind(self._address)
            door.listen()
            if (child := os.fork()) == 0:
                if os.fork() == 0:
                    self._serve(door, theirs)
                os._exit(0)
            os.waitpid(child, 0)
        return ours

    def _serve(self, door, writer):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nowhere, standard)
        low, high = sorted((door.fileno(), writer.fileno()))
        for first, last in ((3, low), (low + 1, high), (high + 1, 4096)):
            os.closerange(first, last)  # whoever waits for the writer's end must not wait for this one's
        listening = [door, writer]
        try:
            while self._root.exists():
                for ready in select.select(listening, [], [], LOOKS)[0]:
                    if ready is door:
                        self._answer(door)
                    elif writer.recv(1):
                        self._look()
                        writer.send(b"!")
                    else:  # it was killed
                        listening.remove(writer)
        finally:
            os._exit(0)

    def _answer(self, door):
        with door.accept()[0] as asked:
            if asked.recv(1) == b"q":
                os._exit(0)
            self._look()
            asked.send(json.dumps(self._seen).encode())

    def _look(self):
        try:
            if self._reader is None and (self._root / "m").exists():
                self._reader = engine.open(self._root / "m", mode="r")
            if self._reader is not None:
                self._reader.refresh()
                seen = view(self._reader)
                if [seen] != self._seen[-1:]:
                    self._seen.append(seen)
        except BaseException:
            self._seen.append(traceback.format_exc())

    def look(self) -> list[str]:
        """Refreshes; returns all that it has seen, what it sees now last. Nothing as long as there is no directory."""
        with socket.socket(socket.AF_UNIX) as ask:
            ask.connect(self._address)
            ask.send(b"?")
            with ask.makefile() as answer:
                return json.load(answer)

    def stop(self):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as ask:
            ask.connect(self._address)
            ask.send(b"q")
        with contextlib.suppress(OSError):
            os.unlink(self._address)


class Program:
    """In the shape that server.py asks for. State n is that after n steps."""

    typed = (engine.EngineError,)

    def step(self, eng, number: int):
        """Takes the model from state `number` to the next."""
        if STEPS[number] == FORGET:
            eng.forget(USERS[:2], ITEMS[:1])
        elif STEPS[number] == LEARN:
            part = slice(number * EVENTS, (number + 1) * EVENTS)
            eng.ingest(USERS[part], ITEMS[part])
        else:
            getattr(eng, STEPS[number])(HIDDEN)

    def references(self, root: Path):
        """The view of every state."""
        with engine.open(root / "m", **SETTINGS) as eng:
            found = [view(eng)]
            for number in range(len(STEPS)):
                self.step(eng, number)
                found.append(view(eng))
        assert len(set(found)) == len(STEPS) + 1
        return found

    def run(self, root: Path, mark):
        """Returns how many states the reader saw."""
        reader = Reader(root)
        reader.stop()  # of an earlier run here
        with reader.start() as onlooker:
            mark.onlooker(onlooker.fileno())
            mark.submitted(0)
            with engine.open(root / "m", **SETTINGS) as eng:
                mark.acked(0)
                for number in range(len(STEPS)):
                    mark.submitted(number + 1)
                    self.step(eng, number)
                    mark.acked(number + 1)
                    eng.checkpoint()
                    seen = reader.look()
                    assert seen[-1] == view(eng), f"the reader is behind:\n{seen[-1]}"
            mark.onlooker(-1)
        return len(seen)

    def check(self, root: Path, acked, submitted, references):
        reader = Reader(root)
        try:
            seen = reader.look()
            assert set(seen) <= set(references), f"the reader saw what never was:\n{set(seen) - set(references)}"
            states = [references.index(each) for each in seen]
            assert states == sorted(set(states)), f"the reader went back: {states}"
            if (root / "m").exists():
                engine.verify(root / "m")
            with engine.open(root / "m", **SETTINGS) as eng:
                number = references.index(view(eng))
                assert acked <= number <= submitted, f"found state {number}, not in {acked}..{submitted}"
                assert states[-1:] <= [number], f"found state {number}, but the reader has seen {states}"
                eng.checkpoint()
                assert reader.look()[-1] == references[number], "the reader does not follow the next writer"
                if number < len(STEPS):
                    self.step(eng, number)
                    number += 1
                    eng.checkpoint()
                    assert references[number] == view(eng) == reader.look()[-1], f"going on to state {number}"
            whole = engine.verify(root / "m")
            assert (whole.torn_bytes, whole.seq) == (0, EVENTS * STEPS[:number].count(LEARN))
            assert reader.look()[-1] == references[number], "the reader does not outlive the next writer"
        finally:
            reader.stop()


def make(words):
    importlib.import_module("lmdb._envid")  # at first use; else each child of the server would import it anew
    for name in words.split():
        SABOTAGES[name]()
    return Program()
