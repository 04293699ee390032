"""score_topk on a GPU: one pass over the catalogue that keeps the best of every tile, and a search among those.

The k best items lie in the k tiles whose best items are best: were one in another tile, k tiles would each hold
something better. So the scan writes every score once (4 bytes beside a row's 512) and the best key of each tile of 64
items; then only k tiles are looked at. How many does not depend on the data, so nothing is waited for or counted on the
host. Tiles are in groups, which have a best key too (an integer maximum: any order gives the same), so the search goes
down three levels and reads k x 64 keys on each.

A key is an int64: the score's bits in an order-preserving form above, the item's rank among all ids, negated, below. No
two items share one, which is what makes the argument hold with ties, and its order is score down, then id up. The
smallest int64 stands for what may not be returned. Ranks change whenever an id comes or goes; the caller keeps them
(`rank_ids`) for as long as the ids stay.

Up to FEW queries (one, over wide rows) are scored row by row, a row summed by one warp: a scan at the speed of memory.
More are scored in tiles, `tl.dot` in full float32. The two add up in different orders, so the last bit of a score
depends on which it was, that is on how many queries a call has, and on nothing else in it. The same call gives the same
bits. With PRODUCTS torch multiplies instead of `tl.dot`; then it is for torch's library to say in which order it adds
up where in the catalogue, so the scores of two equal items may differ by rounding.

Knows nothing of cosines: the caller passes vectors of length 1. Checks shapes and types, not values. Any thread, on its
current stream; no synchronisation; writes fresh memory only. Runs in Triton's interpreter on CPU tensors.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...contract.errors import InputError
from ...machine.marks import marked
from .. import work
from ..launch import Case, power_of_two
from . import padded
from .triton_scan import EMPTY, pack, scan_products, scan_rows, scan_tiles

FEW = 8  # queries that are scored row by row
TILE = 64  # items that have a best key in common
FANOUT = 64  # tiles of a group
PART = 8192  # floats of the catalogue that one program of the row scan reads at a time
SCAN_WARPS = 4
SQUARE = (64, 64, 32, 4)  # queries, items, columns at a time and warps of the tile scan
PRODUCTS = False  # whether more are scored by torch's matrix product, where that is in full float32
LINE = (8, 1024)  # queries and items of one program that looks through products
SPAN = 2**27  # scores held at a time: 512 MiB; more are made and searched in turns
MOST_QUERIES = 1024  # of one turn
# k up to which one program per query searches; a larger k is left to torch.topk, and any k in the interpreter, which
# takes seconds to sort.
SEARCHED = 0 if triton.knobs.runtime.interpret else 32


class Ranking(NamedTuple):
    """ranks int32 [N]: how many ids come before that of position p; order int32 [N]: the position of each rank."""

    ranks: Tensor
    order: Tensor


class Items(NamedTuple):
    """What is ranked: vectors float32 [N, D16], biases float32 [N], ids int64 [N], and the ranking of the ids."""

    vectors: Tensor
    biases: Tensor
    ids: Tensor
    ranking: Ranking


class Ranked(NamedTuple):
    """The answer: ids int64 [Q, k], -1 where none is left; scores float32 [Q, k]; counts int64 [Q] of real ones."""

    ids: Tensor
    scores: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, count: int, k: int, device: torch.device) -> "Ranked":
        ids = torch.empty((count, k), dtype=torch.int64, device=device)
        scores = torch.empty((count, k), dtype=torch.float32, device=device)
        return cls(ids, scores, torch.empty(count, dtype=torch.int64, device=device))

    def part(self, rows: slice) -> "Ranked":
        return Ranked(*(tensor[rows] for tensor in self))


@marked("rank_ids", work.rank_ids)
def rank_ids(ids: Tensor) -> Ranking:
    """The ranking of ids int64 [N]; of equal ids the lower position is first. A sort: keep it while `ids` stays."""
    order = torch.argsort(ids, stable=True).to(torch.int32)
    ranks = torch.empty_like(order)
    ranks[order.long()] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    return Ranking(ranks, order)


@triton.jit
def rank_in(key):
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def give(key, query, at, ids, order, best_ids, best_scores, k):
    """Writes the ids and scores of keys to the places `at` below k of a query's row; says which are real."""
    real = (key > EMPTY) & (at < k)
    position = tl.load(order + rank_in(key), mask=real, other=0)
    ordered = (key >> 32).to(tl.int32)
    score = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tl.store(best_ids + query * k + at, tl.load(ids + position, mask=real, other=-1), mask=at < k)
    tl.store(best_scores + query * k + at, tl.where(real, score, float("-inf")), mask=at < k)
    return real


@triton.jit(do_not_specialize=["first", "end", "span", "k"])
def search(
    scores,
    tops,
    groups,
    ranks,
    order,
    best,
    ids,
    best_ids,
    best_scores,
    counts,
    first,
    end,
    span,
    k,
    TILE: tl.constexpr,
    FANOUT: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
):
    """The K best keys of a query's scores, by its best groups and their best tiles: falling, to best [Q, K].

    LAST: there are no other items to come, and this is the answer, [Q, k].
    """
    query = tl.program_id(0).to(tl.int64)
    n_groups = tl.cdiv(span, TILE * FANOUT)
    kept = tl.full([K], EMPTY, tl.int64)
    for start in range(0, n_groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        more = tl.load(groups + query * n_groups + group, mask=group < n_groups, other=EMPTY)
        kept = tl.topk(tl.reshape(tl.join(kept, tl.topk(more, K)), [2 * K]), K)

    found = kept > EMPTY
    at = tl.load(order + rank_in(kept), mask=found, other=0).to(tl.int64) - first
    tile = (at // (TILE * FANOUT))[:, None] * FANOUT + tl.arange(0, FANOUT)[None, :]
    some = found[:, None] & (tile < span // TILE)
    more = tl.load(tops + query * (span // TILE) + tile, mask=some, other=EMPTY)
    kept = tl.topk(tl.reshape(more, [K * FANOUT]), K)

    found = kept > EMPTY
    at = tl.load(order + rank_in(kept), mask=found, other=0).to(tl.int64) - first
    item = (at // TILE)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    some = found[:, None] & (first + item < end)
    score = tl.load(scores + query * span + item, mask=some, other=float("nan"))
    rank = tl.load(ranks + first + item, mask=some, other=0)
    kept = tl.topk(tl.reshape(pack(score, rank, some), [K * TILE]), K)
    if LAST:
        real = give(kept, query, tl.arange(0, K), ids, order, best_ids, best_scores, k)
        tl.store(counts + query, tl.sum(real.to(tl.int64), axis=0))
    else:
        tl.store(best + query * K + tl.arange(0, K), kept)


@triton.jit(do_not_specialize=["first", "end", "span", "tiles"])
def unfold(scores, tops, ranks, order, keys, first, end, span, tiles, TILE: tl.constexpr):
    """keys [Q, tiles * TILE]: of all items of the tiles whose best keys are tops [Q, tiles], a program for each."""
    chosen = tl.program_id(0).to(tl.int64)
    query = chosen // tiles
    lane = tl.arange(0, TILE)
    key = tl.load(tops + chosen + lane * 0)
    at = tl.load(order + rank_in(key), mask=key > EMPTY, other=0).to(tl.int64) - first
    item = at // TILE * TILE + lane
    some = (key > EMPTY) & (first + item < end)
    score = tl.load(scores + query * span + item, mask=some, other=float("nan"))
    rank = tl.load(ranks + first + item, mask=some, other=0)
    tl.store(keys + chosen * TILE + lane, pack(score, rank, some))


@triton.jit(do_not_specialize=["width", "k"])
def answer(keys, ids, order, best_ids, best_scores, counts, width, k, BLOCK: tl.constexpr):
    """Keys [Q, width], falling, to ids, scores [Q, k] and counts [Q]."""
    query = tl.program_id(0).to(tl.int64)
    count = tl.zeros([], tl.int64)
    for start in range(0, k, BLOCK):
        at = start + tl.arange(0, BLOCK)
        key = tl.load(keys + query * width + at, mask=(at < k) & (at < width), other=EMPTY)
        real = give(key, query, at, ids, order, best_ids, best_scores, k)
        count += tl.sum(real.to(tl.int64), axis=0)
    tl.store(counts + query, count)


def cases() -> Iterator[Case]:
    """What is worth a look before there is a device: every kernel at the shapes that are measured."""
    types = dict.fromkeys(("queries", "vectors", "biases", "scores", "best_scores"), "*fp32")
    types |= dict.fromkeys(("ranks", "order", "allowed"), "*i32")
    types |= dict.fromkeys(("tops", "groups", "best", "keys", "ids", "best_ids", "counts"), "*i64")
    types |= dict.fromkeys(("n_queries", "words", "first", "end", "span", "tiles", "width", "k"), "i32")
    for count, dim, filtered in [(1, 128, False), (1, 128, True), (1, 64, False), (8, 128, False), (1, 300, False)]:
        constants = scan_shape(count, dim) | {"FILTERED": filtered}
        yield Case(f"{count} x {dim}{', filter' * filtered}", scan_rows, types, constants, SCAN_WARPS)
    for count, dim, filtered in [(16, 64, False), (64, 128, False), (64, 128, True)]:
        constants = scan_shape(count, dim) | {"FILTERED": filtered}
        yield Case(f"{count} x {dim}{', filter' * filtered}", scan_tiles, types, constants, SQUARE[3], False)
    line = {"QUERIES": LINE[0], "ROWS": LINE[1], "TILE": TILE, "FANOUT": FANOUT, "FILTERED": False}
    yield Case("any dim", scan_products, types, line, 4, False)
    search_shape = {"TILE": TILE, "FANOUT": FANOUT, "K": 16, "BLOCK": 256, "LAST": True}
    yield Case("k 10", search, types, search_shape, 4, False)
    yield Case("k 1000", unfold, types, {"TILE": TILE}, 1, False)
    yield Case("k 10", answer, types, {"BLOCK": 16}, 1, False)


@marked("score_topk", work.score_topk)
def score_topk(
    queries: Tensor,
    vectors: Tensor,
    biases: Tensor,
    ids: Tensor,
    k: int,
    *,
    allowed: Tensor | None = None,
    ranking: Ranking | None = None,
) -> Ranked:
    """The k items with the highest query . vector + bias, for each query: score down, then id up, exactly.

    As the function of this folder, for tensors of one device, all contiguous:

    queries  float32 [Q, dim];  vectors  float32 [N, D16];  biases  float32 [N];  ids  int64 [N], N below 2^31
    k        1 or more; up to SEARCHED it is quickest
    allowed  int32 or uint32 [Q or 1, ceil(N / 32)]: bit n % 32 of word n // 32 says that item n may be returned
    ranking  `rank_ids(ids)`; None: sorted here, which takes longer than the scan of a small catalogue

    Returns tensors on the same device. Raises InputError.
    """
    count, items = _checked(queries, vectors, biases, ids, k, allowed)
    if allowed is not None:
        allowed = allowed.view(torch.int32)
    best = Ranked.empty(count, k, queries.device)
    if count == 0 or items == 0:
        return Ranked(best.ids.fill_(-1), best.scores.fill_(-torch.inf), best.counts.zero_())
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():
        catalogue = Items(vectors, biases, ids, ranking or rank_ids(ids))
        for start in range(0, count, MOST_QUERIES):
            part = slice(start, start + MOST_QUERIES)
            mine = allowed if allowed is None or len(allowed) == 1 else allowed[part]
            _answer(queries[part], catalogue, mine, best.part(part))
    return best


def by_rows(count: int, dim: int) -> bool:
    """Whether a call of `count` queries is scored row by row; several only while a row fits the registers."""
    return count <= (FEW if padded(dim) <= PART // TILE else 1)


def scan_shape(count: int, dim: int) -> dict[str, int]:
    """The constants of the scan of `count` queries over vectors of `dim`."""
    most, rows, block, _ = SQUARE
    width = padded(dim)
    if by_rows(count, dim):
        block = min(power_of_two(width), PART // TILE)
        rows, asked = PART // block, power_of_two(count)
    else:
        block, asked = min(width, block), min(most, power_of_two(count))
    rows = min(rows, TILE * FANOUT)
    return {"DIM": dim, "WIDTH": width, "BLOCK": block, "QUERIES": asked, "ROWS": rows, "TILE": TILE, "FANOUT": FANOUT}


def _answer(queries: Tensor, catalogue: Items, allowed: Tensor | None, best: Ranked) -> None:
    """Writes the best of up to MOST_QUERIES queries, over as many items at a time as SPAN has room for."""
    vectors, biases, ids, ranking = catalogue
    count, items, k = len(queries), len(vectors), best.ids.shape[1]
    shape = scan_shape(count, queries.shape[1])
    group = TILE * FANOUT
    span = min(-(-items // group), max(1, SPAN // count // group)) * group
    scores = torch.empty((count, span), dtype=torch.float32, device=queries.device)
    tops = torch.empty((count, span // TILE), dtype=torch.int64, device=queries.device)
    rows = by_rows(count, shape["DIM"])
    products = PRODUCTS and torch.get_float32_matmul_precision() == "highest"
    words = 0 if allowed is None or len(allowed) == 1 else allowed.shape[1]  # from a query's to the next one's
    kept: Tensor | None = None
    for first in range(0, items, span):
        end = min(first + span, items)
        groups = torch.full((count, span // group), EMPTY.value, dtype=torch.int64, device=queries.device)
        found = (biases, ranking.ranks, allowed, scores, tops, groups, count, words, first, end, span)
        filtered = allowed is not None
        if rows or not products:
            scan, warps = (scan_rows, SCAN_WARPS) if rows else (scan_tiles, SQUARE[3])
            programs = span // shape["ROWS"] * (1 if rows else -(-count // shape["QUERIES"]))
            scan[(programs,)](
                queries, vectors, *found, **shape, FILTERED=filtered, num_warps=warps, enable_fp_fusion=False
            )
        else:
            torch.mm(queries, vectors[first:end, : shape["DIM"]].T, out=scores[:, : end - first])
            asked, line = LINE[0], min(LINE[1], group)
            scan_products[(span // line * -(-count // asked),)](
                *found, QUERIES=asked, ROWS=line, TILE=TILE, FANOUT=FANOUT, FILTERED=filtered, num_warps=4,
                enable_fp_fusion=False,
            )  # fmt: skip
        if k <= SEARCHED:
            wide = max(2, power_of_two(k))
            last = end == items and kept is None
            keys = None if last else torch.empty((count, wide), dtype=torch.int64, device=queries.device)
            search[(count,)](
                scores, tops, groups, *ranking, keys, ids, *best, first, end, span, k,
                TILE=TILE, FANOUT=FANOUT, K=wide, BLOCK=max(wide, min(1024, power_of_two(groups.shape[1]))),
                LAST=last, num_warps=4 if wide <= 16 else 8, enable_fp_fusion=False,
            )  # fmt: skip
            if keys is None:
                return
        else:
            chosen = _largest(tops, k).contiguous()
            tiles = chosen.shape[1]
            keys = torch.empty((count, tiles * TILE), dtype=torch.int64, device=queries.device)
            unfold[(count * tiles,)](
                scores, chosen, *ranking, keys, first, end, span, tiles, TILE=TILE, num_warps=1, enable_fp_fusion=False
            )
        kept = _largest(keys if kept is None else torch.cat((kept, keys), 1), k).contiguous()
    assert kept is not None
    answer[(count,)](
        kept, ids, ranking.order, *best, kept.shape[1], k,
        BLOCK=min(1024, power_of_two(k)), num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip


def _largest(keys: Tensor, k: int) -> Tensor:
    # Keys are all different, EMPTY apart, so it does not matter that torch.topk promises nothing for equals.
    return torch.topk(keys, min(k, keys.shape[1])).values


def _checked(
    queries: Tensor, vectors: Tensor, biases: Tensor, ids: Tensor, k: int, allowed: Tensor | None
) -> tuple[int, int]:
    count, dim = _tensor("queries", queries, torch.float32, None, None).shape
    if not 1 <= dim <= 4096:
        raise InputError(f"queries' columns: got {dim}, wanted 1 to 4096")
    items = len(_tensor("vectors", vectors, torch.float32, None, padded(dim)))
    if items >= 2**31:
        raise InputError(f"vectors: got {items} rows, wanted fewer than 2^31")
    if vectors.data_ptr() % 16:
        raise InputError("vectors: got memory that is not aligned to 16 bytes")
    _tensor("biases", biases, torch.float32, items)
    _tensor("ids", ids, torch.int64, items)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k: got {k!r}, wanted 1 or more")
    if allowed is not None:
        kind = allowed.dtype if allowed.dtype in (torch.int32, torch.uint32) else torch.int32
        _tensor("allowed", allowed, kind, None, -(-items // 32))
        if len(allowed) not in (1, count):
            raise InputError(f"allowed: got {len(allowed)} rows, wanted 1 or {count}")
    if any(x.device != queries.device for x in (vectors, biases, ids)):
        raise InputError(f"vectors, biases, ids: wanted all on {queries.device}, as queries are")
    return count, items


def _tensor(name: str, value: Any, dtype: torch.dtype, *shape: int | None) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: got {type(value).__name__}, wanted a tensor")
    fits = value.ndim == len(shape) and all(s in (None, n) for n, s in zip(value.shape, shape, strict=True))
    if value.dtype != dtype or not fits or not value.is_contiguous():
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise InputError(f"{name}: got {value.dtype} {list(value.shape)}, wanted contiguous {dtype} [{wanted}]")
    return value
