"""Named parts: columns of every type come back; what is not known is refused by name, and so are lies about lengths."""

import contextlib
import struct
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.contract.errors import CorruptionError, EngineError, InputError
from engine.log import Log, Owner, Record, verify
from engine.log.encoding import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    decode_record,
    encode_record,
    is_whole,
    parse_header,
    require_readable,
)
from engine.log.parts import COLUMNS, FORGET_POSITION, OPERATIONS, ColumnType, Ragged
from engine.log.segment import segment_name
from engine.machine.backend import native

DTYPES = ["<i8", "<u8", "<f8", "<i4", "<u4", "<f4", "|u1"]
KNOWN = {f"{dtype[1:]}{' ragged' * ragged}": ColumnType(dtype, ragged) for dtype in DTYPES for ragged in (False, True)}
IDS = np.array([5, 6, 7])


@pytest.fixture
def known():
    with patch.dict(COLUMNS, KNOWN):
        yield


def encode(**parts):
    record = Record(**({"first_seq": 1, "batch_size": 4, "users": IDS, "items": -IDS} | parts))
    return encode_record(record, directory_id=1, offset=0, synced_bytes=0, synced_seq=0)


def decode(data):
    header = parse_header(data[:HEADER_BYTES], 0)
    assert header is not None
    assert is_whole(header, data[:HEADER_BYTES], data[HEADER_BYTES:])
    require_readable(header, data[HEADER_BYTES:])
    return decode_record(header, data[HEADER_BYTES:])


def with_crc(data):
    """The record with its length and its crc put right."""
    data = data[:12] + struct.pack("<I", len(data)) + data[16:]
    return data[:4] + struct.pack("<I", native.crc32c(data[8:])) + data[8:]


def as_bytes(column):
    arrays = column if isinstance(column, Ragged) else [column]
    return [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]


@st.composite
def columns(draw, count):
    out = {}
    for name in draw(st.permutations(list(KNOWN)))[: draw(st.integers(1, 4))]:
        dtype, ragged = KNOWN[name]
        if ragged:
            offsets = np.cumsum([0, *draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))])
            out[name] = Ragged(offsets.astype(np.uint32), draw(arrays(dtype, int(offsets[-1]))))
        else:
            out[name] = draw(arrays(dtype, count))
    return out


@given(st.data(), st.integers(0, 5))
def test_columns_come_back(data, count):
    with patch.dict(COLUMNS, KNOWN):
        given_columns = data.draw(columns(count))
        more = {"values": np.ones(count, np.float32)} if data.draw(st.booleans()) else {}
        more |= {"position": ("shop", b"123")} if data.draw(st.booleans()) else {}
        ids = np.arange(count)
        again = decode(encode(users=ids, items=ids, columns=given_columns, **more))
    assert list(again.columns) == list(given_columns)
    for name, column in given_columns.items():
        assert as_bytes(again.columns[name]) == as_bytes(column)
    assert again.position == more.get("position")
    assert (again.values is None) == ("values" not in more)


@given(st.data())
def test_every_cut_and_every_changed_byte_is_refused_or_read(data):
    """The crc is right each time: whatever comes of it, it is no exception of Python's."""
    with patch.dict(COLUMNS, KNOWN):
        whole = encode(columns=data.draw(columns(3)))
        if data.draw(st.booleans()):
            changed = whole[: 8 * data.draw(st.integers(HEADER_BYTES // 8, len(whole) // 8))]
        else:
            at = data.draw(st.integers(HEADER_BYTES + 48, len(whole) - 1))
            changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + 1 :]
            changed += bytes(-len(changed) % 8)
        with contextlib.suppress(EngineError):
            decode(with_crc(changed))


@pytest.mark.usefixtures("known")
def test_known_bytes():
    texts = Ragged(np.array([0, 2, 2, 3], np.uint32), np.frombuffer(b"abc", np.uint8))
    data = encode(columns={"i4": np.array([1, 2, -1], np.int32), "u1 ragged": texts})
    expected = (
        "04 02 0000 0c000000 6934000000000000 01000000 02000000 ffffffff 00000000"
        "87 09 0000 13000000 75312072616767656400000000000000"
        "00000000 02000000 02000000 03000000 6162630000000000"
    )
    assert data[HEADER_BYTES + 48 :].hex() == expected.replace(" ", "")
    assert struct.unpack_from("<H", data, 10) == (256,)
    assert decode(data).columns["u1 ragged"].elements.tobytes() == b"abc"


@pytest.mark.usefixtures("known")
def test_what_it_costs():
    """16 bytes a column, beside its data, where its name has 8 bytes at most; no columns cost nothing."""
    plain = len(encode(columns=None))
    assert len(encode(columns={})) == plain
    assert len(encode(columns={"i8": IDS})) == plain + 16 + 24


REFUSED = [
    ({"session": IDS}, "columns: 'session'"),
    ({"i8": IDS[:2]}, r"i8: int64\[2\], a record takes int64\[3\]"),
    ({"i8": IDS.astype(np.int32)}, "i8: int32"),
    ({"i8": IDS.reshape(3, 1)}, "i8: int64"),
    ({"i8": Ragged(np.zeros(4, np.uint32), IDS[:0])}, "i8: wanted no offsets"),
    ({"i8 ragged": IDS}, "i8 ragged: wanted offsets"),
    ({"i8 ragged": Ragged(np.zeros(4, np.int64), IDS[:0])}, "i8 ragged: int64"),
    ({"i8 ragged": Ragged(np.zeros(3, np.uint32), IDS[:0])}, r"i8 ragged: uint32\[3\]"),
    ({"i8 ragged": Ragged(np.array([0, 1, 2, 2], np.uint32), IDS)}, r"a record takes int64\[2\]"),
    ({"i8 ragged": Ragged(np.array([0, 3, 2, 3], np.uint32), IDS)}, "offsets that rise from 0"),
    ({"i8 ragged": Ragged(np.array([1, 2, 3, 3], np.uint32), IDS)}, "offsets that rise from 0"),
]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("given_columns", "what"), REFUSED, ids=lambda x: "" if isinstance(x, dict) else x[:20])
def test_columns_that_are_not_as_declared(given_columns, what):
    with pytest.raises(InputError, match=what):
        encode(columns=given_columns)


@pytest.mark.usefixtures("known")
def test_more_than_a_record_takes():
    n = 60_000
    ids = np.arange(n)
    offsets = np.arange(n + 1, dtype=np.uint32) * 560
    with pytest.raises(InputError, match=f"a record takes {MAX_RECORD_BYTES:,} at most"):
        encode(users=ids, items=ids, columns={"u1 ragged": Ragged(offsets, np.zeros(560 * n, np.uint8))})
    most = Ragged(offsets // 2, np.zeros(280 * n, np.uint8))
    assert decode(encode(users=ids, items=ids, columns={"u1 ragged": most})).count == n


def part(code, name, data=b"", length=None, zero=0, name_length=None):
    text = name if isinstance(name, bytes) else name.encode()
    head = struct.pack("<BBHI", code, len(text) if name_length is None else name_length, zero, len(data))
    if length is not None:
        head = head[:4] + struct.pack("<I", length)
    return head + text + bytes(-len(text) % 8) + data + bytes(-len(data) % 8)


def forged(parts, columns=256):
    base = encode()
    return with_crc(base[:10] + struct.pack("<H", columns) + base[12:] + parts)


UNKNOWN = [
    (part(1, "colour", bytes(24)), 256, "column 'colour'"),
    (part(129, "colour", bytes(16)), 256, "column 'colour'"),
    (part(200, "colour", b"whatever"), 256, "column 'colour'"),
    (part(2, "i8", bytes(24)), 256, "column 'i8' of type 2"),
    (part(129, "i8", bytes(16)), 256, "column 'i8' of type 129"),
    (part(99, "i8", bytes(24)), 256, "column 'i8' of type 99"),
    (part(0, "paint"), 32, "operation 'paint'"),
    (part(0, "paint") + part(1, "i8", bytes(24)), 32 + 256, "operation 'paint'"),
    (part(0, "hide") + part(1, "colour", bytes(24)), 32 + 256, "column 'colour'"),
]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("parts", "columns", "what"), UNKNOWN, ids=[what for *_, what in UNKNOWN])
def test_what_this_release_does_not_know_is_refused_by_name(parts, columns, what):
    with pytest.raises(EngineError, match=f"the {what}, which this release of Rowtide does not know") as error:
        decode(forged(parts, columns))
    assert not isinstance(error.value, CorruptionError)


I8 = part(1, "i8", bytes(24))
LIES = {
    "too short for its events": (part(1, "i8", bytes(16)), 256),
    "too long for its events": (part(1, "i8", bytes(32)), 256),
    "half an element": (part(1, "i8", bytes(23)), 256),
    "beyond the record": (part(1, "i8", bytes(24), length=32), 256),
    "far beyond the record": (part(1, "i8", bytes(24), length=2**32 - 1), 256),
    "shorter than what is there": (part(1, "i8", bytes(24), length=8), 256),
    "half a head": (I8 + bytes(8)[:4] + bytes(4), 256),
    "no name": (part(1, "", bytes(24)), 256),
    "a name beyond the record": (part(1, "i8", b"", name_length=255), 256),
    "a name that is no text": (part(1, b"\xff\xfe", bytes(24)), 256),
    "something in the zeros": (part(1, "i8", bytes(24), zero=1), 256),
    "twice": (I8 + I8, 256),
    "ragged without all offsets": (part(129, "i8 ragged", bytes(15)), 256),
    "ragged with offsets that fall": (part(129, "i8 ragged", struct.pack("<4I8x", 0, 2, 1, 1)), 256),
    "ragged from another offset": (part(129, "i8 ragged", struct.pack("<4I8x", 1, 1, 1, 1)), 256),
    "ragged with elements left": (part(129, "i8 ragged", struct.pack("<4I8x", 0, 0, 0, 0)), 256),
    "ragged with elements missing": (part(129, "i8 ragged", struct.pack("<4I", 0, 0, 0, 2**31)), 256),
    "ragged with half an element": (part(129, "i8 ragged", struct.pack("<4I4x", 0, 0, 0, 1)), 256),
    "columns that the header does not speak of": (part(0, "hide") + I8, 32),
    "an operation that the header does not speak of": (part(0, "hide") + I8, 256),
    "an operation alone instead of columns": (part(0, "hide"), 256),
    "columns instead of an operation": (I8, 32),
    "nothing": (b"", 256),
    "two operations": (part(0, "hide") + part(0, "show"), 32),
    "an operation with data": (part(0, "hide", bytes(8)), 32),
    "an operation with columns": (part(0, "hide") + I8, 32 + 256),
    "an operation with values": (bytes(16) + part(0, "hide"), 32 + 1),
    "an operation with a position": (bytes(8) + part(0, "hide"), 32 + 8),
}


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("lie", LIES)
def test_parts_that_no_release_writes_are_corrupt(lie):
    with pytest.raises(CorruptionError):
        decode(forged(*LIES[lie]))


@pytest.mark.usefixtures("known")
def test_the_parts_that_those_differ_from_are_read():
    assert decode(forged(I8)).columns["i8"].tolist() == [0, 0, 0]
    ragged = part(129, "i8 ragged", struct.pack("<4I2q", 0, 0, 2, 2, 8, 9))
    assert decode(forged(ragged)).columns["i8 ragged"].elements.tolist() == [8, 9]
    for operation in set(OPERATIONS) - {FORGET_POSITION}:  # test_encoding.py has that one
        assert decode(forged(part(0, operation), 32)).operation == operation


@pytest.mark.parametrize("what", ["column 'session'", "operation 'merge'"])
def test_a_log_with_something_unknown_is_refused_and_left_alone(tmp_path, what):
    """Behind a sound record, and with a torn one after it, which an opening would cut off."""
    log = Log.create(tmp_path / "log", 1)
    log.append(Record(1, 4, IDS, IDS))
    log.close()
    path = tmp_path / "log" / segment_name(1)
    data = path.read_bytes()
    parts, bit = (part(1, "session", bytes(24)), 256) if what.startswith("column") else (part(0, "merge"), 32)
    later = forged(parts, bit)
    later = with_crc(later[:16] + struct.pack("<QQQ", len(data), 0, 4) + later[40:])
    path.write_bytes(data + later + b"torn")
    before = path.read_bytes()
    for call in (verify, lambda place: Log.open(place, Owner(1), known_durable_seq=0)):
        with pytest.raises(EngineError, match=f"{path}, offset {len(data)}: .*{what}"):
            call(tmp_path / "log")
    assert path.read_bytes() == before


@pytest.mark.usefixtures("known")
def test_columns_through_the_log(tmp_path):
    log = Log.create(tmp_path / "log", 1)
    ragged = Ragged(np.array([0, 0, 2, 3], np.uint32), np.frombuffer(b"xyz", np.uint8))
    log.append(Record(1, 4, IDS, IDS, columns={"f4": np.ones(3, np.float32), "u1 ragged": ragged}))
    log.append(Record(4, 4, IDS, IDS))
    log.close()
    assert verify(tmp_path / "log", Owner(1)).last_seq == 6
    again = Log.open(tmp_path / "log", Owner(1), known_durable_seq=0)
    first, second = again.replay(0)
    assert first.columns["f4"].tolist() == [1, 1, 1]
    assert as_bytes(first.columns["u1 ragged"]) == as_bytes(ragged)
    assert second.columns is None
    again.close()
