"""Random worlds: whatever is done to a model, in whatever order, its state and its answers are those of a plain one.

A hypothesis state machine learns, hides, forgets, checkpoints, closes, opens anew with other room, threads and
settings, goes on from what a kill leaves and from backups; readers in another process look on. world_model.py says what
must be seen. `make heavy` has longer lives and more of them.
"""

import shutil
import subprocess
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from killed import kill
from other_process import other_process
from world_model import ANSWERS, RECORD, SOURCES, Events, Model

import engine
from engine.log import record as log_record
from engine.table.layout import item_floats, warm_row_bytes

USERS = [*range(-3, -1), *range(14), 2**40, -(2**63), 2**63 - 1]
ITEMS = [*range(-40, 140, 9), 7 * 2**33, -(2**63), 2**63 - 1]
STRANGER = 404
ROUNDING = 8 * np.finfo(np.float32).eps
FEW = 16  # rows, what a micro-batch of two with three negatives, four others and two latest items can need
MORE = 36  # the same, with five items before and five that are near
DIMS = {"softmax": 4, "bpr": 17, "logistic": 3, "squared": 16}

users, items = st.sampled_from(USERS), st.sampled_from(ITEMS)
seeds = st.integers(0, 2**16)
some_items = st.lists(items, max_size=RECORD)
filters = st.one_of(st.none(), st.lists(items | st.just(STRANGER), max_size=30))
positions = st.none() | st.tuples(st.sampled_from(SOURCES), st.binary(max_size=3))
rooms = st.fixed_dictionaries(
    {
        "few": st.sampled_from([True, False]),
        "epoch_seconds": st.sampled_from([1e9, 1e-9]),
        "threads": st.sampled_from([1, 2]),
    }
)
CHANGEABLE = {
    "lr": st.sampled_from([0.1, 0.02]),
    "l2": st.sampled_from([0.0, 0.01]),
    "batch_size": st.sampled_from([1, 2]),
    "row_ttl": st.sampled_from([9, 40, 0]),
    "admit_after": st.sampled_from([0, 2, 3]),
    "negatives": st.sampled_from([1, 2, 3]),
}
SEQUENCE = {
    "bag": st.sampled_from([0, 2]),
    "repeats": st.sampled_from([0, 1]),
    "recent_negatives": st.sampled_from([0, 1]),
    "own_negatives": st.sampled_from([0, 1]),
    "session_gap": st.sampled_from([60.0, 1.0]),
}
CHANGEABLE |= SEQUENCE
changes = st.fixed_dictionaries({}, optional=CHANGEABLE)


class World(RuleBasedStateMachine):
    def __init__(self, place, other, done):
        """`place`: for directories; `other`: a process for readers; `done`: counts what came to pass."""
        super().__init__()
        self.done = done
        self.place = Path(tempfile.mkdtemp(dir=place))
        self.home = self.place / "model"
        self.other, self.reading, self.copies = other, False, 0
        self.eng = self.model = None
        self.split = False  # may LMDB have the middle of a record?

    def teardown(self):
        self.leave_reader()
        if self.eng:
            self.leave(engine.Engine.close)
        if self.model:
            self.model.plain.close()
        shutil.rmtree(self.place)

    # --- opening

    @initialize(
        loss=st.sampled_from(sorted(DIMS)),
        optimizer=st.sampled_from(["adagrad", "adam", "sgd"]),
        neighbours=st.sampled_from([2, 0]),
        started=st.fixed_dictionaries(CHANGEABLE),
        room=rooms,
        seed=seeds,
    )
    def begin(self, loss, optimizer, neighbours, started, room, seed):
        self.fixed = {"loss": loss, "optimizer": optimizer, "dim": DIMS[loss], "seed": 5}
        self.fixed |= {"neighbours": neighbours} if loss == "softmax" else {}
        self.pointwise = loss in ("logistic", "squared")
        started = self.changeable(started)
        self.model = Model(self.fixed | started, [*USERS[:6], STRANGER])
        self.open(room, started)
        self.ingest_many(seed, True)

    def changeable(self, changed):
        left = {"negatives"} if self.pointwise else set()
        left |= set() if self.fixed["loss"] == "softmax" else SEQUENCE.keys()
        return {name: value for name, value in changed.items() if name not in left}

    def open(self, room, changed):
        self.few = room["few"]
        self.split |= self.few
        floats = item_floats(self.fixed["dim"], self.fixed["optimizer"], self.fixed.get("neighbours", 0))
        row = warm_row_bytes(floats)
        few = MORE if self.fixed.get("neighbours") else FEW
        more = {"warm_bytes": few * row * 16 // 7 + 16} if self.few else {}
        more |= {name: room[name] for name in ("epoch_seconds", "threads")}
        self.eng = engine.open(self.home, **self.fixed, **changed, **more)

    def leave(self, how):
        stats = self.eng.stats()
        evicted = sum(stats[table]["evicted"] for table in ("users", "items"))
        self.done.update(evicted=evicted, expired=stats["expired_rows"], replayed=stats["opening"]["replayed_events"])
        how(self.eng)

    def saved(self):
        """LMDB has the state of now."""
        self.model.saved()
        self.split = self.few

    @rule(room=rooms, changed=changes, leave=st.sampled_from([engine.Engine.close, kill]), seed=seeds)
    def open_anew(self, room, changed, leave, seed):
        self.ingest_many(seed, False)
        self.leave(leave)
        if leave is not kill:
            self.saved()
        self.check_whole(self.home)
        changed = self.changeable(changed)
        self.model.change(changed)
        self.open(room, changed)

    # --- learning and removing

    @rule(
        pairs=st.lists(st.tuples(users, items), max_size=12),
        weighted=st.booleans(),
        timed=st.booleans(),
        durable=st.booleans(),
        position=positions,
    )
    def ingest(self, pairs, weighted, timed, durable, position):
        if position:
            pairs = pairs[:RECORD]  # it must be in the record of its events
        column = np.arange(len(pairs))
        value = {"logistic": lambda u, i: (u ^ i) & 1, "squared": lambda u, i: 1 + (u + i) % 5}.get(self.fixed["loss"])
        events = Events(
            [u for u, _ in pairs],
            [i for _, i in pairs],
            [value(u, i) for u, i in pairs] if value else None,
            (column % 3 / 2).tolist() if weighted else None,
            (1e9 + column).tolist() if timed else None,
        )
        unlearned, new_users, new_items = self.model.ingest(events, position)
        more = {"weights": events.weights, "timestamps": events.timestamps}
        report = self.eng.ingest(*events[:3], **more, durable=durable, position=position)
        assert (report.events, report.seq, report.unlearned) == (len(pairs), self.model.seq, unlearned)
        assert (report.new_users, report.new_items) == (new_users, new_items)
        self.done.update(learned=len(pairs) - unlearned, unlearned=unlearned)

    @rule(seed=seeds, durable=st.booleans())
    def ingest_many(self, seed, durable):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 40))
        drawn = ((rng.random(n) ** 2 * len(ids)).astype(int).tolist() for ids in (USERS, ITEMS))
        pairs = [(USERS[u], ITEMS[i]) for u, i in zip(*drawn, strict=True)]
        self.ingest(pairs, seed % 3 == 0, False, durable, None)

    @rule(seed=seeds, kind=st.sampled_from(["begin_epoch", "checkpoint"]))
    def ingest_and_save(self, seed, kind):
        self.ingest_many(seed, False)
        self.save(kind)

    @rule(user=users, item=items, wrong=st.sampled_from(["user", "item", "weight", "position"]))
    def ingest_what_is_refused(self, user, item, wrong):
        bad = {"user": {"users": -1}, "item": {"items": [item, -1]}, "weight": {"weights": np.nan}}
        bad["position"] = {"position": ("shop", "text")}
        values = 1 if self.pointwise else None
        with pytest.raises(engine.InputError, match=wrong):
            self.eng.ingest(**{"users": user, "items": item, "values": values} | bad[wrong])

    @rule(kind=st.sampled_from(["hide", "show"]), ids=some_items)
    def hide_or_show(self, kind, ids):
        getattr(self.eng, kind)(ids)
        if ids:
            self.model.operate(kind, [], ids)

    @rule(gone=st.lists(users, max_size=4), ids=st.lists(items, max_size=4))
    def forget(self, gone, ids):
        self.eng.forget(gone, ids)
        if gone or ids:
            self.model.operate("forget", gone, ids)

    # --- saving

    @rule(kind=st.sampled_from(["begin_epoch", "checkpoint"]))
    def save(self, kind):
        """`begin_epoch`: and go on while it is written."""
        if kind == "checkpoint":
            assert self.eng.checkpoint() == self.model.seq
            self.saved()
        else:
            with self.eng._writer.lock:
                self.eng._writer.begin_epoch()

    def copy(self):
        self.copies += 1
        return self.place / f"copy{self.copies}"

    @rule(untrusted=st.booleans(), stay=st.booleans(), room=rooms, seed=seeds)
    def go_on_from_what_a_kill_leaves(self, untrusted, stay, room, seed):
        """That is the files as they are, perhaps with an epoch half-written. No second epoch may begin meanwhile.

        Another process copies them: to close LMDB's lock file would let go of the locks of this process.
        """
        self.ingest_many(seed, False)
        image = self.copy()
        with self.eng._writer.lock:
            subprocess.run(["cp", "-r", self.home, image], check=True)
        self.check_whole(image)
        if stay:
            with engine.open(image, untrusted=untrusted) as eng:
                self.check_equal(eng)
            shutil.rmtree(image)
        else:
            self.leave(kill)
            self.move(image, room)

    @rule(stay=st.booleans(), room=rooms)
    def go_on_from_a_backup(self, stay, room):
        backup = self.copy()
        assert self.eng.backup(backup) == self.model.seq
        self.saved()  # it begins with an epoch
        self.check_whole(backup)
        if stay:
            with engine.open(backup) as eng:
                self.check_equal(eng)
            shutil.rmtree(backup)
        else:
            self.leave(engine.Engine.close)
            self.move(backup, room)

    def move(self, home, room):
        self.leave_reader()
        shutil.rmtree(self.home)
        self.home = home
        self.open(room, {})

    def check_whole(self, home):
        report = engine.verify(home)
        assert report.torn_bytes == 0
        assert report.seq == self.model.seq

    # --- answers

    @rule(
        asked=st.lists(users | st.just(STRANGER), max_size=4),
        k=st.sampled_from([1, 3, 64]),
        seen=st.booleans(),
        exclude=filters,
        include=filters,
        skip=st.booleans(),
    )
    def topk(self, asked, k, seen, exclude, include, skip):
        unknown = "skip" if skip else "fallback"
        found = self.eng.topk(asked, k, exclude_seen=seen, exclude=exclude, include=include, unknown=unknown)
        assert found.seq == self.model.seq
        for row, user in enumerate(asked):
            allowed = self.allowed(exclude, include) - (self.model.had.get(user, set()) if seen else set())
            if skip and user not in self.model.users:
                allowed = set()
            ids, scores = self.model.topk(user, k, allowed)
            assert found.counts[row] == len(ids)
            assert found.ids[row].tolist() == ids + [-1] * (k - len(ids))
            assert found.scores[row, : len(ids)].tolist() == scores.tolist()

    @precondition(lambda self: self.model.items)
    @rule(data=st.data(), k=st.sampled_from([1, 3, 64]), exclude=filters, include=filters)
    def similar(self, data, k, exclude, include):
        item = data.draw(st.sampled_from(sorted(self.model.items)))
        found = self.eng.similar(item, k, exclude=exclude, include=include)
        ids, cosines = self.model.similar(item, k, self.allowed(exclude, include))
        assert found.counts == len(ids)
        np.testing.assert_allclose(found.scores[: found.counts], cosines, atol=ROUNDING)
        assert set(found.ids[: found.counts].tolist()) <= self.allowed(exclude, include) - {item}
        alone = self.model.plain.similar(item, k, exclude=exclude, include=include)
        assert found.ids.tolist() == alone.ids.tolist()

    def allowed(self, exclude, include):
        allowed = self.model.items.keys() - self.model.hidden - set(exclude or ())
        return allowed if include is None else allowed & set(include)

    @rule(user=users, item=items)
    def score_and_vectors(self, user, item):
        for eng in (self.eng, self.model.plain):
            for rows, ask in (
                (self.model.users.keys() & {user}, partial(eng.vectors, user)),
                (self.model.items.keys() & {item}, partial(eng.vectors, items=item)),
            ):
                if not rows:
                    with pytest.raises(engine.UnknownIdError):
                        ask()
        known, there = sorted(self.model.users), sorted(self.model.items)
        for name in ({"users": known}, {"items": there}):
            assert self.eng.vectors(**name).tobytes() == self.model.plain.vectors(**name).tobytes()
        pairs = np.array(known)[:, None], np.array(there, np.int64)[None, :]
        if known and there:
            assert self.eng.score(*pairs).tobytes() == self.model.plain.score(*pairs).tobytes()

    # --- readers

    @rule(stay=st.sampled_from([True, True, False]))
    def reader(self, stay):
        """It sees a record's end that LMDB may have; with room for few rows perhaps the middle of a record."""
        if not self.reading:
            self.other(f"eng, sources = engine.open({str(self.home)!r}, mode='r'), {SOURCES!r}")
            self.other(f"users = {self.model.asked!r}")
            self.reading = True
        states = self.model.states
        assert states[0][0] <= self.other("eng.refresh()") <= self.model.seq  # perhaps while an epoch is written
        with self.eng._writer.lock:  # no epoch begins
            self.eng._writer.epochs.finish()
            found = self.other(ANSWERS.replace("\n", " "))
        if found in states:
            del states[: states.index(found)]  # what it saw is what LMDB has
        else:
            assert self.split, f"seq {found[0]} is none of {[state[0] for state in states]}, or has other answers"
            assert states[0][0] <= found[0] <= self.model.seq
        if not stay:
            self.leave_reader()

    @rule(kind=st.sampled_from(["hide", "show"]), ids=some_items, seed=seeds, stay=st.booleans())
    def reader_follows(self, kind, ids, seed, stay):
        self.reader(True)
        self.hide_or_show(kind, ids)
        self.ingest_and_save(seed, "checkpoint")
        self.reader(stay)

    def leave_reader(self):
        if self.reading:
            self.done.update(self.other("eng.stats()['moves']"))
            self.other("eng.close()")
            self.reading = False

    # --- always

    @invariant()
    def is_as_the_model(self):
        if self.eng:
            self.check_equal(self.eng)

    def check_equal(self, eng):
        model = self.model
        assert eng.seq == model.seq
        assert eng.settings == model.plain.settings
        assert {source: eng.position(source) for source in SOURCES} == {s: model.positions.get(s) for s in SOURCES}
        assert eng._store.catalogue.native.hidden.tolist() == sorted(model.hidden)
        rows = eng._store.tables.rows
        assert (rows["users"], rows["items"]) == (len(model.users), len(model.items))
        for user in USERS:
            assert set(eng._store.history.items_of(user).tolist()) == model.had.get(user, set()), user
        assert eng.digest() == model.plain.digest()


def live(place, lives, steps):
    """What came to pass in so many lives."""
    how = {"derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
    how |= {"phases": [Phase.generate, Phase.shrink], "max_examples": lives, "stateful_step_count": steps}
    done = Counter()
    with other_process() as other:
        run_state_machine_as_test(lambda: World(place, other, done), settings=settings(**how))
    print(f"\n{lives} lives: {dict(done)}")
    return done


@pytest.fixture(autouse=True)
def small_records(monkeypatch):
    """So that calls are of several."""
    monkeypatch.setattr(log_record, "MAX_EVENTS", RECORD)


def test_some_lives(tmp_path):
    done = live(tmp_path, 20, 30)
    assert done["learned"] > 300, "little came to pass"
    assert done.keys() >= {"unlearned", "evicted", "expired", "replayed", "whole", "followed"}
    assert min(done.values()) > 0, "there is more to life"


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_many_long_lives(tmp_path):
    live(tmp_path, 400, 60)
