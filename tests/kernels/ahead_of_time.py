"""Compiles every Triton kernel for GPUs that need not be there, and says what came out: registers, spills and the like.

Run as a program, without TRITON_INTERPRET (kernels that were defined under it cannot be compiled): one line of JSON a
kernel, or with --table the lines of the table in docs/numbers/compiled-kernels.md. What is compiled is what `cases()`
of each triton_kernel.py lists, so a new kernel needs nothing here. test_ahead_of_time.py reads the lines.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parents[2] / "engine" / "kernels"
WARP = 32


def compiled(operation: str, case: Any, capability: int) -> dict[str, Any]:
    """What ptxas says of one kernel, and which loads from global memory stand in its PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = case.kernel.arg_names
    given = case.types.keys() & set(names)
    constants = case.constants | {name: None for name in names if name not in given | case.constants.keys()}
    signature = {name: "constexpr" if name in constants else case.types[name] for name in names}
    pointers = [param for param in case.kernel.params if signature[param.name].startswith("*")]
    aligned = {
        (param.num,): [["tt.divisibility", 16]] for param in pointers if not param.do_not_specialize_on_alignment
    }
    source = ASTSource(case.kernel, signature, {(names.index(name),): x for name, x in constants.items()}, aligned)
    options = {"num_warps": case.warps, "enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", capability, WARP), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", cubin]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return {
        "operation": operation,
        "kernel": case.kernel.__name__,
        "shape": case.shape,
        "capability": capability,
        "registers": int(usage["REG"]),
        "spilled": int(usage["STACK"]) + int(usage["LOCAL"]),
        "shared": made.metadata.shared,
        "cubin": len(made.asm["cubin"]),
        "vectors_wanted": case.vectors,
        "vector_loads": len(re.findall(r"ld\.global(?:\.[\w:]+)*\.v(?:4\.[bf]32|2\.[bfu]64)", made.asm["ptx"])),
        "narrow_tensor_cores": len(re.findall(r"\.tf32", made.asm["ptx"])),
    }


def everything(capabilities: list[int]) -> Iterator[dict[str, Any]]:
    for file in sorted(KERNELS.glob("*/triton_kernel.py")):
        operation = file.parent.name
        for case in import_module(f"engine.kernels.{operation}.triton_kernel").cases():
            for capability in capabilities:
                yield compiled(operation, case, capability)


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    yield "| kernel | shape | registers | shared memory | spills |"
    yield "|---|---|---|---|---|"
    for one in lines:
        yield f"| `{one['kernel']}` | {one['shape']} | {one['registers']} | {one['shared']} B | {one['spilled']} B |"


def main(words: list[str]) -> None:
    lines = everything([int(word) for word in words if word.isdigit()] or [80, 90])
    if "--table" in words:
        print("\n".join(table(list(lines))))
        return
    for line in lines:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
