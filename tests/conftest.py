"""What the tests of the whole engine share: seeded streams, engines in memory and in a directory, what is on disk."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine


def stream(n: int, users: int = 60, items: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n events of a small shop: skewed ids, spread over all of int64, both signs."""
    rng = np.random.default_rng(seed)
    u, i = ((rng.random(n) ** 2 * size).astype(np.int64) for size in (users, items))
    return (u - users // 2) * 2**40 + 7, i * 2**45 - 2**50 + 5


def contents(path: Path) -> dict[str, str]:
    """Every file below a path: name, mode and a hash of its bytes. LMDB's table of readers is left out."""
    return {
        str(file.relative_to(path)): f"{file.lstat().st_mode:o} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock.mdb"
    }


@pytest.fixture(name="stream")
def _stream() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return stream


@pytest.fixture(name="contents")
def _contents() -> Callable[[Path], dict[str, str]]:
    return contents


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a model directory may be made; it is not there yet."""
    return tmp_path / "model"


@pytest.fixture(params=[":memory:", "directory"])
def place(request: pytest.FixtureRequest, home: Path) -> str:
    """The path argument of `engine.open`: in memory, and a directory."""
    return ":memory:" if request.param == ":memory:" else os.fspath(home)


@pytest.fixture(params=["softmax", "bpr"])
def loss(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def eng(place: str, loss: str) -> Iterator[Any]:
    """A new engine of each kind and loss, dim 8, four events a step."""
    with engine.open(place, dim=8, loss=loss, negatives=4, batch_size=4, seed=3) as opened:
        yield opened


@pytest.fixture
def memory() -> Iterator[Any]:
    with engine.open(":memory:", dim=8, loss="bpr", seed=3) as opened:
        yield opened
