"""Types of the C++ core, one block per bindings file.

Arrays must be C-contiguous and of the stated dtype: nothing is converted.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_F32 = npt.NDArray[np.float32]
_I64 = npt.NDArray[np.int64]

# bindings_checksum.cpp
def crc32c(data: bytes | bytearray | memoryview | npt.NDArray[Any], crc: int = 0) -> int: ...

# bindings_kernels.cpp
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def pool_rows(rows: _F32, dim: int, slots: _I64, offsets: _I64 | None, weights: _F32 | None, out: _F32) -> None: ...
def loss_grads(
    loss: int,
    queries: _F32,
    rows: _F32,
    dim: int,
    positives: _I64,
    negatives: _I64,
    weights: _F32 | None,
    losses: _F32,
    query_grads: _F32,
    positive_coefs: _F32,
    negative_coefs: _F32,
) -> None: ...
def update_rows(
    rows: _F32,
    dim: int,
    slots: _I64,
    sources: _F32,
    source_index: _I64,
    coefs: _F32,
    lr: float,
    l2: float,
    bias: bool,
) -> int: ...
def score_topk(
    queries: _F32,
    dim: int,
    vectors: _F32,
    biases: _F32,
    ids: _I64,
    k: int,
    exclude_positions: _I64 | None,
    exclude_offsets: _I64 | None,
    include_positions: _I64 | None,
    include_offsets: _I64 | None,
    out_ids: _I64,
    out_scores: _F32,
    out_counts: _I64,
    threads: int,
) -> None: ...
