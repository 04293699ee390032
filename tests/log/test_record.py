"""What a record is: how calls become records, and which events no call can have brought."""

import numpy as np
import pytest

from engine.contract.arguments import MAX_EVENTS
from engine.contract.errors import CorruptionError
from engine.log.encoding import encode_record
from engine.log.parts import Ragged
from engine.log.record import Record, follow_position, operations, require_sound


def ids(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 3), (3, 1), (MAX_EVENTS, 2), (1, MAX_EVENTS + 1)])
def test_a_call_on_ids_is_cut_into_records(sizes):
    users, items = (np.arange(size, dtype=np.int64) + 10**6 * side for side, size in enumerate(sizes))
    made = list(operations("forget", users, items, 9, 4))
    assert len(made) == -(-max(sizes) // MAX_EVENTS)
    for side, whole in ((0, users), (1, items)):
        columns = [(record.users, record.items)[side] for record in made]
        together = np.concatenate([*columns, ids()])
        np.testing.assert_array_equal(together[together != -1], whole)
        assert (together[len(whole) :] == -1).all()  # filled up at the end alone
    for record in made:
        assert (record.first_seq, record.count, record.operation, record.batch_size) == (9, 0, "forget", 4)
        assert 0 < len(record.users) == len(record.items) <= MAX_EVENTS
        encode_record(record, directory_id=1, offset=0, synced_bytes=0, synced_seq=0)


def test_a_source_alone_is_one_record():
    (record,) = operations("forget_position", ids(), ids(), 9, 4, "shop")
    assert (record.first_seq, record.count, record.operation) == (9, 0, "forget_position")
    assert record.position == ("shop", b"")


def test_records_move_the_positions_of_sources():
    positions = {"shop": b"1"}
    for record in (
        Record(1, 1, ids(1), ids(1)),
        Record(2, 1, ids(), ids(), position=("log", b"")),
        Record(2, 1, ids(), ids(), operation="hide"),
        *operations("forget_position", ids(), ids(), 2, 1, "shop"),
        *operations("forget_position", ids(), ids(), 2, 1, "nobody"),
    ):
        follow_position(positions, record)
    assert positions == {"log": b""}


def test_events_may_not_name_the_padding():
    for users, items in ((ids(-1), ids(1)), (ids(1), ids(-1))):
        with pytest.raises(CorruptionError, match="nobody can have given"):
            require_sound(Record(1, 1, users, items))


@pytest.mark.parametrize("name", ["values", "weights", "timestamps", "columns"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_floats_of_events_are_finite(name, number):
    column = np.array([number], np.float64 if name == "timestamps" else np.float32)
    ragged = Ragged(np.array([0, 1], np.uint32), column)
    for given in [{"a": column}, {"a": ragged}] if name == "columns" else [column]:
        with pytest.raises(CorruptionError, match="nobody can have given"):
            require_sound(Record(1, 1, ids(1), ids(1), **{name: given}))
    require_sound(Record(1, 1, ids(1), ids(1), columns={"a": ids(-1), "b": Ragged(ragged.offsets, ids(-1))}))
