"""From a user-item matrix, as implicit and LightFM take it, to events in an order that an online learner can use.

A matrix has no order, and `matrix.nonzero()` lists it user by user. The engine learns in the order that it is given,
and begins to forget at once: fed in row order it has just seen the last users when it is asked about the first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import engine

Ids = NDArray[np.int64]


def events_of(matrix: Any, user_ids: Ids, item_ids: Ids, seed: int = 0) -> tuple[Ids, Ids, NDArray[np.float64]]:
    """Users, items and weights of a matrix's entries, shuffled. `matrix`: of scipy.sparse, or an array.

    Row r is the user `user_ids[r]`, column c the item `item_ids[c]`; an entry weighs what it says.
    """
    rows, columns = matrix.nonzero()
    order = np.random.default_rng(seed).permutation(len(rows))
    rows, columns = rows[order], columns[order]
    return user_ids[rows], item_ids[columns], np.asarray(matrix[rows, columns], dtype=np.float64).ravel()


def by_time(users: Ids, items: Ids, times: NDArray[Any]) -> tuple[Ids, Ids]:
    """Better than a shuffle, where there are times: the order in which it happened. Equal times keep their order."""
    order = np.argsort(times, kind="stable")
    return users[order], items[order]


def main() -> None:
    rng = np.random.default_rng(1)
    matrix = (rng.random((200, 80)) < 0.05).astype(float)
    users, items, weights = events_of(matrix, np.arange(1_000, 1_200), np.arange(50_000, 50_080))
    with engine.open(":memory:") as eng:
        for _ in range(3):  # a matrix has no second event of a pair; a few passes make up for it
            eng.ingest(users, items, weights=weights)
        print(eng.topk(1_000, k=5, exclude_seen=True).ids.tolist())


if __name__ == "__main__":
    main()
