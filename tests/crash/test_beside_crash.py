"""A writer killed beside a reader that stays: the next writer must get in at once, and the reader must follow it."""

import re
from pathlib import Path

import pytest

from .sweep import KILLS, Start, serving, sweep, trace_calls, try_point

pytestmark = pytest.mark.timeout(1800)
PROGRAM = Path(__file__).parent / "beside_program.py"
META_PAGE = re.compile(r"\d+ pwrite m/rows/data-\d+\.mdb offset=\d+ len=(\d+) ")
META_BYTES = 200  # at most; a page is more


@pytest.fixture(scope="module")
def servers():
    with serving(PROGRAM) as made:
        yield made


def test_killed_between_a_commit_and_the_lock_file(servers):
    """LMDB writes the meta page, then the number of the transaction into the lock file, which a reader keeps alive."""
    lines = trace_calls(servers[0], Start())
    commits = [n for n, line in enumerate(lines, 1) if (at := META_PAGE.match(line)) and int(at[1]) < META_BYTES]
    assert len(commits) >= 8
    for at in commits:
        end, failures = try_point(servers[0], "kill-after", at, Start(), power=False)
        assert (end, failures) == ("killed", [])


def test_a_share_of_all_kills(servers):
    report = sweep(servers, kinds=KILLS, power=False, sample=1 / 12)
    print(f"\nbeside a reader, a share: {report}")
    assert not report.failures, str(report)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_every_kill(servers):
    report = sweep(servers, kinds=KILLS, power=False)
    print(f"\nbeside a reader: {report}")
    assert not report.failures, str(report)
