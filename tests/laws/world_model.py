"""What a world must look like: an engine in memory that was told the same, and which ids have rows, by dictionaries.

The engine in memory gives the bits: digest, vectors, scores. The dictionaries say, without the engine's code, which
users and items have a row, what users have had, what is hidden and how far sources were read. Lists are then a sort.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

import engine
from engine.contract.settings import Settings

RECORD = 8  # events of a log record at most; tests tell the engine so
SOURCES = ("shop", "b\u00fccher")
SWEEPS = 4  # for rows that nobody touches, in the time that they may stay

ANSWERS = """[eng.refresh(), eng.digest(), [(eng.position(source) or b'').hex() for source in sources],
    eng.topk(users, 6, unknown='skip').ids.tolist(), eng.topk(users, 6).scores.tolist(),
    eng.topk(users, 40, exclude_seen=True).ids.tolist()]"""


class Events(NamedTuple):
    """The columns of a call."""

    users: list
    items: list
    values: list | None
    weights: list | None
    timestamps: list | None

    def cut(self, start, stop):
        return Events(*(None if column is None else column[start:stop] for column in self))


class Model:
    def __init__(self, settings, asked):
        """`asked`: users about whom each state is asked."""
        self.plain = engine.open(":memory:", **settings)
        self.asked = asked
        self.seq = 0
        self.users, self.items = {}, {}  # to the seq of the last event that named the row
        self.had = {}  # by user, what its row has
        self.hidden, self.positions = set(), {}
        self.seen = Counter()  # of ids without a row
        self.states = [self.answers()]  # at each record's end, since what LMDB must have

    def answers(self):
        return eval(ANSWERS, {"eng": self.plain, "users": self.asked, "sources": SOURCES})

    def ingest(self, events, position):
        """One call, record by record; returns how many events were not learned, and the new users and items."""
        unlearned, made = 0, [0, 0]
        for start in range(0, max(len(events.users), 1), RECORD):
            part = events.cut(start, start + RECORD)
            self.plain.ingest(*part[:3], weights=part.weights, timestamps=part.timestamps, position=position)
            before = set(self.users), set(self.items)
            unlearned += self._record(part)
            made = [n + len(set(now) - old) for n, now, old in zip(made, (self.users, self.items), before, strict=True)]
            self._expire(self.seq - len(part.users))
            if position:
                self.positions[position[0]] = position[1]
            self.states.append(self.answers())
        return unlearned, *made

    def _record(self, events):
        """Learns the events of one record; returns how many were not."""
        learned, rows = self._admitted(events), (self.users, self.items)
        named = list(zip(learned, zip(events.users, events.items, strict=True), range(self.seq + 1, 2**62)))  # noqa: B905
        for _, ids, seq in (each for each in named if not each[0]):
            for there, id in zip(rows, ids, strict=True):
                if id in there:
                    there[id] = seq
        for _, ids, seq in (each for each in named if each[0]):
            self.users[ids[0]] = self.items[ids[1]] = seq
            self.had.setdefault(ids[0], set()).add(ids[1])
        self.seq += len(learned)
        return learned.count(False)

    def _admitted(self, events):
        """Which events are learned: both ids have a row, made perhaps by an event before, or were seen often enough."""
        after, learned = self.plain.settings["admit_after"], []
        known = {("user", id) for id in self.users} | {("item", id) for id in self.items}
        for user, item in zip(events.users, events.items, strict=True):
            ids = ("user", user), ("item", item)
            if after > 1:
                self.seen.update(id for id in ids if id not in known)
            learned.append(after <= 1 or all(id in known or self.seen[id] >= after for id in ids))
            if learned[-1]:
                known.update(ids)
        return learned

    def _expire(self, before):
        ttl = self.plain.settings["row_ttl"]
        step = max(1, ttl // SWEEPS)
        if ttl and before // step != self.seq // step and self.seq >= ttl:
            for rows in (self.users, self.items):
                for id in [id for id, last in rows.items() if last <= self.seq - ttl]:
                    del rows[id]
            self.had = {user: items for user, items in self.had.items() if user in self.users}

    def operate(self, kind, users, items):
        if kind == "forget":
            self.plain.forget(users, items)
            for rows, ids in ((self.users, users), (self.had, users), (self.items, items)):
                for id in ids:
                    rows.pop(id, None)
            for had in self.had.values():
                had.difference_update(items)
        else:
            getattr(self.plain, kind)(items)
        (self.hidden.update if kind == "hide" else self.hidden.difference_update)(items)
        self.states.append(self.answers())

    def change(self, settings):
        """What opening a directory with other settings does."""
        now = self.plain._store.model.settings
        changed = Settings.resolve(settings, now)
        if changed != now:
            self.plain._writer.change_settings(changed)
            self.states.append(self.answers())

    def saved(self):
        """LMDB has this state: none before can be seen again."""
        del self.states[:-1]

    # --- lists

    def topk(self, user, k, allowed):
        """The best of `allowed` for one user, and their scores: a sort of all scores."""
        items = sorted(self.items.keys() - self.hidden)
        if user in self.users:
            scores = self.plain.score(user, items) if items else np.empty(0, np.float32)
        elif self.plain._store.model.settings.sequence:  # ranked with what a stranger's share of the mean is
            found = self.plain.topk(user, k=64)
            scores = found.scores[np.argsort(found.ids[: found.counts])]
        else:  # ranked with the mean of users
            found = self.plain.topk(vectors=self.plain._store.mean, k=64)
            scores = found.scores[np.argsort(found.ids[: found.counts])]
        return best(items, scores, k, allowed)

    def similar(self, item, k, allowed):
        """The best of `allowed` by cosine, in float64, and their cosines."""
        items = sorted(self.items.keys() - self.hidden)
        if not items:
            return [], np.empty(0)
        vectors = self.plain.vectors(items=[item, *items]).astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return best(items, units[1:] @ units[0], k, allowed - {item})


def best(items, scores, k, allowed):
    order = [at for at in np.lexsort([items, -np.asarray(scores)]) if items[at] in allowed][:k]
    return [items[at] for at in order], np.asarray(scores)[order]
