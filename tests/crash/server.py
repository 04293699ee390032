"""The fork server: one warm process, started under the shim, that forks a child for every run and every check.

It loads one program under test and does what it is asked, one JSON line at a time, over a socket. Each child has one
task and a time limit, so that a crash, a hang or a SIGBUS is an outcome like any other. The server itself never touches
a watched directory and starts no thread, which keeps its forks clean. Not its job: choosing faults, judging outcomes
(sweep.py does). A script, not a module: it imports nothing of its folder, where a program finds its own parts.

A program under test is a Python file with `make(sabotage) -> program`, where the program has

    typed                   tuple of exception types that a failing disk may surface as
    references(root)        -> anything JSON can hold; made once, from an uninterrupted run in an empty directory
    run(root, mark)         -> anything JSON can hold, the answer's "value". Do all the work, going on from whatever
                            `root` holds; calls mark.submitted(n) before and
                            mark.acked(n) after each promise (mark.accepted(n) where it holds for a kill alone), and
                            mark.acked(n) for what it finds on opening
    check(root, acked, submitted, references)   reopen and raise if a promise is broken
"""

import ctypes
import gc
import importlib.util
import json
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
from functools import partial
from pathlib import Path


class Board(ctypes.Structure):
    """What a child leaves behind even when killed: the `struct board` of shim.c, in shared memory."""

    _fields_ = (
        ("calls", ctypes.c_int64),
        ("submitted", ctypes.c_int64),
        ("acked", ctypes.c_int64),
        ("accepted", ctypes.c_int64),
        ("fired", ctypes.c_int64),
        ("unsupported", ctypes.c_int64),
        ("call", ctypes.c_char * 512),
    )


class Mark:
    """How a program says what it has promised. Any thread."""

    def __init__(self, shim):
        self._shim = shim

    def submitted(self, n):
        """Events up to `n` are about to be handed over."""
        self._shim.crash_mark(0, ctypes.c_int64(n))

    def acked(self, n):
        """Events up to `n` were acknowledged, or shown to a caller as applied."""
        self._shim.crash_mark(1, ctypes.c_int64(n))

    def accepted(self, n):
        """Events up to `n` were acknowledged with the promise that they outlive the process, but not the power."""
        self._shim.crash_mark(2, ctypes.c_int64(n))

    def onlooker(self, fd):
        """From here on another process is asked to look before every call: by a byte on `fd`, where one must answer."""
        self._shim.crash_onlooker(fd)


def in_child(task, seconds):
    """Run `task()` in a fork. Returns {"end": "ok" | "raised" | "hang" | "killed" | "signal n", "error": ...}."""
    receive, send = os.pipe()
    words = os.memfd_create("stderr")  # what C and C++ say before they abort
    pid = os.fork()
    if pid == 0:
        os.dup2(words, 2)
        os.close(receive)
        signal.alarm(seconds)
        try:
            answer = {"end": "ok", "value": task()}
        except BaseException as error:
            answer = {"end": "raised", "type": type(error).__name__, "error": traceback.format_exc()[-4000:]}
            answer["typed"] = isinstance(error, PROGRAM.typed)
        with open(send, "w") as out:
            json.dump(answer, out)
        os._exit(0)
    os.close(send)
    with open(receive) as source:
        text = source.read()
    _, status = os.waitpid(pid, 0)
    with open(words, "rb") as said:
        said.seek(0)
        error = said.read()[-4000:].decode(errors="replace")
    if not os.WIFSIGNALED(status):
        return json.loads(text) if text else {"end": f"exit {os.WEXITSTATUS(status)}", "error": error}
    number = os.WTERMSIG(status)
    end = {signal.SIGKILL: "killed", signal.SIGALRM: "hang"}.get(number, f"signal {number}")
    return {"end": end, "error": error}


def run(request, shim, board):
    """One run of the program under a fault; the board starts from what earlier runs in this directory had promised."""
    ctypes.memset(ctypes.byref(board), 0, ctypes.sizeof(board))
    board.acked, board.submitted = request["acked"], request["submitted"]
    root = request["root"]

    def task():
        shim.crash_start(
            ctypes.byref(board),
            os.fsencode(root),
            request["fault"],
            ctypes.c_int64(request["at"]),
            request["errno"],
            request["sticky"],
            os.fsencode(request["trace"]),
            os.fsencode(request["journal"]),
            request["sync_delay_us"],
        )
        return PROGRAM.run(Path(root), Mark(shim))

    answer = in_child(task, request["seconds"])
    for name in ("calls", "submitted", "acked", "accepted", "fired", "unsupported"):
        answer[name] = getattr(board, name)
    answer["call"] = board.call.decode(errors="replace")
    return answer


def serve(connection, shim):
    """Answer requests until the other side hangs up."""
    shared = mmap.mmap(-1, ctypes.sizeof(Board))
    board = Board.from_buffer(shared)
    references = None
    gc.collect()
    gc.freeze()  # children then copy fewer pages
    stream = connection.makefile("rw")
    for line in stream:
        request = json.loads(line)
        root = Path(request["root"])
        if request["do"] == "references":
            answer = in_child(partial(PROGRAM.references, root), request["seconds"])
            references = answer.get("value")
        elif request["do"] == "run":
            answer = run(request, shim, board)
        else:
            judge = partial(PROGRAM.check, root, request["acked"], request["submitted"], references)
            answer = in_child(judge, request["seconds"])
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


def load(file):
    """The module in `file`, under its own stem."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    PROGRAM = load(sys.argv[3]).make(sys.argv[4])
    serve(socket.socket(fileno=int(sys.argv[1])), ctypes.CDLL(sys.argv[2]))
