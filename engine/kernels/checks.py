"""What a kernel demands of arrays and tensors, and the `InputError` that it raises otherwise.

Responsible for types, shapes, ranges and memory layout, so that native code may trust every pointer, count and slot.
Numbers are checked by contract/arguments.py. Not for the sense of values: NaN and infinity are arithmetic, and the
kernels say what they do with them.
Invariants: nothing is ever converted to another dtype; what is copied to be contiguous was small (slots, coefficients,
queries), while slabs of rows are refused instead. Pure functions, any thread.

Arrays are numpy's, or tensors of torch: the slab decides which, and on which device. The other arguments come with
`like=` the slab and must be of its kind; without, numpy's are wanted. Looking at the values of a tensor waits for its
device.
"""

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract.arguments import number
from ..contract.errors import InputError
from ..contract.tensors import is_tensor

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

# An axis is wanted of one length, or of any: then it has a letter, which only the message shows.
Axis = int | str


def rate(name: str, value: Any) -> float:
    """A learning rate, or the weight of a penalty: finite, 0 or more."""
    return number(name, value, 0.0, sys.float_info.max)


def floats(name: str, value: Any, *shape: Axis, like: Any = None) -> F32:
    """`value`, float32 of `shape`, contiguous: copied if it was not."""
    return _contiguous(_array(name, value, np.float32, shape, like))


def integers(name: str, value: Any, *shape: Axis, like: Any = None) -> I64:
    """`value`, int64 of `shape`, contiguous: copied if it was not."""
    return _contiguous(_array(name, value, np.int64, shape, like))


def matrix_in_place(name: str, value: Any, columns: Axis, *, writable: bool = False, like: Any = None) -> F32:
    """`value`, float32 [any, columns], where it lies: if not contiguous, refused, as a copy would be all of it."""
    array = _array(name, value, np.float32, ("N", columns), like)
    if not _lies_well(array):
        how = f"{value.stride()}" if is_tensor(value) else f"{array.strides}, aligned {array.flags.aligned}"
        raise InputError(f"{name}: got strides {how}; wanted C-contiguous, aligned memory")
    if writable and not is_tensor(array) and not array.flags.writeable:
        raise InputError(f"{name}: got a read-only array, wanted one that may be written")
    return array


def wide_in_place(name: str, value: Any, least: int, dim: int, *, writable: bool = False, like: Any = None) -> F32:
    """`value`, float32 [any, W] where it lies, W >= `least`."""
    array = matrix_in_place(name, value, "W", writable=writable, like=like)
    if array.shape[1] < least:
        raise InputError(f"{name}: got {array.shape[1]} columns, wanted {least} or more for dim {dim}")
    return array


def rows_in_place(rows: Any, dim: int, state: int, *, writable: bool = False) -> F32:
    """The slab: float32 [R, W], W >= dim + 1 + `state`: vector, bias, and what the optimizer keeps with a row.

    On a device every row must begin at a multiple of 16 bytes.
    """
    slab = wide_in_place("rows", rows, dim + 1 + state, dim, writable=writable, like=rows)
    if is_tensor(slab):
        if slab.shape[1] % 4:
            raise InputError(f"rows: got {slab.shape[1]} columns, wanted a multiple of 4 on a device")
        if slab.data_ptr() % 16:  # type: ignore[attr-defined]
            raise InputError("rows: got memory that is not aligned, wanted a multiple of 16 bytes on a device")
    return slab


def within(name: str, index: I64, low: int, end: int) -> None:
    """All of `index`, contiguous, lie in `low <= i < end`."""
    if math.prod(index.shape) == 0:
        return
    if is_tensor(index):
        least, most = (int(x) for x in index.aminmax())  # type: ignore[attr-defined]
        if least < low or most >= end:
            raise InputError(f"{name}: got {least if least < low else most}, wanted {low} <= value < {end}")
        return
    # As unsigned numbers those below `low` are the largest of all, so that one pass finds either.
    shifted = index - low if low else index
    if int(shifted.view(np.uint64).max()) >= end - low:
        least, most = int(index.min()), int(index.max())
        wrong = least if least < low else most
        raise InputError(f"{name}: got {wrong}, wanted {low} <= value < {end}")


def offsets_of(name: str, value: Any, bags: Axis, total: int, *, like: Any = None) -> I64:
    """CSR offsets, int64 [bags + 1]: from 0 to `total`, never falling. `bags` may be a letter: then any number."""
    offsets = integers(name, value, bags + 1 if isinstance(bags, int) else f"{bags}+1", like=like)
    if len(offsets) == 0:
        raise InputError(f"{name}: got no offsets, wanted one more than there are bags")
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != total:
        raise InputError(f"{name}: got {first} to {last}, wanted 0 to {total}")
    if (offsets[1:] < offsets[:-1]).any():
        raise InputError(f"{name}: got offsets that fall, wanted each at least the one before")
    return offsets


def ascending_in_bags(name: str, values: I64, offsets: I64) -> None:
    """Within each bag of `offsets`, `values` strictly rise."""
    rises = np.empty(values.size + 1, dtype=np.bool_)
    np.greater(values[1:], values[:-1], out=rises[1:-1])
    rises[offsets] = True  # the first of a bag follows nothing
    rises[0] = True
    if not rises.all():
        raise InputError(f"{name}: got values out of order or twice, wanted strictly ascending within each query")


def apart(written: npt.NDArray[Any], **arrays: npt.NDArray[Any] | None) -> None:
    """Each of `arrays`, by its name, lies outside the memory that is `written`; None lies nowhere."""
    for name, array in arrays.items():
        if array is None:
            continue
        if is_tensor(array):
            ends = [(x.data_ptr(), x.data_ptr() + 4 * x.numel()) for x in (array, written)]  # type: ignore[attr-defined]
            together = min(ends[0][1], ends[1][1]) > max(ends[0][0], ends[1][0])
        else:
            together = np.may_share_memory(array, written)
        if together:
            raise InputError(f"{name}: got memory of rows, which are written meanwhile; wanted memory of its own")


def _array(name: str, value: Any, dtype: Any, shape: tuple[Axis, ...], like: Any) -> npt.NDArray[Any]:
    wanted = np.dtype(dtype)
    there, fits = is_tensor(value), False
    if there:
        fits = str(value.dtype) == f"torch.{wanted.name}" and is_tensor(like) and value.device == like.device
    elif isinstance(value, np.ndarray):
        fits = value.dtype == wanted and not is_tensor(like)
    if fits and value.ndim == len(shape) and all(map(_fits, value.shape, shape)):
        array: npt.NDArray[Any] = value
        return array
    came_as = str(value.dtype).removeprefix("torch.") if hasattr(value, "dtype") else type(value).__name__
    where = f" on {value.device}" if there else ""
    wanted_where = f" on {like.device}" if is_tensor(like) else ""
    if hasattr(value, "shape"):
        came_as += f" [{', '.join(map(str, value.shape))}]{where}"
    raise InputError(f"{name}: got {came_as}, wanted {wanted} [{', '.join(map(str, shape))}]{wanted_where}")


def _lies_well(array: Any) -> bool:
    if is_tensor(array):
        return bool(array.is_contiguous())
    return bool(array.flags.c_contiguous and array.flags.aligned)


def _contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if _lies_well(array):
        return array
    tensor: Any = array
    copy: npt.NDArray[Any] = tensor.contiguous() if is_tensor(array) else np.require(array, requirements=("C", "A"))
    return copy


def _fits(length: int, axis: Axis) -> bool:
    return isinstance(axis, str) or length == axis
