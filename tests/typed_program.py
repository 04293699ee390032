"""A user's program over the whole public surface: test_typing.py checks it with mypy --strict, and runs it."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import engine
from engine import Engine, IngestReport, TopK, VerifyReport, evaluate


def progress(done: int, total: int) -> None:
    assert done <= total


def learn(eng: Engine) -> IngestReport:
    users, items = np.array([7, 7, 8]), [100, 101, 100]
    report = eng.ingest(users, items, None, weights=[1, 2, 0.5], timestamps=[1, 2, 3], durable=False, progress=progress)
    assert_type(report.events + report.seq + report.new_users + report.new_items, int)
    assert_type(report.loss + report.seconds, float)
    assert_type(report.found, dict[str, int])
    eng.ingest(7, [100, 101])
    at = eng.position("clicks")
    eng.ingest(np.int64(8), items, timestamps=datetime(2024, 1, 1), position=("clicks", b"3"), expect=at)
    assert_type(eng.positions(), dict[str, bytes])
    eng.forget_position("views")
    return eng.ingest(7, 102, position=("clicks", b"4"), expect=b"3")


def serve(eng: Engine) -> TopK:
    found = eng.topk(7, 2)
    assert_type(found.ids, NDArray[np.int64])
    assert_type(found.scores, NDArray[np.float32])
    assert_type(found.seq, int)
    ids, scores = eng.topk([7, 8], k=3, exclude_seen=True, exclude=[[100], [101]], include=[100, 101], unknown="skip")
    eng.topk(vectors=eng.vectors(users=[7, 8]))
    eng.similar([100, 101], 1, exclude=[5], include=[100, 101])
    assert_type(eng.vectors(items=[100]), NDArray[np.float32])
    assert len(ids) == len(scores) == len(eng.score([7, 8], [100, 101]))
    assert np.isnan(eng.score([[7], [404]], (100, 101), unknown="skip")).any()
    eng.similar([100, 999], unknown="skip", exclude={100}, include=[{100}, [101]])
    eng.topk(range(5), exclude=frozenset({np.int64(100)}), include=({100}, [101], np.array([102]), [], set()))
    assert_type(found.to_list(), list[Any])
    assert_type(eng.history(7), NDArray[np.int64])
    assert_type(eng.explain(7, [100]), list[engine.Explanation])
    return eng.similar(100)


class Tensor:
    """Typed as torch's is, as far as matters here; so this program needs no torch."""

    requires_grad: bool

    def __array__(self, dtype: Any = None) -> Any: ...

    def numpy(self, *, force: bool = False) -> Any: ...


def serve_tensors(eng: Engine, tensor: Tensor) -> TopK[Tensor, Tensor]:
    """Tensors in, tensors out."""
    found = eng.topk(tensor, 2)
    assert_type(found.ids, Tensor)
    assert_type(found.scores, Tensor)
    assert_type(eng.topk(tensor, exclude_seen=True, exclude=[1]), TopK[Tensor, Tensor])
    assert_type(eng.topk(vectors=tensor, k=5), TopK[Tensor, Tensor])
    assert_type(eng.topk(7, exclude=tensor), TopK[Tensor, Tensor])
    assert_type(eng.topk([7], include=tensor, exclude=[5]).ids, Tensor)
    assert_type(eng.similar(tensor, 3), TopK[Tensor, Tensor])
    assert_type(eng.similar(100, exclude=tensor), TopK[Tensor, Tensor])
    assert_type(eng.similar([100], include=tensor).scores, Tensor)
    assert_type(eng.vectors(tensor), Tensor)
    assert_type(eng.vectors(items=tensor), Tensor)
    assert_type(eng.history(tensor), Tensor)
    eng.ingest(tensor, 7, weights=tensor)
    eng.score(tensor, tensor)
    return eng.topk(tensor)


def serve_arrays(eng: Engine, ids: NDArray[np.int64], floats: NDArray[np.float64]) -> None:
    assert_type(eng.topk(ids), TopK)
    assert_type(eng.topk(vectors=floats).ids, NDArray[np.int64])
    assert_type(eng.topk(7, exclude=[], include=[]).ids, NDArray[np.int64])
    assert_type(eng.topk([7, 8], exclude=[ids, [5]], include=ids).scores, NDArray[np.float32])
    assert_type(eng.similar(np.array([100, 101]), exclude=[]), TopK)
    assert_type(eng.vectors(ids), NDArray[np.float32])


def state(eng: Engine) -> None:
    assert_type(eng.seq, int)
    assert_type(eng.checkpoint(), int)
    assert_type(eng.digest(), str)
    assert_type(eng.position("clicks"), bytes | None)
    assert_type(eng.stats(), dict[str, Any])
    assert_type(eng.settings, dict[str, Any])
    assert_type(eng.refresh(), int)
    eng.hide([100])
    assert_type(eng.hidden(), NDArray[np.int64])
    eng.show({100})
    eng.forget(users=[8], items=[101])


def main(path: str) -> None:
    eng = engine.open(path, mode="x", dim=8, loss="bpr", optimizer="adagrad", lr=0.1, l2=0.0, negatives=2, batch_size=1)
    assert_type(eng, Engine)
    learn(eng)
    eng.close()
    with engine.open(
        path, device="cpu", warm_bytes=1 << 24, epoch_seconds=5, threads=2, row_ttl=0, admit_after=0
    ) as again:
        assert_type(again, Engine)
        assert learn(again).seq == 18
        assert serve(again).counts == 2
        serve_arrays(again, np.array([7, 8]), np.zeros((2, 8)))
        state(again)
        report = evaluate.prequential(again, [7, 8] * 9, [100, 101] * 9, k=(1, 2), warmup=0.5)
        assert_type(report.summary, dict[str, Any])
        assert_type(again.backup(path + "2"), int)
    with engine.open(path, mode="r") as reader:
        assert_type(reader, engine.Reader)
        assert isinstance(reader, engine.Reader)
        assert reader.refresh() == reader.seq
    with engine.open(Path(path + "2"), untrusted=True) as copy:
        assert_type(copy, Engine)
        copy.ingest(1, 2)
    checked = engine.verify(path)
    assert_type(checked, VerifyReport)
    assert_type(checked.seq, int)
    try:
        engine.open(path, dim=9)
    except engine.ConfigError as e:
        assert_type(e.seq, int | None)
    errors: tuple[type[engine.EngineError], ...] = (
        engine.InputError, engine.PositionError, engine.UnknownIdError, engine.ReadOnlyError, engine.BusyError,
        engine.CorruptionError, engine.StorageFullError, engine.DeviceError,
    )  # fmt: skip
    assert all(issubclass(error, engine.EngineError) for error in errors)


if __name__ == "__main__":
    main(sys.argv[1])
