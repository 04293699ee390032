"""A writer beside a reader that outlives it: the program under test for crashes with two processes.

Every step changes the model and ends in a checkpoint, which the reader then looks at; one forgets, so that LMDB and the
log are rewritten. The reader is a process of its own that has the directory open all along, also while the check opens
it for writing. It leaves when it is told, or when the directory is gone.
"""

import contextlib
import json
import os
import select
import socket
import traceback
from pathlib import Path

import numpy as np

import engine

SETTINGS = {"dim": 4, "loss": "bpr", "negatives": 1, "batch_size": 4, "seed": 5, "epoch_seconds": 1e9}
STEPS, FORGETS, EVENTS = 7, 4, 6  # the steps; which of them forgets; events of each other
USERS, ITEMS = np.arange(STEPS * EVENTS) % 11, np.arange(STEPS * EVENTS) % 5 * 100
LOOKS = 0.5  # seconds between looks whether the directory is still there


class Reader:
    """The process's side of the questions, and how to ask them."""

    def __init__(self, root: Path):
        self._address = str(root.parent / "reader")
        self._path = root / "m"

    def start(self):
        """In a process that is nobody's child; before this one opens the directory, for LMDB wants it so."""
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(self._address)
            door.listen()
            if (child := os.fork()) == 0:
                if os.fork() == 0:
                    self._serve(door)
                os._exit(0)
            os.waitpid(child, 0)

    def _serve(self, door):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nowhere, standard)
        os.closerange(door.fileno() + 1, 4096)  # whoever waits for the writer's end must not wait for this one's
        os.closerange(3, door.fileno())
        reader, root = None, self._path.parent
        try:
            while root.exists():
                if not select.select([door], [], [], LOOKS)[0]:
                    continue
                with door.accept()[0] as asked:
                    if asked.recv(1) == b"q":
                        break
                    try:
                        if reader is None and self._path.exists():
                            reader = engine.open(self._path, mode="r")
                        if reader is not None:
                            reader.refresh()
                        answer = {"digest": reader and reader.digest()}
                    except BaseException:
                        answer = {"error": traceback.format_exc()}
                    asked.send(json.dumps(answer).encode())
        finally:
            os._exit(0)

    def look(self) -> str | None:
        """The digest of what it sees; None as long as there is no directory."""
        with socket.socket(socket.AF_UNIX) as ask:
            ask.connect(self._address)
            ask.send(b"?")
            answer = json.loads(ask.recv(1 << 16))
        assert "error" not in answer, f"the reader failed:\n{answer['error']}"
        return answer["digest"]

    def stop(self):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as ask:
            ask.connect(self._address)
            ask.send(b"q")
        with contextlib.suppress(OSError):
            os.unlink(self._address)


class Program:
    """In the shape that server.py asks for."""

    typed = (engine.EngineError,)

    def step(self, eng, number: int):
        """Takes the model from state `number` to the next."""
        if number == FORGETS:
            eng.forget(USERS[:2], ITEMS[:1])
        else:
            part = slice(number * EVENTS, (number + 1) * EVENTS)
            eng.ingest(USERS[part], ITEMS[part])

    def references(self, root: Path):
        """The digest of every state."""
        with engine.open(root / "m", **SETTINGS) as eng:
            found = [eng.digest()]
            for number in range(STEPS):
                self.step(eng, number)
                found.append(eng.digest())
        assert len(set(found)) == STEPS + 1
        return found

    def run(self, root: Path, mark):
        reader = Reader(root)
        reader.stop()  # of an earlier run here
        reader.start()
        mark.submitted(0)
        with engine.open(root / "m", **SETTINGS) as eng:
            mark.acked(0)
            for number in range(STEPS):
                mark.submitted(number + 1)
                self.step(eng, number)
                mark.acked(number + 1)
                eng.checkpoint()
                assert reader.look() == eng.digest(), "the reader is behind"

    def check(self, root: Path, acked, submitted, references):
        reader = Reader(root)
        try:
            before = reader.look()
            assert before is None or before in references[: submitted + 1], "the reader sees what never was"
            with engine.open(root / "m", **SETTINGS) as eng:
                number = references.index(eng.digest())
                assert acked <= number <= submitted, f"found state {number}, not in {acked}..{submitted}"
                assert before is None or references.index(before) <= number
                eng.checkpoint()
                assert reader.look() == references[number], "the reader does not follow the next writer"
                if number < STEPS:
                    self.step(eng, number)
                    eng.checkpoint()
                    assert eng.digest() == references[number + 1] == reader.look()
        finally:
            reader.stop()


def make(words):
    assert not words
    return Program()
