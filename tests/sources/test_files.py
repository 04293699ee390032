"""Files of events: the same rows from every format, positions, refusals."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from event_files import NAMES, events, write

from engine.contract.errors import InputError
from engine.sources.files import Columns, EventFile


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 99, 100])
def test_every_format_gives_the_same_rows_from_any_start(tmp_path, small_calls, suffix, start):
    data = events()
    names = Columns("user", "item", "price", "ts", "basket", "qty > 0")
    file = EventFile(write(tmp_path / f"e{suffix}", data), names)
    blocks = list(file.blocks(start))
    asked = [q > 0 for q in data["qty"]]
    kept = [
        r
        for r in range(start, 100)
        if asked[r] and data["user"][r] not in (None, -1) and data["item"][r] not in (None, -1)
    ]
    assert [b.start for b in blocks] == [start, *range((start // 16 + 1) * 16, 100, 16)][: len(blocks)]
    assert np.concatenate([[], *(b.rows for b in blocks)]).tolist() == kept
    for name, column in [
        ("users", "user"),
        ("items", "item"),
        ("values", "price"),
        ("times", "ts"),
        ("baskets", "basket"),
    ]:
        got = [v for b in blocks for v in getattr(b, name).tolist()]
        assert got == [data[column][r] for r in kept]
    assert sum(b.filtered for b in blocks) == 100 - start - sum(asked[start:])
    assert sum(b.filtered + b.skipped for b in blocks) == 100 - start - len(kept)
    assert file.total() == (100 if suffix == ".parquet" else None)


def test_times_that_are_numbers_have_a_unit(tmp_path):
    data = {"user": [1, 2], "item": [3, 4], "ts": [1_700_000_000_000, 1_700_000_001_500]}
    path = write(tmp_path / "e.parquet", data)
    (block,) = EventFile(path, Columns("user", "item", time="ts", time_unit="ms")).blocks()
    assert block.times.tolist() == [1.7e9, 1.7e9 + 1.5]
    wanted = (
        r"time: the column 'ts', from file row 0 \(counted from 0\) on: "
        r"timestamps\[0\]: got 1700000000000, which is 2023-11-14 in milliseconds"
    )
    with pytest.raises(InputError, match=wanted):
        list(EventFile(path, Columns("user", "item", time="ts")).blocks())
    with pytest.raises(InputError, match="time_unit: got str 'days'"):
        EventFile(path, Columns("user", "item", time="ts", time_unit="days"))


def test_times_may_be_datetimes_and_ids_dictionaries_or_small(tmp_path):
    data = {
        "user": pa.array([1, 2], pa.uint8()),
        "item": pa.array([5, 6], pa.int32()),
        "ts": pa.array([0, 1], pa.timestamp("us", "UTC")),
    }
    (block,) = EventFile(write(tmp_path / "e.parquet", data), Columns("user", "item", time="ts")).blocks()
    assert block.users.dtype == np.int64
    assert block.times.astype("datetime64[us]").astype(int).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "wanted", "names"),
    [
        ("e.txt", "user,item\n1,2\n", "file: .*wanted a name", NAMES),
        ("e.parquet", "user,item\n1,2\n", "file: .*cannot be read as parquet", NAMES),
        ("e.csv", "user,thing\n1,2\n", "item: got 'item', wanted one of the columns user, thing", NAMES),
        ("e.csv", "user,item,item\n1,2,3\n", "multiple columns named item", NAMES),
        ("e.csv", "user,item\n1.5,2\n", "user: the column 'user' has type double; ids must be integers", NAMES),
        ("e.csv", "user,item\n1,sofa\n", "item: the column 'item' has type string; ids must be integers", NAMES),
        (
            "e.jsonl",
            '{"user": "u1", "item": 1}\n',
            "user: the column 'user' has type string; ids must be integers",
            NAMES,
        ),
        (
            "e.csv",
            "user,item,v\n1,2,3\n1,2,\n",
            "value: the column 'v' is null in file row 1, counted from 0;",
            Columns("user", "item", "v"),
        ),
        ("e.csv", "user,item,v\n1,2,a\n", "value: the column 'v' holds neither", Columns("user", "item", "v")),
        ("e.csv", "user,item,v\n1,2,a\n", "time: the column 'v' holds neither", Columns("user", "item", time="v")),
        (
            "e.csv",
            "user,item\n1,2\n",
            "where: got 'kind', wanted one of the columns user, item",
            Columns("user", "item", where="kind == 'a'"),
        ),
    ],
)
def test_files_that_are_no_events_are_refused(tmp_path, name, text, wanted, names):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=wanted):
        list(EventFile(tmp_path / name, names).blocks())


def test_a_missing_file_and_ids_too_large(tmp_path):
    with pytest.raises(InputError, match=r"^file: .*none\.csv is not there$"):
        EventFile(tmp_path / "none.csv", NAMES)
    path = write(tmp_path / "e.parquet", {"user": pa.array([2**63], pa.uint64()), "item": [1]})
    with pytest.raises(InputError, match="int64"):
        list(EventFile(path, NAMES).blocks())


def test_a_late_row_that_does_not_parse_is_an_error_and_not_a_silent_end(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("user,item\n" + "1,2\n" * 400_000 + "one,2\n")
    with pytest.raises(InputError, match="cannot be read after row"):
        list(EventFile(path, NAMES).blocks())


def test_a_position_of_another_file_or_other_columns_is_refused(tmp_path):
    data = events()
    path = write(tmp_path / "e.csv", data)
    file = EventFile(path, Columns("user", "item", where="kind=='view'"))
    position = file.position(7)
    assert file.row_of(None) == 0
    assert file.row_of(position) == 7
    assert EventFile(path, Columns("user", "item", basket="basket", where='kind == "view"')).row_of(position) == 7
    for other in (
        NAMES,
        Columns("item", "user", where="kind=='view'"),
        Columns("user", "item", "qty", where="kind=='view'"),
    ):
        with pytest.raises(InputError, match="another user, item, value or where"):
            EventFile(path, other).row_of(position)
    with pytest.raises(InputError, match="not one of a file"):
        file.row_of(b"short")


def test_a_position_of_before_contents_were_compared_is_taken(tmp_path):
    path = write(tmp_path / "e.csv", events())
    file = EventFile(path, Columns("user", "item"))
    columns = file.position(0)[16:24]
    assert file.row_of((5).to_bytes(8, "little") + b"whatever" + columns) == 5


@pytest.mark.parametrize("line", ["[" * 100_000, '{"user": 1, "item": ' + '{"a": ' * 100_000, "[" * 2001 + "]" * 2001])
def test_json_that_is_nested_too_deep_is_refused_before_it_is_parsed(tmp_path, line):
    path = tmp_path / "e.jsonl"
    path.write_text('{"user": 1, "item": 2}\n' * 3 + line + "\n")
    with pytest.raises(InputError, match="nested more than 2,000 deep"):
        EventFile(path, Columns("user", "item"))


def test_brackets_of_many_lines_are_not_added_up(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text('{"user": 1, "item": 2, "text": "[[{"}\n' * 3000)
    assert sum(len(b.rows) for b in EventFile(path, Columns("user", "item")).blocks()) == 3000


def test_a_compressed_file_under_a_plain_name_is_refused(tmp_path):
    path = tmp_path / "e.csv"
    path.write_bytes(gzip.compress(b"user,item\n" + b"1,2\n" * 1000))
    with pytest.raises(InputError, match="cannot be read as csv"):
        list(EventFile(path, Columns("user", "item")).blocks())


def test_a_name_that_is_no_utf8_is_refused(tmp_path):
    path = tmp_path / "e\udcff.csv"
    path.write_text("user,item\n1,2\n")
    with pytest.raises(InputError, match=r"file: got '.*\\udcff.csv', wanted a name in UTF-8"):
        EventFile(path, NAMES)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_folder_is_no_file(tmp_path, suffix):
    (tmp_path / f"e.{suffix}").mkdir()
    write(tmp_path / f"e.{suffix}" / "part.parquet", events())
    with pytest.raises(InputError, match="is a folder"):
        EventFile(tmp_path / f"e.{suffix}", NAMES)


@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_line_of_json_need_not_end(tmp_path, lines, end):
    path = tmp_path / "e.jsonl"
    path.write_text("\n".join(['{"user": 1, "item": 2}'] * lines) + end)
    file = EventFile(path, NAMES)
    (block,) = file.blocks()
    assert (block.users.tolist(), block.items.tolist(), file.total()) == ([1] * lines, [2] * lines, None)
