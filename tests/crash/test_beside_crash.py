"""A writer that is killed, or that a disk fails, beside a reader that stays: the next writer must get in at once.

The reader refreshes and answers before every call of the writer that changes a file, and afterwards, too. It must see
the states in their order and follow the next writer. beside_program.py says what is run.
"""

import re
from pathlib import Path

import pytest

from .sweep import KILLS, Report, Start, begin, serving, sweep, trace_calls, try_point, workspace

pytestmark = pytest.mark.timeout(1800)
PROGRAM = Path(__file__).parent / "beside_program.py"
ALL = (*KILLS, "eio", "enospc", "short", "full")
META_PAGE = re.compile(r"\d+ pwrite m/rows/data-\d+\.mdb offset=\d+ len=(\d+) ")
META_BYTES = 200  # at most; a page is more


@pytest.fixture(scope="module")
def servers():
    with serving(PROGRAM) as made:
        yield made


def undisturbed(servers) -> dict:
    with workspace() as place:
        return servers[0].run(begin(place, Start()))


def killed_before_the_lock_file(servers) -> Report:
    """LMDB writes the meta page, then the number of the transaction into the lock file, which a reader keeps alive."""
    lines = trace_calls(servers[0], Start())
    commits = [n for n, line in enumerate(lines, 1) if (at := META_PAGE.match(line)) and int(at[1]) < META_BYTES]
    report = Report(calls=len(lines))
    for at in commits:
        end, failures = try_point(servers[0], "kill-after", at, Start(), power=False)
        report.points["kill-after"] += 1
        report.ends[end] += 1
        report.failures += failures
    return report


def good(report: Report, what: str) -> None:
    print(f"\nbeside a reader, {what}: {report}")
    assert not report.failures, str(report)


def test_the_reader_sees_every_state(servers):
    ran = undisturbed(servers)
    assert ran["end"] == "ok", ran.get("error")
    assert ran["value"] == 9


def test_killed_between_a_commit_and_the_lock_file(servers):
    report = killed_before_the_lock_file(servers)
    assert report.points["kill-after"] >= 8
    good(report, "between a commit and the lock file")


def test_a_share_of_all_faults(servers):
    good(sweep(servers, kinds=ALL, power=False, sample=1 / 24), "a share of all faults")


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_every_fault_at_every_call(servers):
    good(sweep(servers, kinds=ALL, power=False), "every fault at every call")


def test_a_lock_file_that_is_believed_is_caught():
    with serving(PROGRAM, "lock_file_believed") as servers:
        failures = killed_before_the_lock_file(servers).failures
    assert failures
    assert all("CorruptionError" in failure.detail for failure in failures)


def test_a_reader_that_keeps_the_file_is_caught():
    with serving(PROGRAM, "readers_keep_the_file", count=1) as servers:
        ran = undisturbed(servers)
    assert (ran["end"], ran["type"]) == ("raised", "AssertionError")
