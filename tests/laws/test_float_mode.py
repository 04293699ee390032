"""Another library may have set the thread's floats to flush small numbers to zero: no bit of ours follows it."""

import threading

import numpy as np
import pytest
import torch

import engine

SETTINGS = {
    "bpr": {"loss": "bpr", "lr": 3.0},
    "softmax": {"loss": "softmax", "lr": 5.0, "negatives": 8},
    "squared, sgd": {"loss": "squared", "optimizer": "sgd", "lr": 0.01},
}


def answers(name):
    """Digest, scores and lists after a short stream; its weights are so small that flushed gradients show."""
    rng = np.random.default_rng(5)
    users, items = rng.integers(0, 30, 2000), rng.integers(0, 40, 2000)
    values = rng.integers(1, 6, 2000).astype(float) if "squared" in name else None
    with engine.open(":memory:", dim=8, **SETTINGS[name]) as eng:
        eng.ingest(users, items, values, weights=np.full(2000, 2e-38))
        some = np.unique(users)
        found = eng.topk(some, k=20)
        return eng.digest(), found.ids.tolist(), found.scores.tobytes(), eng.score(some, items[0]).tobytes()


@pytest.mark.parametrize("name", SETTINGS)
def test_no_bit_depends_on_the_mode_of_the_thread(name):
    wanted, found = answers(name), []

    def flushing():
        assert torch.set_flush_denormal(True)
        tiny = torch.tensor([1e-38]) * torch.tensor([1e-3])
        found.extend([float(tiny[0]), answers(name), float((torch.tensor([1e-38]) * torch.tensor([1e-3]))[0])])

    thread = threading.Thread(target=flushing)
    thread.start()
    thread.join()
    assert found[0] == 0.0
    assert found[1] == wanted
    assert found[2] == 0.0  # the thread's mode is as it was
