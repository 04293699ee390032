"""Which implementations are alive on this machine, and why the others are not.

The only importer of `_native` and `_cuda`, and the only reader of the environment. Knows nothing of rows or files.
ROWTIDE_ISA=avx512|avx2|portable chooses the kernels, else the fastest that the CPU has; all give the same bits.
TRITON_INTERPRET=1, which is Triton's own, makes its kernels run on the CPU, slowly, to see whether they are right.
torch and triton are imported where they are asked for, never before. Any thread.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import _native as native
from ..contract.errors import ConfigError, DeviceError, EngineError

cuda: Any = None
_NO_CUDA = ""
try:
    from .. import _cuda as cuda
except ImportError as missing:
    _NO_CUDA = "not built, which takes nvcc and ROWTIDE_CUDA=1"
    if importlib.util.find_spec(".._cuda", __package__):
        _NO_CUDA = f"built, but it cannot be loaded: {missing}"

__all__ = [
    "cuda",
    "cuda_missing",
    "device_errors",
    "device_name",
    "fingerprint",
    "free_bytes",
    "implementations",
    "interpreted",
    "native",
    "need_triton",
    "require_device",
    "triton_missing",
]

_MISSING = {  # by instruction set, the fastest first: what a CPU that cannot run it lacks
    "avx512": "this CPU lacks AVX-512 (F and DQ)",
    "avx2": "this CPU lacks AVX2 or FMA",
    "portable": "",
}
_LEAST_CAPABILITY = (8, 0)  # of a CUDA device
_ARITHMETIC = "16 lanes, version 1"  # changes with anything that changes a bit of a result

if wanted := os.environ.get("ROWTIDE_ISA"):
    if wanted not in _MISSING:
        raise ConfigError(f"ROWTIDE_ISA: got {wanted!r}, wanted one of {', '.join(map(repr, _MISSING))}")
    if not native.set_isa(wanted):
        raise ConfigError(f"ROWTIDE_ISA: got {wanted!r}, but {_MISSING[wanted]}")


def fingerprint(kind: str = "cpu") -> str:
    """What two machines must share to give the same bits: the arithmetic and the kind of device.

    The instruction set is not in it: all compute the same sixteen lanes.
    """
    return f"{kind}, {_ARITHMETIC}"


def require_device() -> tuple[Any, Any]:
    """torch, and the device that it learns on: the current GPU, or the CPU under Triton's interpreter.

    Raises DeviceError that says what is missing.
    """
    if missing := triton_missing() or ("" if interpreted() else cuda_missing()):
        raise DeviceError(f"device: got 'cuda', but {missing}")
    import torch

    return torch, torch.device("cpu") if interpreted() else torch.device("cuda", torch.cuda.current_device())


@contextmanager
def device_errors(what: str) -> Iterator[None]:
    """What torch, Triton or CUDA raise in the block comes out as DeviceError. torch is imported by then."""
    import torch

    try:
        yield
    except EngineError:
        raise
    except torch.OutOfMemoryError as e:
        raise DeviceError(f"out of device memory while {what}; open with less hot_bytes: {e}") from e
    except Exception as e:
        if not isinstance(e, RuntimeError) and not type(e).__module__.startswith("triton"):
            raise
        raise DeviceError(f"the device failed while {what}: {e}") from e


def free_bytes(device: Any) -> int:
    """Memory of a device that is free: of a GPU; under the interpreter a little of RAM."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 1 << 27


def device_name() -> str:
    """Of the device that `require_device` gives."""
    torch, device = require_device()
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu, Triton interpreter"


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter: their "device" is then the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def triton_missing() -> str:
    """Why Triton's kernels cannot run here, or "" where they can. Imports torch to see, where there is one."""
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if interpreted():
        return ""
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (and this torch is built without CUDA)"
        return f"no CUDA device{built}"
    capability = torch.cuda.get_device_capability()
    if capability < _LEAST_CAPABILITY:
        return f"compute capability {_dotted(capability)}, wanted {_dotted(_LEAST_CAPABILITY)} or more"
    return ""


def need_triton(device: Any) -> None:
    """Raises DeviceError unless Triton's kernels can run where a tensor's `device` says that it lies."""
    if missing := triton_missing():
        raise DeviceError(f"tensors need Triton: {missing}")
    if interpreted():
        if device.type != "cpu":
            raise DeviceError(f"got tensors on {device}, but Triton's interpreter is on, which runs on the CPU")
        return
    import torch

    if device.type != "cuda" or device.index != torch.cuda.current_device():
        raise DeviceError(f"got tensors on {device}, wanted the current device cuda:{torch.cuda.current_device()}")


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def cuda_missing() -> str:
    """Why CUDA kernels cannot run here, "" if they can. The first call loads the driver."""
    return _NO_CUDA or str(cuda.missing())


def implementations() -> dict[str, str]:
    """Each implementation by name: "alive", with "in use" for the one that is, or why it is not alive."""
    out = {}
    for isa, missing in _MISSING.items():
        alive = "alive, in use" if native.isa() == isa else "alive"
        out[f"cpu {isa}"] = alive if native.isa_available(isa) else missing
    out["triton"] = triton_missing() or ("alive, in its interpreter on the CPU" if interpreted() else "alive")
    out["cuda"] = cuda_missing() or "alive"
    return out
