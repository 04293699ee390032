"""learn_steps on a GPU: softmax with 64 negatives, dim 64, Adagrad, over 1 M users; a launch for each step beside it.

`measure(report)` gives a line a shape, kernel alone (the window is on the GPU already) and with the host's part
(finding the order, moving the window). Bytes are those of the rows that each step touches, read and written once, and
of its slots and links. `python benchmarks/gpu/steps.py [tune]` prints them, or the shapes by threads of a block.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from engine.kernels import work
from engine.kernels.draw_negatives import triton_kernel as drawing
from engine.kernels.learn_steps import Planner, Slabs, Window, learn_on_device
from engine.kernels.optimizers import Rule

DIM, WIDTH, NEGATIVES, USERS = 64, 72, 64, 1_000_000
RULE = Rule("adagrad", lr=0.05)
SHAPES = [(items, batch) for items in (10_000, 100_000, 1_000_000) for batch in (1, 4, 16)]
EVENTS = {10_000: 16_384, 100_000: 65_536, 1_000_000: 262_144}
Report = Callable[..., None]


def columns(items: int, batch: int, events: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = -(-events // batch) * NEGATIVES
    return (
        rng.integers(0, USERS, size=events, dtype=np.int32),
        rng.integers(0, items, size=events, dtype=np.int32),
        rng.integers(0, items, size=count, dtype=np.int32),
    )


def moved(window: Window) -> int:
    """Bytes that must move for a window."""
    return work.learn_steps(None, None, window, dim=DIM, optimizer="adagrad")().bytes


def to_gpu(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to("cuda")


def seconds(call: Callable[[], Any], rounds: int = 5) -> float:
    """The median of some rounds, after one to warm up."""
    call()
    torch.cuda.synchronize()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return float(np.median(took))


class Learning:
    """Rows and a mean on the GPU, and windows learned into them."""

    def __init__(self, items: int) -> None:
        self.users = torch.rand(USERS, WIDTH, device="cuda") * 0.1
        self.items = torch.rand(items, WIDTH, device="cuda") * 0.1
        self.mean = torch.zeros(DIM, device="cuda")

    def learn(self, window: Window, **how: Any) -> Any:
        return learn_on_device(Slabs(DIM, self.users, self.items, self.mean, 0), window, RULE, **how)


def measure(report: Report) -> None:
    for items, batch in SHAPES:
        events, slabs, planner = EVENTS[items], Learning(items), Planner(USERS, items)
        slots = columns(items, batch, events)
        kinds: dict[str, Any] = {"loss": "softmax", "batch_size": batch, "negatives": NEGATIVES}
        window = planner.plan(*slots, **kinds)
        size, on_gpu = moved(window), window.on(to_gpu)
        few = planner.plan(*columns(items, batch, 4096 * batch), **kinds).on(to_gpu)
        alone = seconds(lambda slabs=slabs, on_gpu=on_gpu: slabs.learn(on_gpu))
        peer = seconds(lambda slabs=slabs, few=few: slabs.learn(few, each=True)) * events / few.events
        shape = f"{items} items, {batch} events a step, {events} events, {window.side_by_side:.1f} steps side by side"
        report("learn_steps", shape, alone, size, peer="a launch for each step", peer_seconds=peer)
        whole = seconds(
            lambda slabs=slabs, planner=planner, slots=slots, kinds=kinds: slabs.learn(
                planner.plan(*slots, **kinds).on(to_gpu)
            ),
            rounds=3,
        )
        report("learn_steps with the host's part", shape, whole, size)
        known = torch.full((-(-events // batch),), items, device="cuda")
        places = torch.randperm(items, device="cuda", dtype=torch.int32)
        how = {"seed": 1, "first_seq": 1, "batch_size": batch, "negatives": NEGATIVES}
        took = seconds(lambda known=known, places=places, how=how: drawing.draw_negatives(known, places, **how))
        report("draw_negatives", shape, took, known.numel() * (8 + 8 * NEGATIVES))


def tune() -> None:
    for items, batch in SHAPES:
        events, slabs = EVENTS[items], Learning(items)
        kinds: dict[str, Any] = {"loss": "softmax", "batch_size": batch, "negatives": NEGATIVES}
        window = Planner(USERS, items).plan(*columns(items, batch, events), **kinds).on(to_gpu)
        for threads in (128, 192, 256, 320, 384):
            for blocks in (0, 17, 67, 133, 265, 529):
                took = seconds(lambda s=slabs, w=window, t=threads, b=blocks: s.learn(w, block_threads=t, blocks=b), 2)
                print(
                    f"{items} items, {batch} a step, {threads} threads, {blocks} blocks: {events / took / 1e6:.3f} M/s"
                )


def main() -> None:
    if sys.argv[1:] == ["tune"]:
        return tune()

    def show(kernel: str, shape: str, took: float, size: int, **peer: Any) -> None:
        events = int(shape.split(" events, ")[0].rsplit(" ", 1)[1])
        rate = f"{events / took / 1e6:.3f} M events/s, {size / took / 1e9:.0f} GB/s"
        beside = f"; {peer['peer']} {events / peer['peer_seconds'] / 1e6:.3f} M events/s" if peer else ""
        print(f"{kernel}: {shape}: {rate}{beside}", flush=True)

    measure(show)


if __name__ == "__main__":
    main()
