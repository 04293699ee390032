"""What is alive here, and that the CUDA extension is built wherever it can be."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from engine.machine import backend

NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


def test_cuda_says_why_it_is_not_alive():
    said = backend.implementations()["cuda"]
    assert said == (backend.cuda_missing() or "alive")
    if backend.cuda is None:
        assert "nvcc" in said
    else:
        assert said


@needs_nvcc
def test_cuda_is_built_where_nvcc_is():
    assert backend.cuda is not None, backend.cuda_missing()


@needs_nvcc
def test_cuda_is_built_for_the_gpus_that_it_is_for():
    """Machine code (2) for sm_80 and sm_90, PTX (1) for what comes later, as the headers in the file say."""
    data, magic, found = Path(backend.cuda.__file__).read_bytes(), struct.pack("<I", 0xBA55ED50), set()
    at = data.find(magic)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", data, at + 6)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, entry)
            found.add((kind, *struct.unpack_from("<I", data, entry + 28)))
            entry += header + size
        at = data.find(magic, end)
    assert found == {(2, 80), (2, 90), (1, 90)}


@needs_nvcc
def test_cuda_can_be_imported_without_its_libraries():
    """CUDA's runtime is inside, and finds the driver only when it is asked for."""
    needed = subprocess.run(["ldd", backend.cuda.__file__], capture_output=True, text=True, check=True).stdout
    assert not [line for line in needed.splitlines() if "cuda" in line.split("=>")[0]]
