"""The harness proven on toys: a right one passes every fault, each way of being wrong is caught, no call is missed."""

from collections import Counter
from pathlib import Path

import pytest

from .explore import explore
from .sweep import KINDS, Start, begin, crashed, serving, sweep, trace_calls, workspace

HERE = Path(__file__).parent
TOY, CALLS, LMDB = HERE / "toy_wal.py", HERE / "toy_calls.py", HERE / "toy_lmdb.py"
ALL = (*KINDS, "kill-after", "eio-on")


@pytest.fixture(scope="module")
def toy():
    with serving(TOY) as servers:
        yield servers


def test_right_toy_survives_a_sample_of_faults(toy):
    report = sweep(toy, kinds=ALL, sample=120)
    assert not report.failures, str(report)
    assert set(report.points) == set(ALL)
    assert report.ends["killed"] > 20
    assert report.ends["OSError"] > 20


def test_right_toy_survives_a_crash_while_it_recovers(toy):
    for kind, at in [("kill-half", 30), ("kill-after", 27), ("kill", 3)]:
        with workspace() as place:
            start = crashed(toy[0], place, kind, at)
            report = sweep(toy, kinds=("kill", "kill-half", "eio"), start=start, first=5)
            assert not report.failures, str(report)


def test_right_toy_survives_power_loss(toy):
    report = explore(toy, states=125)
    assert not report.failures, str(report)
    assert report.points == Counter({"power loss": 125})


@pytest.mark.heavy
def test_right_toy_survives_everything(toy):
    reports = [sweep(toy, kinds=ALL), explore(toy, states=2000)]
    for at in range(1, reports[0].calls, 5):
        with workspace() as place:
            start = crashed(toy[0], place, "kill-half", at)
            reports.append(sweep(toy, kinds=ALL, start=start, first=6))
    for report in reports:
        assert not report.failures, str(report)
    print(
        f"\ntoy: {reports[0]}\ntoy: {reports[1]}\ntoy, in recovery: {sum(r.points.total() for r in reports[2:])} points"
    )


def kills(servers):
    return sweep(servers, kinds=("kill",), power=False)


def errors_then_power_loss(servers):
    return sweep(servers, kinds=("eio",))


def power_losses(servers):
    return explore(servers, states=200)


@pytest.mark.parametrize(
    ("sabotage", "catches"),
    [
        ("no-fsync", power_losses),
        ("no-crc", power_losses),
        ("ack-first", power_losses),
        ("no-dir-sync", power_losses),
        ("trust-tail", power_losses),
        ("store-first", kills),
        ("retry-sync", errors_then_power_loss),
        ("swallow", errors_then_power_loss),
    ],
)
def test_each_sabotage_is_caught(sabotage, catches):
    with serving(TOY, sabotage) as servers:
        report = catches(servers)
    assert report.failures
    assert all(f.detail for f in report.failures)


@pytest.mark.parametrize("act", ["calls", "lmdb", "threads"])
def test_no_call_escapes(act):
    with serving(CALLS, act, count=1) as servers:
        lines = trace_calls(servers[0], Start())  # raises where the journal does not explain the directory
    names = {line.split()[1] for line in lines}
    if act == "calls":
        assert names == {
            *("open", "openat", "write", "writev", "pwrite", "pwritev", "fsync", "fdatasync", "ftruncate", "truncate"),
            *("posix_fallocate", "fchmod", "chmod", "mkdir", "link", "symlink", "rename", "unlink", "rmdir"),
        }
    elif act == "threads":
        assert len(lines) == 5 + 4 * 30 * 3


def test_an_onlooker_sees_what_was_before_each_call():
    with serving(CALLS, "onlooker", count=1) as (server,), workspace() as place:
        ran = server.run(begin(place, Start()))
    assert (ran["end"], ran["calls"]) == ("ok", 5 + 4 * 30 * 3)
    seen = ran["value"]
    assert len(seen) == ran["calls"]
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == 5


@pytest.mark.parametrize("act", ["mapping", "stdio"])
def test_writes_that_cannot_be_seen_are_refused(act):
    with serving(CALLS, act, count=1) as servers, pytest.raises(RuntimeError, match="a call escaped the shim"):
        trace_calls(servers[0], Start())


@pytest.mark.parametrize(
    ("how", "end"), [("untyped", "ended with raised"), ("hang", "ended with hang"), ("abort", "ended with signal 6")]
)
def test_bad_ends_are_failures(how, end):
    with serving(CALLS, how, count=1, seconds=3 if how == "hang" else 120) as servers:
        report = sweep(servers, kinds=("eio",), power=False, first=1)
    assert [end in f.what for f in report.failures] == [True]
    assert "1 open file" in report.failures[0].call


def test_faults_reach_the_named_call():
    with serving(CALLS, "calls", count=1) as (server,), workspace() as place:
        (place / "root").mkdir()
        ran = server.run(place / "root", "kill-half", 2)
        assert (ran["end"], ran["fired"]) == ("killed", 1)
        assert ran["call"].startswith("2 write a ")
        assert (place / "root" / "a").read_bytes() == b"x" * 500


def test_lmdb_keeps_its_promises_on_this_disk():
    with serving(LMDB) as servers:
        for report in (sweep(servers, sample=60), explore(servers, states=100)):
            assert not report.failures, str(report)


@pytest.mark.heavy
def test_lmdb_keeps_its_promises_at_every_call():
    with serving(LMDB) as servers:
        for report in (sweep(servers, kinds=ALL), explore(servers, states=2000)):
            assert not report.failures, str(report)
            print(f"\nlmdb: {report}")


def test_lmdb_without_its_syncs_is_caught():
    with serving(LMDB, "no-sync") as servers:
        assert explore(servers, states=60).failures
