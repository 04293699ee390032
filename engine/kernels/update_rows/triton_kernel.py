"""update_rows on the device, in Triton: launches alone, nothing is checked here and nothing waits for the device.

The terms are sorted by slot, stably, so those of a row stand together and in order. Three kernels follow:

    cut_segments   a row's terms are cut into segments of 64, from its first on; where each begins goes into a list
    step_rows      a warp has a tile of segments and sums each in order; a row of one segment takes its step at once,
                   the others leave the sum of the segment behind
    join_rows      a block for each row of several segments: their sums by a fixed tree, 64 at a time, and the step

So a row of 100,000 terms is summed by 1,563 lanes side by side, and a row of few terms is read and written once. The
lists are filled in whatever order blocks come by, with integer atomics, but each sum and step is its row's alone: the
same bits on every run, whatever else is in the call. A segment's sum has a place of its own without being counted: of
the rows with several segments at most one begins, and at most one goes on, in each 64 places of the sorted terms.

Invariants, the caller's to keep: the contract of `update_rows`, tensors on one device, `rows` of a width that is a
multiple of 4. Any thread, on its current stream.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ...contract.losses import OPTIMIZERS
from ...machine.marks import marked
from .. import work
from ..launch import Case, tile_of
from ..optimizers import state_floats
from .triton_step import UNROLL, load_rows, step

SEGMENT = 64  # terms that are summed one after the other
CUT, CUT_WARPS = 1024, 8  # sorted terms that a block cuts
STEP_FLOATS, STEP_WARPS = 128, 1  # of a tile, and what works on it
JOIN_FLOATS = 8192  # of a tile of segments' sums
JOIN_WARPS = 8
TILES_IN_TURN = 128  # programs for each multiprocessor, which share the tiles: four times what runs at once
# A kernel is not compiled anew for another number, or for a column that begins elsewhere.
ANY = {
    "do_not_specialize": ["terms", "halvings"],
    "do_not_specialize_on_alignment": [
        "sorted_slots",
        "order",
        "source_index",
        "coefs",
        "bias_coefs",
        "sorted_index",
        "sorted_coefs",
        "sorted_bias_coefs",
        "segment_starts",
        "segment_slots",
    ],
}


@triton.jit(**ANY)
def cut_segments(
    sorted_slots,
    order,
    source_index,
    coefs,
    bias_coefs,
    sorted_index,
    sorted_coefs,
    sorted_bias_coefs,
    segment_starts,
    segment_slots,
    long_rows,
    counts,
    terms,
    halvings,
    SEGMENT: tl.constexpr,
    CUT: tl.constexpr,
):
    """Lists where segments begin, and rows of more than one; brings what belongs to a term into sorted order."""
    place = tl.program_id(0).to(tl.int64) * CUT + tl.arange(0, CUT)
    slot = tl.load(sorted_slots + place, mask=place < terms, other=-1)
    kept = slot >= 0
    before = tl.load(sorted_slots + place - 1, mask=kept & (place > 0), other=-1)
    # Where the row began at least a segment ago, a halving search finds its first term.
    earlier = tl.load(sorted_slots + place - SEGMENT, mask=kept & (place >= SEGMENT), other=-1)
    deep = kept & (earlier == slot)
    first = place
    if tl.max(deep.to(tl.int32), axis=0) > 0:
        low = tl.zeros([CUT], dtype=tl.int64)
        high = tl.where(deep, place - SEGMENT, 0)
        for _ in range(0, halvings):
            middle = (low + high) // 2
            below = tl.load(sorted_slots + middle, mask=deep, other=0) < slot
            low = tl.where(deep & below, middle + 1, low)
            high = tl.where(deep & below, high, middle)
        first = tl.where(deep, high, place)
    follows = deep & ((place - first) % SEGMENT == 0)
    begins = (kept & (before != slot)) | follows
    begins_number = begins.to(tl.int64)
    at = tl.atomic_add(counts, tl.sum(begins_number, axis=0)) + tl.cumsum(begins_number, axis=0) - 1
    later = tl.load(sorted_slots + place + SEGMENT, mask=begins & (place + SEGMENT < terms), other=-1)
    # Where it begins, whether the row goes on after it, and whether it had begun before.
    tl.store(segment_starts + at, place * 4 + (later == slot).to(tl.int64) * 2 + follows.to(tl.int64), mask=begins)
    tl.store(segment_slots + at, slot, mask=begins)
    second = deep & (place - first == SEGMENT)
    second_number = second.to(tl.int64)
    long_count = tl.sum(second_number, axis=0)
    if long_count > 0:
        long_at = tl.atomic_add(counts + 1, long_count) + tl.cumsum(second_number, axis=0) - 1
        tl.store(long_rows + long_at, first, mask=second)

    term = tl.load(order + place, mask=kept, other=0)
    tl.store(sorted_index + place, tl.load(source_index + term, mask=kept, other=0), mask=kept)
    tl.store(sorted_coefs + place, tl.load(coefs + term, mask=kept, other=0.0), mask=kept)
    if bias_coefs is not None:
        tl.store(sorted_bias_coefs + place, tl.load(bias_coefs + term, mask=kept, other=0.0), mask=kept)


@triton.jit(**ANY)
def step_rows(
    rows,
    sources,
    sorted_slots,
    sorted_index,
    sorted_coefs,
    sorted_bias_coefs,
    segment_starts,
    segment_slots,
    counts,
    sums,
    refused,
    terms,
    lr,
    l2,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    SOURCE_WIDTH: tl.constexpr,
    SUM_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SEGMENT: tl.constexpr,
    UNROLL: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    LEARN_BIAS: tl.constexpr,
):
    """Sums each segment in order; the row of a segment that stands alone takes its step."""
    column = tl.arange(0, BLOCK)
    inside_row = (column < DIM)[None, :]
    count = tl.load(counts)
    for tile in range(tl.program_id(0), tl.cdiv(count, TILE), tl.num_programs(0)):
        place = tile * TILE + tl.arange(0, TILE).to(tl.int64)
        live = place < count
        packed = tl.load(segment_starts + place, mask=live, other=0)
        slot = tl.load(segment_slots + place, mask=live, other=0).to(tl.int64)
        start = packed // 4
        part = packed % 4 != 0
        whole = live & (packed % 4 == 0)
        row = rows + slot * WIDTH
        old = load_rows(row, column, inside_row, whole, DIM, OPTIMIZER)  # asked for early: it comes while terms do

        grad = tl.zeros([TILE, BLOCK], dtype=tl.float32)
        bias_grad = tl.zeros([TILE], dtype=tl.float32)
        inside = live
        done = 0
        going = 1
        while going > 0:
            for ahead in tl.static_range(UNROLL):
                term = start + done + ahead
                # All three at once: what stands behind the segment is another row's, but in order too.
                there = inside & (term < terms)
                its_slot = tl.load(sorted_slots + term, mask=there, other=-1)
                source = tl.load(sorted_index + term, mask=there, other=0)
                coef = tl.load(sorted_coefs + term, mask=there, other=0.0)
                inside = there & (its_slot == slot)
                coef = tl.where(inside, coef, 0.0)
                mask = inside[:, None] & inside_row
                vector = tl.load(sources + source[:, None] * SOURCE_WIDTH + column[None, :], mask=mask, other=0.0)
                grad = tl.fma(vector, tl.broadcast_to(coef[:, None], vector.shape), grad)
                if LEARN_BIAS:
                    bias_coef = tl.load(sorted_bias_coefs + term, mask=there, other=0.0)
                    bias_grad += tl.where(inside, bias_coef, 0.0)
            done += UNROLL
            going = tl.where(done < SEGMENT, tl.max(inside.to(tl.int32), axis=0), 0)

        step(row, column, inside_row, whole, old, grad, bias_grad, refused, lr, l2, DIM, OPTIMIZER, LEARN_BIAS)
        total = sums + (2 * (start // SEGMENT) + packed % 2) * SUM_WIDTH
        tl.store(total[:, None] + column[None, :], grad, mask=part[:, None] & inside_row)
        tl.store(total + DIM, bias_grad, mask=part)


@triton.jit(**ANY)
def join_rows(
    rows,
    sorted_slots,
    long_rows,
    counts,
    sums,
    refused,
    terms,
    lr,
    l2,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    SUM_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    JOINED: tl.constexpr,
    SEGMENT: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    LEARN_BIAS: tl.constexpr,
):
    """Adds up the segments of each row that has several, and takes its step."""
    column = tl.arange(0, BLOCK)
    inside_row = (column < DIM)[None, :]
    count = tl.load(counts + 1)
    for long_row in range(tl.program_id(0), count, tl.num_programs(0)):
        start = tl.load(long_rows + long_row)
        slot = tl.load(sorted_slots + start).to(tl.int64)
        grad = tl.zeros([1, BLOCK], dtype=tl.float32)
        bias_grad = tl.zeros([1], dtype=tl.float32)
        done = 0
        going = 1
        while going > 0:
            segment = done + tl.arange(0, JOINED)
            begin = start + segment.to(tl.int64) * SEGMENT
            inside = tl.load(sorted_slots + begin, mask=begin < terms, other=-1) == slot
            total = sums + (2 * (begin // SEGMENT) + (segment > 0).to(tl.int64)) * SUM_WIDTH
            part = tl.load(total[:, None] + column[None, :], mask=inside[:, None] & inside_row, other=0.0)
            grad += tl.sum(part, axis=0)[None, :]
            bias_grad += tl.sum(tl.load(total + DIM, mask=inside, other=0.0), axis=0)
            done += JOINED
            going = tl.min(inside.to(tl.int32), axis=0)
        row = rows + slot * WIDTH + tl.zeros([1], dtype=tl.int64)
        wanted = tl.full([1], 1, tl.int1)
        old = load_rows(row, column, inside_row, wanted, DIM, OPTIMIZER)
        step(row, column, inside_row, wanted, old, grad, bias_grad, refused, lr, l2, DIM, OPTIMIZER, LEARN_BIAS)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def sort_slots(slots: torch.Tensor, row_count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots in rising order and the term that each belongs to, int64; equal slots in the order of their terms.

    The slots come as int32 where they fit: half as many passes.
    """
    keys = slots.to(torch.int32) if row_count < 2**31 else slots
    ordered, order = torch.sort(keys, stable=True)
    return ordered, order


class Terms(NamedTuple):
    """The terms of a call, brought into the order of their rows."""

    slots: torch.Tensor
    source_index: torch.Tensor
    coefs: torch.Tensor
    bias_coefs: torch.Tensor


class Segments(NamedTuple):
    """Where each segment of the sorted terms begins, as `cut_segments` packs it, and the row that it belongs to."""

    starts: torch.Tensor
    slots: torch.Tensor


def _cut(
    ordered: tuple[torch.Tensor, torch.Tensor],
    source_index: torch.Tensor,
    coefs: torch.Tensor,
    bias_coefs: torch.Tensor | None,
    counts: torch.Tensor,
) -> tuple[Terms, Segments, torch.Tensor]:
    """The terms in order, their segments, and where rows of several segments begin. `counts` comes zeroed.

    ordered  what `sort_slots` has made of the slots
    """
    sorted_slots, order = ordered
    count, device = sorted_slots.numel(), sorted_slots.device
    sorted_index, starts = torch.empty((2, count), dtype=torch.int64, device=device)
    segments = Segments(starts, torch.empty_like(sorted_slots))
    long_rows = torch.empty(triton.cdiv(count, SEGMENT), dtype=torch.int64, device=device)
    terms = Terms(sorted_slots, sorted_index, *torch.empty((2, count), dtype=torch.float32, device=device))
    cut_segments[(triton.cdiv(count, CUT),)](
        sorted_slots,
        order,
        source_index,
        coefs,
        bias_coefs,
        *terms[1:],
        *segments,
        long_rows,
        counts,
        count,
        count.bit_length(),
        SEGMENT=SEGMENT,
        CUT=CUT,
        num_warps=CUT_WARPS,
        enable_fp_fusion=False,
    )
    return terms, segments, long_rows


@marked("update_rows", work.update_rows)
def update_rows(
    rows: torch.Tensor,
    slots: torch.Tensor,
    sources: torch.Tensor,
    source_index: torch.Tensor,
    coefs: torch.Tensor,
    bias_coefs: torch.Tensor | None,
    *,
    dim: int,
    lr: float,
    l2: float = 0.0,
    optimizer: str = "adagrad",
    ordered: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """How many rows refused their step, int64 []; the arguments are those of the kernel.

    ordered  what `sort_slots` has made of `slots`, where it is known already
    """
    count, device = slots.numel(), rows.device
    # Segments, rows of several, rows that refused: one tensor, so that one launch clears them.
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    refused = counts[2:]
    if count == 0:
        return refused[0]
    ordered = ordered or sort_slots(slots, rows.shape[0])
    terms, segments, long_rows = _cut(ordered, source_index, coefs, bias_coefs, counts)
    blocks, sum_width = triton.cdiv(count, SEGMENT), _sum_width(dim)
    sums = torch.empty((2 * blocks, sum_width), dtype=torch.float32, device=device)
    block, tile = tile_of(dim, STEP_FLOATS)
    shape = {"DIM": dim, "WIDTH": rows.shape[1], "SUM_WIDTH": sum_width, "BLOCK": block, "SEGMENT": SEGMENT}
    rule = {"OPTIMIZER": optimizer, "LEARN_BIAS": bias_coefs is not None}
    most = TILES_IN_TURN * _multiprocessors(device)
    found = counts, sums, refused, count, lr, l2
    step_rows[(min(triton.cdiv(count, tile), most),)](
        rows,
        sources,
        *terms,
        *segments,
        *found,
        **shape,
        **rule,
        SOURCE_WIDTH=sources.shape[1],
        TILE=tile,
        UNROLL=UNROLL[optimizer],
        num_warps=STEP_WARPS,
        enable_fp_fusion=False,
    )
    if count > SEGMENT:
        joined = tile_of(dim, JOIN_FLOATS)[1]
        join_rows[(min(blocks, most),)](
            rows, terms.slots, long_rows, *found, **shape, **rule, JOINED=joined, num_warps=JOIN_WARPS,
            enable_fp_fusion=False,
        )  # fmt: skip
    return refused[0]


def _sum_width(dim: int) -> int:
    """Columns of a segment's sum: vector and bias, rows of 16 bytes."""
    return (dim + 4) // 4 * 4


def cases() -> Iterator[Case]:
    """What to compile ahead of time: the launches above."""
    lists = dict.fromkeys(("order", "source_index", "sorted_index", "segment_starts", "long_rows", "counts"), "*i64")
    floats = dict.fromkeys(("coefs", "bias_coefs", "sorted_coefs", "sorted_bias_coefs"), "*fp32")
    slots, numbers = {"sorted_slots": "*i32", "segment_slots": "*i32"}, {"terms": "i32", "halvings": "i32"}
    cut = {"SEGMENT": SEGMENT, "CUT": CUT}
    yield Case("any dim", cut_segments, slots | lists | floats | numbers, cut, CUT_WARPS, vectors=False)
    rows = dict.fromkeys(("rows", "sources", "sums"), "*fp32") | {"refused": "*i64", "terms": "i32"}
    rates = {"lr": "fp32", "l2": "fp32"}
    for optimizer in OPTIMIZERS:
        for dim in (64, 128):
            width = (dim + 1 + state_floats(optimizer, dim) + 7) // 8 * 8
            block, tile = tile_of(dim, STEP_FLOATS)
            shape = {"DIM": dim, "WIDTH": width, "SUM_WIDTH": _sum_width(dim), "BLOCK": block, "SEGMENT": SEGMENT}
            rule: dict[str, Any] = {"OPTIMIZER": optimizer, "LEARN_BIAS": True}
            own: dict[str, Any] = {"SOURCE_WIDTH": dim, "TILE": tile, "UNROLL": UNROLL[optimizer]}
            name = f"{optimizer}, dim {dim}"
            yield Case(name, step_rows, slots | lists | floats | rows | rates, shape | rule | own, STEP_WARPS)
            own = {"JOINED": tile_of(dim, JOIN_FLOATS)[1]}
            yield Case(name, join_rows, slots | lists | rows | rates, shape | rule | own, JOIN_WARPS)
