"""Every Triton kernel compiled for two GPUs that need not be there: what a GPU would run, not what it computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ahead_of_time import KERNELS, table

pytestmark = pytest.mark.timeout(1800)  # without a cache Triton compiles every kernel, a busy machine slowly
CAPABILITIES = (80, 90)
MOST_SHARED = 99 * 1024  # bytes that a block may have on either


@pytest.fixture(scope="module")
def lines():
    """In a process of its own, for kernels that the interpreter has defined cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(KERNELS.parents[1]), *sys.path])
    command = [sys.executable, Path(__file__).parent / "ahead_of_time.py", *map(str, CAPABILITIES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_is_among_them(lines):
    for capability in CAPABILITIES:
        found = {line["operation"] for line in lines if line["capability"] == capability}
        assert found == {file.parent.name for file in KERNELS.glob("*/triton_kernel.py")}


def test_nothing_is_spilled_and_shared_memory_is_in_bounds(lines):
    print("\n".join(table(lines)))
    for line in lines:
        assert line["cubin"] > 0, line
        assert line["spilled"] == 0, line
        assert line["shared"] <= MOST_SHARED, line


def test_rows_are_read_16_bytes_a_lane(lines):
    for line in lines:
        assert line["vector_loads"] > 0 or not line["vectors_wanted"], line
    assert any(line["vectors_wanted"] for line in lines)


def test_no_product_is_rounded_to_tf32(lines):
    for line in lines:
        assert line["narrow_tensor_cores"] == 0, line


def test_the_table_of_the_docs_is_what_comes_out(lines):
    """Registers move from one compiler to the next, so the kernels and shapes alone are compared."""
    text = (KERNELS.parents[1] / "docs" / "numbers" / "compiled-kernels.md").read_text()
    for line in table([line for line in lines if line["capability"] == 90]):
        assert "|".join(line.split("|")[:3]) in text
