"""What was measured on a device: collected line by line, written as CSV, printed as one table.

Knows nothing of GPUs; `profile` is what makes a profile of calls there. One thread.
"""

import csv
import json
import re
import traceback
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

Profile = Callable[[Sequence[Callable[[], Any]]], dict[str, tuple[float, float]]]

COLUMNS = ["kernel", "shape", "seconds", "bytes", "gb_per_s", "of_copy", "peer", "peer_seconds", "times_peer"]
COLUMNS += ["published", "note"]
PROFILE_COLUMNS = ["kernel", "shape", "device_kernel", "calls", "seconds", "share", "bytes", "of_copy"]


class Report:
    """Call it with what was measured. `rows`: lines of the results; `profile_rows`: one for each kernel that ran.

    copy: the device's bandwidth in bytes per second. journal: a file that gets each line at once, for `read`, so that
    what kills the process loses none.
    """

    def __init__(self, copy: float | None, profile: Profile | None = None, journal: Path | None = None):
        self.copy = copy
        self._journal = journal
        self.rows: list[dict[str, Any]] = []
        self.profile_rows: list[dict[str, Any]] = []
        self.failed: list[str] = []  # what could not be profiled
        self._profile = profile

    def __call__(
        self,
        kernel: str,
        shape: str,
        seconds: float,
        bytes: float | None,
        peer: str | None = None,
        peer_seconds: float | None = None,
        published: str | None = None,
        *,
        note: str | None = None,
        calls: Sequence[Callable[[], Any]] = (),
    ) -> None:
        """Seconds of one call, bytes that it must move (None: not bound by memory), seconds of `peer` for the same.

        published: figures of others, from their papers, on their machines. calls: profiled here, if given.
        """
        rate = None if bytes is None else bytes / seconds
        row = {
            "kernel": kernel,
            "shape": shape,
            "seconds": seconds,
            "bytes": bytes,
            "gb_per_s": rate and rate / 1e9,
            "of_copy": self._share(rate),
            "peer": peer,
            "peer_seconds": peer_seconds,
            "times_peer": peer_seconds and peer_seconds / seconds,
            "published": published,
            "note": note,
        }
        self._add("rows", row)
        print(line(row), flush=True)
        if calls and self._profile:
            try:
                self._add_profile(row, self._profile(calls))
            except Exception:
                traceback.print_exc()
                self._add("failed", f"profile of {kernel}")

    def _add_profile(self, row: dict[str, Any], found: dict[str, tuple[float, float]]) -> None:
        whole = sum(seconds for _, seconds in found.values())
        for name, (times, seconds) in sorted(found.items(), key=lambda pair: -pair[1][1]):
            self._add(
                "profile_rows",
                {
                    "kernel": row["kernel"],
                    "shape": row["shape"],
                    "device_kernel": name,
                    "calls": times,
                    "seconds": seconds,
                    "share": seconds / whole,
                    "bytes": row["bytes"],
                    "of_copy": self._share(row["bytes"] and row["bytes"] / whole),
                },
            )

    def read(self, journal: Path) -> None:
        """Adds what another process has put into its journal."""
        for text in journal.read_text().splitlines() if journal.exists() else []:
            where, what = json.loads(text)
            self._add(where, what)

    def _add(self, where: str, what: Any) -> None:
        getattr(self, where).append(what)
        if self._journal:
            with self._journal.open("a") as f:
                f.write(json.dumps([where, what]) + "\n")

    def _share(self, rate: float | None) -> float | None:
        return rate / self.copy if rate and self.copy else None


def slug(device: str) -> str:
    """A device's name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def write(path: Path, columns: list[str], rows: list[dict[str, Any]], where: dict[str, str]) -> None:
    """One line for each row: its columns, then where it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, [*columns, *where])
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in (row | where).items()} for row in rows)


def table(rows: list[dict[str, Any]]) -> str:
    """All lines below each other, in columns."""
    head = [
        "kernel",
        "shape",
        "time",
        "GB/s",
        "of copy",
        "beside",
        "its time",
        "x",
        "published, not measured here",
        "note",
    ]
    return columns([head, *(_cells(row) for row in rows)], right={2, 3, 4, 6, 7})


def columns(cells: Sequence[Sequence[str]], right: Container[int]) -> str:
    """Lines of cells below each other; `right`: which columns end, rather than begin, at one place."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def line(row: dict[str, Any]) -> str:
    return "  ".join(cell for cell in _cells(row) if cell)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["kernel"],
        row["shape"],
        duration(row["seconds"]),
        "" if row["gb_per_s"] is None else f"{row['gb_per_s']:.0f}",
        "" if row["of_copy"] is None else f"{row['of_copy']:.0%}",
        row["peer"] or "",
        "" if row["peer_seconds"] is None else duration(row["peer_seconds"]),
        "" if row["times_peer"] is None else f"{row['times_peer']:.2f}",
        row["published"] or "",
        row["note"] or "",
    ]


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _plain(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value
