"""loss_grads on the device, in Triton: launches alone, nothing is checked here and nothing waits for the device.

Rows are read where they lie, by slot. bpr and pointwise losses: a warp has a tile of events, reads each row once and
goes through an event's negatives in order. softmax: a program has 32 events and scores the shared negatives tile by
tile, in float32 throughout (never tf32); scores go into `negative_coefs` and become coefficients there. An event's
bits depend on nothing else in the call. Invariants, the caller's to keep: the contract of `loss_grads`, tensors on one
device, `rows` of a width that is a multiple of 4. Any thread, on its current stream.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from ...contract.losses import POINTWISE
from ...machine.marks import marked
from .. import work
from ..launch import Case, power_of_two, tile_of

PAIR_FLOATS = 128  # of a tile of a warp
UNROLL = 2  # negatives under way at once
EVENTS, NEGATIVES, COLUMNS = 32, 64, 64  # of a tile of scores, and of a tile of gradients
DEPTH = 16  # columns, or negatives, that a tile takes in at once: more would not fit the registers
WARPS = 8
# A kernel is not compiled anew for another number, or for a column that begins elsewhere.
ANY = {
    "do_not_specialize": ["events", "drawn"],
    "do_not_specialize_on_alignment": [
        "query_slots",
        "positives",
        "negatives",
        "weights",
        "values",
        "offsets",
        "losses",
        "positive_coefs",
        "negative_coefs",
    ],
}


@triton.jit
def miss(gap):
    """-log sigmoid(-gap), and its derivative sigmoid(gap); neither overflows."""
    small = tl.exp(-tl.abs(gap))
    return tl.maximum(gap, 0.0) + tl.log(1.0 + small), tl.where(gap > 0.0, 1.0, small) / (1.0 + small)


@triton.jit
def sum_negatives(
    rows, negatives, negative_coefs, event, live, drawn, query, positive_slot, score, weight,
    DIM: tl.constexpr, WIDTH: tl.constexpr, UNROLL: tl.constexpr
):  # fmt: skip
    """bpr: loss, coefficient of the positive and gradient by the negatives alone; writes their coefficients."""
    column = tl.arange(0, query.shape[1])
    inside_row = (column < DIM)[None, :]
    loss = tl.zeros_like(score)
    coef = tl.zeros_like(score)
    unmasked = tl.zeros(score.shape, dtype=tl.int32)
    for k in range(0, drawn):
        slot = tl.load(negatives + event * drawn + k, mask=live, other=-1)
        unmasked += ((slot != -1) & (slot != positive_slot)).to(tl.int32)
    share = tl.where(unmasked > 0, weight / tl.maximum(unmasked, 1).to(tl.float32), 0.0)
    grad = tl.zeros_like(query)
    end = (event + 1) * drawn
    for first in range(0, drawn, UNROLL):
        for step in tl.static_range(UNROLL):
            place = event * drawn + first + step
            inside = live & (place < end)
            slot = tl.load(negatives + place, mask=inside, other=-1)
            counts = (slot != -1) & (slot != positive_slot)
            row = rows + slot * WIDTH
            negative = tl.load(row[:, None] + column[None, :], mask=counts[:, None] & inside_row, other=0.0)
            bias = tl.load(row + DIM, mask=counts, other=0.0)
            loss_of_one, slope = miss(tl.sum(query * negative, axis=1) + bias - score)
            slope = tl.where(counts, slope * share, 0.0)
            loss += tl.where(counts, loss_of_one * share, 0.0)
            coef -= slope
            grad = tl.fma(negative, tl.broadcast_to(slope[:, None], negative.shape), grad)
            tl.store(negative_coefs + place, slope, mask=inside)
    return loss, coef, grad


@triton.jit(**ANY)
def pair_grads(
    queries,
    query_slots,
    rows,
    positives,
    negatives,
    weights,
    values,
    offsets,
    losses,
    query_grads,
    positive_coefs,
    negative_coefs,
    events,
    drawn,
    LOSS: tl.constexpr,
    DIM: tl.constexpr,
    QUERY_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """bpr and pointwise losses: each score is one query beside one row."""
    event = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    live = event < events
    column = tl.arange(0, BLOCK)
    inside_row = (column < DIM)[None, :]
    mask = live[:, None] & inside_row
    query_slot = event if query_slots is None else tl.load(query_slots + event, mask=live, other=0)
    query = tl.load(queries + query_slot[:, None] * QUERY_WIDTH + column[None, :], mask=mask, other=0.0)
    positive_slot = tl.load(positives + event, mask=live, other=0)
    positive_row = rows + positive_slot * WIDTH
    positive = tl.load(positive_row[:, None] + column[None, :], mask=mask, other=0.0)
    score = tl.sum(query * positive, axis=1) + tl.load(positive_row + DIM, mask=live, other=0.0)
    weight = tl.full([TILE], 1.0, tl.float32)
    if weights is not None:
        weight = tl.load(weights + event, mask=live, other=0.0)

    if LOSS == "bpr":
        loss, coef, grad = sum_negatives(
            rows, negatives, negative_coefs, event, live, drawn, query, positive_slot, score, weight, DIM, WIDTH, UNROLL
        )
        grad = tl.fma(positive, tl.broadcast_to(coef[:, None], positive.shape), grad)
    else:
        if offsets is not None:
            score += tl.load(offsets + event, mask=live, other=0.0)
        value = tl.load(values + event, mask=live, other=0.0)
        if LOSS == "logistic":
            one = value > 0.5
            loss, slope = miss(tl.where(one, -score, score))
            coef = tl.where(one, -slope, slope) * weight
            loss *= weight
        else:
            error = score - value
            loss = error * error * weight
            coef = (error + error) * weight
        grad = positive * coef[:, None]
    tl.store(losses + event, loss, mask=live)
    tl.store(positive_coefs + event, coef, mask=live)
    tl.store(query_grads + event[:, None] * DIM + column[None, :], grad, mask=mask)


@triton.jit
def score_tile(query_row, live, row, drawn_row, DIM: tl.constexpr, DEPTH: tl.constexpr):
    """query . vector for each event beside each negative of a tile; biases are not in it."""
    scores = tl.zeros([query_row.shape[0], row.shape[0]], dtype=tl.float32)
    for left in range(0, DIM, DEPTH):
        column = left + tl.arange(0, DEPTH)[None, :]
        query = tl.load(query_row + column, mask=live[:, None] & (column < DIM), other=0.0)
        negative = tl.load(row[:, None] + column, mask=drawn_row[:, None] & (column < DIM), other=0.0)
        scores = tl.dot(query, tl.trans(negative), scores, input_precision="ieee")
    return scores


@triton.jit
def add_negatives(
    grad, column, rows, negatives, negative_coefs, event, live, drawn,
    DIM: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    """The gradients of some columns of the queries, and in them the negatives by their coefficients."""
    for first in range(0, drawn, DEPTH):
        k = first + tl.arange(0, DEPTH)
        slot = tl.load(negatives + k, mask=k < drawn, other=-1)
        place = event[:, None] * drawn + k[None, :]
        coefs = tl.load(negative_coefs + place, mask=live[:, None] & (k < drawn)[None, :], other=0.0)
        mask_of_row = (slot != -1)[:, None] & (column < DIM)
        negative = tl.load((rows + slot * WIDTH)[:, None] + column, mask=mask_of_row, other=0.0)
        grad = tl.dot(coefs, negative, grad, input_precision="ieee")
    return grad


@triton.jit(**ANY)
def softmax_grads(
    queries, query_slots, rows, positives, negatives, weights,
    losses, query_grads, positive_coefs, negative_coefs, events, drawn,
    DIM: tl.constexpr, QUERY_WIDTH: tl.constexpr, WIDTH: tl.constexpr,
    EVENTS: tl.constexpr, NEGATIVES: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """softmax over the positive of an event and negatives that all events share."""
    event = tl.program_id(0).to(tl.int64) * EVENTS + tl.arange(0, EVENTS)
    live = event < events
    query_slot = event if query_slots is None else tl.load(query_slots + event, mask=live, other=0)
    query_row = (queries + query_slot * QUERY_WIDTH)[:, None]
    positive_slot = tl.load(positives + event, mask=live, other=0)
    positive_row = rows + positive_slot * WIDTH
    score = tl.load(positive_row + DIM, mask=live, other=0.0)
    for left in range(0, DIM, COLUMNS):
        column = left + tl.arange(0, COLUMNS)[None, :]
        mask = live[:, None] & (column < DIM)
        query = tl.load(query_row + column, mask=mask, other=0.0)
        score += tl.sum(query * tl.load(positive_row[:, None] + column, mask=mask, other=0.0), axis=1)

    # The gaps to the positive's score; the largest so far, and the sum of exp(gap - largest) over the negatives.
    top = tl.zeros([EVENTS], dtype=tl.float32)
    total = tl.zeros([EVENTS], dtype=tl.float32)
    for first in range(0, drawn, NEGATIVES):
        k = first + tl.arange(0, NEGATIVES)
        slot = tl.load(negatives + k, mask=k < drawn, other=-1)
        row = rows + slot * WIDTH
        drawn_row = slot != -1
        gaps = score_tile(query_row, live, row, drawn_row, DIM, DEPTH)
        gaps += tl.load(row + DIM, mask=drawn_row, other=0.0)[None, :] - score[:, None]
        counts = drawn_row[None, :] & (slot[None, :] != positive_slot[:, None])
        gaps = tl.where(counts, gaps, float("-inf"))
        higher = tl.maximum(top, tl.max(gaps, axis=1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(gaps - higher[:, None]), axis=1)
        top = higher
        place = event[:, None] * drawn + k[None, :]
        tl.store(negative_coefs + place, gaps, mask=live[:, None] & (k < drawn)[None, :])
    # 1 - p(positive) is the share of the negatives: no cancellation when the positive is all but certain.
    whole = total + tl.exp(-top)
    scale = 1.0 / whole
    loss = top + tl.log(whole)
    if weights is not None:
        weight = tl.load(weights + event, mask=live, other=0.0)
        scale *= weight
        loss *= weight
    positive_coef = -(total * scale)
    tl.store(losses + event, loss, mask=live)
    tl.store(positive_coefs + event, positive_coef, mask=live)

    tl.debug_barrier()  # a lane reads below what another lane wrote above
    for first in range(0, drawn, NEGATIVES):
        k = first + tl.arange(0, NEGATIVES)
        place = event[:, None] * drawn + k[None, :]
        mask = live[:, None] & (k < drawn)[None, :]
        gaps = tl.load(negative_coefs + place, mask=mask, other=float("-inf"))
        tl.store(negative_coefs + place, tl.exp(gaps - top[:, None]) * scale[:, None], mask=mask)

    tl.debug_barrier()
    for left in range(0, DIM, COLUMNS):
        column = left + tl.arange(0, COLUMNS)[None, :]
        mask = live[:, None] & (column < DIM)
        grad = positive_coef[:, None] * tl.load(positive_row[:, None] + column, mask=mask, other=0.0)
        grad = add_negatives(grad, column, rows, negatives, negative_coefs, event, live, drawn, DIM, WIDTH, DEPTH)
        tl.store(query_grads + event[:, None] * DIM + column, grad, mask=mask)


@marked("loss_grads", work.loss_grads)
def loss_grads(
    loss: str,
    queries: torch.Tensor,
    rows: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor | None,
    *,
    dim: int,
    query_slots: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    values: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a LossGrads holds, in its order; the arguments are those of the kernel."""
    events, drawn = positives.numel(), 0 if negatives is None else negatives.shape[-1]
    floats: dict[str, Any] = {"dtype": torch.float32, "device": rows.device}
    losses, positive_coefs = torch.empty((2, events), **floats)
    query_grads = torch.empty((events, dim), **floats)
    negative_coefs = torch.empty((events, drawn), **floats)
    out = losses, query_grads, positive_coefs, negative_coefs
    if events == 0:
        return out
    shape = {"DIM": dim, "QUERY_WIDTH": queries.shape[1], "WIDTH": rows.shape[1]}
    if loss == "softmax":
        softmax_grads[(triton.cdiv(events, EVENTS),)](
            queries,
            query_slots,
            rows,
            positives,
            negatives,
            weights,
            *out,
            events,
            drawn,
            **shape,
            **_score_tile(dim),
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
        return out
    block, tile = tile_of(dim, PAIR_FLOATS)
    pair_grads[(triton.cdiv(events, tile),)](
        queries,
        query_slots,
        rows,
        positives,
        negatives,
        weights,
        values,
        offsets,
        *out,
        events,
        drawn,
        LOSS=loss,
        **shape,
        BLOCK=block,
        TILE=tile,
        UNROLL=UNROLL,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return out


def _score_tile(dim: int) -> dict[str, int]:
    columns = max(DEPTH, min(COLUMNS, power_of_two(dim)))
    return {"EVENTS": EVENTS, "NEGATIVES": NEGATIVES, "COLUMNS": columns, "DEPTH": DEPTH}


def cases() -> Iterator[Case]:
    """What to compile ahead of time: the launches above for the rows of row-wise Adagrad."""
    floats, slots = "*fp32", "*i64"
    shared = {"queries": floats, "query_slots": slots, "rows": floats, "positives": slots, "weights": floats}
    out = dict.fromkeys(("losses", "query_grads", "positive_coefs", "negative_coefs"), floats)
    out |= {"events": "i32", "drawn": "i32"}
    for dim, width in ((64, 72), (128, 136)):
        shape = {"DIM": dim, "QUERY_WIDTH": width, "WIDTH": width}
        yield Case(f"dim {dim}", softmax_grads, shared | {"negatives": slots} | out, shape | _score_tile(dim), WARPS)
        block, tile = tile_of(dim, PAIR_FLOATS)
        shape |= {"BLOCK": block, "TILE": tile, "UNROLL": UNROLL}
        for loss in ("bpr", *POINTWISE):
            types = {"values": floats, "offsets": floats} if loss in POINTWISE else {"negatives": slots}
            absent = {"negatives": None} if loss in POINTWISE else {"values": None, "offsets": None}
            yield Case(f"{loss}, dim {dim}", pair_grads, shared | types | out, shape | absent | {"LOSS": loss}, 1)
