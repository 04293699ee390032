"""The lists of changes: which items each of the last epochs wrote, so that a reader can follow without a whole scan.

FORMAT.md has the bytes. The writer makes the entries, in the epoch's transaction; readers put them together.
"""

import struct
from collections.abc import Iterator

import numpy as np

from ..contract.arrays import Ids
from ..contract.errors import CorruptionError
from ..machine.backend import native
from .keys import CHANGES, Pair
from .snapshot import Snapshot

EPOCHS = 8  # lists kept; the next one takes the place of the oldest
LEAST = 1024  # a list may always be so long
SHARE = 4  # and longer only if that is at most 1/SHARE of all items: a scan of all is faster from there on
_PART = 240  # ids in one entry: it stays inside an LMDB page
_READ = 1024  # entries looked up at a time
_HEAD = struct.Struct("<QQ")

EPOCH = "epoch"  # the metadata item: how many epochs there were, u64


def epoch_of(snapshot: Snapshot) -> int:
    """The number of the last epoch; 0 before the first. CorruptionError if there can be no such number."""
    raw = snapshot.meta(EPOCH)
    if raw is None:
        return 0
    number = int.from_bytes(raw, "little")
    if len(raw) != 8 or number >= 2**62:
        raise CorruptionError("the number of the last epoch is none")
    return number


def encode(epoch: int, ids: Ids, items: int) -> list[Pair]:
    """The entries of one epoch, by rising key: none if there are too many `ids` (of `items`) to be worth it."""
    if len(ids) > max(LEAST, items // SHARE):
        return []
    head = _HEAD.pack(epoch, len(ids))
    starts = range(0, max(1, len(ids)), _PART)
    keys = native.row_keys(CHANGES, _places(epoch, 0, len(starts)))
    sealed: list[Pair] = native.seal_values(
        [(key, head + ids[at : at + _PART].tobytes()) for key, at in zip(keys, starts, strict=True)]
    )
    return sealed


def between(snapshot: Snapshot, before: int, last: int) -> Ids | None:
    """The ids that epochs before + 1 to last wrote, rising; None if not all of these lists are there.

    CorruptionError for a list that no writer makes.
    """
    if last - before > EPOCHS:
        return None
    every = [np.empty(0, np.int64)]
    for epoch in range(before + 1, last + 1):
        first = snapshot.get(CHANGES, _places(epoch, 0, 1))
        if not first or len(first[0]) < _HEAD.size:
            return None
        found, count = _HEAD.unpack_from(first[0])
        if found != epoch:
            return None
        every += _ids_of(snapshot, epoch, count)
    return np.unique(np.concatenate(every))


def _ids_of(snapshot: Snapshot, epoch: int, count: int) -> Iterator[Ids]:
    """The ids of one list by entry, as many as are there: what memory it takes does not follow from `count`."""
    head = _HEAD.pack(epoch, count)
    parts = max(1, -(-count // _PART))
    for start in range(0, parts, _READ):
        stop = min(parts, start + _READ)
        payloads = snapshot.get(CHANGES, _places(epoch, start, stop))
        lengths = [_HEAD.size + 8 * min(_PART, count - at * _PART) for at in range(start, stop)]
        if list(map(len, payloads)) != lengths or not all(payload.startswith(head) for payload in payloads):
            raise CorruptionError(f"the list of what epoch {epoch} changed is not what was written")
        yield from (np.frombuffer(payload, "<i8", offset=_HEAD.size) for payload in payloads)


def _places(epoch: int, start: int, stop: int) -> Ids:
    return (epoch % EPOCHS << 32) + np.arange(start, stop, dtype=np.int64)
