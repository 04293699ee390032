"""Programs that prove the shim and the server rather than a log: every kind of call, LMDB, threads, and bad ends.

`sabotage` names the act: calls, lmdb, threads, onlooker, or one that the harness must refuse or report: mapping and
stdio (writes that the shim cannot see), untyped, hang and abort (how a run may end once a call has failed). They
promise nothing, so every directory passes the check.
"""

import ctypes
import mmap
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import lmdb


def calls(root: Path):
    """One of each, by relative and absolute paths and by descriptors."""
    a, b = root / "a", root / "b"
    fd = os.open(a, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(fd, b"x" * 1000)
    os.lseek(fd, 100, os.SEEK_SET)
    os.writev(fd, [b"yy", b"", b"zzz"])
    os.pwrite(fd, b"far", 5000)
    os.pwritev(fd, [b"one", b"two"], 2048)
    os.fsync(fd)
    os.ftruncate(fd, 3000)
    os.posix_fallocate(fd, 0, 4000)
    os.fdatasync(fd)
    copy = os.dup(fd)
    os.close(fd)
    os.write(copy, b"through a copy")
    os.fchmod(copy, 0o600)
    os.close(copy)
    os.chmod(a, 0o644)
    os.truncate(a, 2500)
    here = os.getcwd()
    os.chdir(root)
    os.mkdir("folder")
    Path("folder/inner").write_bytes(b"relative")
    os.chdir(here)
    shutil.copyfile(a, b)
    with open(b, "ab") as stream:
        stream.write(b"appended")
    os.link(b, root / "b2")
    os.symlink("b2", root / "b3")
    os.rename(root / "folder", root / "moved")
    os.replace(b, root / "moved" / "b")
    at = os.open(root / "moved", os.O_RDONLY)
    os.rename("b", "c", src_dir_fd=at, dst_dir_fd=at)
    os.close(os.open("made", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.unlink("made", dir_fd=at)
    os.fsync(at)
    os.close(at)
    os.close(os.open(root / "b2", os.O_WRONLY | os.O_TRUNC))
    Path(root / "doomed" / "deep").mkdir(parents=True)
    (root / "doomed" / "deep" / "file").write_text("gone soon")
    shutil.rmtree(root / "doomed")
    (root / "unsynced-🦆").write_text("last")


def in_lmdb(root: Path):
    """Two transactions: data pages through one descriptor, meta pages through another with O_DSYNC."""
    with lmdb.open(str(root / "m"), map_size=1 << 30) as env:
        for n in range(2):
            with env.begin(write=True) as txn:
                for key in range(200):
                    txn.put(key.to_bytes(8, "big"), bytes([n]) * 300)


def threads(root: Path):
    """Four threads, a file each and one that they share."""

    def work(i):
        with open(root / f"own-{i}", "wb", buffering=0) as own, open(root / "all", "ab", buffering=0) as shared:
            for n in range(30):
                own.write(bytes([n]) * 100)
                shared.write(f"{i} {n}\n".encode())
                os.fsync(own)

    workers = [threading.Thread(target=work, args=[i]) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def mapping(root: Path):
    with open(root / "mapped", "wb+") as stream:
        stream.write(bytes(4096))
        stream.flush()
        with mmap.mmap(stream.fileno(), 4096) as mapped:
            mapped[:5] = b"sneak"


def stdio(root: Path):
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fopen(os.fsencode(root / "escaped"), b"w"))
    libc.fputs(b"unseen", stream)
    libc.fclose(stream)


def ends_badly(how):
    def act(root: Path):
        try:
            (root / "file").write_text("content")
        except OSError:
            if how == "hang":
                time.sleep(600)
            elif how == "abort":
                os.abort()
            raise KeyError("an error of no type that was promised") from None

    return act


class Program:
    """As server.py asks for."""

    typed = (OSError,)

    def __init__(self, act):
        self.act = act

    def references(self, root):
        return None

    def run(self, root, mark):
        self.act(root)

    def check(self, root, acked, submitted, references):
        pass


class LookedOn(Program):
    """Another process looks on; the run's value is what it saw each time: how many names there are."""

    def __init__(self):
        super().__init__(threads)

    def run(self, root, mark):
        ours, theirs = socket.socketpair()
        told, tell = os.pipe()
        if os.fork() == 0:
            ours.close()
            seen = bytearray()
            while theirs.recv(1):
                seen.append(len(os.listdir(root)))
                theirs.send(b"!")
            os.write(tell, seen)
            os._exit(0)
        theirs.close()
        os.close(tell)
        mark.onlooker(ours.fileno())
        super().run(root, mark)
        mark.onlooker(-1)
        ours.close()
        seen = os.read(told, 4096)
        os.wait()
        return list(seen)


ACTS = {"calls": calls, "lmdb": in_lmdb, "threads": threads, "mapping": mapping, "stdio": stdio}


def make(sabotage):
    return LookedOn() if sabotage == "onlooker" else Program(ACTS.get(sabotage) or ends_badly(sabotage))
