"""An instruction that not every CPU has stands only where the CPU was asked first: in the kernels of that set."""

import platform
import re
import subprocess

import pytest

from engine import _native

# Registers and mnemonics of AVX and later: what a CPU without them refuses by ending the process.
VECTOR = re.compile(r"\tv[a-z]|%[yz]mm|%k[0-7]|%xmm(1[6-9]|2\d|3[01])")
# Functions that only a table of kernels names. The set's own external functions would run when the library is loaded.
ASKED = re.compile(r"(avx2|avx512)::\(anonymous namespace\)::")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64's instruction sets")
def test_only_chosen_kernels_use_what_a_cpu_may_lack():
    command = ["objdump", "-d", "--no-show-raw-insn", "-C", _native.__file__]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = re.split(r"\n\n[0-9a-f]+ <(.*)>:\n", text)[1:]
    using = {name for name, body in zip(functions[::2], functions[1::2], strict=True) if VECTOR.search(body)}
    assert any(ASKED.search(name) for name in using)  # it looks at the right thing
    assert [name for name in sorted(using) if not ASKED.search(name)] == []


def test_tables_know_their_names():
    found = _native.isa()
    try:
        for isa in ("portable", "avx2", "avx512"):
            if _native.set_isa(isa):
                assert _native.isa() == isa
    finally:
        _native.set_isa(found)
