"""How far an implementation may be from its reference: the one table that all tests read.

For inputs of order one and up to 4096 columns. The reference works in float64, implementations in float32 with fused
multiply-add, so an entry is a small multiple of 2^-24 times the growth of its longest sum. A looser entry needs a
reason beside it. Between the CPU's own paths there is no tolerance: they give the same bits. Constants only.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """|actual - expected| <= absolute + relative * |expected|, the rule of `numpy.testing.assert_allclose`."""

    relative: float
    absolute: float


TOLERANCES = {
    "pool_rows": Tolerance(relative=2e-6, absolute=2e-6),
    # A score's error moves exponents, hence probabilities, by as much again.
    "loss_grads": Tolerance(relative=1e-5, absolute=4e-6),
    # A first step divides a gradient by its own root mean square, so the sum's relative error shows in full.
    "update_rows": Tolerance(relative=1e-5, absolute=4e-6),
    # Some fifty steps one after the other: an error in a row enters the next step's scores, and with them its gradient.
    "learn_steps": Tolerance(relative=2e-4, absolute=2e-4),
    "draw_negatives": Tolerance(relative=0.0, absolute=0.0),  # integers
    "score_topk": Tolerance(relative=4e-6, absolute=4e-6),
}
