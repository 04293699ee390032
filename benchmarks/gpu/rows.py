"""The kernels over rows on a GPU, beside what torch has for the same: gather, bags, gradients, updates.

`measure(report)` is for run.py, which knows the device's copy bandwidth and writes the table; as a program it prints
its own (PYTHONPATH=. python benchmarks/gpu/rows.py, and --variants for whoever tunes). Bytes are true ones: what
must move if every distinct row is read (and written) once. Times are the device's alone, several inputs in turn from a
CUDA graph, the median of some replays; peers that wait for the device in their middle are timed as they run. Nothing
here is checked: the tests do that. Without a GPU it runs in Triton's interpreter, to see that it runs, never how fast.
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from engine.contract.losses import OPTIMIZERS
from engine.kernels.loss_grads import triton_kernel as loss_grads
from engine.kernels.optimizers import state_floats
from engine.kernels.pool_rows import triton_kernel as pool_rows
from engine.kernels.update_rows import triton_kernel as update_rows

Report = Callable[..., None]
Calls = list[Callable[[], Any]]

ROWS, KEYS, DISTINCT = 10_000_000, 1_050_000, 350_000
# Floats and warps of a tile, programs a multiprocessor: what `variants` tries.
STEP_VARIANTS = [(128, 1, 128), (256, 1, 128), (256, 2, 128), (512, 4, 128), (128, 1, 32), (128, 1, 1024)]
INPUTS = 4  # in turn, so that the cache holds nothing of the next
# At dim 128 on an H100, as their authors published them for this shape.
PUBLISHED = {"adagrad": "FBGEMM 0.61 ms, dynamicemb 0.59 ms", "adam": "FBGEMM 1.00 ms, dynamicemb 0.85 ms"}


def measure(
    report: Report, rows: int = ROWS, keys: int = KEYS, distinct: int = DISTINCT, dims: tuple[int, ...] = (64, 128)
) -> None:
    """Calls report(kernel, shape, seconds, bytes, peer, peer_seconds, published, calls=what to profile) for each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    draws = {
        "3 a row": [three_a_row(rows, keys, distinct, device) for _ in range(INPUTS)],
        "power law 1.05": [power_law(rows, keys, device) for _ in range(INPUTS)],
        "uniform": [torch.randint(rows, (keys,), device=device) for _ in range(INPUTS)],
    }
    for dim in dims:
        gather_and_bags(report, draws, rows, dim, device)
        gradients(report, rows, keys, dim, device)
        for optimizer in OPTIMIZERS:
            for spread in ("3 a row", "power law 1.05"):
                update(report, draws[spread], spread, rows, dim, optimizer, device)


def three_a_row(rows: int, keys: int, distinct: int, device: torch.device) -> torch.Tensor:
    """Keys over so many distinct rows, each at least once."""
    chosen = torch.randint(rows, (2 * distinct,), device=device).unique()
    chosen = chosen[torch.randperm(chosen.numel(), device=device)[:distinct]]
    more = chosen[torch.randint(chosen.numel(), (keys - chosen.numel(),), device=device)]
    both = torch.cat([chosen, more])
    return both[torch.randperm(keys, device=device)]


def power_law(rows: int, keys: int, device: torch.device, exponent: float = 1.05) -> torch.Tensor:
    """Row k of all rows with probability about k^-exponent; where it lies is random."""
    u = torch.rand(keys, dtype=torch.float64, device=device)
    rank = ((1 - u * (1 - rows ** (1 - exponent))) ** (1 / (1 - exponent))).long().clamp(1, rows) - 1
    return torch.randperm(rows, device=device)[rank]


def slab_of(rows: int, dim: int, state: int, device: torch.device) -> torch.Tensor:
    """Rows of multiples of 32 bytes, as few as hold them."""
    return torch.rand((rows, (dim + 1 + state + 7) // 8 * 8), device=device)


def seconds_of(calls: Calls, graph: bool = True, replays: int = 7) -> float:
    """Median seconds of one of the calls, which are made in turn."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        calls[0]()
        return time.perf_counter() - start

    def all_of_them() -> None:
        for call in calls:
            call()

    run = all_of_them
    all_of_them()
    torch.cuda.synchronize()
    if graph:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            all_of_them()
        run = recorded.replay
    run()
    ends = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(replays)]
    for begin, end in ends:
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in ends) / 1e3 / len(calls)


def distinct_of(draws: list[torch.Tensor]) -> float:
    return sum(draw.unique().numel() for draw in draws) / len(draws)


def gather_and_bags(
    report: Report, draws: dict[str, list[torch.Tensor]], rows: int, dim: int, device: torch.device
) -> None:
    slab, plain = slab_of(rows, dim, 2, device), torch.rand((rows, dim), device=device)
    for spread, slots in draws.items():
        keys, distinct = slots[0].numel(), distinct_of(slots)
        seconds = seconds_of([lambda s=s: pool_rows.pool_rows(slab, s, None, None, dim=dim) for s in slots])
        peer = seconds_of([lambda s=s: plain.index_select(0, s) for s in slots])
        moved = distinct * 4 * dim + keys * (8 + 4 * dim)
        report("pool_rows, gather", f"dim {dim}, {keys} keys, {spread}", seconds, moved, "torch index_select", peer)
        if spread == "3 a row":
            continue
        lengths = torch.randint(1, 32, (keys // 16,), device=device)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).clamp(max=keys)
        used = int(offsets[-1])
        slots, weights = [s[:used] for s in slots], torch.rand(used, device=device)
        bags = offsets.numel() - 1

        def peer_call(s: torch.Tensor, weights: Any = weights, offsets: Any = offsets) -> Any:
            return torch.nn.functional.embedding_bag(s, plain, offsets[:-1], mode="sum", per_sample_weights=weights)

        seconds = seconds_of(
            [lambda s=s, o=offsets, w=weights: pool_rows.pool_rows(slab, s, o, w, dim=dim) for s in slots]
        )
        peer = seconds_of([lambda s=s, call=peer_call: call(s) for s in slots], graph=False)
        moved = distinct_of(slots) * 4 * dim + used * 12 + bags * (8 + 4 * dim)
        shape = f"dim {dim}, {bags} bags of 1 to 31, {spread}"
        report("pool_rows, bags", shape, seconds, moved, "torch EmbeddingBag", peer)


def gradients(report: Report, rows: int, keys: int, dim: int, device: torch.device) -> None:
    slab, users = slab_of(rows, dim, 2, device), slab_of(rows // 10, dim, 2, device)
    slab[:, :dim] -= 0.5
    for loss, events, drawn in (("softmax", 8192, 64), ("softmax", 8192, 256), ("bpr", 65_536, 1), ("bpr", 65_536, 16)):
        events = min(events, keys)
        shape = (drawn,) if loss == "softmax" else (events, drawn)
        inputs = [
            (
                torch.randint(rows // 10, (events,), device=device),
                torch.randint(rows, (events,), device=device),
                torch.randint(rows, shape, device=device),
            )
            for _ in range(INPUTS)
        ]
        calls = [
            lambda u=u, p=p, n=n, loss=loss: loss_grads.loss_grads(loss, users, slab, p, n, dim=dim, query_slots=u)
            for u, p, n in inputs
        ]
        by_torch = softmax_by_torch if loss == "softmax" else bpr_by_torch
        peers = [lambda u=u, p=p, n=n, f=by_torch: f(users, slab, u, p, n, dim) for u, p, n in inputs]
        event = 16 + 4 * dim + 4 * (dim + 1) + 4 * dim + 8 + 4 * drawn
        negative = 8 + 4 * (dim + 1)
        moved = events * event + inputs[0][2].numel() * negative
        name = f"dim {dim}, {events} events, {drawn} negatives"
        report(f"loss_grads, {loss}", name, seconds_of(calls), moved, "torch, the same by hand", seconds_of(peers))


def softmax_by_torch(users: Any, slab: Any, u: Any, p: Any, n: Any, dim: int) -> tuple[Any, ...]:
    query, positive, negative = users[u, :dim], slab[p, : dim + 1], slab[n, : dim + 1]
    score = (query * positive[:, :dim]).sum(1) + positive[:, dim]
    gaps = torch.addmm(negative[:, dim] - score[:, None], query, negative[:, :dim].T)
    gaps = gaps.masked_fill(n[None] == p[:, None], -torch.inf)
    loss = torch.logsumexp(torch.nn.functional.pad(gaps, (1, 0)), 1)
    coefs = torch.exp(gaps - loss[:, None])
    positive_coefs = -coefs.sum(1)
    return (
        loss,
        torch.addmm(positive_coefs[:, None] * positive[:, :dim], coefs, negative[:, :dim]),
        positive_coefs,
        coefs,
    )


def bpr_by_torch(users: Any, slab: Any, u: Any, p: Any, n: Any, dim: int) -> tuple[Any, ...]:
    query, positive, negative = users[u, :dim], slab[p, : dim + 1], slab[n, : dim + 1]
    score = (query * positive[:, :dim]).sum(1) + positive[:, dim]
    gaps = torch.einsum("bd,bkd->bk", query, negative[..., :dim]) + negative[..., dim] - score[:, None]
    counts = n != p[:, None]
    share = 1 / counts.sum(1, keepdim=True).clamp(min=1)
    coefs = torch.sigmoid(gaps) * counts * share
    loss = (torch.nn.functional.softplus(gaps) * counts * share).sum(1)
    positive_coefs = -coefs.sum(1)
    grads = torch.einsum("bk,bkd->bd", coefs, negative[..., :dim]) + positive_coefs[:, None] * positive[:, :dim]
    return loss, grads, positive_coefs, coefs


class Update:
    """Calls of update_rows with a gradient of its own for each key, which is what the published figures are of."""

    def __init__(self, draws: list[torch.Tensor], rows: int, dim: int, optimizer: Any, device: torch.device):
        self.keys, self.state = draws[0].numel(), state_floats(optimizer, dim)
        self.slab = slab_of(rows, dim, self.state, device)
        self.sources, self.each = torch.rand((self.keys, dim), device=device), torch.arange(self.keys, device=device)
        self.coefs = torch.full((self.keys,), 1e-3, device=device)
        self.kinds = {"dim": dim, "lr": 1e-3, "optimizer": optimizer}
        self.draws, self.ordered = draws, [update_rows.sort_slots(draw, rows) for draw in draws]
        distinct = distinct_of(draws) * 2 * 4 * (dim + 1 + self.state)
        self.bytes = distinct + self.keys * (8 + 8 + 4 + 4 + 4 * dim)

    def calls(self, presorted: bool) -> Calls:
        pairs = zip(self.draws, self.ordered, strict=True)
        return [lambda s=s, o=o if presorted else None: self.step(s, o) for s, o in pairs]

    def step(self, slots: torch.Tensor, ordered: Any) -> None:
        args = slots, self.sources, self.each, self.coefs, self.coefs
        update_rows.update_rows(self.slab, *args, ordered=ordered, **self.kinds)


def update(
    report: Report,
    draws: list[torch.Tensor],
    spread: str,
    rows: int,
    dim: int,
    optimizer: Any,
    device: torch.device,
) -> None:
    made = Update(draws, rows, dim, optimizer, device)
    shape, name = f"dim {dim}, {made.keys} keys, {spread}", f"update_rows, {optimizer}"
    seconds, presorted = (seconds_of(made.calls(presorted)) for presorted in (False, True))
    if optimizer == "adagrad":
        sorting = seconds_of([lambda s=s: update_rows.sort_slots(s, rows) for s in draws])
        report("update_rows, sort alone", shape, sorting, made.keys * (8 + 4 + 8))
    published = PUBLISHED.get(optimizer) if dim == 128 and spread == "3 a row" else None
    peer, peer_seconds = peer_of(optimizer, draws, rows, dim, made.sources, device)
    report(name, shape, seconds, made.bytes, peer, peer_seconds, published, calls=made.calls(False))
    report(f"{name}, sorted before", shape, presorted, made.bytes)


def peer_of(
    optimizer: str, draws: list[torch.Tensor], rows: int, dim: int, sources: torch.Tensor, device: torch.device
) -> tuple[str, float]:
    plain = torch.rand((rows, dim), device=device)
    if optimizer == "sgd":
        calls = [lambda s=s: plain.index_add_(0, s, sources, alpha=-1e-6) for s in draws]
        return "torch index_add_", seconds_of(calls)
    weight = torch.nn.Parameter(plain)
    made = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.SparseAdam}[optimizer]([weight], lr=1e-3)

    def step(slots: torch.Tensor) -> None:
        weight.grad = torch.sparse_coo_tensor(slots[None], sources, weight.shape, check_invariants=False)
        made.step()

    return f"torch {type(made).__name__}", seconds_of([lambda s=s: step(s) for s in draws], graph=False, replays=3)


def variants(report: Report, rows: int = ROWS, keys: int = KEYS, distinct: int = DISTINCT) -> None:
    """Other tiles of step_rows, for whoever tunes; what was sorted before."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    draws = [three_a_row(rows, keys, distinct, device) for _ in range(INPUTS)]
    names = ("STEP_FLOATS", "STEP_WARPS", "TILES_IN_TURN")
    usual = {name: getattr(update_rows, name) for name in names}
    for dim, optimizer in ((64, "adagrad"), (128, "adagrad"), (128, "adam")):
        made = Update(draws, rows, dim, optimizer, device)
        for chosen in STEP_VARIANTS:
            for name, value in zip(names, chosen, strict=True):
                setattr(update_rows, name, value)
            report(f"update_rows, {optimizer} {chosen}", f"dim {dim}", seconds_of(made.calls(True)), made.bytes)
    for name, value in usual.items():
        setattr(update_rows, name, value)


def main() -> None:
    """The table alone, beside a copy of 4 GiB."""
    copied = torch.empty(2**29, device="cuda"), torch.empty(2**29, device="cuda")
    bandwidth = 2 * 2**31 / seconds_of([lambda: copied[0].copy_(copied[1])])
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e9:.0f} GB/s")

    def show(
        kernel: str,
        shape: str,
        seconds: float,
        moved: float,
        peer: str | None = None,
        peer_seconds: float = 0.0,
        published: str | None = None,
        calls: Any = None,
    ) -> None:
        beside = f"{peer} {peer_seconds * 1e3:.3f} ms" if peer else ""
        beside += f"; published: {published}" if published else ""
        share = moved / seconds / bandwidth
        print(f"{kernel:32} {shape:52} {seconds * 1e3:8.3f} ms {share:6.1%} of copy  {beside}", flush=True)

    start = time.perf_counter()
    (variants if "--variants" in sys.argv else measure)(show)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
