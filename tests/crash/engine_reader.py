"""A reader beside the crash program, in a process of its own, that tells what it sees of the newest epoch.

It is forked before the engine is opened, for LMDB wants it so. Makes no call that the shim would count, since its lock
file is there. One thread.
"""

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import engine


class OtherReader:
    def __init__(self, path: Path, view: Callable):
        """Of the directory `path`; `view(reader)` is what to tell of it, a string."""
        ask, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._ask)
            self._serve(path, view, ask, tell)
        os.close(ask)
        os.close(tell)

    def _serve(self, path, view, ask, tell):
        reader = None
        try:
            while os.read(ask, 1):
                reader = reader or engine.open(path, mode="r")
                reader.refresh()
                os.write(tell, json.dumps([view(reader), reader.stats()["moves"]]).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def look(self) -> tuple[str, dict[str, int]]:
        """What it sees of the newest epoch, and how often it has moved, by kind."""
        os.write(self._ask, b"?")
        view, moves = json.loads(os.read(self._told, 4096))
        return view, moves

    def close(self):
        os.close(self._ask)
        os.close(self._told)
        assert os.waitpid(self._pid, 0)[1] == 0, "the reader failed"
