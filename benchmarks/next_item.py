"""What each part of the sequence model gives: hit-rate@10 on a log of purchases, predicted, then learned.

    python benchmarks/next_item.py EVENTS.parquet            # rows 60 to 80 %: what settings are chosen on
    python benchmarks/next_item.py EVENTS.parquet --last     # the last 20 %: to be looked at once

The log has the columns user, item, ts, basket and kind; `purchase` rows with a user count. "row": every --each-th row
is a request, and each row is learned before the next request. "shuffled": the same, the rows of each basket in random
order, for that of an invoice says more than that of a click stream. "basket": consecutive rows of one basket are one
request, and are learned after it. "new": items that the user never had, with those that he had left out. Ties count
against nobody: a list is what `topk` returns.
"""

import argparse
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq

import engine

ALL = {"bag": 10, "repeats": 1, "recent_negatives": 16, "own_negatives": 16, "neighbours": 16}
MODELS = {
    "plain, as shipped": {},
    "bag": {"bag": 10},
    "bag, three kinds of negatives": ALL | {"repeats": 0, "neighbours": 0},
    "bag, repeats, three kinds of negatives": ALL | {"neighbours": 0},
    "all": ALL,
    "all without repeats": ALL | {"repeats": 0},
    "all, 32 negatives over all items, none recent": ALL | {"recent_negatives": 0, "negatives": 32},
    "all without the bag": ALL | {"bag": 0},
}


class Log:
    def __init__(self, path, shuffled=False):
        table = pq.read_table(path, columns=["user", "item", "ts", "basket", "kind"])
        kept = (table["kind"].to_numpy() == "purchase") & (table["user"].to_numpy() >= 0)
        self.users, self.items, self.times, baskets = (
            table[name].to_numpy()[kept] for name in ("user", "item", "ts", "basket")
        )
        self.times = self.times.astype("datetime64[s]").astype(float)
        changes = (np.diff(self.users) != 0) | (baskets[1:] != baskets[:-1])
        self.baskets = np.flatnonzero(np.r_[True, changes, True])
        if shuffled:
            number = np.cumsum(np.r_[0, changes])
            self.items = self.items[np.lexsort((np.random.default_rng(0).random(len(number)), number))]
        pairs = np.unique(np.stack([self.users, self.items], 1), axis=0, return_index=True)[1]
        self.new = np.isin(np.arange(len(self.users)), pairs)

    def learn(self, eng, start, stop):
        part = slice(start, stop)
        eng.ingest(self.users[part], self.items[part], timestamps=self.times[part], durable=False)

    def hits(self, eng, asked, rows):
        """Of `rows`, requests of row `asked`: how many are judged and hit, of all and of new ones."""
        user, time = int(self.users[asked]), self.times[asked]
        fresh = rows[self.new[rows]]
        found = np.isin(self.items[rows], eng.topk(user, 10, at=time).ids).sum()
        others = eng.topk(user, 10, at=time, exclude_seen=True).ids if len(fresh) else []
        return np.array([len(rows), found, len(fresh), np.isin(self.items[fresh], others).sum()])


def judge(log, settings, span, by, each):
    first, last = (np.searchsorted(log.baskets, len(log.users) * share) for share in span)
    judged = np.zeros(4)
    with engine.open(":memory:", **settings) as eng:
        log.learn(eng, 0, log.baskets[first])
        for start, stop in pairwise(log.baskets[first : last + 1].tolist()):
            if by == "basket":
                judged += log.hits(eng, start, np.arange(start, stop))
                log.learn(eng, start, stop)
                continue
            for row in range(start, stop):
                if row % each == 0:
                    judged += log.hits(eng, row, np.array([row]))
                log.learn(eng, row, row + 1)
    return f"{judged[1] / judged[0]:.4f} / {judged[3] / judged[2]:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events")
    parser.add_argument("--last", action="store_true")
    parser.add_argument("--each", type=int, default=8)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--by", choices=("row", "shuffled", "basket"), action="append")
    given = parser.parse_args()
    span, ways = (0.8, 1.0) if given.last else (0.6, 0.8), given.by or ["row", "shuffled", "basket"]
    logs = {by: Log(given.events, by == "shuffled") for by in ways}
    print(f"| model | {' | '.join(f'{by}: all / new' for by in ways)} |\n|---|{'---|' * len(ways)}")
    for name in given.model or MODELS:
        found = [judge(log, MODELS[name], span, by, given.each) for by, log in logs.items()]
        print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
