"""LMDB alone under the harness: it keeps its promises on this model of a disk, so a failure of the engine is its own.

Each transaction n writes n into every one of some keys. The environment is made aside, synced and renamed into place,
since LMDB itself syncs neither its first pages nor its directory. Sabotage: no-sync (LMDB's own switch for it).
"""

import os
import shutil
from pathlib import Path

import lmdb

COMMITS, KEYS = 12, 40


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class Program:
    """As server.py asks for."""

    typed = (OSError, lmdb.Error)

    def __init__(self, sabotage):
        self.settings = {"map_size": 1 << 30, "sync": sabotage != "no-sync"}

    def references(self, root):
        return None

    def open(self, root: Path):
        place, aside = root / "m", root / "aside"
        if not place.exists():
            shutil.rmtree(aside, ignore_errors=True)  # LMDB refuses a file whose first pages were cut short
            lmdb.open(str(aside), **self.settings).close()
            sync(aside / "data.mdb")
            sync(aside)
            aside.rename(place)
            sync(root)
        return lmdb.open(str(place), **self.settings)

    def last(self, env):
        with env.begin() as txn:
            found = {value[:1] for _, value in txn.cursor()}
        assert len(found) <= 1, f"half a transaction: {found}"
        return found.pop()[0] if found else 0

    def commit(self, env, n):
        with env.begin(write=True) as txn:
            for key in range(KEYS):
                txn.put(key.to_bytes(8, "big"), bytes([n]) * (100 + 37 * n))

    def run(self, root, mark):
        with self.open(root) as env:
            done = self.last(env)
            mark.acked(done)
            for n in range(done + 1, COMMITS + 1):
                mark.submitted(n)
                self.commit(env, n)
                mark.acked(n)

    def check(self, root, acked, submitted, references):
        with self.open(root) as env:
            found = self.last(env)
            assert acked <= found <= submitted, f"found {found}, not in {acked}..{submitted}"
            self.commit(env, found + 1)
            assert self.last(env) == found + 1


def make(sabotage):
    return Program(sabotage)
