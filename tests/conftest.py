"""What the tests of the whole engine share: seeded streams, engines in memory and in a directory, what is on disk.

Which tests fail when a promise of the design is broken (each was, on purpose, once):

1. nothing lost, nothing twice: test_digest.py (killed_and_replayed, every_thousand, twentieth), test_directory.py
   (reopening, changed_settings, full_disk), test_engine.py (stats: durable when acknowledged),
   laws/test_removal_laws.py (killed, epochs_anywhere), test_admission.py (middle of a record), test_recovery.py
   (goes_back); log/test_segment.py (every_flipped_bit); crash/ at every call, and alone
   where an epoch must wait for the log.
2. the same log, the same bits: test_digest.py (also that each part of the state is in the digest); changed_settings;
   laws/test_removal_laws.py, kernels/test_update_rows.py (every path).
3. read your writes: test_engine.py (reads_show_the_write, rows_as_they_are_now), test_threads.py
   (readers_beside_a_writer), test_reader.py (follows), store/test_removal.py (readers_follow), test_tiles.py.
4. exact top-k, no filtered item, no half row: test_topk_law.py, test_similar_law.py, test_engine.py (seen, filters),
   test_tiers.py (while a user comes in), test_threads.py (half_updated, half_written), store/test_removal.py (hidden,
   strangers_at_once), test_tiles.py, kernels/test_score_topk.py (equal scores, few_queries: threads that share out the
   items).
5. reads change nothing: test_engine.py (reads_change_nothing), test_tiers.py (keeps_nothing), test_untrusted.py.
6. nothing fails silently: test_bad_input.py, test_settings.py, test_directory.py, test_damage.py, test_untrusted.py,
   fuzz/test_fuzz.py, store/test_removal.py (no byte of a forgotten id).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import killed_model
from hypothesis import settings
from interpreted_dot import use_fixed_order

import engine
from engine.machine.backend import interpreted

# Without a GPU Triton's kernels run in its interpreter. It must be told before any kernel is defined.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ["TRITON_INTERPRET"] = "1"
if interpreted():
    use_fixed_order()

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


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
        if file.is_file() and not file.name.endswith("-lock")
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A directory whose writer was killed, and the digest after each of its calls."""
    return killed_model(tmp_path_factory.mktemp("damage") / "model")
