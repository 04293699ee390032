"""loss_grads beside its reference, the reference beside finite differences, and what both promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import InputError
from engine.contract.losses import LOSSES, POINTWISE
from engine.kernels.loss_grads import loss_grads, reference

DIMS = [1, 2, 15, 16, 17, 33, 64, 100, 257]
RANKING = [loss for loss in LOSSES if loss not in POINTWISE]


def case(rng, make_rows, loss, dim, events, drawn, rows=30):
    """A call's arguments, with masked and repeated negatives among them."""
    slab = make_rows(rng, rows, dim)
    queries = rng.normal(size=(events, dim)).astype(np.float32)
    positives = rng.integers(0, rows, size=events)
    negatives = rng.integers(-1, rows, size=drawn if loss == "softmax" else (events, drawn))
    if loss == "bpr" and drawn:
        negatives[:, 0] = positives
    return loss, queries, slab, positives, negatives


def plain_rows(vectors, biases):
    return np.column_stack([vectors, biases, np.full((len(biases), 2), np.nan)]).astype(np.float32)


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_the_reference(make_rows, close, loss, dim, weighted):
    rng = np.random.default_rng(dim)
    for events, drawn in [(1, 1), (2, 15), (16, 16), (9, 17), (33, 64), (5, 100)]:
        args = case(rng, make_rows, loss, dim, events, drawn)
        weights = rng.uniform(0, 2, size=events).astype(np.float32) if weighted else None
        before = args[2].tobytes()
        got = loss_grads(*args, dim=dim, weights=weights)
        assert [a.dtype for a in got] == [np.float32] * 4
        assert [a.shape for a in got] == [(events,), (events, dim), (events,), (events, drawn)]
        close("loss_grads", got, reference.loss_grads(*args, dim=dim, weights=weights))
        assert args[2].tobytes() == before


@pytest.mark.parametrize("loss", LOSSES)
def test_queries_may_be_rows_of_a_slab(make_rows, close, same_bits, loss):
    rng = np.random.default_rng(6)
    slab, chosen = make_rows(rng, 12, 16), rng.integers(0, 12, size=9)
    args = case(rng, make_rows, loss, 16, 9, 5) if loss in RANKING else pairs(rng, make_rows, loss, 16, 9)[0]
    options = {"dim": 16} if loss in RANKING else {"dim": 16, "values": np.ones(9, np.float32)}
    got = loss_grads(loss, slab, *args[2:], query_slots=chosen, **options)
    same_bits(tuple(got), tuple(loss_grads(loss, slab[chosen, :16].copy(), *args[2:], **options)))
    close("loss_grads", got, reference.loss_grads(loss, slab, *args[2:], query_slots=chosen, **options))


@pytest.mark.parametrize("loss", RANKING)
def test_reference_gradients_are_slopes_of_its_loss(make_rows, loss):
    rng = np.random.default_rng(7)
    dim, events, drawn, rows = 5, 4, 6, 8
    _, queries, slab, positives, negatives = case(rng, make_rows, loss, dim, events, drawn, rows)
    slab, queries = slab.astype(np.float64), queries.astype(np.float64)
    weights = rng.uniform(0.5, 2, size=events)

    def total():
        return reference.loss_grads(loss, queries, slab, positives, negatives, dim=dim, weights=weights).losses.sum()

    def slope(array, place, step=1e-6):
        kept = array[place]
        array[place] = kept + step
        above = total()
        array[place] = kept - step
        below = total()
        array[place] = kept
        return (above - below) / (2 * step)

    got = reference.loss_grads(loss, queries, slab, positives, negatives, dim=dim, weights=weights)
    row_grads = np.zeros((rows, dim + 1))  # vector and bias, from coefficients as update_rows will do it
    queries_and_one = np.column_stack([queries, np.ones(events)])
    np.add.at(row_grads, positives, got.positive_coefs[:, None] * queries_and_one)
    for b, its in enumerate(np.broadcast_to(negatives, (events, drawn))):
        drawn_rows = its != -1
        np.add.at(row_grads, its[drawn_rows], got.negative_coefs[b, drawn_rows, None] * queries_and_one[b])

    for place in np.ndindex(queries.shape):
        assert slope(queries, place) == pytest.approx(got.query_grads[place], abs=1e-8)
    for place in np.ndindex(row_grads.shape):
        assert slope(slab, place) == pytest.approx(row_grads[place], abs=1e-8)


def test_known_answer_softmax(close):
    rows = plain_rows([[1.0], [0.0], [-1.0]], [0.0, 0.5, 0.0])
    got = loss_grads("softmax", np.array([[2.0]], np.float32), rows, np.array([0]), np.array([1, 2]), dim=1)
    shares = np.exp([2.0, 0.5, -2.0]) / np.exp([2.0, 0.5, -2.0]).sum()
    query_grad = (shares[0] - 1) * 1 + shares[1] * 0 + shares[2] * -1
    close("loss_grads", got, ([-np.log(shares[0])], [[query_grad]], [shares[0] - 1], [shares[1:]]))


def test_known_answer_bpr(close):
    rows = plain_rows([[1.0], [0.0], [-1.0]], [0.0, 0.5, 0.0])
    negatives = np.array([[1, -1, 2, 0]])
    got = loss_grads("bpr", np.array([[2.0]], np.float32), rows, np.array([0]), negatives, dim=1)
    wrong = 1 / (1 + np.exp([1.5, 4.0]))  # sigmoid(negative - positive), two of them unmasked
    close(
        "loss_grads",
        got,
        (
            [-np.log(1 - wrong).mean()],
            [[-wrong.sum() / 2 - wrong[1] / 2]],
            [-wrong.sum() / 2],
            [[wrong[0] / 2, 0.0, wrong[1] / 2, 0.0]],
        ),
    )


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("drawn", [0, 1, 17])
def test_with_all_masked_nothing_is_lost(make_rows, loss, drawn):
    rows = make_rows(np.random.default_rng(1), 5, 16)
    positives = np.full(3, 2)
    negatives = np.where(np.arange(drawn) % 2, -1, 2)
    if loss == "bpr":
        negatives = np.tile(negatives, (3, 1))
    for part in loss_grads(loss, np.ones((3, 16), np.float32), rows, positives, negatives, dim=16):
        np.testing.assert_array_equal(part, np.zeros_like(part))


@pytest.mark.parametrize("loss", RANKING)
def test_no_events(make_rows, loss):
    rows = make_rows(np.random.default_rng(1), 5, 7)
    negatives = np.zeros(4 if loss == "softmax" else (0, 4), dtype=np.int64)
    got = loss_grads(loss, np.zeros((0, 7), np.float32), rows, np.zeros(0, np.int64), negatives, dim=7)
    assert [a.shape for a in got] == [(0,), (0, 7), (0,), (0, 4)]


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("size", [90.0, 1e4])
def test_extreme_scores_stay_finite(loss, size):
    rows = plain_rows(np.zeros((2, 3)), [size, -size])
    positives = np.array([0, 1])
    negatives = np.array([0, 1]) if loss == "softmax" else np.array([[0, 1], [0, 1]])
    got = loss_grads(loss, np.ones((2, 3), np.float32), rows, positives, negatives, dim=3)
    np.testing.assert_allclose(got.losses, [0.0, 2 * size], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(got.positive_coefs, [0.0, -1.0], atol=1e-30)
    np.testing.assert_allclose(got.negative_coefs, [[0.0, 0.0], [1.0, 0.0]], atol=1e-30)
    np.testing.assert_array_equal(got.query_grads, np.zeros((2, 3)))


@pytest.mark.parametrize("loss", RANKING)
def test_agrees_across_the_range_of_the_exponential(close, loss):
    gaps = np.concatenate([np.linspace(-110, 110, 441), [-1e4, -1e3, -0.0, 1e-6, 1e3, 1e4]])
    for gap in gaps:
        rows = plain_rows(np.ones((2, 1)), [0.0, gap])
        negatives = np.array([1]) if loss == "softmax" else np.array([[1]])
        args = (loss, np.zeros((1, 1), np.float32), rows, np.array([0]), negatives)
        close("loss_grads", loss_grads(*args, dim=1), reference.loss_grads(*args, dim=1))


@pytest.mark.parametrize("loss", RANKING)
def test_a_negative_drawn_twice_counts_twice(make_rows, close, loss):
    rng = np.random.default_rng(3)
    rows = make_rows(rng, 6, 16)
    queries, positives = rng.normal(size=(1, 16)).astype(np.float32), np.array([0])
    negatives = np.array([[4, 4, 5]])
    got = loss_grads(loss, queries, rows, positives, negatives[0] if loss == "softmax" else negatives, dim=16)
    scores = rows[[0, 4, 4, 5], :16].astype(np.float64) @ queries[0].astype(np.float64) + rows[[0, 4, 4, 5], 16]
    gaps = scores[1:] - scores[0]
    expected = np.log1p(np.exp(gaps).sum()) if loss == "softmax" else np.log1p(np.exp(gaps)).mean()
    close("loss_grads", got.losses, [expected])
    assert got.negative_coefs[0, 0] == got.negative_coefs[0, 1]


@pytest.mark.parametrize("loss", RANKING)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 40),
    events=st.integers(1, 9),
    drawn=st.integers(0, 40),
    rows=st.integers(1, 20),
)
def test_laws(make_rows, close, same_bits, loss, seed, dim, events, drawn, rows):
    rng = np.random.default_rng(seed)
    _, queries, slab, positives, negatives = case(rng, make_rows, loss, dim, events, drawn, rows)
    got = loss_grads(loss, queries, slab, positives, negatives, dim=dim)
    close("loss_grads", got, reference.loss_grads(loss, queries, slab, positives, negatives, dim=dim))
    # a shift of all scores changes nothing, so the coefficients of an event add up to zero
    close("loss_grads", got.positive_coefs + got.negative_coefs.sum(axis=1), np.zeros(events))
    each = np.broadcast_to(negatives, (events, drawn))
    masked = (each == -1) | (each == positives[:, None])
    assert (got.negative_coefs[masked] == 0).all()
    assert (got.losses >= 0).all()
    assert (got.negative_coefs >= 0).all()
    # an event stands alone: its bits do not depend on the others
    its_own = negatives if loss == "softmax" else negatives[-1:]
    alone = loss_grads(loss, queries[-1:], slab, positives[-1:], its_own, dim=dim)
    same_bits(tuple(alone), tuple(part[-1:] for part in got))
    # weights multiply; by two and by nothing, exactly
    two_or_none = np.where(np.arange(events) % 2, 0.0, 2.0).astype(np.float32)
    for part, weighted in zip(
        got, loss_grads(loss, queries, slab, positives, negatives, dim=dim, weights=two_or_none), strict=True
    ):
        np.testing.assert_array_equal(weighted, (part.T * two_or_none).T)


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("dim", DIMS)
def test_every_path_gives_the_same_bits(make_rows, on_every_path, loss, dim):
    rng = np.random.default_rng(dim)
    for events, drawn, size in [(1, 1, 1), (4, 17, 1), (16, 64, 1), (3, 100, 30), (8, 33, 1000)]:
        args = case(rng, make_rows, loss, dim, events, drawn)
        args[1][:] *= size
        weights = rng.uniform(0, 2, size=events).astype(np.float32)
        on_every_path(lambda args=args: tuple(loss_grads(*args, dim=dim)))
        on_every_path(lambda args=args, weights=weights: tuple(loss_grads(*args, dim=dim, weights=weights)))


# --- logistic and squared: the score of one pair against its value


def pairs(rng, make_rows, loss, dim, events, rows=30):
    """A call's arguments and options, with a pair that occurs twice where there are two events."""
    slab, queries = make_rows(rng, rows, dim), rng.normal(size=(events, dim)).astype(np.float32)
    positives = rng.integers(0, rows, size=events)
    if events > 1:
        queries[1], positives[1] = queries[0], positives[0]
    values = rng.integers(0, 2, events) if loss == "logistic" else rng.normal(3, 1, events)
    offsets = rng.normal(size=events).astype(np.float32)
    return (loss, queries, slab, positives, None), {"values": values.astype(np.float32), "offsets": offsets}


@pytest.mark.parametrize("loss", POINTWISE)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_pairs_agree_with_the_reference(make_rows, close, loss, dim, weighted):
    rng = np.random.default_rng(dim)
    for events in (1, 2, 15, 16, 17, 100):
        args, options = pairs(rng, make_rows, loss, dim, events)
        options["weights"] = rng.uniform(0, 2, size=events).astype(np.float32) if weighted else None
        before = args[2].tobytes()
        got = loss_grads(*args, dim=dim, **options)
        assert [a.dtype for a in got] == [np.float32] * 4
        assert [a.shape for a in got] == [(events,), (events, dim), (events,), (events, 0)]
        close("loss_grads", got, reference.loss_grads(*args, dim=dim, **options))
        del options["offsets"]
        close("loss_grads", loss_grads(*args, dim=dim, **options), reference.loss_grads(*args, dim=dim, **options))
        assert args[2].tobytes() == before


@pytest.mark.parametrize("loss", POINTWISE)
def test_reference_gradients_of_pairs_are_slopes_of_the_loss(make_rows, loss):
    rng = np.random.default_rng(7)
    dim, events, rows = 5, 6, 8
    (_, queries, slab, positives, _), options = pairs(rng, make_rows, loss, dim, events, rows)
    slab, queries = slab.astype(np.float64), queries.astype(np.float64)
    options = {name: column.astype(np.float64) for name, column in options.items()}
    options["weights"] = rng.uniform(0.5, 2, size=events)

    def result():
        return reference.loss_grads(loss, queries, slab, positives, None, dim=dim, **options)

    def slope(array, place, step=1e-6):
        kept = array[place]
        array[place] = kept + step
        above = result().losses.sum()
        array[place] = kept - step
        below = result().losses.sum()
        array[place] = kept
        return (above - below) / (2 * step)

    got = result()
    row_grads = np.zeros((rows, dim + 1))
    np.add.at(row_grads, positives, got.positive_coefs[:, None] * np.column_stack([queries, np.ones(events)]))
    for place in np.ndindex(queries.shape):
        assert slope(queries, place) == pytest.approx(got.query_grads[place], abs=1e-7)
    for place in np.ndindex(row_grads.shape):
        assert slope(slab, place) == pytest.approx(row_grads[place], abs=1e-7)
    for event in range(events):  # an offset, that is, a user's bias
        assert slope(options["offsets"], event) == pytest.approx(got.positive_coefs[event], abs=1e-7)


def test_known_answers_of_pairs(close):
    rows = plain_rows([[1.0], [-1.0]], [0.5, 0.0])
    args = np.array([[2.0], [2.0]], np.float32), rows, np.array([0, 1]), None
    offsets = np.array([1.0, 0.0], np.float32)  # scores 3.5 and -2
    got = loss_grads("squared", *args, dim=1, values=np.array([4.0, 1.0], np.float32), offsets=offsets)
    close("loss_grads", got, ([0.25, 9.0], [[-1.0], [6.0]], [-1.0, -6.0], np.zeros((2, 0))))
    got = loss_grads("logistic", *args, dim=1, values=np.array([1.0, 0.0], np.float32), offsets=offsets)
    of_one = 1 / (1 + np.exp([-3.5, 2.0]))
    losses, coefs = [-np.log(of_one[0]), -np.log(1 - of_one[1])], [of_one[0] - 1, of_one[1]]
    close("loss_grads", got, (losses, [[coefs[0]], [-coefs[1]]], coefs, np.zeros((2, 0))))


@pytest.mark.parametrize("size", [30.0, 90.0, 1e4, 3e38])
def test_extreme_scores_of_pairs_stay_finite(size):
    rows, positives = plain_rows(np.zeros((2, 3)), [size, -size]), np.array([0, 0, 1, 1])
    args = "logistic", np.ones((4, 3), np.float32), rows, positives, None
    got = loss_grads(*args, dim=3, values=np.array([0, 1, 0, 1], np.float32))
    np.testing.assert_allclose(got.losses, [size, 0.0, 0.0, size], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(got.positive_coefs, [1.0, 0.0, 0.0, -1.0], atol=1e-12)


@pytest.mark.parametrize("loss", POINTWISE)
def test_laws_of_pairs(make_rows, same_bits, loss):
    rng = np.random.default_rng(3)
    for dim, events in [(1, 1), (7, 5), (16, 16), (40, 50)]:
        args, options = pairs(rng, make_rows, loss, dim, events)
        got = loss_grads(*args, dim=dim, **options)
        # an event's bits depend on nothing else in the call
        last = (loss, args[1][-1:], args[2], args[3][-1:], None)
        alone = loss_grads(*last, dim=dim, **{name: column[-1:] for name, column in options.items()})
        same_bits(tuple(alone), tuple(part[-1:] for part in got))
        # weights multiply; by two and by nothing, exactly
        two_or_none = np.where(np.arange(events) % 2, 0.0, 2.0).astype(np.float32)
        weighted = loss_grads(*args, dim=dim, weights=two_or_none, **options)
        for part, changed in zip(got, weighted, strict=True):
            np.testing.assert_array_equal(changed, (part.T * two_or_none).T)


@pytest.mark.parametrize("loss", POINTWISE)
@pytest.mark.parametrize("dim", DIMS)
def test_every_path_gives_the_same_bits_of_pairs(make_rows, on_every_path, loss, dim):
    rng = np.random.default_rng(dim)
    for events, size in [(1, 1), (16, 1), (33, 30), (40, 1000)]:
        args, options = pairs(rng, make_rows, loss, dim, events)
        args[1][:] *= size
        on_every_path(lambda args=args, options=options: tuple(loss_grads(*args, dim=dim, **options)))


GOOD = {
    "loss": "bpr",
    "queries": np.zeros((2, 4), np.float32),
    "rows": np.zeros((5, 16), np.float32),
    "positives": np.array([0, 1]),
    "negatives": np.array([[2, 3, -1], [0, 1, 2]]),
    "dim": 4,
}
PAIRS = {"loss": "squared", "negatives": None, "values": np.ones(2, np.float32)}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"loss": "hinge"}, "loss: got str 'hinge', wanted one of 'softmax', 'bpr', 'logistic', 'squared'"),
        ({"loss": ["bpr"]}, "loss: got"),
        ({"loss": "softmax"}, r"negatives: got int64 \[2, 3\], wanted int64 \[K\]"),
        ({"dim": 5}, r"queries: got float32 \[2, 4\], wanted float32 \[B, 5\]"),
        ({"dim": -1}, "dim: got int -1"),
        ({"queries": np.zeros((2, 4))}, "queries: got float64"),
        ({"rows": np.zeros((5, 4), np.float32)}, "rows: got 4 columns, wanted 5 or more for dim 4"),
        ({"rows": np.zeros((5, 16), np.float32, order="F")}, "rows: got strides"),
        ({"positives": np.array([0])}, r"positives: got int64 \[1\], wanted int64 \[2\]"),
        ({"positives": np.array([0, -1])}, "positives: got -1, wanted 0 <= value < 5"),
        ({"positives": np.array([0, 5])}, "positives: got 5"),
        ({"negatives": np.array([[2], [5]])}, "negatives: got 5, wanted -1 <= value < 5"),
        ({"negatives": np.array([[2], [-2]])}, "negatives: got -2"),
        ({"negatives": np.array([[2]])}, r"negatives: got int64 \[1, 1\], wanted int64 \[2, K\]"),
        ({"negatives": np.array([2])}, "negatives: got"),
        ({"negatives": None}, "negatives: got NoneType, wanted an array for bpr"),
        ({"query_slots": np.array([0, 2])}, "query_slots: got 2, wanted 0 <= value < 2"),
        ({"query_slots": np.array([0, -1])}, "query_slots: got -1"),
        ({"query_slots": np.array([0.0, 1.0])}, "query_slots: got float64"),
        ({"query_slots": np.array([0])}, r"positives: got int64 \[2\], wanted int64 \[1\]"),
        ({"query_slots": np.array([0, 1]), "dim": 5}, "queries: got 4 columns, wanted 5 or more for dim 5"),
        ({"weights": np.ones(3, np.float32)}, "weights: got"),
        ({"values": np.ones(2, np.float32)}, "values: got ndarray, wanted None for bpr"),
        ({"offsets": np.ones(2, np.float32)}, "offsets: got ndarray, wanted None for bpr"),
        ({"loss": "logistic", "values": np.ones(2, np.float32)}, "negatives: got ndarray, wanted None for logistic"),
        ({"loss": "squared", "negatives": None}, "values: got NoneType, wanted an array for squared"),
        (PAIRS | {"values": np.ones(3, np.float32)}, r"values: got float32 \[3\], wanted float32 \[2\]"),
        (PAIRS | {"offsets": np.ones(2)}, "offsets: got float64"),
    ],
)
def test_refuses(changed, named):
    assert loss_grads(**GOOD).losses.shape == (2,)
    with pytest.raises(InputError, match=named):
        loss_grads(**(GOOD | changed))
