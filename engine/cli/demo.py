"""The main job on made-up data: a shop whose tastes drift, learned and ranked live, clicked, killed and reopened.

Responsible for the shop's stream and for what is shown. Everything that it shows is measured in the run. Not for
learning or judging (engine.py, evaluate/). Needs the extra `cli` (rich).
`python -m rowtide.cli.demo DIR EVENTS SEED` is the writer that the demo kills.

Invariant: the stream is a function of (events, seed). No process is signalled but the child that is started here.
"""

import signal
import struct
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from .. import open as open_model
from ..contract.errors import EngineError, InputError
from ..contract.reports import IngestReport
from ..engine import Engine
from ..evaluate.popularity import Popularity
from ..evaluate.prequential import Ranker, ranks

__all__ = ["Shop", "run"]

_TASTES = (
    "garden", "kitchen", "toys", "candles", "books", "prints", "lamps", "tea", "wool", "tools", "music", "travel",
    "sport", "paper", "shoes", "plants", "games", "soap", "bikes", "clocks", "pets", "beads", "maps", "spices",
)  # fmt: skip
_JUDGED = 2_000  # requests judged in each row of the table
_KILL_EVENTS, _KILL_CALL = 30_000, 250
_SETTINGS: dict[str, Any] = {"dim": 32, "seed": 1}
_WARM_BYTES = 3 << 19  # less than the shop's rows take, so that the cold tier has work


@dataclass(frozen=True)
class Shop:
    """`users`, `items` int64[N] in time order; `taste` int64[items]: the shelf that an item stands on."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    taste: NDArray[np.int64]

    def name(self, item: int) -> str:
        return f"{_TASTES[self.taste[item]]} {item}"

    @classmethod
    def made(cls, events: int, seed: int) -> "Shop":
        """Zipf items that go in and out of fashion, users whose taste changes, and new ones of both all the time."""
        rng = np.random.default_rng(seed)
        n_items, n_users, tastes = 1_500 + events // 80, 500 + events // 16, len(_TASTES)
        # Items stand in the order of their shelves, so a shelf is a range and a draw from it one search.
        taste = np.sort(rng.integers(tastes, size=n_items))
        shelf = np.searchsorted(taste, np.arange(tastes + 1))
        zipf = 1 / (1 + rng.permutation(n_items)) ** 1.05
        item_born = np.where(rng.random(n_items) < 1_500 / n_items, 0, rng.random(n_items))
        fashion = rng.random(n_items)
        user_born = np.where(rng.random(n_users) < 500 / n_users, 0, rng.random(n_users))
        activity = rng.pareto(1.5, n_users) + 0.2
        likes = rng.integers(tastes, size=(n_users, 3))
        moves = np.sort(rng.random((n_users, 2)), axis=1)
        users, items = [], []
        for start in range(0, events, 500):
            n, now = min(500, events - start), start / events
            crowd = np.cumsum(np.where(user_born <= now, activity, 0))
            user = np.searchsorted(crowd, rng.random(n) * crowd[-1], side="right")
            shelf_of = likes[user, (moves[user] < now).sum(axis=1)]
            shelf_of = np.where(rng.random(n) < 0.15, rng.integers(tastes, size=n), shelf_of)
            # A floor under what is not born yet, so that a shelf is never empty.
            weight = zipf * np.exp(1.5 * np.sin(2 * np.pi * (1.5 * now + fashion))) * (item_born <= now) + 1e-12
            sums = np.append(0, np.cumsum(weight))
            low, high = sums[shelf[shelf_of]], sums[shelf[shelf_of + 1]]
            item = np.searchsorted(sums, low + rng.random(n) * (high - low), side="right") - 1
            users.append(user)
            items.append(np.clip(item, shelf[shelf_of], shelf[shelf_of + 1] - 1))
        return cls(np.concatenate(users), np.concatenate(items), taste)


def run(out: Console, keep: Path | None = None, events: int = 128_000, seed: int = 7) -> None:
    """The whole demo. `keep`: where the files stay, else they go. EngineError if what it shows does not hold."""
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise InputError(f"keep: got {keep}, wanted an empty or a new directory")
        keep.mkdir(parents=True, exist_ok=True)
        _all(out, keep, events, seed)
        return
    with tempfile.TemporaryDirectory(prefix="rowtide-demo-") as scratch:
        _all(out, Path(scratch), events, seed)


def _all(out: Console, root: Path, events: int, seed: int) -> None:
    shop = Shop.made(events, seed)
    out.print(f"a made-up shop: {events:,} events, Zipf items, drifting tastes; the engine's files are in {root}/shop")
    with open_model(root / "shop", mode="x", warm_bytes=_WARM_BYTES, **_SETTINGS) as eng:
        _learn(out, eng, shop, np.random.default_rng(seed + 1))
        _click(out, eng, shop)
    _kill(out, root / "killed", seed)


def _learn(out: Console, eng: Engine, shop: Shop, rng: np.random.Generator) -> None:
    """Predict, then learn: in front of each judged event three models list ten items for its user."""
    events, half = len(shop.users), len(shop.users) // 2
    title = f"hit-rate@10 of the next event (frozen: as at {half:,} events)"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    for name in ("events", "loss", "live", "frozen", "popular", "events/s", "new", "warm", "cold", "made"):
        table.add_column(name, justify="right")
    marks = [*(1_000 << n for n in range(32) if 1_000 << n < events), events]
    popularity = Popularity()
    # A terminal sees the rows as they come; a pipe the finished table.
    shown: AbstractContextManager[Any] = Live(table, console=out) if out.is_terminal else nullcontext()
    with open_model(":memory:", **_SETTINGS) as frozen, shown:
        for start, stop in pairwise([0, *marks]):
            judged = start + np.sort(rng.choice(stop - start, min(_JUDGED, stop - start), replace=False))
            models: dict[str, Ranker] = {"live": eng, "frozen": frozen, "popularity": popularity}
            hits, tally = dict.fromkeys(models, 0), _Tally()
            # A call runs from one judged event to the next, so a list is never older than its event.
            for a, b in pairwise(_cuts(start, stop, half, judged)):
                users, items = shop.users[a:b], shop.items[a:b]
                if a in judged:
                    for name, model in models.items():
                        rank = ranks(model.topk(users[:1], 11), np.zeros(1, np.intp), items[:1])[0]
                        hits[name] += 1 <= rank <= 10
                tally.add(eng.ingest(users, items, durable=False))
                popularity.ingest(users, items)
                if b <= half:
                    frozen.ingest(users, items, durable=False)
                if b == half:
                    same = eng.digest() == frozen.digest()
            share = {name: f"{h / len(judged):.3f}" for name, h in hits.items()}
            if stop <= half:
                share["frozen"] = "-"
            table.add_row(f"{stop:,}", *tally.columns(share))
    if not out.is_terminal:
        out.print(table)
    if not same:
        raise EngineError("the engine on disk and the one in RAM have learned the same events, but not the same bits")
    out.print(f"at {half:,} events the engine on disk and another in RAM alone had the same digest")


def _cuts(start: int, stop: int, half: int, judged: NDArray[np.int64]) -> list[int]:
    inside = [half] if start < half < stop else []
    return sorted({start, stop, *inside, *judged.tolist()})


@dataclass
class _Tally:
    """Sums over the calls of one row of the table."""

    events: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    new: int = 0
    warm: int = 0
    cold: int = 0
    made: int = 0

    def add(self, report: IngestReport) -> None:
        self.events += report.events
        self.loss += report.loss * report.events
        self.seconds += report.seconds
        self.new += report.new_users + report.new_items
        self.warm += report.found["warm"]
        self.cold += report.found["cold"]
        self.made += report.found["made"]

    def columns(self, share: dict[str, str]) -> list[str]:
        counts = [f"{c:,}" if c < 100_000 else f"{c // 1000:,}k" for c in (self.new, self.warm, self.cold, self.made)]
        rate = f"{self.events / self.seconds:,.0f}" if self.seconds else "-"
        return [f"{self.loss / max(self.events, 1):.3f}", *share.values(), rate, *counts]


def _click(out: Console, eng: Engine, shop: Shop) -> None:
    """The next request of a user after one event of theirs."""
    seen, counts = np.unique(shop.users, return_counts=True)
    user = int(seen[np.abs(counts - 3).argmin()])
    had = shop.items[shop.users == user]
    before = eng.topk(user, 10)
    # The most frequent item of a shelf that this user has never been to.
    others = shop.items[~np.isin(shop.taste[shop.items], shop.taste[np.append(had, before.ids)])]
    clicked = int(np.bincount(others).argmax())
    report = eng.ingest(user, clicked)
    after = eng.topk(user, 10)
    table = Table(title=f"user {user} had {len(had)} events, then clicks {shop.name(clicked)}")
    for name in ("rank", f"before (seq {before.seq:,})", f"after (seq {after.seq:,})", ""):
        table.add_column(name)
    for rank, (old, new) in enumerate(zip(before.ids.tolist(), after.ids.tolist(), strict=True), 1):
        table.add_row(str(rank), shop.name(old), shop.name(new), "" if new in before.ids else "new")
    out.print(table)
    out.print(f"learned, on disk and in the next answer after {report.seconds * 1e3:.1f} ms")


def _kill(out: Console, path: Path, seed: int) -> None:
    """A writer is killed in the middle and gone on with: the end must be that of a run that nobody killed."""
    child = subprocess.Popen(  # `engine` may be another's in this folder
        [sys.executable, "-m", "rowtide.cli.demo", str(path), str(_KILL_EVENTS), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    acknowledged = 0
    try:
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged >= _KILL_EVENTS // 5:
                break
        sleep(np.random.default_rng(seed).uniform(0.0, 0.01))  # so that it is hit inside a call
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        rest = child.stdout.read().split()  # what it said between that line and its end
        child.stdout.close()
        child.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    if child.returncode not in (-signal.SIGKILL, 0):
        raise EngineError(f"the writer was to be killed, but failed with status {child.returncode}")
    stream = Shop.made(_KILL_EVENTS, seed)
    with open_model(path) as eng:
        found = eng.seq
        if not acknowledged <= found <= _KILL_EVENTS or found % _KILL_CALL:
            raise EngineError(f"killed after {acknowledged} events were acknowledged, but {found} were found")
        _write(eng, stream)
        digest, seq = eng.digest(), eng.seq
    with open_model(":memory:", **_SETTINGS) as straight:
        _write(straight, stream)
        wanted = straight.digest()
    out.print(
        f"a writer was killed (SIGKILL) with {acknowledged:,} of {_KILL_EVENTS:,} events acknowledged; reopened, "
        f"{found:,} were there; gone on to {seq:,}\n"
        f"  its digest                {digest}\n  that of a run unharmed    {wanted}"
    )
    if digest != wanted:
        raise EngineError("the digests differ")
    out.print("the same: nothing acknowledged was lost, nothing was learned twice")


def _write(eng: Engine, stream: Shop, say: bool = False) -> None:
    """Learn the stream from the stored position on, in durable calls, and say what each has acknowledged."""
    stored = eng.position("demo")
    start = struct.unpack("<Q", stored)[0] if stored else 0
    for a in range(start, len(stream.users), _KILL_CALL):
        b = a + _KILL_CALL
        report = eng.ingest(stream.users[a:b], stream.items[a:b], position=("demo", struct.pack("<Q", b)))
        if say:
            print(report.seq, flush=True)


def main() -> None:
    path, events, seed = sys.argv[1:]
    with open_model(path, mode="x", **_SETTINGS) as eng:
        _write(eng, Shop.made(int(events), int(seed)), say=True)


if __name__ == "__main__":
    main()
