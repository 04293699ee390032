"""What is alive here, and why the rest is not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from engine.machine import backend


def test_cuda_says_why_it_is_not_alive():
    said = backend.implementations()["cuda"]
    assert said == (backend.cuda_missing() or "alive")
    if backend.cuda is None:
        assert "nvcc and ROWTIDE_CUDA=1" in said
    else:
        assert said


def test_cuda_that_cannot_be_loaded_says_why(tmp_path):
    package = Path(backend.__file__).parents[1]
    shutil.copytree(package, tmp_path / "engine", ignore=shutil.ignore_patterns("_cuda*", "__pycache__"))
    (tmp_path / "engine" / "_cuda.py").write_text("raise ImportError('libsomething.so: no such file')\n")
    program = "from engine.machine import backend; print(backend.cuda_missing())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "built, but it cannot be loaded: libsomething.so: no such file\n", done.stderr
