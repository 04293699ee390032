"""What is alive here, and why the rest is not."""

from engine.machine import backend


def test_cuda_says_why_it_is_not_alive():
    said = backend.implementations()["cuda"]
    assert said == (backend.cuda_missing() or "alive")
    if backend.cuda is None:
        assert "nvcc and ROWTIDE_CUDA=1" in said
    else:
        assert said
