"""What an optimizer keeps with a row, behind its vector and its bias. Pure; any thread."""

from ..contract.arguments import choice
from ..contract.losses import OPTIMIZERS
from ..machine.backend import native


def state_floats(optimizer: str, dim: int) -> int:
    """How many floats that is. Raises InputError for another name than those of OPTIMIZERS."""
    return native.state_floats(OPTIMIZERS.index(choice("optimizer", optimizer, OPTIMIZERS)), dim)
