"""Tensors of torch as arguments and answers: the values of numpy's, as tensors; and no torch for who has none."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine import InputError

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def shop(memory):
    """Ids 0..39, so that they fit every integer type."""
    rng = np.random.default_rng(0)
    memory.ingest(rng.integers(0, 30, 400), rng.integers(0, 40, 400))
    return memory


def same(found, expected):
    """The answer is tensors on the CPU with the values that numpy's has."""
    parts = [found] if isinstance(found, torch.Tensor) else [found.ids, found.scores]
    wanted = [expected] if not isinstance(expected, engine.TopK) else [expected.ids, expected.scores]
    if isinstance(found, engine.TopK):
        assert found.seq == expected.seq
        if isinstance(expected.counts, int):
            assert type(found.counts) is int
            assert found.counts == expected.counts
        else:
            parts, wanted = [*parts, found.counts], [*wanted, expected.counts]
    for part, want in zip(parts, wanted, strict=True):
        assert isinstance(part, torch.Tensor)
        assert part.device.type == "cpu"
        assert part.dtype == (torch.float32 if np.asarray(want).dtype == np.float32 else torch.int64)
        np.testing.assert_array_equal(part.numpy(), want)


def is_numpy(found):
    parts = (found.ids, found.scores) if isinstance(found, engine.TopK) else (found,)
    return all(isinstance(part, (np.ndarray, np.generic)) for part in parts)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_ids_of_every_type(shop, dtype):
    ids = torch.arange(9).to(dtype)
    plain = np.arange(9)
    same(shop.topk(ids, 5), shop.topk(plain, 5))
    same(shop.similar(ids, 5), shop.similar(plain, 5))
    same(shop.score(ids, ids), shop.score(plain, plain))
    same(shop.vectors(ids), shop.vectors(plain))
    same(shop.vectors(items=ids), shop.vectors(items=plain))
    same(shop.topk(ids[3], 5), shop.topk(3, 5))
    same(shop.similar(ids[3], 5), shop.similar(3, 5))
    same(shop.score(ids[3], ids[:, None]), shop.score(3, plain[:, None]))
    same(shop.score(ids[3], ids[4]), shop.score(3, 4))
    assert shop.score(ids[3], ids[4]).shape == ()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_vectors_of_every_type(shop, dtype):
    queries = torch.linspace(-1, 1, 24).reshape(3, 8).to(dtype)
    plain = queries.float().numpy()
    same(shop.topk(vectors=queries, k=4), shop.topk(vectors=plain, k=4))
    same(shop.topk(vectors=queries[1], k=4), shop.topk(vectors=plain[1], k=4))
    same(shop.topk(vectors=queries.requires_grad_(), k=4), shop.topk(vectors=plain, k=4))
    same(shop.topk(vectors=torch.nn.Parameter(queries.detach()), k=4), shop.topk(vectors=plain, k=4))
    same(shop.topk(vectors=(queries * 2).detach()[:, :], k=4), shop.topk(vectors=2 * plain, k=4))


def test_views_of_any_stride(shop):
    wide = torch.arange(36).reshape(9, 4)
    for view in (wide[:, 1], wide[::3, 2], wide.T[1], torch.flip(wide[:, 1], [0]), torch.tensor(5).expand(4)):
        same(shop.topk(view, 5), shop.topk(view.numpy(), 5))
    queries = torch.linspace(0, 1, 48).reshape(8, 6).T
    same(shop.topk(vectors=queries, k=3), shop.topk(vectors=queries.numpy(), k=3))
    same(
        shop.topk(vectors=torch.view_as_complex(torch.ones(2, 8, 2)).conj().imag, k=3),
        shop.topk(vectors=-np.ones((2, 8)), k=3),
    )


def test_filters_make_tensors_too(shop):
    for name in ("exclude", "include"):
        for given, plain in (
            (torch.tensor([1, 2, 3]), [1, 2, 3]),
            (torch.tensor([[1, -1], [2, 3]]), [[1], [2, 3]]),
            ([torch.tensor([1]), [2, 3]], [[1], [2, 3]]),
            ([[1], torch.tensor([2, 3], dtype=torch.int32)], [[1], [2, 3]]),
            ((torch.tensor([1]), np.array([2, 3])), [[1], [2, 3]]),
        ):
            for call in (shop.topk, shop.similar):
                same(call([4, 5], 6, **{name: given}), call([4, 5], 6, **{name: plain}))
                same(call(torch.tensor([4, 5]), 6, **{name: plain}), call([4, 5], 6, **{name: plain}))


def test_mixed_arguments_give_tensors(shop):
    ids = np.arange(4)
    same(shop.score(torch.arange(4), ids), shop.score(ids, ids))
    same(shop.score(3, torch.arange(4)), shop.score(3, ids))
    same(shop.topk(ids, 3, exclude=torch.tensor([7])), shop.topk(ids, 3, exclude=[7]))


def test_numpy_and_lists_give_numpy(shop):
    """Also with torch imported."""
    ids = np.arange(4)
    for found in (
        shop.topk(ids, 3),
        shop.topk([1, 2], 3, exclude=[3]),
        shop.topk(1),
        shop.topk(vectors=np.ones(8)),
        shop.similar(ids),
        shop.score(1, 2),
        shop.score(ids, ids),
        shop.vectors(ids),
    ):
        assert is_numpy(found)


def test_columns_of_ingest(memory, stream):
    users, items = stream(200)
    weights, times = np.linspace(0, 2, 200, dtype=np.float32), np.linspace(1e9, 2e9, 200)
    columns = [torch.from_numpy(x.copy()) for x in (users, items, weights, times)]
    report = memory.ingest(columns[0], columns[1], weights=columns[2].requires_grad_(), timestamps=columns[3])
    assert (report.events, report.seq) == (200, 200)
    memory.ingest(torch.tensor(3), torch.tensor([4], dtype=torch.int32))
    with engine.open(":memory:", dim=8, loss="bpr", seed=3) as other:
        other.ingest(users, items, weights=weights, timestamps=times)
        other.ingest(3, 4)
        assert other.digest() == memory.digest()
    digest = memory.digest()
    columns[0].zero_()  # nothing of the caller's is kept
    assert memory.digest() == digest


def test_answers_are_the_callers(shop):
    found = shop.topk(torch.arange(3), 4)
    found.ids.zero_()
    found.scores.zero_()
    assert shop.topk(torch.arange(3), 4).ids.any()


REFUSED = {
    "bools": torch.tensor([True]),
    "whole floats": torch.tensor([1.0]),
    "half": torch.tensor([1.0], dtype=torch.bfloat16),
    "complex": torch.tensor([1j]),
    "padding": torch.tensor([-1]),
    "two-dimensional": torch.ones(2, 2, dtype=torch.int64),
    "sparse": torch.tensor([1, 0]).to_sparse(),
    "no values": torch.empty(3, dtype=torch.int64, device="meta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_tensors_are_refused(shop, name):
    bad, digest = REFUSED[name], shop.digest()
    for call in (
        lambda: shop.topk(bad),
        lambda: shop.similar(bad),
        lambda: shop.vectors(bad),
        lambda: shop.ingest(bad, bad),
    ):
        with pytest.raises(InputError, match=r"users|items"):
            call()
    for shape in (torch.ones(7), torch.ones(2, 9), torch.full((8,), torch.nan), torch.ones(2, 8, 1), bad):
        with pytest.raises(InputError, match="vectors"):
            shop.topk(vectors=shape)
    assert (shop.digest(), shop.seq) == (digest, 400)


def test_a_message_says_what_tensor_came(shop):
    with pytest.raises(InputError, match=r"users: got torch.float32 tensor of shape \(2,\) on cpu, wanted integers"):
        shop.topk(torch.ones(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_answers_go_back_to_the_gpu(shop):
    ids = torch.arange(4, device="cuda")
    found, expected = shop.topk(ids, 3), shop.topk(np.arange(4), 3)
    for part, want in ((found.ids, expected.ids), (found.scores, expected.scores), (found.counts, expected.counts)):
        assert part.device == ids.device
        np.testing.assert_array_equal(part.cpu().numpy(), want)
    assert shop.score(ids, 3).device == shop.vectors(ids).device == shop.similar(ids).ids.device == ids.device


PLAIN_USE = """
import sys
import numpy as np
import engine
with engine.open({path!r}, dim=8) as eng:
    eng.ingest([1, 2, 3], np.array([4, 5, 6]), weights=[1, 1, 1], timestamps=[1, 2, 3])
    eng.topk([1, 2], 3, exclude=[4], include=[[4], [5]], exclude_seen=True)
    eng.topk(vectors=np.ones(8))
    eng.similar(4), eng.score(1, 4), eng.vectors([1]), eng.stats(), eng.digest(), eng.checkpoint()
    engine.evaluate.prequential(eng, [1, 2, 3], [4, 5, 6])
engine.verify({path!r})
assert "torch" not in sys.modules
"""


def test_plain_use_imports_no_torch(home):
    """Where torch is installed, as it is here."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_USE.format(path=str(home))], capture_output=True, text=True, timeout=60,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_half_imported_torch_is_no_torch(shop, monkeypatch):
    """Another thread may be in the midst of importing it."""
    for module in (None, type(sys)("torch")):
        monkeypatch.setitem(sys.modules, "torch", module)
        assert is_numpy(shop.topk(np.arange(3)))
