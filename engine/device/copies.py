"""Copies between RAM and a device that run beside what the device computes.

Responsible for the order of copies and kernels: each method says what comes before what. Not for what is copied. On a
GPU copies there and copies back have a stream each, and RAM that is copied is pinned, so that the host waits for
nothing but what it asks for; with the Triton interpreter, whose device is the CPU, all is done at once. Kernels are
those of one stream, whatever the calling thread's own is (`computing`). Whoever calls has the device's turn.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine.backend import device_errors

_Array = NDArray[Any]


class Copies:
    def __init__(self, torch: Any, device: Any) -> None:
        self.torch, self.device = torch, device
        self._streams = device.type == "cuda"
        self._there: Any = torch.cuda.Stream(device) if self._streams else None
        self._back: Any = torch.cuda.Stream(device) if self._streams else None
        self._kernels: Any = torch.cuda.default_stream(device) if self._streams else None

    @contextmanager
    def computing(self, what: str) -> Iterator[None]:
        """Kernels of the block come after those of all blocks before, on this device, from any thread. What fails in it
        is a DeviceError that says `what`."""
        stream = self.torch.cuda.stream(self._kernels) if self._streams else nullcontext()
        with device_errors(what), stream:
            yield

    def staging(self, *shape: int) -> Any:
        """Memory of the host to fill for `load`: a float32 tensor, used once, for a copy may be under way from it."""
        return self.torch.empty(shape, dtype=self.torch.float32, pin_memory=self._streams)

    def load(self, staging: Any) -> Callable[[], Any]:
        """Begins to copy a tensor of pinned memory to the device, whatever computes there meanwhile.

        Returns what gives the tensor there, to kernels that are launched after it is called.
        """
        if not self._streams:
            return lambda: staging
        with self.torch.cuda.stream(self._there):
            loaded = staging.to(self.device, non_blocking=True)
            done = self._there.record_event()

        def landed() -> Any:
            self._kernels.wait_event(done)
            loaded.record_stream(self._kernels)  # its memory is given to nobody else before they have run
            return loaded

        return landed

    def send(self, array: _Array) -> Any:
        """The same of an array: a tensor for kernels that are launched from now on; the array may change at once."""
        if not self._streams:
            return self.torch.from_numpy(np.ascontiguousarray(array))
        pinned = self.torch.empty(array.shape, dtype=_dtype(self.torch, array), pin_memory=True)
        pinned.numpy()[...] = array
        return self.load(pinned)()

    def fetch(self, rows: Any) -> Callable[[], _Array]:
        """Begins to copy a tensor back, once the kernels launched so far have run; later ones do not wait for it.

        Returns what waits for it and gives the array. The tensor must be left as it is until then.
        """
        if not self._streams:
            return lambda: _array(rows)
        self._back.wait_stream(self._kernels)
        with self.torch.cuda.stream(self._back):
            fetched = rows.to("cpu", non_blocking=True)
            rows.record_stream(self._back)
            done = self._back.record_event()

        def landed() -> _Array:
            done.synchronize()
            return _array(fetched)

        return landed

    def report(self, *tensors: Any) -> Callable[[], list[_Array]]:
        """Copies a few numbers back between the kernels launched so far and those to come, which may change them.

        Returns what waits for them and gives the arrays.
        """
        if not self._streams:
            copies = [tensor.clone() for tensor in tensors]
            return lambda: [_array(copy) for copy in copies]
        with self.torch.cuda.stream(self._kernels):
            copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
            done = self._kernels.record_event()

        def landed() -> list[_Array]:
            done.synchronize()
            return [_array(copy) for copy in copies]

        return landed


def _array(tensor: Any) -> _Array:
    array: _Array = tensor.numpy()
    return array


def _dtype(torch: Any, array: _Array) -> Any:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
