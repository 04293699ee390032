"""Names for what the engine does on a device, as profilers show them, and how much each must do at the least.

Responsible for the marks alone: whoever profiles (profiling/run.py) turns them on with `watching`, and functions that
work on a device are `marked`. A mark is a range "rowtide.<name>" of torch.profiler, and of NVTX where there is a GPU.
While nobody watches, it costs a call and one look at a global. Knows no kernel: what one must move comes from whoever
marks it, and is reckoned after the profile, so that counting distinct rows is no part of it. A Watch imports torch.
Any thread; one watch at a time in a process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ..contract.errors import EngineError

__all__ = ["PREFIX", "Reckoned", "Watch", "Work", "marked", "watching"]

PREFIX = "rowtide."

P = ParamSpec("P")
R = TypeVar("R")


class Work(NamedTuple):
    """What a call cannot do without: bytes read and written, flops; `host`: they go over the link to the host."""

    bytes: int
    flops: int = 0
    host: bool = False


Reckoned = Callable[[], Work]

_watch: "Watch | None" = None


class Watch:
    """`calls`: (name, what reckons its work or None) of every range that was entered, in that order.

    What reckons may hold on to arguments of the call, slots above all, until the watch goes. keep=False: nothing is
    collected, ranges alone are made.
    """

    def __init__(self, *, nvtx: bool, keep: bool = True) -> None:
        import torch

        self.calls: list[tuple[str, Reckoned | None]] = []
        self._keep = keep
        self._record: Any = torch.profiler.record_function
        self._nvtx: Any = torch.cuda.nvtx if nvtx else None

    @contextmanager
    def range(self, name: str, reckoned: Reckoned | None = None) -> Iterator[None]:
        if self._keep:
            self.calls.append((name, reckoned))
        with self._record(PREFIX + name):
            if self._nvtx is None:
                yield
                return
            self._nvtx.range_push(PREFIX + name)
            try:
                yield
            finally:
                self._nvtx.range_pop()


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Marked functions make ranges in the block, in every thread."""
    global _watch
    if _watch is not None:
        raise EngineError("another profile runs in this process; one at a time")
    _watch = watch
    try:
        yield
    finally:
        _watch = None


def marked(name: str, work: Callable[..., Reckoned | None] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: calls are ranges of this name.

    work: called before the function with its arguments; returns what reckons the call's Work afterwards, or None if the
    call has nothing to do, and then there is no range.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            watch = _watch
            if watch is None:
                return function(*args, **kwargs)
            reckoned = None if work is None else work(*args, **kwargs)
            if work is not None and reckoned is None:
                return function(*args, **kwargs)
            with watch.range(name, reckoned):
                return function(*args, **kwargs)

        return call

    return mark
