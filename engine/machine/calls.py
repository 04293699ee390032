"""Calls in progress, and how to wait for their end where a signal's handler may raise at any step.

Each has an entry of its own, made first, then added and discarded in one step. A counter would need two.
"""

import threading
import time

Call = tuple[int, object]  # its thread, and what tells it from others of that thread

LOOK_AGAIN = 0.001  # seconds


def this_call() -> Call:
    """An entry for a call that this thread begins."""
    return threading.get_ident(), object()


class Calls(set[Call]):
    """`add` in a `try`, `discard` in its `finally`."""

    def of_others(self) -> bool:
        """Are there any of other threads?

        One of this thread that seems to be in progress is one that an interrupt ended, or one that a signal's handler
        is inside of: waiting for it would never end.
        """
        me = threading.get_ident()
        return any(thread != me for thread, _ in self.copy())

    def wait_for_others(self) -> None:
        """Waits until there are none of other threads. Whoever calls it keeps new ones out."""
        while self.of_others():
            time.sleep(LOOK_AGAIN)
