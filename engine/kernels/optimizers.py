"""How rows take their step, and what an optimizer keeps with a row for it. Pure; any thread."""

from dataclasses import dataclass

from ..contract.arguments import choice
from ..contract.losses import OPTIMIZERS
from ..machine.backend import native


@dataclass(frozen=True)
class Rule:
    """An optimizer, its learning rate, and the weight of the penalty that pulls rows towards 0."""

    optimizer: str
    lr: float
    l2: float = 0.0


def state_floats(optimizer: str, dim: int) -> int:
    """How many floats an optimizer keeps behind the vector and the bias of a row. Raises InputError."""
    return native.state_floats(OPTIMIZERS.index(choice("optimizer", optimizer, OPTIMIZERS)), dim)
