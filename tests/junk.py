"""Arguments that nobody should pass, and the check that they were refused."""

import math

import numpy as np
import pytest

from engine import InputError


class Hostile:
    """An object of the caller's whose every method raises."""

    def __repr__(self):
        raise RuntimeError("repr")

    def __array__(self, *args, **kwargs):
        raise RuntimeError("array")

    def __fspath__(self):
        raise RuntimeError("path")

    def __eq__(self, other):
        raise RuntimeError("equals")

    __hash__ = None


JUNK = {
    "nothing": None,
    "true": True,
    "text": "17",
    "bytes": b"17",
    "half": 0.5,
    "nan": math.nan,
    "inf": math.inf,
    "complex": 1j,
    "beyond int64": 2**63,
    "below int64": -(2**63) - 1,
    "thousands of digits": 10**5000,
    "dict": {1: 2},
    "set": {1},
    "iterator": iter([1]),
    "function": len,
    "hostile": Hostile(),
    "list of it": [Hostile()],
    "floats": np.array([1.0]),
    "whole floats": [2.0],
    "bools": np.array([True]),
    "objects": np.array([1, "x"], object),
    "texts": np.array(["1"]),
    "uint64 overflow": np.array([2**63], np.uint64),
    "mixed": [1, 2**63],
    "ragged": [[1], [2, 3]],
    "dates": np.array(["2024-01-01"], "datetime64[s]"),
    "NaT": np.array(["NaT"], "datetime64[s]"),
    "spans": np.array([1], "timedelta64[s]"),
    "records": np.array([(1,)], [("a", np.int64)]),
    "masked": np.ma.array([1, 2], mask=[False, True]),
    "two-dimensional": np.ones((1, 1), np.int64),
    "three-dimensional": np.ones((1, 1, 1), np.int64),
}


def but(*fine):
    """All junk but what is fine for an argument."""
    return [x for name, x in JUNK.items() if name not in fine]


def refused(name, call, error=InputError):
    """The call must raise `error` with `name` in its message."""
    with pytest.raises(error) as caught:
        call()
    assert name in str(caught.value)
