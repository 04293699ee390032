"""What the losses are for, on made-up data whose truth is known: probabilities that hold, ratings that come back."""

import numpy as np
import pytest

import engine

EVENTS, CALL = 200_000, 500


def clicks(n, users=200, items=100, rank=2):
    """Users, items, labels and their true probabilities; about a quarter of the labels are 1."""
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    user_vectors, item_vectors = rng.normal(0, 0.8, (users, rank)), rng.normal(0, 0.8, (items, rank))
    biases = rng.normal(0, 0.5, users)[user] + rng.normal(0, 0.7, items)[item]
    odds = -1.5 + biases + (user_vectors[user] * item_vectors[item]).sum(1)
    truth = 1 / (1 + np.exp(-odds))
    return user, item, rng.random(n) < truth, truth


def log_loss(labels, probabilities):
    return -np.where(labels, np.log(probabilities), np.log1p(-probabilities)).mean()


def test_one_pass_of_logistic_predicts_probabilities():
    """One pass over a million events, each predicted before it is learned: the log loss of the whole pass is within 2 %
    of that of the true probabilities. In each decile of the predictions of its last quarter, their mean is within 0.01
    of the mean truth, and within 0.02 of the share of ones (whose standard error is at most 0.003)."""
    n = 1_000_000
    users, items, labels, truth = clicks(n)
    late = slice(n * 3 // 4, None)
    with engine.open(":memory:", dim=8, loss="logistic") as eng:
        early = eng.ingest(users[: late.start], items[: late.start], labels[: late.start]).loss
        predicted, losses = [], []
        for start in range(late.start, n, CALL):
            call = slice(start, start + CALL)
            predicted.append(1 / (1 + np.exp(-eng.score(users[call], items[call]).astype(np.float64))))
            losses.append(eng.ingest(users[call], items[call], labels[call]).loss)
    assert (3 * early + np.mean(losses)) / 4 < 1.02 * log_loss(labels, truth)
    predicted = np.concatenate(predicted)
    for rows in np.array_split(np.argsort(predicted), 10):
        mean = predicted[rows].mean()
        assert mean == pytest.approx(truth[late][rows].mean(), abs=0.01)
        assert mean == pytest.approx(labels[late][rows].mean(), abs=0.02)


@pytest.mark.parametrize(("optimizer", "lr"), [("adagrad", 0.05), ("adam", 0.003), ("sgd", 0.01)])
def test_squared_recovers_a_planted_matrix(optimizer, lr):
    """Ratings of a rank-3 matrix with biases, plus noise of 0.3, one pass over ten times as many ratings as cells: the
    error of the last quarter, predicted before it is learned, is within 10 % of the noise, and what is predicted for
    every cell is within 0.1 of the matrix (whose own spread is 1.2)."""
    users, items, rank, noise = 200, 100, 3, 0.3
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 1, (users, rank)), rng.normal(0, 1, (items, rank)) / np.sqrt(rank)
    matrix = 3.5 + rng.normal(0, 0.4, (users, 1)) + rng.normal(0, 0.4, items) + vectors[0] @ vectors[1].T
    user, item = rng.integers(0, users, EVENTS), rng.integers(0, items, EVENTS)
    ratings = matrix[user, item] + rng.normal(0, noise, EVENTS)
    with engine.open(":memory:", dim=8, loss="squared", optimizer=optimizer, lr=lr) as eng:
        losses = [
            eng.ingest(user[start : start + CALL], item[start : start + CALL], ratings[start : start + CALL]).loss
            for start in range(0, EVENTS, CALL)
        ]
        predicted = eng.score(np.arange(users)[:, None], np.arange(items))
        best = eng.topk(np.arange(users), 5)
        strangers = eng.topk(10**9, items)
    assert np.sqrt(np.mean(losses[len(losses) * 3 // 4 :])) < 1.1 * noise
    assert np.sqrt(np.mean((predicted - matrix) ** 2)) < 0.1
    # what topk gives are the same predictions
    np.testing.assert_array_equal(best.scores, np.take_along_axis(predicted, best.ids, axis=1))
    assert strangers.scores.mean() == pytest.approx(matrix.mean(), abs=0.3)


@pytest.mark.parametrize(("loss", "values"), [("logistic", [1, 0, 1]), ("squared", [5, 1, 4])])
def test_weights_are_repetitions(loss, values):
    """An event of weight 2 has the gradient of two equal ones in its micro-batch; one of weight 0 teaches nothing."""
    settings = {"dim": 4, "loss": loss, "optimizer": "sgd", "lr": 0.125, "batch_size": 8}
    with engine.open(":memory:", **settings) as once, engine.open(":memory:", **settings) as twice:
        once.ingest([1, 2, 3], [7, 8, 9], values, weights=[2, 0, 1])
        twice.ingest([1, 1, 2, 3], [7, 7, 8, 9], [values[0], *values], weights=[1, 1, 0, 1])
        for users, items in (((1, 2, 3), None), (None, (7, 8, 9))):
            vectors = (eng.vectors(users, items) for eng in (once, twice))
            np.testing.assert_allclose(*vectors, rtol=1e-6)
        np.testing.assert_allclose(once.score([1, 3], [7, 9]), twice.score([1, 3], [7, 9]), rtol=1e-6)
        untaught = once.topk(vectors=np.zeros(4, np.float32), k=3)
        assert untaught.scores[untaught.ids == 8] == pytest.approx(base(loss, values, [2, 0, 1]), rel=1e-6)


def base(loss, values, weights):
    """What a pair is predicted to be before anything is known of either."""
    ones, total = np.dot(values, weights), np.sum(weights)
    return ones / total if loss == "squared" else np.log((ones + 0.5) / (total - ones + 0.5))
