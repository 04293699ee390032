"""Which implementations are alive on this machine, and why the others are not.

The only importer of `_native` and `_cuda`, and the only reader of the environment. Knows nothing of rows or files.
ROWTIDE_ISA=avx512|avx2|portable chooses the kernels, else the fastest that the CPU has; all give the same bits.
"""

import os
from typing import Any

from . import _native as native
from .errors import ConfigError

cuda: Any = None
_NO_CUDA = ""
try:
    from . import _cuda as cuda
except ImportError as missing:
    _NO_CUDA = f"not built, for which nvcc is needed ({missing})"

__all__ = ["cuda", "cuda_missing", "describe", "fingerprint", "native"]

_MISSING = {  # by instruction set, the fastest first: what a CPU that cannot run it lacks
    "avx512": "this CPU lacks AVX-512 (F and DQ)",
    "avx2": "this CPU lacks AVX2 or FMA",
    "portable": "",
}
_ARITHMETIC = "16 lanes, version 1"  # changes with anything that changes a bit of a result

if wanted := os.environ.get("ROWTIDE_ISA"):
    if wanted not in _MISSING:
        raise ConfigError(f"ROWTIDE_ISA: got {wanted!r}, wanted one of {', '.join(map(repr, _MISSING))}")
    if not native.set_isa(wanted):
        raise ConfigError(f"ROWTIDE_ISA: got {wanted!r}, but {_MISSING[wanted]}")


def fingerprint() -> str:
    """What two machines must share to give the same bits: the arithmetic and the kind of device.

    The instruction set is not in it: all compute the same sixteen lanes.
    """
    return f"cpu, {_ARITHMETIC}"


def cuda_missing() -> str:
    """Why CUDA kernels cannot run here, "" if they can. The first call loads the driver."""
    return _NO_CUDA or str(cuda.missing())


def describe() -> dict[str, str]:
    """Each implementation by name: "alive", with "in use" for the one that is, or why it is not alive."""
    out = {}
    for isa, missing in _MISSING.items():
        alive = "alive, in use" if native.isa() == isa else "alive"
        out[f"cpu {isa}"] = alive if native.isa_available(isa) else missing
    out["cuda"] = cuda_missing() or "alive"
    out["gpu"] = "not in this version"
    return out
