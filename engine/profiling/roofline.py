"""How fast a device could be: the bandwidth of its copies, its products; and the plot of what kernels reach of that.

Responsible for the roofs, for where kernels stand below them (pure numbers), and for the picture. Not for times of
kernels (run.py). The roofs are measured, on a GPU alone: from one thread, the device otherwise idle. matplotlib
(the extra `profile`) and torch are imported when used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Point", "Roofs", "copy_bandwidth", "host_copy_bandwidth", "plot", "products", "roof"]

NOT_MEASURED = "not measured"
_CALLS, _ROUNDS = 10, 7


@dataclass(frozen=True)
class Roofs:
    """Bytes per second of a copy on the device (read and written both counted) and from the host, float32 flops per
    second of a product of matrices, without tf32. None: not measured."""

    copy: float | None = None
    host_copy: float | None = None
    flops: float | None = None

    @classmethod
    def measured(cls) -> "Roofs":
        return cls(copy_bandwidth(), host_copy_bandwidth(), products())

    def said(self) -> str:
        """One line."""
        parts = (
            ("copy", self.copy, 1e9, "GB/s"),
            ("copy from the host", self.host_copy, 1e9, "GB/s"),
            ("float32 products", self.flops, 1e12, "TFLOP/s"),
        )
        said = (f"{name} {NOT_MEASURED if x is None else f'{x / unit:,.1f} {of}'}" for name, x, unit, of in parts)
        return "; ".join(said)


@dataclass(frozen=True)
class Point:
    """A kernel below the roof: flops for each byte that must move; flops per second, None: not measured."""

    name: str
    intensity: float
    flops: float | None


def roof(intensity: float, copy: float, flops: float | None) -> float:
    """Flops per second that memory and arithmetic allow at so many flops a byte."""
    reachable = intensity * copy
    return reachable if flops is None else min(reachable, flops)


def copy_bandwidth(size: int = 2**31) -> float:
    """Bytes per second of a copy within the device's memory, read and written bytes both counted.

    The faster of the driver's copy and a kernel's: either may be, by a fifth.
    """
    import torch

    source = torch.randn(size // 4, device="cuda")
    target = torch.empty_like(source)
    ways: list[Callable[[], Any]] = [lambda: target.copy_(source), lambda: torch.neg(source, out=target)]
    return 2 * size / min(_seconds(way) for way in ways)


def host_copy_bandwidth(size: int = 2**30) -> float:
    """Bytes per second of a copy from pinned host memory to the device."""
    import torch

    source = torch.empty(size, dtype=torch.uint8, pin_memory=True).fill_(1)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    return size / _seconds(lambda: target.copy_(source, non_blocking=True))


def products(size: int = 4096) -> float:
    """Flops per second of torch's product of two square matrices in full float32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        a, b = torch.randn((2, size, size), device="cuda")
        out = torch.empty_like(a)
        return 2 * size**3 / _seconds(lambda: torch.mm(a, b, out=out))
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds(call: Callable[[], Any]) -> float:
    """Of one call, which must take far longer than a launch: the median of some rounds, after one to warm up."""
    import torch

    def round_() -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(_CALLS):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / _CALLS

    round_()
    return median(round_() for _ in range(_ROUNDS))


def plot(points: Sequence[Point], roofs: Roofs, title: str, path: Path) -> None:
    """Writes a PNG: each kernel over its flops a byte, below the roof; its share of the roof stands beside it.

    A kernel whose time was not measured is a line at its flops a byte, and the picture says so. Raises
    ModuleNotFoundError without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="flops for each byte that must move", ylabel="flops per second")
    axes.set_title(title)
    found = [point.intensity for point in points] or [1.0]
    low, high = min(found) / 4, max(found) * 4
    if roofs.copy is not None:
        if roofs.flops is not None:
            high = max(high, 4 * roofs.flops / roofs.copy)
        turns = [low, high] if roofs.flops is None else sorted({low, max(low, roofs.flops / roofs.copy), high})
        says = f"copy {roofs.copy / 1e9:,.0f} GB/s"
        says += "" if roofs.flops is None else f", products {roofs.flops / 1e12:.1f} TFLOP/s, measured"
        axes.plot(turns, [roof(x, roofs.copy, roofs.flops) for x in turns], color="black", label=says)
        axes.legend(loc="lower right")
    else:
        axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, ha="center", fontsize=24, color="0.7")
        axes.tick_params(axis="y", which="both", left=False, labelleft=False)
    axes.set_xlim(low, high)
    for number, point in enumerate(sorted(points, key=lambda point: point.intensity)):
        color = f"C{number % 10}"
        if point.flops is None:
            axes.axvline(point.intensity, color=color, linestyle="--")
            place = (point.intensity, 0.05 + 0.08 * (number % 11))
            axes.annotate(f" {point.name}", place, xycoords=("data", "axes fraction"), color=color)
            continue
        axes.plot([point.intensity], [point.flops], "o", color=color)
        share = "" if roofs.copy is None else f", {point.flops / roof(point.intensity, roofs.copy, roofs.flops):.0%}"
        place = (point.intensity, point.flops)
        axes.annotate(f"  {point.name}{share}", place, color=color, va="center")
    figure.savefig(path, format="png", dpi=120)
