"""The step of an optimizer in Triton, on a tile of rows: what triton_kernel.py does with the gradients that it summed.

Not for sums, nor for which rows take a step. Invariant: a row is written whole, or left as it was and counted.
"""

import triton
import triton.language as tl

# Terms of a segment under way at once; adam has more of the row in registers.
UNROLL = {"adagrad": 4, "adam": 2, "sgd": 4}


@triton.jit
def load_rows(row, column, inside_row, wanted, DIM: tl.constexpr, OPTIMIZER: tl.constexpr):
    """Vector, first and second moments; bias, and up to four floats of state. What an optimizer lacks is the bias."""
    mask = wanted[:, None] & inside_row
    vector = tl.load(row[:, None] + column[None, :], mask=mask, other=0.0)
    bias = tl.load(row + DIM, mask=wanted, other=0.0)
    first, second, a, b, c, d = vector, vector, bias, bias, bias, bias
    if OPTIMIZER != "sgd":
        a = tl.load(row + DIM + 1, mask=wanted, other=0.0)
        b = tl.load(row + DIM + 2, mask=wanted, other=0.0)
    if OPTIMIZER == "adam":
        c = tl.load(row + DIM + 3, mask=wanted, other=0.0)
        d = tl.load(row + DIM + 4, mask=wanted, other=0.0)
        first = tl.load(row[:, None] + (DIM + 5) + column[None, :], mask=mask, other=0.0)
        second = tl.load(row[:, None] + (2 * DIM + 5) + column[None, :], mask=mask, other=0.0)
    return vector, first, second, bias, a, b, c, d


@triton.jit
def step(
    row,
    column,
    inside_row,
    wanted,
    old,
    grad,
    bias_grad,
    refused,
    lr,
    l2,
    DIM: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    LEARN_BIAS: tl.constexpr,
):
    """One step of each wanted row of a tile; a row where something is not finite is left whole, and counted."""
    vector, first, second, bias, a, b, c, d = old
    grad += l2 * vector
    bias_grad += l2 * bias
    new_bias, new_a, new_b, new_c, new_d = bias, a, b, c, d
    if OPTIMIZER == "adagrad":
        new_a = a + tl.sum(grad * grad, axis=1) * (1.0 / DIM)
        rate = tl.div_rn(tl.zeros_like(new_a) + lr, tl.sqrt_rn(new_a) + 1e-8)
        new = tl.fma(tl.broadcast_to(-rate[:, None], grad.shape), grad, vector)
        new_first, new_second = first, second
        if LEARN_BIAS:
            new_b = b + bias_grad * bias_grad
            new_bias = bias - tl.div_rn(lr * bias_grad, tl.sqrt_rn(new_b) + 1e-8)
        odd = new * 0.0
    elif OPTIMIZER == "adam":
        new_c = 0.9 * c + 0.1
        new_d = 0.999 * d + 0.001
        rate = tl.div_rn(tl.zeros_like(new_c) + lr, new_c)
        unbias = tl.div_rn(tl.zeros_like(new_d) + 1.0, new_d)
        new_first = 0.9 * first + 0.1 * grad
        new_second = 0.999 * second + 0.001 * (grad * grad)
        down = tl.div_rn(new_first, tl.sqrt_rn(new_second * unbias[:, None]) + 1e-8)
        new = tl.fma(tl.broadcast_to(-rate[:, None], grad.shape), down, vector)
        if LEARN_BIAS:
            new_a = 0.9 * a + 0.1 * bias_grad
            new_b = 0.999 * b + 0.001 * (bias_grad * bias_grad)
            new_bias = bias - tl.div_rn(rate * new_a, tl.sqrt_rn(new_b * unbias) + 1e-8)
        odd = new * 0.0 + (new_first * 0.0 + new_second * 0.0)
    else:
        new = tl.fma(tl.zeros_like(grad) - lr, grad, vector)
        new_first, new_second = first, second
        if LEARN_BIAS:
            new_bias = bias - lr * bias_grad
        odd = new * 0.0
    # Zero times a number is zero, unless that is infinite or NaN.
    odd_sum = tl.sum(odd, axis=1) + new_bias * 0.0 + new_a * 0.0 + new_b * 0.0 + new_c * 0.0 + new_d * 0.0
    fine = odd_sum == 0.0
    changed = wanted & fine
    mask = changed[:, None] & inside_row
    tl.store(row[:, None] + column[None, :], new, mask=mask)
    if LEARN_BIAS:
        tl.store(row + DIM, new_bias, mask=changed)
    if OPTIMIZER != "sgd":
        tl.store(row + DIM + 1, new_a, mask=changed)
        tl.store(row + DIM + 2, new_b, mask=changed)
    if OPTIMIZER == "adam":
        tl.store(row + DIM + 3, new_c, mask=changed)
        tl.store(row + DIM + 4, new_d, mask=changed)
        tl.store(row[:, None] + (DIM + 5) + column[None, :], new_first, mask=mask)
        tl.store(row[:, None] + (2 * DIM + 5) + column[None, :], new_second, mask=mask)
    count = tl.sum((wanted & (odd_sum != 0.0)).to(tl.int64), axis=0)
    if count > 0:
        tl.atomic_add(refused, count)
