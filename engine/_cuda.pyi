"""Types of the CUDA extension. Pointers are integers: device memory, 0 for none; nothing is checked but counts."""

def missing() -> str: ...

# columns: the fields of Steps in csrc/steps/learn_steps.h
def plan_steps(
    columns: dict[str, int | float], depth: int, threads: int, blocks: int
) -> tuple[int, int, bool, int, int]: ...
def learn_steps(
    columns: dict[str, int | float],
    depth: int,
    threads: int,
    blocks: int,
    workspace: int,
    bytes: int,
    stream: int,
    each: bool,
) -> None: ...
