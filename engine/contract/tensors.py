"""Tensors of torch, taken as arguments and given as answers.

torch is never imported here: who hands in a tensor has imported it. Tensors of another device are copied to the host
and their answers back, for ranking is done there. Any thread.
"""

import sys
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import DeviceError


class Tensor(Protocol):
    """What type checkers take for a tensor, so that they need no torch: a few names that arrays do not have."""

    @property
    def requires_grad(self) -> bool: ...

    def numpy(self, *, force: bool = ...) -> Any: ...


TensorT = TypeVar("TensorT", bound=Tensor)


def _tensor_type() -> Any:
    """torch.Tensor, or None as long as nobody has imported torch."""
    return getattr(sys.modules.get("torch"), "Tensor", None)


def is_tensor(x: Any) -> bool:
    tensor = _tensor_type()
    return tensor is not None and issubclass(type(x), tensor)


def array_of(x: Any) -> NDArray[Any]:
    """The values of a tensor, wherever it lies and whether or not it requires a gradient; bfloat16 becomes float32."""
    if x.dtype == sys.modules["torch"].bfloat16:
        x = x.float()
    values: NDArray[Any] = x.numpy(force=True)
    return values


def device_of(*arguments: Any) -> Any:
    """The device of the first tensor among arguments, or None: where the answers belong. Lists are looked into."""
    tensor = _tensor_type()
    if tensor is not None:
        for argument in arguments:
            for x in argument if isinstance(argument, (list, tuple)) else (argument,):
                if issubclass(type(x), tensor):
                    return x.device
    return None


def given(arrays: Iterable[Any], device: Any) -> list[Any]:
    """The arrays as tensors on `device`; as they are where it is None. Integers stay integers."""
    if device is None:
        return list(arrays)
    torch = sys.modules["torch"]
    try:
        return [x if isinstance(x, int) else torch.from_numpy(np.asarray(x)).to(device) for x in arrays]
    except RuntimeError as e:
        raise DeviceError(f"the answer could not be copied to {device}: {e}") from e
