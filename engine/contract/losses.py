"""Losses and optimizers: their names, codes, formulas and defaults, known once. Constants alone.

The losses of an event; a score is query . vector + bias:

    softmax   minus the log of the positive's share in the sum of exp(score) over it and the negatives, which all events
              of a step share. Jean, Cho, Memisevic, Bengio 2015, "On Using Very Large Target Vocabulary for Neural
              Machine Translation"
    bpr       the mean over the event's own negatives of -log sigmoid(score of the positive - score of the negative).
              Rendle, Freudenthaler, Gantner, Schmidt-Thieme 2009, "BPR: Bayesian Personalized Ranking from Implicit
              Feedback"
    logistic  -log of the probability sigmoid(score) that the value is 1, or of 1 - sigmoid(score) where it is 0.
              Johnson 2014, "Logistic Matrix Factorization for Implicit Feedback Data"
    squared   (score - value)^2, so its coefficient is 2 (score - value). Koren, Bell, Volinsky 2009, "Matrix
              Factorization Techniques for Recommender Systems"

The step of a row's vector w and bias b, by their gradients g and gb. What an optimizer keeps stands behind the bias in
the order named here:

    adagrad   G += mean over d of g[d]^2     w -= lr * g / (sqrt(G) + 1e-8)
              Gb += gb^2                     b -= lr * gb / (sqrt(Gb) + 1e-8)
              Keeps G, Gb. Duchi, Hazan, Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
              Optimization", with one accumulator per row, the row-wise variant as FBGEMM documents it
    adam      m = 0.9 m + 0.1 g     v = 0.999 v + 0.001 g^2     c1 = 0.9 c1 + 0.1     c2 = 0.999 c2 + 0.001
              w -= lr * (m / c1) / (sqrt(v / c2) + 1e-8), and the bias likewise with the same c1 and c2
              Keeps mb, vb, c1, c2, m [dim], v [dim]. Kingma, Ba 2015, "Adam: A Method for Stochastic Optimization",
              algorithm 1, each row on its own: its moments stand still until its next step, and the t of its correction
              counts its own steps (lazy Adam). c1 and c2 are 1 - 0.9^t and 1 - 0.999^t, by the moments' recurrence
    sgd       w -= lr * g           b -= lr * gb
              Keeps nothing
"""

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

# The same for softmax where it looks at what the user has had; docs/how-it-works/sequence-model.md.
SEQUENCE_LR = {"adagrad": 0.1, "adam": 0.01, "sgd": 0.1}

SEQUENCE_NEGATIVES, SEQUENCE_BATCH, SEQUENCE_GATE = 16, 16, 2
