"""What an optimizer keeps with a row: as engine/kernels/README.md counts it, and as the core does."""

import pytest

from engine.contract.errors import InputError
from engine.contract.losses import OPTIMIZERS
from engine.kernels.optimizers import state_floats
from engine.machine.backend import native


@pytest.mark.parametrize("dim", [1, 5, 64, 4096])
def test_floats_behind_the_bias(dim):
    assert {name: state_floats(name, dim) for name in OPTIMIZERS} == {"adagrad": 2, "adam": 2 * dim + 4, "sgd": 0}
    assert [native.state_floats(code, dim) for code in range(3)] == [state_floats(name, dim) for name in OPTIMIZERS]


@pytest.mark.parametrize("name", ["rmsprop", "", None, 0, ["adam"]])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match=r"^optimizer: got .*, wanted one of 'adagrad', 'adam', 'sgd'"):
        state_floats(name, 4)
