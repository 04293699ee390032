"""score_topk on the device, beside torch's matmul and topk: catalogues, numbers of queries and k in turn.

Bytes are the catalogue's, vectors and biases, read once; with many queries arithmetic is the limit, and the note says
how much there was. torch scores as many queries at a time as fit 2 GiB.
"""

from collections.abc import Callable
from functools import partial

import torch
from timing import host_seconds, median_seconds

from engine.kernels.score_topk import triton_kernel
from engine.kernels.score_topk.triton_kernel import rank_ids, score_topk

SIZES = [(1_000_000, 128), (10_000_000, 64)]
COUNTS = [1, 64, 1024]
KS = [10, 100]
PEER_SCORES = 2**29
ROW_VARIANTS = [(4096, 32, 2), (4096, 32, 4), (8192, 64, 4), (8192, 64, 8), (16384, 64, 8), (16384, 128, 8)]
SQUARE_VARIANTS = [(64, 64, 32, 4), (64, 64, 16, 4), (64, 128, 16, 4), (64, 128, 32, 8), (128, 128, 16, 8)]

Catalogue = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # vectors [N, dim], biases [N], ids [N]


def catalogue(items: int, dim: int) -> Catalogue:
    torch.manual_seed(0)
    vectors = torch.randn(items, dim, device="cuda") / dim**0.5
    return vectors, torch.randn(items, device="cuda") / 4, torch.randperm(items, device="cuda") * 7 - items


def by_torch(queries: torch.Tensor, vectors: torch.Tensor, biases: torch.Tensor, k: int) -> torch.Tensor:
    """Positions [Q, k]."""
    step = max(1, PEER_SCORES // len(vectors))
    parts = [
        torch.topk(torch.addmm(biases, queries[at : at + step], vectors.T), k).indices
        for at in range(0, len(queries), step)
    ]
    return torch.cat(parts)


def agree(got: tuple[torch.Tensor, ...], queries: torch.Tensor, table: Catalogue, k: int) -> None:
    """Stops what is wrong from being measured: up to rounding both find the same scores."""
    vectors, biases, ids = table
    positions = by_torch(queries, vectors, biases, k)
    want = (vectors[positions].double() @ queries[:, :, None].double())[..., 0] + biases[positions]
    torch.testing.assert_close(got[1].double(), want, rtol=1e-5, atol=1e-5)
    assert (got[2] == k).all()
    assert (ids[positions] == got[0]).float().mean() > 0.99  # close ones may change places


def measure(report: Callable[..., None]) -> None:
    for items, dim in SIZES:
        _measure(report, catalogue(items, dim))
        torch.cuda.empty_cache()


def _measure(report: Callable[..., None], table: Catalogue) -> None:
    (items, dim), ids = table[0].shape, table[2]
    ranking = rank_ids(ids)
    report("rank_ids", f"{items:,}", median_seconds([partial(rank_ids, ids)]), 16 * items)
    for count in COUNTS:
        queries = [torch.randn(count, dim, device="cuda") for _ in range(4 if count == 1 else 1)]
        for k in KS:
            calls = [partial(score_topk, some, *table, k, ranking=ranking) for some in queries]
            peers = [partial(by_torch, some, *table[:2], k) for some in queries]
            agree(calls[0](), queries[0], table, k)
            taken = median_seconds(calls)
            rate, host = 2 * items * dim * count / taken, host_seconds(calls)
            report(
                "score_topk",
                f"{items:,} x {dim}, {count} queries, k {k}",
                taken,
                items * 4 * (dim + 1),
                "torch matmul + topk",
                median_seconds(peers),
                note=f"{rate / 1e12:.1f} TFLOP/s; host {host * 1e6:.0f} us",
                calls=calls,
            )


def variants(report: Callable[..., None]) -> None:
    """Other sizes of tiles, and torch's product, for whoever tunes: one query, 64 and 1,024, k 10."""
    names = ("PART", "TILE", "SCAN_WARPS", "SQUARE", "PRODUCTS")
    usual = {name: getattr(triton_kernel, name) for name in names}
    table = catalogue(*SIZES[0])
    ranking = rank_ids(table[2])
    choices = [(1, dict(zip(names, values, strict=False))) for values in ROW_VARIANTS]
    choices += [(count, {"SQUARE": values}) for count in (64, 1024) for values in SQUARE_VARIANTS]
    choices += [(count, {"PRODUCTS": True}) for count in (64, 1024)]
    for count, chosen in choices:
        query = torch.randn(count, SIZES[0][1], device="cuda")
        try:
            for name, value in chosen.items():
                setattr(triton_kernel, name, value)
            taken = median_seconds([partial(score_topk, query, *table, 10, ranking=ranking)])
            report("score_topk", f"{count} queries, {chosen}", taken, 4 * (table[0].numel() + len(table[0])))
        finally:
            for name, value in usual.items():
                setattr(triton_kernel, name, value)
