"""draw_negatives on the device, in Triton: launches alone, nothing is checked here and nothing waits for the device.

A lane is a draw. Invariants, the caller's to keep: the contract of `draw_negatives`, tensors on one device. Any thread,
on its current stream.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from ...machine.marks import marked
from .. import work
from ..launch import Case

BLOCK = 1024  # draws of a program
ANY = {
    "do_not_specialize": ["seed", "first_seq", "batch_size", "negatives", "count"],
    "do_not_specialize_on_alignment": ["known", "slots"],
}


@triton.jit
def mix64(x):
    """csrc/kernels/draws.h, of uint64."""
    x += 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit(**ANY)
def draw(known, slots, out, seed, first_seq, batch_size, negatives, count, BLOCK: tl.constexpr):
    """out[i] = the slot of draw i % negatives of step i // negatives."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    step = i // negatives
    k = i - step * negatives
    below = tl.load(known + step, mask=inside, other=0)
    seq = (step * batch_size + first_seq).to(tl.uint64)
    key = mix64(mix64(seed.to(tl.int64).to(tl.uint64)) ^ seq)
    drawn = tl.umulhi(mix64(key + k.to(tl.uint64)), below.to(tl.uint64)).to(tl.int64)
    ordinal = tl.where(below <= negatives, k, drawn)
    real = inside & (ordinal < below)
    slot = tl.load(slots + ordinal, mask=real, other=-1)
    tl.store(out + i, slot, mask=inside)


@marked("draw_negatives", work.draw_negatives)
def draw_negatives(
    known: torch.Tensor, slots: torch.Tensor, *, seed: int, first_seq: int, batch_size: int, negatives: int
) -> torch.Tensor:
    """int32 [S * negatives]; the arguments are those of the kernel."""
    count = known.numel() * negatives
    out = torch.empty(count, dtype=torch.int32, device=known.device)
    if count:
        draw[(triton.cdiv(count, BLOCK),)](
            known, slots, out, seed, first_seq, batch_size, negatives, count,
            BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def cases() -> Iterator[Case]:
    types = {"known": "*i64", "slots": "*i32", "out": "*i32", "seed": "i64", "first_seq": "i64"}
    types |= dict.fromkeys(("batch_size", "negatives", "count"), "i32")
    yield Case("any", draw, types, {"BLOCK": BLOCK}, 4, vectors=False)
