"""The engine as a program under test: 400 events in calls of every kind, from creation to the last event.

Calls of one event and of many, of several records each, durable or not, with positions, weights and timestamps; a
position alone; hiding, showing and forgetting, and rows that expire all along; other settings on reopening; log
rotation; epochs beside learning. At each checkpoint, which after a forget rewrites LMDB and empties the log, a backup
is made and read, and a reader in another process follows. Where the disk fails, the program does what a caller would:
tries the call again if there was no room, opens the directory anew otherwise.

Numbers given to `mark` count *records* from the creation (state 0), since states between two events differ, too: by
their settings, by a position or by what is hidden. A directory's state is told by these and the seq, which must fit.

`make(words)`: "tight" has room in RAM for few rows, so that epochs end in the middle of records, rows are evicted
and fetched; "roomy" for all. Further words break the engine on purpose: see `SABOTAGES`.
"""

import bisect
import contextlib
import hashlib
import os
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np

import engine
import engine.engine as whole
from engine import backup, directory, epoch
from engine.files import sync_directory
from engine.log import log, segment
from engine.log import record as log_record
from engine.log.log import Log
from engine.table import cold, cold_file
from engine.table.table import row_bytes

EVENTS, DIM, BATCH, NEGATIVES, ROW_TTL = 400, 8, 2, 4, 120
RECORD_EVENTS, SEGMENT_BYTES, EPOCH_LOG_BYTES = 32, 4000, 5000
POSITION_BYTES = 1200  # so that records span sectors of a disk, and can be torn
ROWS = {"tight": 14, "roomy": 4096}
SOURCE = "shop"
PROBES = [3, -7, 10**12, 404]  # users that every state is asked about; the last one is a stranger
TRIES = 4


class Call(NamedTuple):
    """One call: `ingest` of events start+1..stop, opening with another `lr`, or an operation on ids. Makes states
    first+1..last."""

    first: int
    last: int
    start: int
    stop: int
    durable: bool = True
    position: bytes | None = None
    weighted: bool = False
    checkpoint: bool = False
    lr: float | None = None
    operation: str | None = None
    users: tuple[int, ...] = ()
    items: tuple[int, ...] = ()


class State(NamedTuple):
    """What tells one record's end from every other."""

    seq: int
    lr: float
    position: bytes | None
    hidden: tuple[int, ...] = ()

    def __str__(self) -> str:
        position = self.position and self.position[:16]
        return f"(seq {self.seq}, lr {self.lr}, position {position!r}..., hidden {self.hidden})"


# By seq: what is done there. Each changes what is hidden, so that the state after it can be told; what is forgotten
# was hidden, had by many and is in rows of every kind: popular ones, rare ones, ids that are in no row.
OPERATIONS = [
    (20, "hide", (), (-5000, 5010, 77)),
    (45, "forget", (3, 105), (-5000, -3999)),
    (100, "show", (), (5010,)),
    (150, "hide", (), (-2998, 8)),
    (151, "forget", (-7, -(2**63), 555), (-2998, -3999)),
    (152, "show", (), (77, 78)),
    (280, "forget", (3, 100, 101, 102), (8, *range(-5000, 5000, 3003))),
]


def make_plan() -> tuple[list[Call], list[State]]:
    """All calls, and the state after each record."""
    sizes = [1, 1, 5, 1, 16, 75, 1, 0, 9, 1, 3, 32, 2]
    reopen, operations = {120: 0.1, 260: 0.3}, list(OPERATIONS)
    calls, states, number = [], [State(0, 0.2, None)], 0
    while (seq := states[-1].seq) < EVENTS:
        if operations and operations[0][0] <= seq:
            _, operation, users, items = operations.pop(0)
            changed = {"hide": set.union, "show": set.difference, "forget": set.difference}[operation]
            hidden = tuple(sorted(changed(set(states[-1].hidden), items)))
            first = len(states) - 1
            calls.append(Call(first, first + 1, seq, seq, operation=operation, users=users, items=items))
            states.append(states[-1]._replace(hidden=hidden))
            continue
        first, lr = len(states) - 1, next((r for s, r in reopen.items() if s <= seq), None)
        if lr is not None:
            reopen = {s: r for s, r in reopen.items() if r != lr}
            states.append(states[-1]._replace(lr=lr))
            calls.append(Call(first, first + 1, seq, seq, lr=lr))
            continue
        stop = min(EVENTS, seq + sizes[number % len(sizes)])
        position = None
        if stop == seq or (number % 3 == 1 and stop - seq <= RECORD_EVENTS):
            position = (b"%d of %d " % (stop, number)).ljust(POSITION_BYTES, b"p")
        for end in [*range(seq + RECORD_EVENTS, stop, RECORD_EVENTS), stop]:
            states.append(states[-1]._replace(seq=end, position=position or states[-1].position))
        durable, checkpoint = number % 7 not in (2, 3, 4), number % 17 == 11
        calls.append(Call(first, len(states) - 1, seq, stop, durable, position, number % 2 == 0, checkpoint))
        number += 1
    assert len(set(states)) == len(states)
    return calls, states


def make_events() -> tuple[np.ndarray, np.ndarray]:
    """Users and items [EVENTS], popular ones and new ones all along."""
    rng = np.random.default_rng(5)
    n = np.arange(EVENTS)
    users = (rng.random(EVENTS) ** 2 * (6 + n // 8)).astype(np.int64)
    items = (rng.random(EVENTS) ** 2 * (12 + n // 6)).astype(np.int64) * 1001 - 5000
    names = np.concatenate([[3, -7, 10**12, -(2**63), 2**63 - 1], np.arange(100, 160)])
    return names[users], items


CALLS, STATES = make_plan()
USERS, ITEMS = make_events()
LAST = len(STATES) - 1


class SmallLog(Log):
    """The log with small segments."""

    @classmethod
    def create(cls, place, next_seq=1):
        return super().create(place, next_seq, SEGMENT_BYTES)

    @classmethod
    def open(cls, place, *, known_durable_seq):
        return super().open(place, segment_bytes=SEGMENT_BYTES, known_durable_seq=known_durable_seq)


class Program:
    """In the shape that server.py asks for."""

    typed = (engine.StorageFullError, engine.EngineError)

    def __init__(self, rows: int):
        self.warm_bytes = rows * row_bytes(DIM, "adagrad") * 16 // 7 + 16

    def open(self, root: Path, lr: float | None = None):
        settings = {"dim": DIM, "batch_size": BATCH, "negatives": NEGATIVES, "seed": 9, "row_ttl": ROW_TTL}
        if lr is None and not directory.exists(root / "m"):
            lr = STATES[0].lr
        return engine.open(root / "m", lr=lr, warm_bytes=self.warm_bytes, epoch_seconds=1e9, **settings)

    def found(self, eng) -> int:
        """The number of the state that the engine is in."""
        hidden = tuple(eng._catalogue.native.hidden.tolist())
        state = State(eng.seq, eng.settings["lr"], eng.position(SOURCE), hidden)
        assert state in STATES, f"{state} is no record's end"
        return STATES.index(state)

    def view(self, eng) -> str:
        """All that can be seen of a state: the digest, and answers to users with and without what they had."""
        seen = hashlib.blake2b(digest_size=8)
        for had in (False, True):
            top = eng.topk(PROBES, 8, exclude_seen=had)
            seen.update(top.ids.tobytes() + top.scores.tobytes())
        return f"{eng.digest()} {seen.hexdigest()}"

    def references(self, root: Path):
        """The view of every state, from a run without epochs in the middle, each record a call of its own."""
        rows, self.warm_bytes = self.warm_bytes, 1 << 24
        eng, views = self.open(root), []
        views.append(self.view(eng))
        for number in range(LAST):
            call = self.next_call(number)
            part = call._replace(first=number, start=STATES[number].seq, stop=STATES[number + 1].seq, durable=False)
            eng = self.make_call(eng, root, part)
            assert self.found(eng) == number + 1
            views.append(self.view(eng))
        eng.close()
        self.warm_bytes = rows
        return views

    def next_call(self, number: int) -> Call:
        """What is left to do of the call that state `number` is in, or the one that follows it."""
        call = CALLS[bisect.bisect_right([c.first for c in CALLS], number) - 1]
        return call if call.first == number else call._replace(first=number, start=STATES[number].seq)

    def make_call(self, eng, root: Path, call: Call):
        """Make it; returns the engine, another one if the call was for that."""
        if call.lr is not None:
            eng.close()
            return self.open(root, call.lr)
        if call.operation == "forget":
            eng.forget(call.users, call.items)
            return eng
        if call.operation:
            getattr(eng, call.operation)(call.items)
            return eng
        part = slice(call.start, call.stop)
        eng.ingest(
            USERS[part],
            ITEMS[part],
            weights=1 + np.arange(call.start, call.stop) % 3 if call.weighted else None,
            timestamps=1e9 + np.arange(call.start, call.stop) if call.weighted else None,
            durable=call.durable,
            position=call.position and (SOURCE, call.position),
        )
        return eng

    def run(self, root: Path, mark):
        for tries_left in reversed(range(TRIES)):
            try:
                self.go_on(root, mark)
                return
            except self.typed:
                if not tries_left:
                    raise

    def go_on(self, root: Path, mark):
        """Open and do what is left to do."""
        mark.submitted(0)
        reader = OtherReader(self, root)
        eng = self.open(root)
        try:
            number = self.found(eng)
            mark.acked(number)
            room = True
            while number < LAST:
                call = self.next_call(number)
                try:
                    if call.checkpoint:
                        eng.checkpoint()
                        mark.acked(number)
                        self.beside(eng, root, reader)
                    mark.submitted(call.last)
                    eng = self.make_call(eng, root, call)
                except self.typed as error:
                    if error.seq is not None:
                        number = max(n for n, state in enumerate(STATES[: call.last + 1]) if state.seq == error.seq)
                        mark.acked(number) if call.durable else mark.accepted(number)
                    if not room or not isinstance(error, engine.StorageFullError):
                        raise
                    eng.ingest([], [])  # raises where the engine wants to be opened anew
                    room, number = False, self.found(eng)
                    continue
                number = call.last
                assert self.found(eng) == number
                mark.acked(number) if call.durable else mark.accepted(number)
        finally:
            try:
                eng.close()
            finally:
                reader.close()
        mark.acked(LAST)

    def beside(self, eng, root: Path, reader):
        """What else can be done with the state that has just been saved."""
        view, number = self.view(eng), self.found(eng)
        assert reader.view() == view, "the reader has other bits"
        eng._directory.cold.compact()
        assert reader.view() == view, "the reader has other bits after the compaction"
        backup = self.backup_of(root, number)
        if backup.exists():
            sync_directory(root)  # it may be of a call that failed when all but its name was durable
        else:
            assert eng.backup(backup) == eng.seq
        with engine.open(backup, mode="r") as copy:
            assert self.view(copy) == view, "the backup has other bits"

    def backup_of(self, root: Path, number: int) -> Path:
        return root / f"backup of {number}"

    def check(self, root: Path, acked, submitted, references):
        for place in root.glob("backup of *"):
            assert engine.verify(place).torn_bytes == 0
            with engine.open(place, mode="r") as copy:
                number = self.found(copy)
                assert place == self.backup_of(root, number)
                assert self.view(copy) == references[number], f"{place.name} has other bits"
        for call in CALLS:
            if call.checkpoint and acked > call.first:
                assert self.backup_of(root, call.first).is_dir(), f"the backup of {call.first} is lost"
        with self.open(root) as eng:
            number = self.found(eng)
            assert acked <= number <= submitted, f"found state {number} {STATES[number]}, not in {acked}..{submitted}"
            assert self.view(eng) == references[number], f"state {number} {STATES[number]} has other bits"
            eng.checkpoint()
        assert engine.verify(root / "m").seq == STATES[number].seq
        eng = self.open(root)
        for _ in range(2):
            if number < LAST:
                call = self.next_call(number)
                eng, number = self.make_call(eng, root, call), call.last
        try:
            assert self.found(eng) == number
            assert self.view(eng) == references[number], f"going on to state {number} gives other bits"
        finally:
            eng.close()


class OtherReader:
    """A reader in another process, forked before the engine is opened: LMDB wants it so. Makes no call that the shim
    would count, for its lock file is there."""

    def __init__(self, program: Program, root: Path):
        ask, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._ask)
            self._serve(program, root, ask, tell)
        os.close(ask)
        os.close(tell)

    def _serve(self, program, root, ask, tell):
        reader = None
        try:
            while os.read(ask, 1):
                reader = reader or engine.open(root / "m", mode="r")
                reader.refresh()
                os.write(tell, program.view(reader).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def view(self) -> str:
        """What it sees of the newest epoch."""
        os.write(self._ask, b"?")
        return os.read(self._told, 4096).decode()

    def close(self):
        os.close(self._ask)
        os.close(self._told)
        assert os.waitpid(self._pid, 0)[1] == 0, "the reader failed"


def no_fsync():
    """The log is not synced."""
    log.os.fdatasync = lambda fd: None


def no_crc():
    """A record is believed for its header."""
    segment.is_whole = lambda header, head, body: len(body) == header.length - len(head)


def no_sync_before_lmdb():
    """An epoch does not wait for the log to be durable."""
    SmallLog.synced_seq = property(lambda self: self._last_seq)


def lmdb_before_log():
    """A record is learned, and in LMDB, before it is written to the log."""

    def learn_first(self, events, position, durable, learned, progress):
        for record in whole.records(events, self._seq + 1, self._model.settings.batch_size, position):
            self._learn(record, learned)
            self._epochs.complete()
            self._directory.log.append(record)
            self._sync()

    whole.Engine._log_and_learn = learn_first


def no_order_check():
    """`_learn` takes any record: what else it would refuse."""
    plain = whole.Engine._learn

    def learn(self, record, learned, start=0):
        self._seq = record.first_seq + start - 1
        plain(self, record, learned, start)

    whole.Engine._learn = learn


def learn_twice():
    """Recovery begins with the last event that LMDB has, not with the one after."""

    no_order_check()

    def replay(place, learn):
        saved = place.state.seq
        try:
            found = list(place.log.replay(max(0, saved - 1)))
        except engine.CorruptionError:  # emptied after a forget: the log begins with the event after
            found = list(place.log.replay(saved))
        for record in found:
            learn(record, max(0, saved - record.first_seq))
        return 0

    epoch.replay = replay


def skip_one():
    """Recovery leaves out the event after the last one that LMDB has."""

    no_order_check()

    def replay(place, learn):
        for record in place.log.replay(place.state.seq):
            learn(record, max(0, place.state.seq + 2 - record.first_seq) if place.state.seq else 0)
        return 0

    epoch.replay = replay


def ack_before_sync():
    """`ingest` returns while the fsync is still under way."""
    whole.Engine._sync = lambda self: self._directory and self._syncer.submit(self._directory.log.sync)


def trust_tail():
    """What is found in the log is believed to be durable."""
    opened = SmallLog.open.__func__

    def open_log(cls, place, *, known_durable_seq):
        fsync, log.os.fsync = log.os.fsync, lambda fd: None
        try:
            return opened(cls, place, known_durable_seq=known_durable_seq)
        finally:
            log.os.fsync = fsync

    SmallLog.open = classmethod(open_log)


def sync_again():
    """Opening trusts an fsync that follows one that failed."""
    log._write_again = lambda segment: None


def no_directory_sync():
    """Names of new log segments are not synced."""
    log.sync_directory = lambda place: None


def names_unsynced():
    """A compaction makes no name durable: of the file that is written from then on, and of the one that is gone."""
    cold._sync = cold_file.sync_directory = lambda place: None


def backup_unsynced():
    """A backup returns before its name is durable."""
    backup.made_aside = no_sync_around(backup.made_aside)


def no_sync_around(made_aside):
    @contextlib.contextmanager
    def unsynced(path, name):
        plain = directory.sync_directory
        with made_aside(path, name) as aside:
            yield aside
            directory.sync_directory = lambda place: None
        directory.sync_directory = plain

    return unsynced


def position_apart():
    """A position goes into a record of its own, after the events."""
    cut = whole.records

    def records(events, first_seq, batch_size, position):
        yield from cut(events, first_seq, batch_size, None)
        if position is not None:
            yield whole.Record(first_seq + len(events), 1, whole.NO_IDS, whole.NO_IDS, position=position)

    whole.records = records


SABOTAGES = (
    *(no_fsync, no_crc, no_sync_before_lmdb, lmdb_before_log, learn_twice, skip_one, position_apart),
    *(ack_before_sync, trust_tail, sync_again, no_directory_sync, names_unsynced, backup_unsynced),
)


def make(words):
    """The program in one size, whole or broken."""
    size, *sabotages = words.split()
    log_record.MAX_EVENTS = RECORD_EVENTS
    epoch.LOG_BYTES = EPOCH_LOG_BYTES
    directory.Log = SmallLog
    for name in sabotages:
        next(break_it for break_it in SABOTAGES if break_it.__name__ == name)()
    return Program(ROWS[size])
