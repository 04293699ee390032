"""The cold tier: what was written is what is read, whole or not at all, in the order of ids, from any thread."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_rows import WIDTH, column, put_rows, read_all, rows_for

from engine.cold.cold import Cold, chunk_key, verify
from engine.contract.errors import CorruptionError, EngineError, InputError
from engine.machine.backend import native

LOW, HIGH = -(1 << 63), (1 << 63) - 1
INT64 = st.integers(LOW, HIGH)


@pytest.fixture
def cold(tmp_path):
    with Cold.create(tmp_path / "cold", {"settings": b"dim=4"}) as made:
        yield made


# Keys and values


@given(st.lists(INT64, max_size=40))
def test_keys_sort_as_ids_do(ids):
    ids = [*ids, LOW, -1, 0, 1, HIGH]
    keys = native.row_keys(1, np.array(ids, np.int64))
    assert sorted(keys) == native.row_keys(1, np.array(sorted(ids), np.int64))
    assert [k + b"\x05" for k in keys] == [chunk_key(1, i, 5) for i in ids]


@given(st.dictionaries(INT64, st.binary(min_size=24, max_size=24), max_size=20), st.integers(0, 255))
def test_rows_come_back_as_they_were_sealed(rows, table):
    ids = np.array(list(rows), np.int64)
    data = np.frombuffer(b"".join(rows.values()), np.uint8).reshape(-1, 24)
    pairs = native.seal_rows(table, ids, data)
    assert all(value[:24] == row for (_, value), row in zip(pairs, rows.values(), strict=True))
    assert all(int.from_bytes(v[24:], "little") == native.crc32c(k + v[:24]) for k, v in pairs)
    for view in (bytes, memoryview):
        got, out = np.empty(len(ids), np.int64), np.empty((len(ids), 24), np.uint8)
        assert native.unseal_rows(table, [(view(k), view(v)) for k, v in pairs], got, out) == len(ids)
        assert np.array_equal(got, ids)
        assert np.array_equal(out, data)


def test_a_damaged_pair_is_named():
    ids = column(1, 2, 3)
    pairs = native.seal_rows(1, ids, rows_for(ids))
    key, value = pairs[1]
    out = np.empty(3, np.int64), np.empty((3, WIDTH), np.uint8)
    for bad in (
        (key, value[:-1]),
        (key, b""),
        (key, value + b"\0"),
        (key, bytes([value[0] ^ 1]) + value[1:]),
        (key[:-1] + b"\x07", value),
        (b"\x02" + key[1:], value),
        (b"", value),
        (key + b"\0", value),
    ):
        assert native.unseal_rows(1, [pairs[0], bad, pairs[2]], *out) == -2
        if bad[0] != key + b"\0" and bad[1] != value + b"\0":
            assert native.unseal_values(1, [pairs[0], bad, pairs[2]])[1] == 1


def test_native_refuses_what_it_would_have_to_convert():
    ids, rows = column(1), rows_for(column(1))
    pairs = native.seal_rows(1, ids, rows)
    with pytest.raises(TypeError):
        native.seal_rows(1, ids.astype(np.float64), rows)
    with pytest.raises(TypeError):
        native.unseal_rows(1, pairs, ids.astype(np.int32), rows)
    with pytest.raises(TypeError):
        native.unseal_rows(1, pairs, ids, np.zeros((1, 2 * WIDTH), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="place for every pair"):
        native.unseal_rows(1, pairs * 2, ids, rows)
    rows.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        native.unseal_rows(1, pairs, ids, rows)
    for offsets in ([0, 5], [-1, 1], [1, 0], [0]):
        with pytest.raises(ValueError, match="offsets"):
            native.seal_chunks(3, ids, np.zeros(1, np.uint8), np.zeros(4, np.uint8), np.array(offsets, np.int64))


# Reading and writing


def test_rows_are_found_in_the_order_of_ids(cold):
    ids = column(LOW, LOW + 1, -5, -2, 0, 3, 9, HIGH - 1, HIGH)
    put_rows(cold, ids)
    put_rows(cold, column(7, 8), table=2)
    put_rows(cold, column(-4), table=0x80)
    for chunk in (1, 3, 9, 10, 1000):
        got, rows = read_all(cold, chunk=chunk)
        assert np.array_equal(got, ids)
        assert np.array_equal(rows, rows_for(ids))
    asked = column(LOW, -3, -2, 4, HIGH)
    found, rows = cold.fetch(1, asked, WIDTH)
    assert found.tolist() == [True, False, True, False, True]
    assert np.array_equal(rows, rows_for(asked[found]))
    assert cold.fetch(1, column(), WIDTH)[1].shape == (0, WIDTH)
    assert cold.fetch(9, asked, WIDTH)[0].sum() == 0
    assert list(cold.scan(9, WIDTH)) == []
    with pytest.raises(InputError):
        cold.fetch(1, column(3, 3), WIDTH)


def test_a_row_of_another_width_is_refused(cold):
    put_rows(cold, column(5))
    for width in (WIDTH - 8, WIDTH + 8):
        with pytest.raises(CorruptionError):
            cold.fetch(1, column(5), width)
        with pytest.raises(CorruptionError):
            list(cold.scan(1, width))


def test_chunks_of_a_history(cold):
    ids, numbers = column(-3, -3, 8, 9), np.array([0, 1, 0, 255], np.uint8)
    payload, offsets = np.arange(12, dtype=np.uint8), np.array([0, 4, 5, 5, 12], np.int64)
    pairs = native.seal_chunks(3, ids, numbers, payload, offsets)
    cold.write([pairs], {})
    assert cold.fetch_chunks(-3) == [(0, bytes([0, 1, 2, 3])), (1, b"\x04")]
    assert cold.fetch_chunks(8) == [(0, b"")]
    assert cold.fetch_chunks(9) == [(255, bytes(range(5, 12)))]
    assert cold.fetch_chunks(10) == cold.fetch_chunks(HIGH) == []
    keys = [chunk_key(3, int(i), int(c)) for i, c in zip(ids, numbers, strict=True)]
    assert [k for part in cold.scan_raw(3, chunk=2) for k, _ in part] == keys
    full = [(chunk_key(3, 20, c), bytes([c])) for c in range(256)]
    cold.write([native.seal_values(full)], {})
    assert cold.fetch_chunks(20) == [(c, bytes([c])) for c in range(256)]


def test_meta(tmp_path):
    with Cold.create(tmp_path / "c", {"settings": b"dim=4", "empty": b""}) as cold:
        assert (cold.meta("settings"), cold.meta("empty"), cold.meta("none")) == (b"dim=4", b"", None)
        cold.write([], {"seq": b"7"})
    with Cold.open(tmp_path / "c", readonly=True) as cold:
        assert (cold.meta("settings"), cold.meta("seq")) == (b"dim=4", b"7")


def test_what_is_written_is_there_after_reopening(tmp_path):
    rng = np.random.default_rng(4)
    expected: dict[int, int] = {}
    Cold.create(tmp_path / "c", {}).close()
    for salt in range(6):
        ids = np.unique(rng.integers(-3000, 3000, 900))
        with Cold.open(tmp_path / "c") as cold:
            half = len(ids) // 2
            cold.write(
                (native.seal_rows(1, part, rows_for(part, salt)) for part in (ids[:half], ids[half:])), {"a": b"b"}
            )
        expected.update(dict.fromkeys(ids.tolist(), salt))
    with Cold.open(tmp_path / "c") as cold:
        ids, rows = read_all(cold)
        assert ids.tolist() == sorted(expected)
        for i, row in zip(ids, rows, strict=True):
            assert np.array_equal(row, rows_for(column(i), expected[int(i)])[0])
        stats = cold.stats()
    assert stats["entries"] == len(expected) + 1 == verify(tmp_path / "c")["entries"]
    assert stats["file_bytes"] >= (stats["used_pages"] + 2) * stats["page_bytes"]


def test_a_write_that_fails_leaves_nothing(cold):
    put_rows(cold, column(1, 2), salt=1)

    def batches():
        yield native.seal_rows(1, column(2, 3), rows_for(column(2, 3), 2))
        raise KeyError("from the caller")

    with pytest.raises(KeyError, match="from the caller"):
        cold.write(batches(), {"salt": b"2"})
    with pytest.raises(EngineError, match="BAD_VALSIZE"):
        cold.write([native.seal_rows(1, column(2), rows_for(column(2), 2)), [(b"k" * 600, b"v")]], {})
    with pytest.raises(TypeError):
        cold.write([[(b"k", 3)]], {})
    assert np.array_equal(read_all(cold)[1], rows_for(column(1, 2), 1))
    assert cold.meta("salt") == b"1"
    put_rows(cold, column(2), salt=3)
    assert np.array_equal(read_all(cold)[1][1:], rows_for(column(2), 3))


def test_a_second_writer_is_refused(cold):
    def batches():
        with pytest.raises(EngineError, match="another thread"):
            cold.write([], {})
        yield native.seal_rows(1, column(1), rows_for(column(1)))

    cold.write(batches(), {})
    assert cold.fetch(1, column(1), WIDTH)[0].all()


def test_a_closed_tier_and_an_unfinished_scan(cold):
    put_rows(cold, np.arange(3000))
    scan = cold.scan(1, WIDTH, chunk=10)
    next(scan)
    cold.close()
    cold.close()
    for call in (lambda: next(scan), lambda: cold.meta("x"), cold.stats, lambda: cold.write([], {})):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_readers_beside_the_writer_see_whole_transactions(cold):
    ids = np.arange(400, dtype=np.int64)
    put_rows(cold, ids, salt=0)
    stop, errors = threading.Event(), []

    def salt_of(rows):
        salts = rows.view("<i8")[:, 0] - ids * 31
        assert (salts == salts[0]).all()
        assert np.array_equal(rows, rows_for(ids, int(salts[0])))
        return int(salts[0])

    def read():
        try:
            last = 0
            while not stop.is_set():
                for rows in (cold.fetch(1, ids, WIDTH)[1], read_all(cold, chunk=64)[1]):
                    assert salt_of(rows) >= last
                    last = salt_of(rows)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for t in threads:
        t.start()
    for salt in range(1, 40):
        put_rows(cold, ids, salt)
    stop.set()
    for t in threads:
        t.join()
    assert not errors, errors
    assert salt_of(read_all(cold)[1]) == 39


def test_closing_waits_for_readers(cold):
    put_rows(cold, np.arange(2000))
    outcomes, reading = [], threading.Barrier(4)

    def read():
        try:
            read_all(cold)
            reading.wait()
            while True:
                read_all(cold)
        except EngineError as e:
            outcomes.append(str(e))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for t in threads:
        t.start()
    reading.wait()
    cold.close()
    for t in threads:
        t.join()
    assert outcomes == ["the cold tier is closed"] * 3
