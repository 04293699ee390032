"""The benchmark of the kernels over rows runs from end to end, with a few keys; how fast is not looked at."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_every_kernel_is_measured_beside_a_peer(device):
    import rows

    lines = {}

    def report(kernel, shape, seconds, moved, peer=None, peer_seconds=None, published=None, *, calls=()):
        assert seconds > 0
        assert moved > 0
        assert (peer is None) == (peer_seconds is None)
        lines[kernel, shape] = peer

    rows.measure(report, rows=500, keys=60, distinct=20, dims=(16,))
    peers = {kernel: peer for (kernel, _), peer in lines.items()}
    for kernel in ("pool_rows, gather", "pool_rows, bags", "loss_grads, softmax", "loss_grads, bpr"):
        assert "torch" in peers[kernel]
    for optimizer in ("adagrad", "adam", "sgd"):
        assert "torch" in peers[f"update_rows, {optimizer}"]
        assert f"update_rows, {optimizer}, sorted before" in peers


def test_the_three_spreads_of_keys(device):
    import rows
    import torch

    assert rows.three_a_row(1000, 300, 100, torch.device(device.name)).unique().numel() == 100
    ranks = rows.power_law(1000, 5000, torch.device(device.name)).bincount(minlength=1000).sort(descending=True).values
    assert 400 < ranks[0] < 900  # about one in eight of 5,000
