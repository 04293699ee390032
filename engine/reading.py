"""Reading: what an Engine answers. The same for one that learns and for a reader in another process.

Nothing here changes anything. Any thread; no lock of the engine is taken.
"""

import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from .errors import EngineError, InputError
from .events import Floats, TopK, id_column
from .rank.topk import Ranker


class Reading(ABC):
    """Top-k lists, scores and vectors, as of at least `seq`."""

    _seq: int  # events applied so far
    _pid: int
    _closed: bool
    _at_end: ExitStack  # what to do when it is closed

    @abstractmethod
    def _answering(self) -> AbstractContextManager[tuple[int, Ranker]]:
        """For the length of one answer: the seq that it is at least at, and what it comes from. Raises if closed."""

    @property
    def seq(self) -> int:
        """Events applied so far."""
        return self._seq

    def topk(
        self,
        users: Any = None,
        k: int = 10,
        *,
        vectors: Any = None,
        exclude_seen: bool = False,
        exclude: Any = None,
        include: Any = None,
        unknown: str = "fallback",
    ) -> TopK:
        """The k items with the highest scores for each user, exactly; changes nothing.

        Args:
            users: a scalar id (the answer is 1-D) or ids [n] (the answer is [n, k]).
            vectors: instead of users, query vectors float [dim] or [n, dim].
            exclude_seen: leave out what the user has had: the most recent 1,024 distinct items.
            exclude, include: item ids, 1-D for all users or one list for each (2-D may be padded with -1);
                unknown ids are passed over; `exclude` wins over `include`.
            unknown: for users without a row: "fallback" ranks for the running mean of users, "raise" is UnknownIdError,
                "skip" gives an empty row.

        Returns TopK. Raises InputError (also for k > 2**24, or users x k > 2**27), UnknownIdError.
        """
        with self._answering() as (seq, ranker):
            return ranker.topk(seq, users, k, vectors, exclude_seen, exclude, include, unknown)

    def score(self, users: Any, items: Any) -> Any:
        """The scores of items for users, float32, broadcast against each other: what `topk` ranks by.

        Raises UnknownIdError for an id without a row.
        """
        with self._answering() as (_, ranker):
            return ranker.score(users, items)

    def vectors(self, users: Any = None, items: Any = None) -> Floats:
        """The vectors of users or of items, float32 [n, dim], in the order asked for. Raises UnknownIdError."""
        with self._answering() as (_, ranker):
            if (users is None) == (items is None):
                raise InputError("users, items: wanted exactly one of the two")
            if items is not None:
                return ranker.item_vectors(id_column("items", items))
            return ranker.user_vectors(id_column("users", users))

    def _alive(self) -> None:
        if self._pid != os.getpid():
            raise EngineError("this Engine belongs to the parent process; a child cannot use it")
        if self._closed:
            raise EngineError("this Engine is closed")
