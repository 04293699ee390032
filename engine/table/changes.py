"""The lists of changes: which items each of the last epochs wrote, so that a reader can follow without a whole scan.

FORMAT.md has the bytes. The writer makes the entries, in the epoch's transaction; readers put them together.
"""

import struct

import numpy as np

from ..backend import native
from .snapshot import CHANGES, Ids, Pair, Snapshot

EPOCHS = 8  # lists kept; the next one takes the place of the oldest
LEAST = 1024  # a list may always be so long
SHARE = 4  # and longer only if that is at most 1/SHARE of all items: a scan of all is faster from there on
_PART = 240  # ids in one entry: it stays inside an LMDB page
_HEAD = struct.Struct("<QQ")

EPOCH = "epoch"  # the metadata item: how many epochs there were, u64


def epoch_of(snapshot: Snapshot) -> int:
    """The number of the last epoch; 0 before the first."""
    raw = snapshot.meta(EPOCH)
    return 0 if raw is None else int.from_bytes(raw, "little")


def encode(epoch: int, ids: Ids, items: int) -> list[Pair]:
    """The entries of one epoch, by rising key: none if there are too many `ids` (of `items`) to be worth it."""
    if len(ids) > max(LEAST, items // SHARE):
        return []
    head = _HEAD.pack(epoch, len(ids))
    starts = range(0, max(1, len(ids)), _PART)
    keys = native.row_keys(CHANGES, _places(epoch, len(starts)))
    sealed: list[Pair] = native.seal_values(
        [(key, head + ids[at : at + _PART].tobytes()) for key, at in zip(keys, starts, strict=True)]
    )
    return sealed


def between(snapshot: Snapshot, before: int, last: int) -> Ids | None:
    """The ids that epochs before + 1 to last wrote, rising; None if not all of these lists are there."""
    if last - before > EPOCHS:
        return None
    every = [np.empty(0, np.int64)]
    for epoch in range(before + 1, last + 1):
        first = snapshot.get(CHANGES, _places(epoch, 1))
        if not first:
            return None
        found, count = _HEAD.unpack_from(first[0])
        if found != epoch:
            return None
        parts = max(1, -(-count // _PART))
        payloads = snapshot.get(CHANGES, _places(epoch, parts))
        if len(payloads) != parts:
            return None
        every += [np.frombuffer(payload, "<i8", offset=_HEAD.size) for payload in payloads]
    return np.unique(np.concatenate(every))


def _places(epoch: int, parts: int) -> Ids:
    return (epoch % EPOCHS << 32) + np.arange(parts, dtype=np.int64)
