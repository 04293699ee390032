"""A write-ahead log of fifty lines, to prove the harness on: right as it stands, wrong in eight ways on request.

State after n events is a hash chain over their payloads. `log-B` holds the records after event B; every few events the
state goes into `store` (aside, synced, renamed), a new log begins and the old one is removed. Everything lies in a
directory that is itself made aside and renamed into place, as the engine's is.

Sabotage: no-fsync, no-crc, ack-first (acknowledge, then sync), store-first (checkpoint before the log has the
event), no-dir-sync, trust-tail (believe a log found on opening without syncing it), retry-sync (sync again after a
failed one), swallow (report no error of the disk).
"""

import hashlib
import os
import struct
import zlib
from pathlib import Path
from random import Random

HEADER = struct.Struct("<III")
EVENTS, EVERY = 23, 8


def payload(n):
    """Bytes of event n: long enough to span sectors."""
    rng = Random(n)
    return rng.randbytes(rng.randint(200, 1800))


def step(state, data):
    return hashlib.sha256(state + data).digest()


class ToyWal:
    """The log on one directory. One thread."""

    def __init__(self, path, sabotage):
        self.path, self.sabotage = path, sabotage
        if not path.exists():
            aside = path.with_name("aside")
            aside.mkdir(exist_ok=True)
            (aside / "log-0").touch()
            self.sync_dir(aside)
            aside.rename(path)
            self.sync_dir(path.parent)
        self.n, self.state = 0, b""
        if (path / "store").exists():
            raw = (path / "store").read_bytes()
            if zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
                raise ValueError("the store is damaged")
            self.n, self.state = int.from_bytes(raw[:4], "little"), raw[4:-4]
        stored = self.n
        bases = sorted(int(p.name[4:]) for p in path.glob("log-*"))
        for base in bases:
            end = self.replay(base)
        if stored > max(bases[-1], self.last):
            raise ValueError(f"the store, at {stored}, is ahead of its log")
        self.log = os.open(path / f"log-{bases[-1]}", os.O_RDWR | os.O_APPEND)
        if os.fstat(self.log).st_size != end:
            os.ftruncate(self.log, end)
        if sabotage != "trust-tail":
            os.fsync(self.log)

    def replay(self, base):
        """Apply the records of one log that are not in the state yet. Returns the offset after the last whole one."""
        raw, at, self.last = (self.path / f"log-{base}").read_bytes(), 0, base
        while at + HEADER.size <= len(raw):
            size, n, crc = HEADER.unpack_from(raw, at)
            data = raw[at + HEADER.size : at + HEADER.size + size]
            if len(data) < size or n != self.last + 1:
                break
            if zlib.crc32(data) != crc and self.sabotage != "no-crc":
                break
            if n == self.n + 1:
                self.n, self.state = n, step(self.state, data)
            self.last, at = n, at + HEADER.size + size
        return at

    def sync(self, fd):
        try:
            os.fsync(fd)
        except OSError:
            if self.sabotage != "retry-sync":
                raise
            os.fsync(fd)

    def sync_dir(self, path):
        if self.sabotage != "no-dir-sync":
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

    def append(self, n, acked):
        """Log event n, durably, then apply it. `acked` is called when the promise is made."""
        data = payload(n)
        record = HEADER.pack(len(data), n, zlib.crc32(data)) + data
        if self.sabotage == "store-first" and n % EVERY == 0:
            self.store(n, step(self.state, data))
        while record:
            record = record[os.write(self.log, record) :]
        if self.sabotage == "ack-first":
            acked(n)
        if self.sabotage != "no-fsync":
            self.sync(self.log)
        acked(n)
        self.n, self.state = n, step(self.state, data)
        if n % EVERY == 0:
            self.checkpoint()

    def store(self, n, state):
        raw = n.to_bytes(4, "little") + state
        fd = os.open(self.path / "store.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        whole = raw + zlib.crc32(raw).to_bytes(4, "little")
        if os.pwrite(fd, whole, 0) < len(whole):
            raise OSError("short write")
        os.fsync(fd)
        os.close(fd)
        os.rename(self.path / "store.new", self.path / "store")
        self.sync_dir(self.path)

    def checkpoint(self):
        self.store(self.n, self.state)
        os.close(self.log)
        self.log = os.open(self.path / f"log-{self.n}", os.O_RDWR | os.O_APPEND | os.O_CREAT)
        self.sync_dir(self.path)
        for old in self.path.glob("log-*"):
            if int(old.name[4:]) < self.n:
                old.unlink()


class Program:
    """The toy, in the shape that server.py asks for."""

    typed = (OSError,)

    def __init__(self, sabotage):
        self.sabotage = sabotage

    def references(self, root: Path):
        states = [b""]
        for n in range(1, EVENTS + 1):
            states.append(step(states[-1], payload(n)))
        return [s.hex() for s in states]

    def run(self, root: Path, mark):
        wal = ToyWal(root / "toy", self.sabotage)
        mark.acked(wal.n)
        for n in range(wal.n + 1, EVENTS + 1):
            mark.submitted(n)
            try:
                wal.append(n, mark.acked)
            except OSError:
                if self.sabotage != "swallow":
                    raise
                mark.acked(n)

    def check(self, root: Path, acked, submitted, references):
        for _ in range(2):  # once as found, once after going on for an event
            wal = ToyWal(root / "toy", self.sabotage)
            assert acked <= wal.n <= submitted, f"found {wal.n}, not in {acked}..{submitted}"
            assert wal.state.hex() == references[wal.n], f"the state at {wal.n} is wrong"
            if wal.n < EVENTS:
                acked = submitted = wal.n + 1
                wal.append(acked, lambda n: None)
            else:
                acked = submitted = wal.n


def make(sabotage):
    return Program(sabotage)
