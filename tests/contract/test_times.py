"""Times of every type become Unix seconds; what is no time from 1970 to 2199 is refused, with a hint at its unit."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo

import numpy as np
import pytest
from killed import kill

import engine
from engine import InputError
from engine.contract.times import timestamp_column
from engine.log.record import Record

NOON = 1704110400.0  # 2024-01-01T12:00Z
TOKYO = timezone(timedelta(hours=9))


class Zoned:
    """A column as pandas has it where its times have a zone, as far as matters here."""

    class dtype:
        tz = UTC

    def __array__(self, dtype=None, copy=None):
        assert dtype == np.dtype("datetime64[us]")  # else a datetime of Python for each
        return np.array(["2024-01-01T12:00", "2024-01-01T12:00:00.5"], dtype)


KINDS = {
    "numbers": [NOON, NOON + 0.5],
    "datetimes": [datetime(2024, 1, 1, 21, tzinfo=TOKYO), datetime(2024, 1, 1, 12, 0, 0, 500_000, UTC)],
    "naive datetimes are UTC": [datetime(2024, 1, 1, 12), datetime(2024, 1, 1, 12, 0, 0, 500_000)],
    "datetime64": np.array(["2024-01-01T12:00", "2024-01-01T12:00:00.5"], "datetime64[ms]"),
    "objects": np.array([datetime(2024, 1, 1, 21, tzinfo=TOKYO), datetime(2024, 1, 1, 12, 0, 0, 500_000)], object),
    "a column with a zone": Zoned(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_of_any_kind_becomes_unix_seconds(kind):
    found = timestamp_column(KINDS[kind], 2)
    assert found.dtype == np.float64
    assert found.tolist() == [NOON, NOON + 0.5]


@pytest.mark.parametrize(
    "one", [NOON, 1704110400, np.datetime64("2024-01-01T12"), datetime(2024, 1, 1, 21, tzinfo=TOKYO)]
)
def test_one_time_counts_for_all_events(one):
    assert timestamp_column(one, 3).tolist() == [NOON] * 3


def test_columns_of_pandas():
    pandas = pytest.importorskip("pandas")
    for unit in ("s", "ms", "us", "ns"):
        index = pandas.DatetimeIndex(["2024-01-01T12:00", "2024-01-01T12:00:07"]).as_unit(unit)
        for zone in (None, "UTC", "Asia/Tokyo", "America/New_York"):
            zoned = index.tz_localize("UTC").tz_convert(zone)
            for column in (zoned, pandas.Series(zoned), list(zoned), pandas.Series(list(zoned), dtype=object)):
                assert timestamp_column(column, 2).tolist() == [NOON, NOON + 7]
            assert timestamp_column(zoned[0], 1).tolist() == [NOON]
    for none in (pandas.Series([pandas.Timestamp(0, tz="UTC"), pandas.NaT]), [datetime(2024, 1, 1), pandas.NaT]):
        with pytest.raises(InputError, match=r"timestamps\[1\]: got NaT"):
            timestamp_column(none, 2)


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"])
def test_datetime64_of_every_unit(unit):
    """One of the smallest units reaches seconds from 1970, and no year can be said in it."""
    times = np.array([0, 5], f"datetime64[{unit}]")
    wanted = times.astype("datetime64[us]").astype(np.int64) / 1e6
    np.testing.assert_array_equal(timestamp_column(times, 2), wanted)
    with pytest.raises(InputError, match=r"^timestamps\[0\]: got 19\d\d"):
        timestamp_column(np.array([-(2**62) if unit in ("ps", "fs", "as") else -1], f"datetime64[{unit}]"), 1)


HINTS = [
    (1_700_000_000_000, "2023-11-14 in milliseconds"),
    (1.7e15, "2023-11-14 in microseconds"),
    (1_700_000_000_000_000_000, "2023-11-14 in nanoseconds"),
    (np.array([1_700_000_000_000]).astype("datetime64[s]")[0], "2023-11-14 in milliseconds"),
]


@pytest.mark.parametrize(("time", "hint"), HINTS)
def test_a_mistaken_unit_is_hinted_at(time, hint):
    with pytest.raises(InputError) as caught:
        timestamp_column([time], 1)
    assert str(caught.value) == f"timestamps[0]: got {time}, which is {hint}; wanted Unix seconds"


OUTSIDE = [
    -1, -1e-3, 7_258_118_400, 1e30, -1.7e12, 10**400, float("nan"), float("inf"), None, "2024-01-01", b"2024", True,
    date(2024, 1, 1), timedelta(1), np.timedelta64(1, "s"), np.datetime64("1969-12-31"),
    np.datetime64("2200-01-01"), np.datetime64("NaT"), np.datetime64("NaT", "s"), np.datetime64(10**12, "Y"),
    np.datetime64(-(10**14), "D"), datetime(1969, 12, 31, 23, 59), datetime(2200, 1, 1), datetime.max,
    datetime(1970, 1, 1, tzinfo=TOKYO),
]  # fmt: skip


@pytest.mark.parametrize("time", OUTSIDE, ids=lambda time: repr(time)[:40])
def test_what_is_no_time_from_1970_to_2199_is_refused_with_its_place(time):
    with pytest.raises(InputError, match=r"^timestamps\[0(, 0)?\]: got .*wanted (Unix seconds|a finite number)"):
        timestamp_column([time], 1)
    with pytest.raises(InputError, match=r"^timestamps: got "):
        timestamp_column(time, 1)


def test_the_first_bad_time_of_several_is_named():
    for times in ([1, 2, -5], [1, 2.5, None], [datetime(2024, 1, 1)] * 2 + [date(2024, 1, 1)], [3, 4, "2024"]):
        with pytest.raises(InputError, match=r"^timestamps\[2\]: got "):
            timestamp_column(times, 3)
    with pytest.raises(InputError, match=r"^timestamps: got object array"):
        timestamp_column([1.5, datetime(2024, 1, 1)], 2)


def test_the_first_and_the_last_moment_are_taken():
    assert timestamp_column([0, 7_258_118_399.9], 2).tolist() == [0, 7_258_118_399.9]
    assert timestamp_column(datetime(2199, 12, 31, 23, tzinfo=UTC), 1).tolist() == [7_258_118_400 - 3600]


class Broken(tzinfo):
    def utcoffset(self, moment):
        raise RuntimeError("a zone of the caller's")


def test_a_zone_that_raises_is_refused():
    with pytest.raises(InputError, match=r"^timestamps\[0\]: got "):
        timestamp_column([datetime(2024, 1, 1, tzinfo=Broken())], 1)


def test_times_that_an_older_version_took_are_replayed(home):
    """Only new calls are checked."""
    odd = np.array([-5.0, 1.7e12, 1e30])
    with engine.open(home, dim=4) as eng:
        ids = np.arange(3)
        eng._directory.log.append(Record(1, 1, ids, ids, timestamps=odd))
        eng._directory.log.sync()
        kill(eng)
    with engine.open(home) as eng:
        assert eng.seq == 3
        assert eng.ingest(1, 2, timestamps=datetime(2024, 1, 1)).seq == 4
    assert engine.verify(home).seq == 4
