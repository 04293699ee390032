"""The dot that Triton's interpreter has in tests: right, and the same bits in every place."""

import numpy as np
import pytest
import triton
import triton.language as tl
from interpreted_dot import fixed_order

from engine.machine.backend import interpreted


def factors(rows, depth, columns):
    rng = np.random.default_rng(depth)
    shapes = (rows, depth), (depth, columns), (rows, columns)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def test_agrees_with_the_product():
    left, right, start = factors(5, 40, 7)
    exact = start + left.astype(np.float64) @ right
    np.testing.assert_allclose(fixed_order(left, right, start), exact, rtol=1e-5, atol=1e-5)


def test_an_entry_has_the_same_bits_in_every_place(same_bits):
    left, right, start = factors(19, 33, 21)
    whole = fixed_order(left, right, start)
    for row in range(19):
        for column in range(21):
            alone = fixed_order(left[row : row + 1], right[:, column : column + 1], start[row, column].reshape(1, 1))
            same_bits(alone.reshape(()), whole[row, column].reshape(()))


@triton.jit
def multiply(left, right, product, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    found = tl.dot(tl.load(left + at), tl.load(right + at), input_precision="ieee")
    tl.store(product + at, found)


@pytest.mark.skipif(not interpreted(), reason="a GPU has its own dot")
def test_the_interpreter_uses_it(device, same_bits):
    left, right, _ = factors(16, 16, 16)
    product = device.zeros(16, 16)
    multiply[(1,)](device.put(left), device.put(right), product, SIZE=16)
    same_bits(product.numpy(), fixed_order(left, right, np.zeros((16, 16), np.float32)))
