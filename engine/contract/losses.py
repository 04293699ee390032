"""Losses and optimizers: their names, codes and defaults, known once. Constants alone."""

from typing import Literal, get_args

Loss = Literal["softmax", "bpr", "logistic", "squared"]

Optimizer = Literal["adagrad", "adam", "sgd"]

# The C++ core numbers them by their place here.
LOSSES: tuple[Loss, ...] = get_args(Loss)

OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)

# The losses that learn a value for each pair, instead of ranking the positive above negatives.
POINTWISE: tuple[Loss, ...] = ("logistic", "squared")

# Of a new directory: learning rate by loss and optimizer, number of negatives by loss.
# docs/decisions/learning-defaults.md has the measurements.
DEFAULT_LR = {
    "softmax": {"adagrad": 0.25, "adam": 0.01, "sgd": 0.1},
    "bpr": {"adagrad": 0.1, "adam": 0.01, "sgd": 0.3},
    "logistic": {"adagrad": 0.1, "adam": 0.005, "sgd": 0.05},
    "squared": {"adagrad": 0.1, "adam": 0.005, "sgd": 0.03},
}

DEFAULT_NEGATIVES = {"softmax": 64, "bpr": 16, "logistic": 0, "squared": 0}
