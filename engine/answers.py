"""Answers: what an Engine that learns and a Reader in another process answer alike. rank/ranker.py makes the lists.

Nothing here changes anything. Any thread; no lock of the engine is taken.
"""

import os
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NoReturn, Self, SupportsIndex, overload

from .contract.arguments import id_column
from .contract.arrays import FilterLike, Floats, HasArray, Ids, IdsLike
from .contract.errors import EngineError, InputError
from .contract.reports import Explanation, TopK
from .contract.tensors import TensorT, device_of, given
from .rank.explain import Why, explain
from .rank.ranker import Alike, CatalogueRanker, Request


class Answers(ABC):
    """Top-k lists, scores and vectors, as of at least `seq`."""

    _holds: Path | None = None  # the directory that it has open; None also before it is opened

    def __init__(self, where: Path | str):
        self._where = where
        self._pid = os.getpid()
        self._closed = False
        self._at_end = ExitStack()  # what to do when it is closed
        self._temporary = False  # does its directory go then?

    @property
    @abstractmethod
    def _seq(self) -> int:
        """Events applied so far."""

    @abstractmethod
    def _answering(self) -> AbstractContextManager[tuple[int, CatalogueRanker]]:
        """For the length of one answer: the seq that it is at least at, and what it comes from. Raises if closed."""

    @property
    def seq(self) -> int:
        """Events applied so far."""
        return self._seq

    @abstractmethod
    def _described(self) -> tuple[dict[str, int], str]:
        """The rows of each table, and the device."""

    def __repr__(self) -> str:
        name = f"{type(self).__name__} {str(self._where)!r}"
        if self._closed:
            return f"<{name}, closed>"
        rows, device = self._described()
        counted = ", ".join(f"{n:,} {table}" for table, n in rows.items())
        return f"<{name} at seq {self._seq:,}: {counted}, on {device}>"

    # What type checkers are told: a tensor among the arguments makes tensors of the answer.
    @overload
    def topk(
        self, users: TensorT, k: int = 10, *, vectors: None = None, exclude_seen: bool = False,
        exclude: FilterLike = None, include: FilterLike = None, unknown: str = "fallback",
        at: Any = None, session: Any = None, history: FilterLike = None,
    ) -> TopK[TensorT, TensorT]: ...  # fmt: skip

    @overload
    def topk(
        self, users: None = None, k: int = 10, *, vectors: TensorT, exclude_seen: bool = False,
        exclude: FilterLike = None, include: FilterLike = None, unknown: str = "fallback",
        at: Any = None, session: Any = None, history: FilterLike = None,
    ) -> TopK[TensorT, TensorT]: ...  # fmt: skip

    @overload
    def topk(
        self, users: IdsLike | None = None, k: int = 10, *, vectors: Any = None, exclude_seen: bool = False,
        exclude: TensorT, include: FilterLike = None, unknown: str = "fallback",
        at: Any = None, session: Any = None, history: FilterLike = None,
    ) -> TopK[TensorT, TensorT]: ...  # fmt: skip

    @overload
    def topk(
        self, users: IdsLike | None = None, k: int = 10, *, vectors: Any = None, exclude_seen: bool = False,
        exclude: FilterLike = None, include: TensorT, unknown: str = "fallback",
        at: Any = None, session: Any = None, history: FilterLike = None,
    ) -> TopK[TensorT, TensorT]: ...  # fmt: skip

    @overload
    def topk(
        self, users: IdsLike | None = None, k: int = 10, *, vectors: Any = None, exclude_seen: bool = False,
        exclude: FilterLike = None, include: FilterLike = None, unknown: str = "fallback",
        at: Any = None, session: Any = None, history: FilterLike = None,
    ) -> TopK: ...  # fmt: skip

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
        at: Any = None,
        session: Any = None,
        history: Any = None,
    ) -> Any:
        """The k items with the highest scores for each user, exactly; changes nothing. Any number of users in one call.

        Args:
            users: a scalar id (the answer is 1-D) or ids [n] (the answer is [n, k]).
            vectors: instead of users, query vectors float [dim] or [n, dim].
            exclude_seen: leave out what the user has had: the most recent 1,024 distinct items.
            exclude, include: item ids, 1-D or a set for all users, or a list or set for each (2-D may be padded with
                -1); unknown ids are passed over; `exclude` wins over `include`.
            unknown: for users without a row: "fallback" ranks for the running mean of users, "raise" is UnknownIdError,
                "skip" gives an empty row.
            at, session: when the request comes, as in `timestamps`, and in which session, for models that look at what
                users have had; one for all, or one for each user. None: at the log's own time, in the user's last
                session.
            history: for the same models, items that were had just now and are not learned yet, the newest last: at most
                1,024 ids for one user, or a list for each. Without users: those of somebody unknown.

        Returns TopK, of tensors if any of these is one, on its device (of several: the first named here). Raises
        InputError (also for k > `2**24`, or users x k > `2**27`), UnknownIdError.

        >>> report = eng.ingest([7, 7, 8, 9], [100, 101, 100, 102])
        >>> ids, scores = eng.topk(7, k=2)
        >>> ids.shape, scores.dtype
        ((2,), dtype('float32'))
        >>> fresh = eng.topk([7, 9], k=5, exclude_seen=True)
        >>> fresh.counts.tolist(), fresh.ids[0].tolist()
        ([1, 2], [102, -1, -1, -1, -1])
        """
        device = device_of(users, vectors, exclude, include, history)
        asked = Request(users, k, vectors, exclude_seen, exclude, include, unknown, at, session, history)
        with self._answering() as (seq, ranker):
            found = ranker.topk(seq, asked)
        return _given(found, device)

    @overload
    def similar(
        self, items: TensorT, k: int = 10, *, exclude: FilterLike = None, include: FilterLike = None,
        unknown: str = "raise",
    ) -> TopK[TensorT, TensorT]: ...  # fmt: skip

    @overload
    def similar(
        self, items: IdsLike, k: int = 10, *, exclude: TensorT, include: FilterLike = None,
        unknown: str = "raise",
    ) -> TopK[TensorT, TensorT]: ...  # fmt: skip

    @overload
    def similar(
        self, items: IdsLike, k: int = 10, *, exclude: FilterLike = None, include: TensorT,
        unknown: str = "raise",
    ) -> TopK[TensorT, TensorT]: ...  # fmt: skip

    @overload
    def similar(
        self, items: IdsLike, k: int = 10, *, exclude: FilterLike = None, include: FilterLike = None,
        unknown: str = "raise",
    ) -> TopK: ...  # fmt: skip

    def similar(
        self, items: Any, k: int = 10, *, exclude: Any = None, include: Any = None, unknown: str = "raise"
    ) -> Any:
        """The k items whose vectors have the highest cosine to each item's, exactly; biases don't count.

        Args:
            items: a scalar id (the answer is 1-D) or ids [n] (the answer is [n, k]).
            exclude, include: item ids, as in `topk`. An item is never in its own list.
            unknown: for items without a row: "raise" is UnknownIdError, "skip" gives an empty row.

        Returns TopK, its scores the cosines, in [-1, 1]; a vector of zeros has cosine 0 to every other. Tensors as in
        `topk`. Raises InputError (also for k > `2**24`, or items x k > `2**27`), UnknownIdError.

        >>> report = eng.ingest([7, 7, 8, 9], [100, 101, 100, 102])
        >>> eng.similar(100, k=5, exclude=[102]).ids.tolist()
        [101, -1, -1, -1, -1]
        """
        device = device_of(items, exclude, include)
        with self._answering() as (seq, ranker):
            found = ranker.similar(seq, Alike(items, k, exclude, include, unknown))
        return _given(found, device)

    def score(self, users: IdsLike, items: IdsLike, *, unknown: str = "raise") -> Any:
        """The scores of items for users, float32, broadcast against each other: what `topk` ranks by.

        They are what the loss learns to predict. "squared": the rating, which is the mean of all ratings + the biases
        of user and item + user . item. "logistic": the log odds of a 1, in the same way; 1 / (1 + exp(-score)) is its
        probability. "softmax" and "bpr": user . item + the item's bias, a number that ranks.

        unknown: for a pair with an id that has no row: "raise" is UnknownIdError, "skip" gives NaN. A tensor if users
        or items are one. Raises InputError (also for more than `2**27` pairs), UnknownIdError.

        >>> report = eng.ingest([7, 8], [100, 101])
        >>> eng.score([[7], [8]], [100, 101]).shape
        (2, 2)
        """
        with self._answering() as (_, ranker):
            scores = ranker.score(users, items, unknown)
        return given([scores], device_of(users, items))[0]

    @overload
    def vectors(self, users: TensorT, items: None = None) -> TensorT: ...

    @overload
    def vectors(self, users: None = None, *, items: TensorT) -> TensorT: ...

    @overload
    def vectors(self, users: IdsLike | None = None, items: IdsLike | None = None) -> Floats: ...

    def vectors(self, users: Any = None, items: Any = None) -> Any:
        """The vectors of users or of items, float32 [n, dim], in the order asked for; a tensor if those are one.

        Raises InputError, UnknownIdError.

        >>> report = eng.ingest([7, 8], [100, 101])
        >>> eng.vectors([8, 7]).shape == (2, eng.settings["dim"])
        True
        """
        with self._answering() as (_, ranker):
            if (users is None) == (items is None):
                which = "neither" if users is None else "both"
                raise InputError(f"users, items: got {which}, wanted exactly one of the two")
            if items is not None:
                found = ranker.item_vectors(id_column("items", items))
            else:
                found = ranker.user_vectors(id_column("users", users))
        return given([found], device_of(users, items))[0]

    @overload
    def history(self, user: TensorT) -> TensorT: ...

    @overload
    def history(self, user: SupportsIndex | HasArray) -> Ids: ...

    def history(self, user: Any) -> Any:
        """The items that a user has had, int64 [n], the most recent last: 1,024 at most, each once; a stranger has
        none.

        A tensor if `user` is one. Raises InputError.

        >>> report = eng.ingest(7, [100, 101, 100])
        >>> eng.history(7).tolist()
        [101, 100]
        """
        with self._answering() as (_, ranker):
            found = ranker.history(user)
        return given([found], device_of(user))[0]

    def explain(
        self, user: Any, items: IdsLike, *, at: Any = None, session: Any = None, history: FilterLike = None
    ) -> list[Explanation]:
        """Why items have their scores for a user: an Explanation for each, whose parts add up but for rounding.

        For models that look at what users have had it names the earlier items that count. at, session, history: as in
        `topk`, which ranks by the same scores. A user without a row is explained as the mean of users. Raises
        InputError, UnknownIdError.

        >>> report = eng.ingest([7, 8], [100, 101])
        >>> (why,) = eng.explain(7, 100)
        >>> bool(abs(why.score - eng.score(7, 100)) < 1e-5)
        True
        """
        with self._answering() as (_, ranker):
            return explain(ranker.source, Why(user, items, at, session, history))

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Closes, after an error too: what was learned before it is as good. The error is the one that comes out."""
        try:
            self.close()
        except Exception as e:
            if error is None:
                raise
            error.add_note(f"Closing failed, too: {type(e).__name__}: {e}")

    @abstractmethod
    def _let_go(self) -> None:
        """Ends the threads and closes the files, with nothing written that the log has."""

    def __reduce_ex__(self, _: SupportsIndex) -> NoReturn:
        """What `copy` and `pickle` ask: a copy would be a second owner of the same threads and files."""
        raise TypeError("an Engine cannot be copied or pickled; open the directory in each process that needs it")

    def __del__(self) -> None:
        if self._holds is None or self._pid != os.getpid():
            return
        lost = f"{type(self).__name__} of {self._holds}: lost without close()"
        warnings.warn(lost, ResourceWarning, stacklevel=2, source=self)
        if sys.is_finalizing():  # threads stand still by now, and the system gives everything back
            return
        if threading.current_thread().name.startswith("rowtide-"):
            # Garbage was collected in what may be a thread of its own, which cannot wait for its own end.
            threading.Thread(target=self._let_go, name="rowtide-lost").start()
        else:
            self._let_go()

    def _alive(self) -> None:
        if self._pid != os.getpid():
            raise EngineError("this Engine belongs to the parent process; a child cannot use it")
        if self._closed:
            raise EngineError(f"this {type(self).__name__} is closed")


def _given(found: TopK, device: Any) -> TopK[Any, Any]:
    """The answer as the caller's kind of array."""
    ids, scores, counts = given((found.ids, found.scores, found.counts), device)
    return TopK(ids, scores, counts, found.seq)
