"""Who launched what, and what rows and cells say of it, on a trace written by hand; workloads that are none."""

import pytest

from engine.contract.errors import InputError
from engine.machine.marks import Work
from engine.profiling import trace
from engine.profiling.roofline import Point, Roofs
from engine.profiling.trace import Profile, Row, Workload, attributed, cells, rows_of


def span(name, ts, dur, cat="user_annotation", tid=1, **args):
    return {"ph": "X", "name": name, "cat": cat, "pid": 9, "tid": tid, "ts": ts, "dur": dur, "args": args}


def launched(kernel, at, seconds, number, tid=1, cat="kernel"):
    """A launch and what it launched, long after: on the device it runs when it may."""
    return [
        span("cuLaunchKernelEx", at, 1, "cuda_driver", tid, correlation=number),
        span(kernel, at + 5_000, seconds * 1e6, cat, 77, correlation=number),
    ]


TRACE = [
    span("rowtide.outer", 100, 100),
    span("rowtide.inner", 120, 20),
    span("rowtide.inner", 150, 20),
    span("rowtide.other", 110, 50, tid=2),
    span("user's own", 100, 1000),
    span("rowtide.outer", 100, 900, "gpu_user_annotation", 77),
    {"ph": "M", "name": "process_name", "pid": 9, "args": {}},
    *launched("step_rows", 125, 0.25, 1),
    *launched("step_rows", 155, 0.5, 2),
    *launched("sort", 145, 2.0, 3),
    *launched("scan", 125, 4.0, 4, tid=2),
    *launched("Memcpy HtoD", 300, 8.0, 5, cat="gpu_memcpy"),
]


def test_kernels_belong_to_the_innermost_range_of_their_launch():
    found = attributed(TRACE)
    assert {name: dict(seen.seconds) for name, seen in found.items()} == {
        "outer": {"sort": 2.0},
        "inner": {"step_rows": 0.75},
        "other": {"scan": 4.0},
        "(no range)": {"Memcpy HtoD": 8.0},
    }
    assert found["inner"].launches["step_rows"] == found["inner"].calls == 2
    assert found["inner"].host_seconds == pytest.approx(40e-6)
    assert found["outer"].host_seconds == pytest.approx(100e-6)
    assert attributed(reversed(TRACE)) == found


def test_rows_are_fractions_of_the_copy_that_they_stand_for():
    needed = {"inner": Work(3 * 10**9, 6 * 10**9), "other": Work(10**9, host=True)}
    rows = list(rows_of(attributed(TRACE), needed, Roofs(8e9, 1e9, 1e12), True))
    assert [(row.range, row.kernel) for row in rows] == [
        *(("(no range)", None), ("(no range)", "Memcpy HtoD"), ("other", None), ("other", "scan")),
        *(("outer", None), ("outer", "sort"), ("inner", None), ("inner", "step_rows")),
    ]
    by_range = {row.range: row for row in rows if row.kernel is None}
    assert (by_range["inner"].rate, by_range["inner"].of_copy) == (pytest.approx(4e9), pytest.approx(0.5))
    assert by_range["other"].of_copy == pytest.approx(0.25)
    assert (by_range["outer"].rate, by_range["outer"].of_copy) == (None, None)
    found = Profile(Workload(kind="topk"), "a GPU", True, Roofs(8e9, 1e9, 1e12), tuple(rows), None)
    assert found.points == [Point("inner", 2.0, pytest.approx(8e9))]
    table = cells(found)
    assert {len(row) for row in table} == {len(trace.HEAD)}
    assert table[6] == ("inner", "2", "0.040", "750.000", "3,000,000,000", "4", "50%")
    assert table[7] == ("  step_rows", "2", "", "750.000", "", "", "")
    assert table[2][-2:] == ("0", "25% (host)")


def test_what_was_not_measured_is_called_so():
    """Whatever a trace may hold: in the interpreter there are no numbers of a device."""
    rows = list(rows_of(attributed(TRACE), {"inner": Work(10, 10)}, Roofs(), False))
    assert {(row.kernel, row.device_seconds, row.rate, row.of_copy) for row in rows} == {(None, None, None, None)}
    found = Profile(Workload(kind="topk"), "interpreter", False, Roofs(), tuple(rows), None)
    (inner,) = [row for row in cells(found) if row[0] == "inner"]
    assert inner == ("inner", "2", "0.040", "not measured", "10", "not measured", "not measured")
    assert found.points == [Point("inner", 1.0, None)]
    assert Roofs().said() == "copy not measured; copy from the host not measured; float32 products not measured"


def test_rows_know_their_kernels():
    assert Row("a", None, 1, 1.0, 0.0, Work(1)).rate is None  # nothing ran: no rate


@pytest.mark.parametrize("name", ["items", "users", "events", "queries", "at_once", "k"])
@pytest.mark.parametrize("value", [0, -1, 2**40, 1.5, None, True])
def test_sizes_that_no_workload_has(name, value):
    with pytest.raises(InputError, match=f"^{name}: got "):
        Workload(kind="topk", **{name: value})


def test_a_workload_that_is_none():
    with pytest.raises(InputError, match=r"^workload: got str 'all', wanted one of 'ingest', 'topk', 'mixed'"):
        Workload(kind="all")


def test_only_so_many_users_are_asked_for():
    assert Workload(kind="topk", queries=2**8, at_once=2**16).queries == 256
    with pytest.raises(InputError, match=r"^queries, at_once: got 1048576 x 65536 = \d+ users .* at most 16777216 "):
        Workload(kind="topk", queries=2**20, at_once=2**16)
