"""The scans of score_topk in Triton: every score is written once, and the best key of each tile and group of items.

Not for the choice among them, nor for what is done with the keys: triton_kernel.py. A scan writes for every query
scores [Q, span], NaN where an item may not be returned, tops [Q, span / TILE] and groups [Q, span / (TILE * FANOUT)],
which were EMPTY; ROWS divides what a group has. Invariants: as there.
"""

import triton
import triton.language as tl

EMPTY = tl.constexpr(-(2**63))  # no key: less than any


@triton.jit
def pack(score, rank, alive):
    """The key of a score: larger is better. Both zeros are one; NaN, or not alive: EMPTY."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - rank).to(tl.int64)
    return tl.where(alive & (score == score), key, EMPTY)


@triton.jit
def keep(
    score, alive, rank, query, part, scores, tops, groups, span, ROWS: tl.constexpr, TILE: tl.constexpr,
    FANOUT: tl.constexpr
):  # fmt: skip
    """Writes a query's scores of the items of a part, and the best keys of their tiles and group."""
    tl.store(scores + query * span + part * ROWS + tl.arange(0, ROWS), tl.where(alive, score, float("nan")))
    best = tl.max(tl.reshape(pack(score, rank, alive), [ROWS // TILE, TILE]), axis=1)
    tile = part * (ROWS // TILE) + tl.arange(0, ROWS // TILE)
    tl.store(tops + query * (span // TILE) + tile, best)
    group = groups + query * tl.cdiv(span, TILE * FANOUT) + (part * ROWS) // (TILE * FANOUT)
    tl.atomic_max(group, tl.max(best, axis=0), sem="relaxed")


@triton.jit(do_not_specialize=["n_queries", "words", "first", "end", "span"])
def scan_rows(
    queries,
    vectors,
    biases,
    ranks,
    allowed,
    scores,
    tops,
    groups,
    n_queries,
    words,
    first,
    end,
    span,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    FANOUT: tl.constexpr,
    FILTERED: tl.constexpr,
):
    """Scores [Q, span] of the items first..end, the best key of each tile and each group; ROWS items a program."""
    part = tl.program_id(0)
    rows = part * ROWS + tl.arange(0, ROWS)
    at = first + rows.to(tl.int64)
    inside = at < end
    wanted = inside
    if FILTERED:  # rows that no query may get are not read
        wanted = tl.zeros([ROWS], tl.int1)
        for j in tl.static_range(QUERIES):
            word = tl.load(allowed + tl.minimum(j, n_queries - 1) * words + (at >> 5), mask=inside, other=0)
            wanted = wanted | (((word >> (at & 31).to(tl.int32)) & 1) != 0)
    bias = tl.load(biases + at, mask=wanted, other=0.0)
    rank = tl.load(ranks + at, mask=wanted, other=0)
    if WIDTH <= BLOCK:
        columns = tl.arange(0, BLOCK)
        here = wanted[:, None] & (columns < WIDTH)[None, :]
        block = tl.load(vectors + at[:, None] * WIDTH + columns[None, :], mask=here, other=0.0)
    for j in tl.static_range(QUERIES):
        if j < n_queries:
            if WIDTH <= BLOCK:
                query = tl.load(queries + j * DIM + columns, mask=columns < DIM, other=0.0)
                score = tl.sum(block * query[None, :], axis=1)
            else:
                score = tl.zeros([ROWS], tl.float32)
                for start in range(0, WIDTH, BLOCK):
                    columns = start + tl.arange(0, BLOCK)
                    here = wanted[:, None] & (columns < WIDTH)[None, :]
                    block = tl.load(vectors + at[:, None] * WIDTH + columns[None, :], mask=here, other=0.0)
                    query = tl.load(queries + j * DIM + columns, mask=columns < DIM, other=0.0)
                    score += tl.sum(block * query[None, :], axis=1)
            score += bias
            alive = wanted
            if FILTERED:
                word = tl.load(allowed + j * words + (at >> 5), mask=inside, other=0)
                alive = inside & (((word >> (at & 31).to(tl.int32)) & 1) != 0)
            keep(score, alive, rank, j, part, scores, tops, groups, span, ROWS, TILE, FANOUT)


@triton.jit(do_not_specialize=["n_queries", "words", "first", "end", "span"])
def scan_products(
    biases,
    ranks,
    allowed,
    scores,
    tops,
    groups,
    n_queries,
    words,
    first,
    end,
    span,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    FANOUT: tl.constexpr,
    FILTERED: tl.constexpr,
):
    """As `scan_rows`, where scores [Q, span] hold the products of queries and vectors already."""
    part = tl.program_id(0) % (span // ROWS)
    at = first + (part * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside = at < end
    bias = tl.load(biases + at, mask=inside, other=0.0)
    rank = tl.load(ranks + at, mask=inside, other=0)
    for j in tl.static_range(QUERIES):
        query = (tl.program_id(0) // (span // ROWS) * QUERIES + j).to(tl.int64)
        if query < n_queries:
            score = tl.load(scores + query * span + part * ROWS + tl.arange(0, ROWS), mask=inside, other=0.0) + bias
            alive = inside
            if FILTERED:
                word = tl.load(allowed + query * words + (at >> 5), mask=inside, other=0)
                alive = inside & (((word >> (at & 31).to(tl.int32)) & 1) != 0)
            keep(score, alive, rank, query, part, scores, tops, groups, span, ROWS, TILE, FANOUT)


@triton.jit(do_not_specialize=["n_queries", "words", "first", "end", "span"])
def scan_tiles(
    queries,
    vectors,
    biases,
    ranks,
    allowed,
    scores,
    tops,
    groups,
    n_queries,
    words,
    first,
    end,
    span,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    FANOUT: tl.constexpr,
    FILTERED: tl.constexpr,
):
    """As `scan_rows`, a tile of QUERIES x ROWS scores a program; those of the same items follow each other."""
    blocks = tl.cdiv(n_queries, QUERIES)
    part = tl.program_id(0) // blocks
    queue = (tl.program_id(0) % blocks) * QUERIES + tl.arange(0, QUERIES)
    asked = (queue < n_queries)[:, None]
    queue = queue.to(tl.int64)
    rows = part * ROWS + tl.arange(0, ROWS)
    at = first + rows.to(tl.int64)
    inside = at < end
    columns = tl.arange(0, BLOCK)
    score = tl.zeros([QUERIES, ROWS], tl.float32)
    for start in range(0, WIDTH, BLOCK):
        query = tl.load(
            queries + queue[:, None] * DIM + (start + columns)[None, :],
            mask=asked & (start + columns < DIM)[None, :],
            other=0.0,
        )
        block = tl.load(
            vectors + at[:, None] * WIDTH + (start + columns)[None, :],
            mask=inside[:, None] & (start + columns < WIDTH)[None, :],
            other=0.0,
        )
        score = tl.dot(query, tl.trans(block), score, input_precision="ieee")
    score += tl.load(biases + at, mask=inside, other=0.0)[None, :]
    rank = tl.load(ranks + at, mask=inside, other=0)
    alive = asked & inside[None, :]
    if FILTERED:
        word = tl.load(allowed + queue[:, None] * words + (at >> 5)[None, :], mask=alive, other=0)
        alive = alive & (((word >> (at & 31).to(tl.int32)[None, :]) & 1) != 0)
    tl.store(scores + queue[:, None] * span + rows[None, :], tl.where(alive, score, float("nan")), mask=asked)
    keys = tl.reshape(pack(score, rank[None, :], alive), [QUERIES, ROWS // TILE, TILE])
    best = tl.max(keys, axis=2)
    tile = part * (ROWS // TILE) + tl.arange(0, ROWS // TILE)
    tl.store(tops + queue[:, None] * (span // TILE) + tile[None, :], best, mask=asked)
    group = groups + queue * tl.cdiv(span, TILE * FANOUT) + (part * ROWS) // (TILE * FANOUT)
    tl.atomic_max(group, tl.max(best, axis=1), mask=queue < n_queries, sem="relaxed")
