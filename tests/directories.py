"""What the tests of directories share: settings of a small model, a mount of their own, and errors by their words."""

import subprocess
from contextlib import contextmanager

import pytest

from engine import ConfigError

SMALL = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 1, "seed": 3}


@contextmanager
def mounted(path, *how):
    """A mount of our own; skips where this process may not make one."""
    path.mkdir(exist_ok=True)
    made = subprocess.run(["mount", *how, str(path)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"may not mount here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def refuse(name, call, error=ConfigError):
    with pytest.raises(error) as caught:
        call()
    for part in (name,) if isinstance(name, str) else name:
        assert part in str(caught.value)
