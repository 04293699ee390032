"""Who can bring an item into everybody's list: made-up users beside real ones, with the gate and without.

    python benchmarks/bursts.py EVENTS.parquet

The log is that of next_item.py. After 80 % of it, n made-up users come, one a minute, each with so many earlier events
on popular items and then one on an item that nobody has seen. Printed is the share of 1,000 real users of the last 30
days who have that item among their ten: at the start of a session and inside their last one, at once, after 500 and
after 3,000 more events of the log.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from next_item import ALL, Log

import engine

NEW, FIRST_FAKE = 10**12, 10**12
MONTH = 30 * 86_400


def real_users(log, end):
    """A thousand who came within the last month, and when each came last."""
    recent = log.times[:end] > log.times[end - 1] - MONTH
    users, last = np.unique(log.users[:end][recent][::-1], return_index=True)
    chosen = np.random.default_rng(0).permutation(len(users))[:1000]
    return users[chosen], log.times[:end][recent][::-1][last[chosen]]


def shares(eng, users, last, now):
    """At the start of a session, and inside the last one."""
    start = np.mean([NEW in eng.topk(user, 10, at=now + 3600).ids for user in users.tolist()])
    inside = np.mean([NEW in eng.topk(user, 10, at=time).ids for user, time in zip(users.tolist(), last, strict=True)])
    return f"{start:.3f} / {inside:.3f}"


def fakes(eng, log, end, n, earlier):
    popular = log.items[end - 16_384 : end]
    rng = np.random.default_rng(1)
    for number in range(n):
        time = log.times[end - 1] + 60 * number
        items = [*rng.choice(popular, earlier), NEW]
        times = [*(time - 3600 * np.arange(earlier, 0, -1)), time]
        eng.ingest(FIRST_FAKE + number, items, timestamps=times, durable=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events")
    log = Log(parser.parse_args().events)
    end = int(log.baskets[np.searchsorted(log.baskets, len(log.users) * 0.8)])
    users, last = real_users(log, end)
    print("| gate | made-up users | earlier events | at once | after 500 | after 3,000 |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        learned = Path(scratch) / "learned"
        with engine.open(learned, **ALL) as eng:
            log.learn(eng, 0, end)
        for gate, n, earlier in [(2, 10, 0), (2, 100, 0), (2, 10, 2), (2, 100, 2), (0, 10, 0), (0, 100, 0), (0, 10, 2)]:
            copy = Path(shutil.copytree(learned, Path(scratch) / "copy"))
            with engine.open(copy, gate=gate) as eng:
                fakes(eng, log, end, n, earlier)
                cells = [shares(eng, users, last, log.times[end - 1])]
                for start, stop in [(end, end + 500), (end + 500, end + 3000)]:
                    log.learn(eng, start, stop)
                    cells.append(shares(eng, users, last, log.times[stop - 1]))
            shutil.rmtree(copy)
            print(f"| {gate or 'off'} | {n} | {earlier} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
