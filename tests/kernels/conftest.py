"""What the tests of all kernels share: poisoned memory, slabs with canaries, instruction sets, the tolerance table."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine.kernels.tolerances import TOLERANCES
from engine.machine.backend import native

CANARY = np.uint32(0x7FC0C0DE)  # a NaN: it shows in every sum that reads it, and in its bits when written over


@pytest.fixture(scope="module", autouse=True)
def poison() -> Iterator[None]:
    """Fresh memory is NaN, or the least integer: what a kernel forgets to write is seen."""
    empty = np.empty

    def poisoned(*args: Any, **kwargs: Any) -> np.ndarray:
        array = empty(*args, **kwargs)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        elif array.dtype.kind == "i":
            array.fill(np.iinfo(array.dtype).min)
        return array

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", poisoned)
        yield


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., np.ndarray]:
    """A slab of rows padded to 64 bytes, canaries behind what kernels may touch. Vectors of about unit length."""

    def make(rng: np.random.Generator, count: int, dim: int, state: int = 2) -> np.ndarray:
        width = -(-(dim + 1 + state + 4) // 16) * 16
        rows = np.full((count, width), CANARY).view(np.float32)
        rows[:, :dim] = rng.normal(size=(count, dim)) / np.sqrt(dim)
        rows[:, dim] = rng.normal(size=count)
        used = rng.integers(0, 2, size=(count, 1))  # a new row's state is zeros
        rows[:, dim + 1 : dim + 1 + state] = rng.uniform(0.0, 2.0, size=(count, state)) * used
        return rows

    return make


@pytest.fixture(scope="session")
def close() -> Callable[[str, Any, Any], None]:
    """Asserts that the results of a kernel are within its tolerance of the reference's, array by array."""

    def check(kernel: str, actual: Any, expected: Any) -> None:
        rule = TOLERANCES[kernel]
        if not isinstance(actual, tuple):
            actual, expected = (actual,), (expected,)
        assert len(actual) == len(expected)
        for got, want in zip(actual, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=rule.relative, atol=rule.absolute)

    return check


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Any, Any], None]:
    """Asserts that two arrays, or tuples of them, agree bit for bit."""

    def check(actual: Any, expected: Any) -> None:
        if not isinstance(actual, tuple):
            actual, expected = (actual,), (expected,)
        assert len(actual) == len(expected)
        for got, want in zip(actual, expected, strict=True):
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            np.testing.assert_array_equal(
                np.frombuffer(got.tobytes(), dtype=np.uint8), np.frombuffer(want.tobytes(), dtype=np.uint8)
            )

    return check


@pytest.fixture
def on_every_path(same_bits: Callable[[Any, Any], None]) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Runs a call on every instruction set of this processor and asserts the same bits."""
    found = native.isa()
    paths = [isa for isa in ("avx512", "avx2") if native.isa_available(isa)]
    if not paths:
        pytest.skip("this processor has only the portable path")

    def check(call: Callable[[], Any]) -> None:
        assert native.set_isa("portable")
        plain = call()
        for isa in paths:
            assert native.set_isa(isa)
            same_bits(call(), plain)

    try:
        yield check
    finally:
        native.set_isa(found)


class Device:
    """Where the kernels of Triton run in these tests: the GPU, or the CPU under the interpreter."""

    def __init__(self, torch: Any, name: str):
        self._torch, self.name = torch, name

    def put(self, x: Any) -> Any:
        """Arrays as tensors there, in tuples, lists and dicts too; anything else as it is."""
        if isinstance(x, np.ndarray):
            return self._torch.from_numpy(x.copy()).to(self.name)
        if isinstance(x, tuple | list):
            return [self.put(y) for y in x]
        return {key: self.put(y) for key, y in x.items()} if isinstance(x, dict) else x

    def zeros(self, *shape: int) -> Any:
        """float32; on the CPU only what is touched becomes memory."""
        if self.name == "cpu":
            return self._torch.from_numpy(np.zeros(shape, np.float32))
        return self._torch.zeros(shape, device=self.name)

    def guarded(self, rows: np.ndarray) -> tuple[Any, Callable[[], None]]:
        """A slab as a tensor with rows of canaries around it, and what asserts that those are alive."""
        canaries = np.full((2, rows.shape[1]), CANARY).view(np.float32)
        whole = self.put(np.concatenate([canaries, rows, canaries]))

        def check() -> None:
            left = whole.cpu().numpy()
            for side in (left[:2], left[-2:]):
                assert side.tobytes() == canaries.tobytes()

        return whole[2:-2], check


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A Device whose fresh memory is NaN, or the least integer, and lies between canaries, looked at in the end.

    In the interpreter arithmetic beyond int32 is an error.
    """
    import torch

    from engine.machine.backend import interpreted, triton_missing

    assert triton_missing() == ""
    empty, margin, made = torch.empty, 4096, []  # a margin wider than any tile

    def between_canaries(*shape: Any, dtype: Any = torch.float32, device: Any = None) -> Any:
        count = int(np.prod(shape[0] if isinstance(shape[0], tuple) else shape))
        fill = torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min
        whole = empty(count + 2 * margin, dtype=dtype, device=device).fill_(fill)
        made.append((whole, count, fill))
        return whole[margin : margin + count].view(*shape)

    monkeypatch.setattr(torch, "empty", between_canaries)
    monkeypatch.setattr(torch, "empty_like", lambda x: between_canaries(tuple(x.shape), dtype=x.dtype, device=x.device))
    if interpreted():
        from triton.runtime import interpreter

        monkeypatch.setattr(
            interpreter.interpreter_builder,
            "options",
            interpreter.InterpreterOptions(debug=True, sanitize_overflow=True),
        )
    with np.errstate(all="ignore"):  # the interpreter is numpy, and odd numbers are part of the tests
        yield Device(torch, "cpu" if interpreted() else f"cuda:{torch.cuda.current_device()}")
    for whole, count, fill in made:
        margins = torch.cat([whole[:margin], whole[margin + count :]])
        assert (margins.isnan() if whole.is_floating_point() else margins == fill).all(), "written beside its tensor"
