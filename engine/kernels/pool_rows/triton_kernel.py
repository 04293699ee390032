"""pool_rows on the device, in Triton: launches alone, nothing is checked here and nothing waits for the device.

A program has a tile of bags, a few lanes of one warp each, and reads their rows 16 bytes a lane. The terms of a bag are
added in their order, so its bits depend on nothing else in the call. Invariants, the caller's to keep: the contract of
`pool_rows`, tensors on one device, `rows` of a width that is a multiple of 4. Any thread, on its current stream.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from ...machine.marks import marked
from .. import work
from ..launch import Case, tile_of

GATHER_FLOATS = 2048  # of a tile: four loads of 16 bytes under way in each of 128 lanes
BAG_FLOATS = 256  # of a tile: a warp has two such loads for each of the terms that it has under way
UNROLL = 4  # terms of a bag under way at once
# A kernel is not compiled anew for another number, or for a column that begins elsewhere.
ANY = {"do_not_specialize": ["count"], "do_not_specialize_on_alignment": ["slots", "offsets", "weights"]}


@triton.jit(**ANY)
def gather_rows(
    rows,
    slots,
    weights,
    out,
    count,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """out[b] = rows[slots[b]], times weights[b] where there are weights."""
    bag = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    live = bag < count
    column = tl.arange(0, BLOCK)
    mask = live[:, None] & (column < DIM)[None, :]
    slot = tl.load(slots + bag, mask=live, other=0)
    vector = tl.load(rows + slot[:, None] * WIDTH + column[None, :], mask=mask, other=0.0)
    if weights is not None:
        vector *= tl.load(weights + bag, mask=live, other=0.0)[:, None]
    tl.store(out + bag[:, None] * DIM + column[None, :], vector, mask=mask)


@triton.jit(**ANY)
def pool_bags(
    rows,
    slots,
    offsets,
    weights,
    out,
    count,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """out[b] = the sum of weights[t] * rows[slots[t]] over t in offsets[b]..offsets[b + 1]."""
    bag = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    live = bag < count
    column = tl.arange(0, BLOCK)
    inside_row = (column < DIM)[None, :]
    start = tl.load(offsets + bag, mask=live, other=0)
    end = tl.load(offsets + bag + 1, mask=live, other=0)
    total = tl.zeros([TILE, BLOCK], dtype=tl.float32)
    for first in range(0, tl.max(end - start, axis=0), UNROLL):
        for step in tl.static_range(UNROLL):
            term = start + first + step
            inside = term < end
            slot = tl.load(slots + term, mask=inside, other=0)
            mask = inside[:, None] & inside_row
            vector = tl.load(rows + slot[:, None] * WIDTH + column[None, :], mask=mask, other=0.0)
            if weights is not None:
                weight = tl.load(weights + term, mask=inside, other=0.0)
                total = tl.fma(vector, tl.broadcast_to(weight[:, None], vector.shape), total)
            else:
                total += vector
    tl.store(out + bag[:, None] * DIM + column[None, :], total, mask=live[:, None] & inside_row)


@marked("pool_rows", work.pool_rows)
def pool_rows(
    rows: torch.Tensor,
    slots: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    *,
    dim: int,
) -> torch.Tensor:
    """float32 [B, dim]; the arguments are those of the kernel."""
    bags = slots.numel() if offsets is None else offsets.numel() - 1
    out = torch.empty((bags, dim), dtype=torch.float32, device=rows.device)
    if bags == 0:
        return out
    floats = GATHER_FLOATS if offsets is None else BAG_FLOATS
    block, tile = tile_of(dim, floats)
    shape = {"DIM": dim, "WIDTH": rows.shape[1], "BLOCK": block, "TILE": tile}
    grid = (triton.cdiv(bags, tile),)
    if offsets is None:
        gather_rows[grid](rows, slots, weights, out, bags, **shape, num_warps=4, enable_fp_fusion=False)
    else:
        pool_bags[grid](
            rows, slots, offsets, weights, out, bags, **shape, UNROLL=UNROLL, num_warps=1, enable_fp_fusion=False
        )
    return out


def cases() -> Iterator[Case]:
    """What to compile ahead of time: the launches above for the rows of row-wise Adagrad."""
    for dim, width in ((64, 72), (128, 136)):
        pointers: dict[str, Any] = {"rows": "*fp32", "slots": "*i64", "weights": "*fp32", "out": "*fp32"}
        for kernel, floats, warps in ((gather_rows, GATHER_FLOATS, 4), (pool_bags, BAG_FLOATS, 1)):
            block, tile = tile_of(dim, floats)
            constants = {"DIM": dim, "WIDTH": width, "BLOCK": block, "TILE": tile}
            bags = {} if kernel is gather_rows else {"offsets": "*i64"}
            unroll = {} if kernel is gather_rows else {"UNROLL": UNROLL}
            yield Case(f"dim {dim}", kernel, pointers | bags | {"count": "i32"}, constants | unroll, warps)
