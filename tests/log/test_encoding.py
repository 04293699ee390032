"""Records as bytes: known bytes of both versions, the way there and back, and what is refused."""

import struct
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from version_1 import encode_version_1

from engine.contract.arguments import MAX_EVENTS
from engine.contract.errors import CorruptionError, EngineError, InputError
from engine.contract.positions import MAX_NAME_BYTES, MAX_POSITION_BYTES
from engine.log.encoding import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    decode_record,
    encode_record,
    is_whole,
    parse_header,
    require_readable,
)
from engine.log.record import Record, require_sound
from engine.machine.backend import native

ID = 0x0123456789ABCDEF

# The example of FORMAT.md.
GOLDEN = bytes.fromhex(
    "8952544c a3ad6567 0200 0100 58000000 0000000000000000 0000000000000000"
    "0100000000000000 0000000000000000 01000000 10000000 efcdab8967452301"
    "0500000000000000 f9ffffffffffffff 0000003f 00000000"
)
# Every standing part, each at its place.
GOLDEN_FULL = (
    "0200 1f00 98000000 0001000000000000 c000000000000000 0700000000000000 0400000000000000 02000000 03000000"
    "efcdab8967452301"
    "0100000000000000 0000000000000080 ffffffffffffff7f 0200000000000000"  # users, items
    "000000000000f83f 000000000000f8ff"  # timestamps: 1.5, a NaN
    "00000080 0100807f 0000c07f 0000803f"  # values: -0.0, a signalling NaN; weights: a NaN, 1.0
    "02000000 0100 0a00 73 0102 7b226c72223a302e357d"  # lengths; "s", its position, settings
    "000000"
)
# The same records of version 1.
GOLDEN_1 = bytes.fromhex(
    "8952544c 7f46684c 0100 0100 58000000 0000000000000000 0000000000000000"
    "0100000000000000 0000000000000000 01000000 10000000 00000000 0000 0000"
    "0500000000000000 f9ffffffffffffff 0000003f 00000000"
)
GOLDEN_FULL_1 = (
    "0100 1f00 90000000 0001000000000000 c000000000000000 0700000000000000 0400000000000000 02000000 03000000"
    "02000000 0100 0a00"
    "0100000000000000 0000000000000080 ffffffffffffff7f 0200000000000000"
    "000000000000f83f 000000000000f8ff"
    "00000080 0100807f 0000c07f 0000803f"
    "73 0102 7b226c72223a302e357d"
    "000000"
)


def ids(*values):
    return np.array(values, np.int64)


def encode(record, offset=0, synced_bytes=0, synced_seq=0):
    return encode_record(record, directory_id=ID, offset=offset, synced_bytes=synced_bytes, synced_seq=synced_seq)


def decode(data, offset=0):
    header = parse_header(data[:HEADER_BYTES], offset)
    if header is None or not is_whole(header, data[:HEADER_BYTES], data[HEADER_BYTES:]):
        return None
    require_readable(header, data[HEADER_BYTES:])
    return decode_record(header, data[HEADER_BYTES:])


def with_crc(data):
    return data[:4] + struct.pack("<I", native.crc32c(data[8:])) + data[8:]


def as_bytes(record):
    """Everything in a record, bit for bit, as something that compares."""
    columns = [record.users, record.items, record.values, record.weights, record.timestamps]
    flat = [None if c is None else (c.dtype.str, c.shape, c.tobytes()) for c in columns]
    return (record.first_seq, record.batch_size, flat, record.position, repr(record.settings), record.operation)


@st.composite
def records(draw, max_events=9):
    n = draw(st.integers(0, max_events))
    column = partial(arrays, shape=n)
    return Record(
        draw(st.integers(1, 2**63 - 1)),
        draw(st.integers(0, 2**32 - 1)),
        draw(column(np.int64)),
        draw(column(np.int64)),
        draw(st.none() | column(np.float32)),
        draw(st.none() | column(np.float32)),
        draw(st.none() | column(np.float64)),
        draw(st.none() | st.tuples(st.text(max_size=9), st.binary(max_size=9))),
        draw(
            st.none()
            | st.dictionaries(
                st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=3
            )
        ),
    )


def full_record():
    return Record(
        7,
        3,
        ids(1, -(2**63)),
        ids(2**63 - 1, 2),
        np.array([0x80000000, 0x7F800001], np.uint32).view(np.float32),
        np.array([0x7FC00000, 0x3F800000], np.uint32).view(np.float32),
        np.array([0x3FF8000000000000, 0xFFF8000000000000], np.uint64).view(np.float64),
        ("s", b"\1\2"),
        {"lr": 0.5},
    )


def test_known_bytes():
    record = Record(1, 16, ids(5), ids(-7), np.array([0.5], np.float32))
    assert encode(record) == GOLDEN
    for data in (GOLDEN, GOLDEN_1):
        assert as_bytes(decode(data)) == as_bytes(record)
    assert [parse_header(data[:HEADER_BYTES], 0).directory_id for data in (GOLDEN, GOLDEN_1)] == [ID, None]
    assert encode_version_1(record) == GOLDEN_1


def test_known_bytes_of_every_part():
    record = full_record()
    data = encode(record, offset=256, synced_bytes=192, synced_seq=4)
    assert data[8:].hex() == GOLDEN_FULL.replace(" ", "")
    assert data == with_crc(data)
    assert as_bytes(decode(data, 256)) == as_bytes(record)
    data = with_crc(bytes(8) + bytes.fromhex(GOLDEN_FULL_1))
    assert as_bytes(decode(data[:0] + GOLDEN_1[:4] + data[4:], 256)) == as_bytes(record)


@given(records(), st.sampled_from([None, "hide", "show", "forget"]), st.integers(0, 2**40))
def test_records_of_version_1_are_read(record, operation, offset):
    if operation:
        record = Record(record.first_seq, record.batch_size, record.users, record.items, operation=operation)
    data = encode_version_1(record, offset, 7, 9)
    header = parse_header(data[:HEADER_BYTES], offset)
    assert (header.events, header.last_seq) == (record.count, record.last_seq)
    again = decode(data, offset)
    assert as_bytes(again)[:4] == as_bytes(record)[:4]
    assert again.settings == record.settings
    assert again.operation == record.operation


@given(records(), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**62))
def test_round_trip(record, offset, synced_bytes, synced_seq):
    data = encode(record, offset, synced_bytes, synced_seq)
    header = parse_header(data[:HEADER_BYTES], offset)
    assert header is not None
    assert (header.length, header.synced_bytes, header.synced_seq) == (len(data), synced_bytes, synced_seq)
    assert len(data) % 8 == 0
    assert (header.events, header.last_seq) == (record.count, record.last_seq)
    settings = record.settings and dict(sorted(record.settings.items()))
    again = decode(data, offset)
    assert as_bytes(again)[:4] == as_bytes(record)[:4]
    assert repr(again.settings) == repr(settings)


@given(records(max_events=2), st.data())
def test_a_changed_bit_is_never_taken_for_a_record(record, data):
    good = encode(record)
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    assert decode(bytes(bad)) is None


@given(records(max_events=2), st.data())
def test_a_part_of_a_record_is_never_taken_for_one(record, data):
    good = encode(record)
    assert decode(good[: data.draw(st.integers(0, len(good) - 1))]) is None


def test_a_record_in_another_place_is_none():
    assert decode(GOLDEN, 8) is decode(GOLDEN_1, 8) is None


def test_a_record_of_one_event_is_not_longer_than_it_was():
    record = Record(1, 1, ids(1), ids(2))
    assert len(encode(record)) == len(encode_version_1(record)) == 80


def test_largest_record():
    n = MAX_EVENTS
    users = np.arange(n)
    floats = np.ones(n, np.float32)
    position = ("é" * (MAX_NAME_BYTES // 2), bytes(MAX_POSITION_BYTES))
    data = encode(Record(1, 1, users, users, floats, floats, np.ones(n), position, {"x" * 60_000: 1}))
    assert len(data) <= MAX_RECORD_BYTES
    record = decode(data)
    assert record.last_seq == n
    assert record.position == position
    np.testing.assert_array_equal(record.items, users)


def test_strided_columns_and_decoded_ones_are_read_only():
    record = decode(encode(Record(1, 1, np.arange(6)[::2], np.arange(6)[::-2])))
    assert record.users.tolist() == [0, 2, 4]
    assert record.items.tolist() == [5, 3, 1]
    assert not record.users.flags.writeable


NO_EVENTS = {"users": ids(), "items": ids()}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"users": np.zeros(MAX_EVENTS + 1, np.int64), "items": np.zeros(MAX_EVENTS + 1, np.int64)}, "users: 65,537"),
        ({"users": np.zeros(1, np.int32)}, "users: int32"),
        ({"items": ids(1, 2)}, "items: int64"),
        ({"items": np.zeros((1, 1), np.int64)}, "items: int64"),
        ({"values": np.zeros(1)}, "values: float64"),
        ({"weights": np.zeros(2, np.float32)}, "weights: float32"),
        ({"timestamps": np.zeros(1, np.float32)}, "timestamps: float32"),
        ({"position": ("s", bytes(MAX_POSITION_BYTES + 1))}, "position: a name of 1 bytes"),
        ({"position": ("é" * 40_000, b"")}, "position: a name of 80,000 bytes"),
        ({"position": ("\ud800", b"")}, "position: source"),
        ({"position": ("s", "text")}, "of str"),
        ({"settings": {"lr": float("nan")}}, "settings"),
        ({"settings": {"lr": "fast"}}, "settings"),
        ({"settings": {"lr": True}}, "settings"),
        ({"settings": {"x" * 70_000: 1}}, "settings: 70,006 bytes"),
        ({"batch_size": -1}, "batch_size -1"),
        ({"operation": "keep"}, "operation: 'keep'"),
        ({"operation": ""}, "operation: ''"),
        ({"operation": "hide", "values": np.zeros(1, np.float32)}, "operation: 'hide', .* nothing else"),
        ({"operation": "show", "weights": np.zeros(1, np.float32)}, "nothing else"),
        ({"operation": "forget", "timestamps": np.zeros(1)}, "nothing else"),
        ({"operation": "forget", "position": ("s", b"")}, "nothing else"),
        ({"operation": "hide", "settings": {}}, "nothing else"),
        ({"operation": "hide", "columns": {}}, "nothing else"),
        ({"operation": "forget_position", "position": ("s", b"")}, "'forget_position', wanted a source, no position"),
        ({**NO_EVENTS, "operation": "forget_position"}, "wanted a source"),
        ({**NO_EVENTS, "operation": "forget_position", "position": ("s", b"1")}, "wanted a source, no position"),
        ({**NO_EVENTS, "operation": "forget_position", "position": ("s", b""), "settings": {}}, "nothing else"),
        ({"first_seq": 2**64}, "first_seq 18446744073709551616"),
    ],
)
def test_refused(change, what):
    good = {"first_seq": 1, "batch_size": 1, "users": ids(1), "items": ids(1)}
    with pytest.raises(InputError, match=what):
        encode(Record(**(good | change)))


@pytest.mark.parametrize("version", [0, 3, 65_535])
def test_a_later_version_is_refused_and_not_called_torn(version):
    later = with_crc(GOLDEN[:8] + struct.pack("<HH", version, 0x8000) + GOLDEN[12:])
    with pytest.raises(EngineError, match=f"version {version}; this release of Rowtide reads versions 1 and 2"):
        decode(later, 64)


@pytest.mark.parametrize(("version", "bit"), [(2, 64), (2, 128), (2, 512), (2, 0x8000), (1, 256), (1, 0x8000)])
def test_a_bit_that_nobody_knows_is_refused_by_name(version, bit):
    data = with_crc(GOLDEN[:8] + struct.pack("<HH", version, 1 | bit) + GOLDEN[12:])
    with pytest.raises(EngineError, match=f"the parts {bit:#x}, which this release of Rowtide does not know") as error:
        decode(data)
    assert not isinstance(error.value, CorruptionError)


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (12, struct.pack("<I", 84)),  # not a multiple of 8
        (12, struct.pack("<I", 56)),
        (12, struct.pack("<I", MAX_RECORD_BYTES + 8)),
        (12, struct.pack("<I", 2**31)),
    ],
)
def test_a_length_that_no_record_has_is_none(at, new):
    for golden in (GOLDEN, GOLDEN_1):
        assert parse_header(golden[:at] + new + golden[at + len(new) : HEADER_BYTES], 0) is None


LIES = [
    (GOLDEN, 10, struct.pack("<H", 5)),  # timestamps that are not there
    (GOLDEN, 10, struct.pack("<H", 9)),  # a position that is not there
    (GOLDEN, 10, struct.pack("<H", 0)),  # more than its parts
    (GOLDEN, 10, struct.pack("<H", 1 | 32)),  # an operation without a name
    (GOLDEN, 10, struct.pack("<H", 1 | 256)),  # columns that are not there
    (GOLDEN, 48, struct.pack("<I", 0)),
    (GOLDEN, 48, struct.pack("<I", 2)),
    (GOLDEN, 48, struct.pack("<I", MAX_EVENTS + 1)),
    (GOLDEN, 48, struct.pack("<I", 2**32 - 1)),
    (GOLDEN_1, 10, struct.pack("<H", 0x21)),  # an operation with values
    (GOLDEN_1, 10, struct.pack("<H", 0x60)),  # two operations
    (GOLDEN_1, 48, struct.pack("<I", MAX_EVENTS + 1)),
    (GOLDEN_1, 60, struct.pack("<H", 4)),  # a source without a position
    (GOLDEN_1, 62, struct.pack("<H", 4)),  # settings that are not there
    (GOLDEN_1, 56, struct.pack("<I", 2**32 - 1)),
]


@pytest.mark.parametrize(("golden", "at", "new"), LIES, ids=lambda x: x.hex()[-8:] if isinstance(x, bytes) else str(x))
def test_a_whole_record_that_does_not_add_up_is_corrupt(golden, at, new):
    with pytest.raises(CorruptionError):
        decode(with_crc(golden[:at] + new + golden[at + len(new) :]))


@pytest.mark.parametrize("extra", [8, 64, 4096])
def test_a_whole_record_that_is_longer_than_its_parts_is_corrupt(extra):
    for golden in (GOLDEN, GOLDEN_1):
        with pytest.raises(CorruptionError, match="do not add up"):
            decode(with_crc(golden[:12] + struct.pack("<I", len(golden) + extra) + golden[16:] + bytes(extra)))


@pytest.mark.parametrize(
    ("lengths", "columns"),
    [((2, 1, 10), 8), ((2, 1, 10), 16), ((3, 1, 10), 24), ((0xFFFFFFFF, 1, 10), 24), ((2, 0xFFFF, 10), 24)],
)
def test_lengths_of_texts_that_lie(lengths, columns):
    record = replace(full_record(), values=None, weights=None, timestamps=None)
    data = encode(record)
    at = HEADER_BYTES + 32
    assert struct.unpack_from("<IHH", data, at) == (2, 1, 10)
    data = data[:10] + struct.pack("<H", columns) + data[12:at] + struct.pack("<IHH", *lengths) + data[at + 8 :]
    data = with_crc(data)
    if lengths == (3, 1, 10):  # into the padding: the texts are read, and make no sense
        with pytest.raises(CorruptionError, match="unreadable text"):
            decode(data)
    else:
        with pytest.raises(CorruptionError, match=r"texts that cannot be|do not add up"):
            decode(data)


@pytest.mark.parametrize("text", [b"[1]", b'{"a":"b"}', b"{", b"\xff", b'{"a":true}', b"[" * 60_000])
def test_texts_with_a_right_crc_that_nobody_wrote(text):
    record = Record(1, 1, ids(), ids(), settings={})
    base, base_1 = encode(record), encode_version_1(record)
    lengths = struct.pack("<H", len(text))
    for data in (base[: HEADER_BYTES + 6] + lengths + text, base_1[:62] + lengths + text):
        padded = data + bytes(-len(data) % 8)
        whole = with_crc(padded[:12] + struct.pack("<I", len(padded)) + padded[16:])
        with pytest.raises(CorruptionError, match="unreadable text"):
            decode(whole)


def test_records_without_events_stand_between():
    record = Record(8, 0, ids(), ids(), settings={"lr": 0.1, "negatives": 64})
    assert (record.count, record.last_seq) == (0, 7)
    header = parse_header(encode(record)[:HEADER_BYTES], 0)
    assert header is not None
    assert (header.last_seq, header.reach) == (7, 8)
    assert decode(encode(record)).settings == {"lr": 0.1, "negatives": 64}


@given(st.sampled_from(["hide", "show", "forget"]), st.integers(0, 9), st.integers(1, 2**60), st.data())
def test_operations_come_back(kind, n, first_seq, data):
    record = Record(first_seq, 1, *(data.draw(arrays(np.int64, n)) for _ in range(2)), operation=kind)
    encoded = encode(record, 64)
    header = parse_header(encoded[:HEADER_BYTES], 64)
    assert (header.entries, header.events, header.last_seq, header.reach) == (n, 0, first_seq - 1, first_seq)
    assert (record.count, record.last_seq) == (0, first_seq - 1)
    again = decode(encoded, 64)
    assert as_bytes(again) == as_bytes(record)
    require_sound(again)  # -1 may fill up a column


@pytest.mark.parametrize("kind", ["hide", "show", "forget"])
def test_known_bytes_of_operations(kind):
    data = encode(Record(4, 16, ids(5), ids(-1), operation=kind))
    expected = f"0200 2000 60000000 {'00' * 16} 0400000000000000 {'00' * 8} 01000000 10000000 efcdab8967452301"
    named = f"00 {len(kind):02x} 0000 00000000 {kind.encode().ljust(8, bytes(1)).hex()}"
    assert data[8:].hex() == (expected + "0500000000000000 ffffffffffffffff" + named).replace(" ", "")


def test_known_bytes_of_a_forgotten_position():
    record = Record(4, 16, ids(), ids(), position=("shop", b""), operation="forget_position")
    data = encode(record)
    expected = f"0200 2800 68000000 {'00' * 16} 0400000000000000 {'00' * 8} 00000000 10000000 efcdab8967452301"
    texts = "00000000 0400 0000 73686f70 00000000"
    named = f"00 0f 0000 00000000 {b'forget_position'.hex()} 00"
    assert data[8:].hex() == (expected + texts + named).replace(" ", "")
    assert as_bytes(decode(data)) == as_bytes(record)
    assert (record.count, record.last_seq) == (0, 3)
    require_sound(record)


def test_an_older_release_refuses_a_forgotten_position_by_its_name(monkeypatch):
    data = encode(Record(4, 16, ids(), ids(), position=("shop", b""), operation="forget_position"))
    monkeypatch.setattr("engine.log.parts.OPERATIONS", ("hide", "show", "forget"))
    with pytest.raises(EngineError, match="operation 'forget_position', which this release") as error:
        decode(data)
    assert not isinstance(error.value, CorruptionError)


FORGED = {
    "ids": (40, b"\1" * 16 + struct.pack("<IHH", 0, 1, 0) + b"s" + bytes(7), 1, "forget_position"),
    "a position": (40, struct.pack("<IHH", 1, 1, 0) + b"s1" + bytes(6), 0, "forget_position"),
    "settings": (56, struct.pack("<IHH", 0, 1, 2) + b"s{}" + bytes(5), 0, "forget_position"),
    "no source": (32, b"", 0, "forget_position"),
    "another operation": (40, struct.pack("<IHH", 0, 1, 0) + b"s" + bytes(7), 0, "hide"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forgotten_position_with_more_than_a_source_is_corrupt(name):
    columns, body, count, kind = FORGED[name]
    body += bytes([0, len(kind), 0, 0, 0, 0, 0, 0]) + kind.encode() + bytes(-len(kind) % 8)
    head = GOLDEN[:8] + struct.pack("<HHI", 2, columns, HEADER_BYTES + len(body)) + GOLDEN[16:48]
    with pytest.raises(CorruptionError, match="of an operation with more than that"):
        decode(with_crc(head + struct.pack("<I", count) + GOLDEN[52:HEADER_BYTES] + body))


@pytest.mark.parametrize(("kind", "bit"), [("hide", 32), ("show", 64), ("forget", 128)])
def test_known_bytes_of_operations_of_version_1(kind, bit):
    expected = f"0100 {bit:02x}00 50000000 {'00' * 16} 0400000000000000 {'00' * 8} 01000000 10000000 {'00' * 8}"
    data = bytes.fromhex(expected + "0500000000000000 ffffffffffffffff")
    record = decode(with_crc(GOLDEN[:8] + data))
    assert as_bytes(record) == as_bytes(Record(4, 16, ids(5), ids(-1), operation=kind))
