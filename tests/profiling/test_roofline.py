"""The roofs, and the picture of what kernels reach of them."""

import pytest
import torch

from engine.profiling import roofline
from engine.profiling.roofline import Point, Roofs, roof


def test_the_roof_is_memory_then_arithmetic():
    assert roof(0.5, 4e12, 5e13) == 2e12
    assert roof(12.5, 4e12, 5e13) == roof(1e9, 4e12, 5e13) == 5e13
    assert roof(1e3, 4e12, None) == 4e15


def test_roofs_count_bytes_and_flops(monkeypatch):
    """As if each call took half a second, on the CPU."""
    during = []

    def half_a_second(call):
        call()
        during.append(torch.get_float32_matmul_precision())
        return 0.5

    def here(make):
        return lambda *size, device=None, pin_memory=None, **kind: make(*size, **kind)

    for name in ("randn", "empty"):
        monkeypatch.setattr(torch, name, here(getattr(torch, name)))
    monkeypatch.setattr(roofline, "_seconds", half_a_second)
    assert roofline.copy_bandwidth(1024) == 4096  # read and written
    assert roofline.host_copy_bandwidth(1024) == 2048
    torch.set_float32_matmul_precision("high")
    try:
        assert roofline.products(16) == 2 * 2 * 16**3
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert during[-1] == "highest"


@pytest.mark.parametrize("roofs", [Roofs(), Roofs(4e12), Roofs(4e12, 5e10, 5e13)])
@pytest.mark.parametrize("points", [[], [Point("a", 0.5, 1e12), Point("b", 9.0, 2e13)], [Point("c", 2.0, None)]])
def test_the_picture_is_a_png(tmp_path, roofs, points):
    roofline.plot(points, roofs, "a title", tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
