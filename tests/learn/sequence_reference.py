"""The sequence model, plainly: dictionaries, float64, one event after the other. Slow, and meant to be read.

docs/how-it-works/sequence-model.md has the formulas. Draws and the noise of new rows are the engine's own.
"""

import math
from dataclasses import dataclass, field

import numpy as np

MASK = 2**64 - 1
SINCE, MINUTES, TIMES, SESSION, STATE = 0, 16, 48, 64, 65
ALPHA, STRANGER, NEWCOMER, BAG = 130, 135, 136, 137
MOST_BAG, NEAR, COUNT, BLOCK, RING = 16, 169, 179, 256, 16_384
SOURCES = 5  # of a user's latest items, so many have neighbours that count
RECENT_DRAWS, OWN_DRAWS = 1 << 20, 1 << 21


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def draw_below(seed, seq, draw, n):
    return mix64((mix64(mix64(seed) ^ seq) + draw) & MASK) * n >> 64


def noise(seed, table, id, dim):
    start = mix64(mix64(seed ^ (table << 56)) ^ (id & MASK))
    words = [mix64((start + d) & MASK) >> 32 for d in range(dim)]
    return np.array([w - 2**32 if w >= 2**31 else w for w in words]) * 2.0**-31


@dataclass
class Entry:
    seq: int
    time: int
    session: int
    mark: int
    place: int
    times: int


@dataclass
class User:
    vector: np.ndarray
    sum: float = 0.01
    had: dict[int, Entry] = field(default_factory=dict)  # in the order of first sight
    last: Entry | None = None


@dataclass
class Item:
    vector: np.ndarray
    bias: float = 0.0
    sum: float = 0.01
    bias_sum: float = 0.001
    neighbours: list[list] = field(default_factory=list)  # [item, count]
    total: float = 0.0


@dataclass
class Seen:
    """A view: weights of the user's vector and of items' vectors by where they stand, and who is in the session."""

    inside: bool
    alpha: int
    bag: list[tuple[int, int]]  # (weight, item)


class Reference:
    def __init__(self, settings):
        self.s = settings
        self.users: dict[int, User] = {}
        self.items: dict[int, Item] = {}
        self.order: list[int] = []  # items by ordinal
        self.ring: list[int] = []
        self.mean, self.events, self.seq = np.zeros(settings["dim"]), 0, 0
        self.w, self.sums = np.zeros(COUNT), np.full(COUNT, 0.01)
        self.w[ALPHA:BAG] = 1
        self.w[STRANGER] = 0
        self.w[BAG:NEAR] = [0.5 ** (at % MOST_BAG) for at in range(2 * MOST_BAG)]
        self.grads, self.squares = np.zeros(COUNT), np.zeros(COUNT)

    # --- what a user has had

    def next_entry(self, user, item, seq, time, mark):
        last, had = user.last, user.had.get(item)
        session = 1
        if last:
            silent = time and last.time and time - last.time > self.s["session_gap"]
            session = last.session + bool(silent or mark != last.mark)
        return Entry(seq, time, session, mark, last.place + 1 if last else 1, had.times + 1 if had else 1)

    def views(self, user, now):
        """The views of an event whose entry is `now`: the fuller one first."""
        inside = [e for e in user.had.values() if e.session == now.session]
        latest = sorted(user.had.items(), key=lambda x: -x[1].seq)

        def view(is_inside):
            state = is_inside * MOST_BAG
            kept = [item for item, e in latest if is_inside or e.session != now.session][: self.s["bag"]]
            alpha = ALPHA
            if is_inside:
                alpha += int(math.log2(min(len(inside), 15) + 1))
            elif now.place == 1:
                alpha = STRANGER
            elif now.place <= 4:
                alpha = NEWCOMER
            return Seen(is_inside, alpha, [(BAG + state + rank, item) for rank, item in enumerate(kept)])

        return [view(True), view(False)] if inside else [view(False)]

    def worth(self, entry, view, now):
        """(weight, factor) of what it is worth to have had an item."""
        if not self.s["repeats"] or entry is None or (not view.inside and entry.session == now.session):
            return []
        out, state = [], view.inside * STATE

        def between(at, knots, x):
            x = min(max(x, 0), knots - 1)
            low = min(int(x), knots - 2)
            out.extend([(state + at + low, 1 - (x - low)), (state + at + low + 1, x - low)])

        between(SINCE, 16, math.log2(now.place - entry.place))
        if now.time and entry.time:
            between(MINUTES, 32, math.log2(max(0, now.time - entry.time) / 60 + 1))
        between(TIMES, 16, 2 * math.log2(min(entry.times, 63)))
        if entry.session == now.session:
            out.append((state + SESSION, 1.0))
        return out

    def near(self, user, now):
        """How near items are to the user's latest ones, inside a session: by item."""
        if not self.s["neighbours"] or not any(e.session == now.session for e in user.had.values()):
            return {}
        latest = sorted(user.had, key=lambda item: -user.had[item].seq)[:SOURCES]
        shares = {}
        for rank, source in enumerate(self.items[item] for item in latest):
            for other, count in source.neighbours:
                shares[other] = shares.get(other, 0) + 0.5**rank * count / source.total
        return {other: share / sum(0.5**rank for rank in range(len(latest))) for other, share in shares.items()}

    def worth_near(self, share):
        if not share:
            return []
        x = math.log2(1 + share / 0.002)
        return [(NEAR + int(x), 1 - (x - int(x))), (NEAR + int(x) + 1, x - int(x))]

    def comes_after(self, item, other, by):
        """An event of `other` soon after `item`."""
        row = self.items[item]
        row.total += by
        known = [entry for entry in row.neighbours if entry[0] == other]
        least = min(row.neighbours, key=lambda entry: entry[1], default=None)
        if known:
            known[0][1] += by
        elif len(row.neighbours) < self.s["neighbours"]:
            row.neighbours.append([other, by])
        elif least[1] <= by:
            least[:] = [other, by]
        else:
            least[1] -= by / 2

    # --- one event

    def candidates(self, user, item, seq, before, near):
        """Items, and the logs of their weights: the positive first."""
        s, out = self.s, [(item, 0.0)]
        had = list(user.had) + [other for other in near if other not in user.had]
        own = s["own_negatives"] and had
        drawn = [self.order[draw_below(s["seed"], seq, k, before)] for k in range(s["negatives"] if before else 0)]
        for k in range(s["recent_negatives"] if self.ring_as_it_was else 0):
            drawn.append(self.ring_as_it_was[draw_below(s["seed"], seq, RECENT_DRAWS + k, len(self.ring_as_it_was))])
        for other in drawn:
            if other == item or (own and other in had):
                continue
            share = s["negatives"] / before
            if self.ring_as_it_was:
                share += s["recent_negatives"] * self.ring_as_it_was.count(other) / len(self.ring_as_it_was)
            out.append((other, -math.log(share)))
        if own:
            log_weight = 0.0
            if len(had) > s["own_negatives"]:
                most = s["own_negatives"]
                log_weight = math.log(len(had) / most)
                had = [had[draw_below(s["seed"], seq, OWN_DRAWS + k, len(had))] for k in range(most)]
            out += [(other, log_weight) for other in had if other != item]
        return out

    def gradients(self, user, item, now, before, weight):
        """Adds one event's gradients to those of the micro-batch; its loss."""
        near, loss = self.near(user, now), 0.0
        candidates, views = self.candidates(user, item, now.seq, before, near), self.views(user, now)
        for view in views:
            query = self.w[view.alpha] * user.vector
            for at, other in view.bag:
                query = query + self.w[at] * self.items[other].vector
            worths = [
                self.worth(user.had.get(other), view, now) + self.worth_near(view.inside and near.get(other))
                for other, _ in candidates
            ]
            scores = np.array(
                [
                    query @ self.items[other].vector + self.items[other].bias + log_weight
                    + sum(self.w[at] * x for at, x in worth)
                    for (other, log_weight), worth in zip(candidates, worths, strict=True)
                ]
            )  # fmt: skip
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            loss -= weight / len(views) * math.log(shares[0])
            coefs = shares.copy()
            coefs[0] -= 1
            coefs *= weight / len(views)
            back = sum(c * self.items[other].vector for c, (other, _) in zip(coefs, candidates, strict=True))
            for c, (other, _), worth in zip(coefs, candidates, worths, strict=True):
                self.item_grads[other][0] += c * query
                self.item_grads[other][1] += c
                for at, x in worth:
                    self.global_grad(at, c * x)
            self.global_grad(view.alpha, back @ user.vector)
            for at, other in view.bag:
                self.global_grad(at, back @ self.items[other].vector)
                self.item_grads[other][0] += self.w[at] * back
            self.user_grads[id(user)][1] += self.w[view.alpha] * back
        return loss

    def global_grad(self, at, grad):
        self.grads[at] += grad
        self.squares[at] += grad * grad

    # --- a micro-batch

    def ingest(self, users, items, times, weights=None):
        """Learns one call's events, in micro-batches; the sum of their losses."""
        size, loss = self.s["batch_size"], 0.0
        for start in range(0, len(users), size):
            part = slice(start, start + size)
            loss += self.batch(users[part], items[part], times[part], None if weights is None else weights[part])
        return loss

    def batch(self, users, items, times, weights):
        s, before = self.s, len(self.order)
        for user in users:
            if user not in self.users:
                self.users[user] = User(self.mean + 0.01 * noise(s["seed"], 1, user, s["dim"]))
        for item in items:
            if item not in self.items:
                self.items[item] = Item(0.05 * noise(s["seed"], 2, item, s["dim"]))
                self.order.append(item)
        self.ring_as_it_was = list(self.ring)
        self.item_grads = {item: [np.zeros(s["dim"]), 0.0] for item in self.items}
        self.user_grads = {id(user): [user, np.zeros(s["dim"])] for user in self.users.values()}
        first, loss, after = self.seq + 1, 0.0, []
        for b, (id_, item) in enumerate(zip(users, items, strict=True)):
            user = self.users[id_]
            now = self.next_entry(user, item, first + b, int(times[b]) + 1, 0)
            weight = 1.0 if weights is None else weights[b]
            loss += self.gradients(user, item, now, before, weight)
            if s["neighbours"]:
                inside = {other: e.seq for other, e in user.had.items() if e.session == now.session and other != item}
                for rank, other in enumerate(sorted(inside, key=lambda other: -inside[other])[:SOURCES]):
                    after.append((other, item, weight * 0.5**rank))
            user.had[item] = user.last = now
        self.step(s["lr"])
        for other, item, by in after:
            self.comes_after(other, item, by)
        for b, id_ in enumerate(users):
            self.events += 1
            rate = max(1 / 4096, 1 / self.events)
            self.mean = self.mean + rate * (self.users[id_].vector - self.mean)
            self.ring = [*self.ring, items[b]][-RING:]
        self.seq += len(users)
        if (first - 1) // BLOCK != self.seq // BLOCK:
            self.sums += self.squares
            sums = (np.arange(COUNT) >= ALPHA) & (np.arange(COUNT) < NEAR)
            rates = s["lr"] * np.where(sums, 0.1, 0.5)
            self.w -= rates * self.grads / np.sqrt(self.sums)
            self.grads, self.squares = np.zeros(COUNT), np.zeros(COUNT)
        return loss

    def step(self, lr):
        for item, (grad, bias_grad) in self.item_grads.items():
            row = self.items[item]
            row.sum += (grad @ grad) / len(grad)
            row.vector = row.vector - lr * grad / (np.sqrt(row.sum) + 1e-8)
            row.bias_sum += bias_grad**2
            row.bias -= 2.5 * lr * bias_grad / (np.sqrt(row.bias_sum) + 1e-8)
        for user, grad in self.user_grads.values():
            user.sum += (grad @ grad) / len(grad)
            user.vector = user.vector - 0.3 * lr * grad / (np.sqrt(user.sum) + 1e-8)

    # --- a list

    def score(self, id_, time):
        """The scores of all items for a known user at a time, by item."""
        user = self.users[id_]
        now = self.next_entry(user, None, self.seq + 1, int(time) + 1, user.last.mark)
        view, near = self.views(user, now)[0], self.near(user, now)
        query = self.w[view.alpha] * user.vector
        for at, other in view.bag:
            query = query + self.w[at] * self.items[other].vector
        return {
            item: query @ row.vector + row.bias
            + sum(self.w[at] * x for at, x in self.worth(user.had.get(item), view, now))
            + sum(self.w[at] * x for at, x in self.worth_near(near.get(item)))
            for item, row in self.items.items()
        }  # fmt: skip
