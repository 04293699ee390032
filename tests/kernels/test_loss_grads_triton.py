"""loss_grads of tensors beside its reference: on a GPU where there is one, else in Triton's interpreter."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.contract.errors import InputError
from engine.contract.losses import LOSSES, POINTWISE
from engine.kernels.loss_grads import loss_grads, reference

RANKING = [loss for loss in LOSSES if loss not in POINTWISE]


def case(rng, make_rows, loss, dim, events, drawn, rows=30):
    """A call's arguments and options, with masked and repeated negatives among them, queries in a slab."""
    args = {"loss": loss, "queries": make_rows(rng, 40, dim), "rows": make_rows(rng, rows, dim), "dim": dim}
    args["queries"][:, :dim] *= np.sqrt(dim)
    args["query_slots"] = rng.integers(0, 40, size=events)
    args["positives"] = rng.integers(0, rows, size=events)
    args["negatives"] = None
    if loss in POINTWISE:
        values = rng.integers(0, 2, events) if loss == "logistic" else rng.normal(3, 1, events)
        return args | {"values": values.astype(np.float32), "offsets": rng.normal(size=events).astype(np.float32)}
    args["negatives"] = rng.integers(-1, rows, size=drawn if loss == "softmax" else (events, drawn))
    if loss == "bpr" and drawn:
        args["negatives"][:, 0] = args["positives"]
    return args


def gathered(args):
    """The same call with the queries in rows of their own."""
    queries = args["queries"][args["query_slots"], : args["dim"]]
    return args | {"queries": queries.copy(), "query_slots": None}


def on(device, args):
    """What the device makes of a call, as arrays."""
    got = loss_grads(**device.put(args))
    assert {str(part.dtype) for part in got} == {"torch.float32"}
    return tuple(part.cpu().numpy() for part in got)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dim", [1, 16, 33, 100])
def test_agrees_with_the_reference(make_rows, close, same_bits, device, loss, dim):
    rng = np.random.default_rng(dim)
    for events, drawn in [(1, 1), (9, 17), (33, 70)] if loss == "softmax" else [(1, 1), (3, 9), (17, 5)]:
        args = case(rng, make_rows, loss, dim, events, drawn)
        expected = reference.loss_grads(**args)
        got = on(device, args)
        assert [part.shape for part in got] == [part.shape for part in expected]
        close("loss_grads", got, tuple(expected))
        same_bits(on(device, gathered(args)), got)
    weighted = args | {"weights": rng.uniform(0, 2, size=events).astype(np.float32), "offsets": None}
    close("loss_grads", on(device, weighted), tuple(reference.loss_grads(**weighted)))


@pytest.mark.parametrize("loss", LOSSES)
def test_reads_rows_and_leaves_them(make_rows, device, loss):
    args = case(np.random.default_rng(1), make_rows, loss, 16, 9, 20)
    slab, check = device.guarded(args["rows"])
    queries, check_queries = device.guarded(args["queries"])
    loss_grads(**device.put(args) | {"rows": slab, "queries": queries})
    assert slab.cpu().numpy().tobytes() == args["rows"].tobytes()
    assert queries.cpu().numpy().tobytes() == args["queries"].tobytes()
    check()
    check_queries()


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("drawn", [0, 1, 17])
def test_with_all_masked_nothing_is_lost(make_rows, device, loss, drawn):
    args = case(np.random.default_rng(1), make_rows, loss, 16, 3, drawn)
    args["positives"][:] = 2
    args["negatives"][...] = np.where(np.arange(drawn) % 2, -1, 2)
    for part in on(device, args):
        np.testing.assert_array_equal(part, np.zeros_like(part))


@pytest.mark.parametrize("loss", LOSSES)
def test_no_events(make_rows, device, loss):
    got = on(device, case(np.random.default_rng(1), make_rows, loss, 16, 0, 4))
    assert [part.shape for part in got] == [(0,), (0, 16), (0,), (0, 0 if loss in POINTWISE else 4)]


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("size", [90.0, 1e4])
def test_extreme_scores_stay_finite(device, loss, size):
    rows = np.zeros((2, 16), np.float32)
    rows[:, 3] = [size, -size]
    negatives = np.array([0, 1]) if loss == "softmax" else np.array([[0, 1], [0, 1]])
    args = {"queries": np.ones((2, 3), np.float32), "rows": rows, "positives": np.array([0, 1])}
    losses, grads, positive_coefs, coefs = on(device, args | {"loss": loss, "negatives": negatives, "dim": 3})
    np.testing.assert_allclose(losses, [0.0, 2 * size], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(positive_coefs, [0.0, -1.0], atol=1e-30)
    np.testing.assert_allclose(coefs, [[0.0, 0.0], [1.0, 0.0]], atol=1e-30)
    np.testing.assert_array_equal(grads, np.zeros((2, 3)))


@pytest.mark.parametrize("size", [30.0, 90.0, 1e4, 3e38])
def test_extreme_scores_of_pairs_stay_finite(device, size):
    rows = np.zeros((2, 16), np.float32)
    rows[:, 3] = [size, -size]
    args = {"loss": "logistic", "queries": np.ones((4, 3), np.float32), "rows": rows, "negatives": None, "dim": 3}
    args |= {"positives": np.array([0, 0, 1, 1]), "values": np.array([0, 1, 0, 1], np.float32)}
    losses, _, coefs, _ = on(device, args)
    np.testing.assert_allclose(losses, [size, 0.0, 0.0, size], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(coefs, [1.0, 0.0, 0.0, -1.0], atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_agrees_across_the_range_of_the_exponential(close, device, loss):
    gaps = np.concatenate([np.linspace(-110, 110, 441), [-1e4, -1e3, -0.0, 1e-6, 1e3, 1e4]]).astype(np.float32)
    rows = np.zeros((len(gaps) + 1, 8), np.float32)
    rows[1:, 1] = gaps
    each = np.arange(1, len(rows))
    args = {"loss": loss, "queries": np.zeros((len(gaps), 1), np.float32), "rows": rows, "dim": 1}
    if loss in POINTWISE:
        args |= {"positives": each, "negatives": None, "values": (each % 2).astype(np.float32)}
    else:  # softmax: one gap after the other is the only negative that counts
        args |= {"positives": np.zeros_like(each), "negatives": each[:, None]}
    if loss != "softmax":
        close("loss_grads", on(device, args), tuple(reference.loss_grads(**args)))
        return
    for some in (slice(0, 20), slice(215, 235), slice(400, 447)):
        part = args | {"positives": each[some], "negatives": np.zeros(1, np.int64), "queries": args["queries"][some]}
        close("loss_grads", on(device, part), tuple(reference.loss_grads(**part)))


def test_scores_are_not_rounded_to_ten_bits(device):
    """tf32 would lose what stands behind the eleventh bit of a factor."""
    rows = np.zeros((65, 68), np.float32)
    rows[1:, :64] = (1 + np.arange(64) * 2.0**-20)[:, None]
    queries = np.ones((2, 64), np.float32)
    args = {"loss": "softmax", "queries": queries, "rows": rows, "positives": np.zeros(2, np.int64), "dim": 64}
    args["negatives"] = np.arange(1, 65)
    coefs = on(device, args)[3]
    assert (np.diff(coefs) > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([3, 16, 40]),
    events=st.integers(1, 34),
    drawn=st.integers(0, 66),
    rows=st.integers(1, 20),
)
def test_laws(make_rows, close, same_bits, device, loss, seed, dim, events, drawn, rows):
    if loss == "bpr":
        events, drawn = events % 9 + 1, drawn % 9
    args = case(np.random.default_rng(seed), make_rows, loss, dim, events, drawn, rows)
    got = on(device, args)
    close("loss_grads", got, tuple(reference.loss_grads(**args)))
    same_bits(on(device, args), got)  # on every run
    losses, _, positive_coefs, coefs = got
    assert (losses >= 0).all()
    if loss not in POINTWISE:
        close("loss_grads", positive_coefs + coefs.sum(axis=1), np.zeros(events))
        each = np.broadcast_to(args["negatives"], (events, drawn))
        assert (coefs[(each == -1) | (each == args["positives"][:, None])] == 0).all()
        assert (coefs >= 0).all()
        for event, its in enumerate(each):  # a negative drawn twice counts twice
            _, first, again = np.unique(its, return_index=True, return_inverse=True)
            same_bits(coefs[event], coefs[event, first[again]])
    # an event stands alone: its bits do not depend on the others
    own = {key: args[key][-1:] for key in ("query_slots", "positives", "values", "offsets") if key in args}
    if loss == "bpr":
        own["negatives"] = args["negatives"][-1:]
    same_bits(on(device, args | own), tuple(part[-1:] for part in got))


def test_what_is_not_finite_stays_with_its_events(make_rows, close, device):
    args = case(np.random.default_rng(2), make_rows, "bpr", 16, 4, 3, rows=8)
    args["positives"][:] = [0, 1, 2, 3]
    args["negatives"][:] = [[4, 5, -1]] * 3 + [[4, 6, 7]]
    args["rows"][6, 2], args["rows"][2, 1] = np.nan, np.inf
    got = on(device, args)
    expected = tuple(part[:2] for part in reference.loss_grads(**args))
    close("loss_grads", tuple(part[:2] for part in got), expected)
    assert np.isnan(got[0][3])


def test_refuses(make_rows, device):
    args = case(np.random.default_rng(3), make_rows, "bpr", 4, 2, 3, rows=5)
    for changed, named in [
        ({"query_slots": np.array([0, 40])}, "query_slots: got 40, wanted 0 <= value < 40"),
        ({"query_slots": np.array([0, -1])}, "query_slots: got -1"),
        ({"query_slots": None}, r"queries: got float32 \[40, 16\] on c.*, wanted float32 \[B, 4\]"),
        ({"queries": np.zeros((40, 3), np.float32)}, "queries: got 3 columns, wanted 4 or more for dim 4"),
        ({"positives": np.array([0, 5])}, "positives: got 5"),
        ({"negatives": np.array([[2, 2, 2], [-2, 2, 2]])}, "negatives: got -2"),
        ({"negatives": np.array([2])}, "negatives: got int64"),
        ({"weights": np.ones(2)}, "weights: got float64"),
        ({"rows": np.zeros((5, 18), np.float32)}, "rows: got 18 columns, wanted a multiple of 4"),
    ]:
        with pytest.raises(InputError, match=named):
            loss_grads(**device.put(args | changed))
    with pytest.raises(InputError, match="queries: got strides"):
        loss_grads(**device.put(args) | {"queries": device.put(np.zeros((16, 40), np.float32)).T})
    with pytest.raises(InputError, match=r"positives: got int64 \[2\], wanted int64 \[2\] on c"):
        loss_grads(**device.put(args) | {"positives": args["positives"]})
