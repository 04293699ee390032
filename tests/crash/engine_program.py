"""The engine as a program under test: 400 events in calls of every kind, from creation to the last event.

Calls of one event and of many, of several records each, durable or not, with positions, weights and timestamps; a
position alone, and one that is forgotten; hiding, showing and forgetting, and rows that expire all along; other
settings on reopening, of which one makes ids earn their rows; log rotation; epochs beside learning. At each checkpoint,
which after a forget rewrites LMDB and empties the log, LMDB is compacted, a backup is made and read, and a reader in
another process follows; at some points the reader alone looks at a new epoch. Where the disk fails, the program does
what a caller would: tries the call again if there was no room, opens the directory anew otherwise. engine_calls.py has
the calls.

`make(words)`: "tight" has room in RAM for few rows, so that epochs end in the middle of records, rows are evicted
and fetched; "roomy" for all. They differ in loss and optimizer, too. "sequence" looks at what users have had. Further
words break the engine on purpose (engine_sabotage.py).
"""

import bisect
import hashlib
import importlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from engine_calls import (
    CALLS,
    DIM,
    ITEMS,
    LABELS,
    LAST,
    RECORD_EVENTS,
    START_LR,
    STATES,
    USERS,
    Call,
    State,
    forgotten_at,
    secrets_in,
)
from engine_reader import OtherReader
from engine_sabotage import SABOTAGES

import engine
from engine.directory import directory
from engine.directory import epochs as epoch
from engine.log import record as log_record
from engine.log.log import Log
from engine.machine.files import sync_directory
from engine.table.layout import item_floats, warm_row_bytes

BATCH, ROW_TTL = 2, 120
SEGMENT_BYTES, EPOCH_LOG_BYTES = 4000, 5000
SOURCE = "shop"
PROBES = [3, -7, 10**12, 404]  # users that every state is asked about; the last one is a stranger
TRIES = 4


class Size(NamedTuple):
    """Room for so many rows, and what is learned in it."""

    rows: int
    loss: str
    optimizer: str
    negatives: int
    more: dict[str, int]


# What users have had decides what is learned: histories, neighbours and the weights of all must come back.
SEQUENCE = {"bag": 2, "repeats": 1, "recent_negatives": 1, "own_negatives": 2, "neighbours": 2}
SIZES = {
    "tight": Size(14, "bpr", "adagrad", 4, {}),
    "roomy": Size(4096, "logistic", "adam", 0, {}),
    "sequence": Size(34, "softmax", "adagrad", 1, SEQUENCE),
}


class SmallLog(Log):
    """The log with small segments."""

    @classmethod
    def create(cls, place, directory_id, next_seq=1):
        return super().create(place, directory_id, next_seq, SEGMENT_BYTES)

    @classmethod
    def open(cls, place, owner, *, known_durable_seq):
        return super().open(place, owner, segment_bytes=SEGMENT_BYTES, known_durable_seq=known_durable_seq)


class Program:
    """In the shape that server.py asks for."""

    typed = (engine.StorageFullError, engine.EngineError)

    def __init__(self, size: Size):
        floats = item_floats(DIM, size.optimizer, size.more.get("neighbours", 0))
        self.warm_bytes = size.rows * warm_row_bytes(floats) * 16 // 7 + 16
        self.settings = {"loss": size.loss, "optimizer": size.optimizer, "negatives": size.negatives} | size.more
        self.settings |= {"dim": DIM, "batch_size": BATCH, "seed": 9, "row_ttl": ROW_TTL}
        self.labelled = size.loss == "logistic"
        self.done: Counter[str] = Counter()

    def open(self, root: Path, **changed):
        if not directory.exists(root / "m"):
            changed.setdefault("lr", START_LR)
        return engine.open(root / "m", warm_bytes=self.warm_bytes, epoch_seconds=1e9, **self.settings, **changed)

    def count(self, eng):
        """What it has done by itself since it was opened."""
        stats = eng.stats()
        self.done.update(expired=stats["expired_rows"], epochs=stats["epochs"])

    def found(self, eng) -> int:
        """The number of the state that the engine is in."""
        hidden = tuple(eng.hidden().tolist())
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
        if call.settings:
            self.count(eng)
            eng.close()
            return self.open(root, **call.settings)
        if call.operation:
            about = {"forget": (call.users, call.items), "forget_position": (SOURCE,)}.get(
                call.operation, (call.items,)
            )
            getattr(eng, call.operation)(*about)
            self.done[call.operation] += 1
            return eng
        part = slice(call.start, call.stop)
        report = eng.ingest(
            USERS[part],
            ITEMS[part],
            LABELS[part] if self.labelled else None,
            weights=1 + np.arange(call.start, call.stop) % 3 if call.weighted else None,
            timestamps=1e9 + np.arange(call.start, call.stop) if call.weighted else None,
            durable=call.durable,
            position=call.position and (SOURCE, call.position),
            expect=STATES[call.first].position if call.position else ...,
        )
        self.done.update(learned=report.events - report.unlearned, unlearned=report.unlearned)
        return eng

    def run(self, root: Path, mark) -> dict[str, int]:
        """Returns how often it has done what."""
        for tries_left in reversed(range(TRIES)):
            try:
                self.go_on(root, mark)
                return self.done
            except self.typed:
                if not tries_left:
                    raise

    def go_on(self, root: Path, mark):
        """Open and do what is left to do."""
        mark.submitted(0)
        reader = OtherReader(root / "m", self.view)
        eng = self.open(root)
        try:
            number = self.found(eng)
            mark.acked(number)
            room = True
            while number < LAST:
                call = self.next_call(number)
                try:
                    if call.checkpoint or call.refresh:
                        self.done["purge"] += eng._store.removal.purge
                        eng.checkpoint()
                        mark.acked(number)
                        self.look(reader, self.view(eng))
                    if call.checkpoint:
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
            self.count(eng)
        finally:
            try:
                eng.close()
            finally:
                reader.close()
        mark.acked(LAST)

    def look(self, reader: OtherReader, view: str):
        """The reader must see what the writer has just saved."""
        seen, moves = reader.look()
        assert seen == view, "the reader has other bits"
        self.done |= moves  # the most of each kind

    def beside(self, eng, root: Path, reader: OtherReader):
        """What else can be done with the state that has just been saved."""
        view, number = self.view(eng), self.found(eng)
        eng._directory.cold.compact()
        self.look(reader, view)
        backup = self.backup_of(root, number)
        if backup.exists():
            sync_directory(root)  # it may be of a call that failed when all but its name was durable
        else:
            assert eng.backup(backup) == eng.seq
        with engine.open(backup, mode="r") as copy:
            assert self.view(copy) == view, "the backup has other bits"
        self.done.update(compaction=1, backup=1)

    def check_purged(self, root: Path, number: int):
        """After a checkpoint no file may hold an id that was forgotten for good."""
        files = [file for file in (root / "m").rglob("*") if file.is_file()]
        assert len(files) > 3, "the directory has changed: where are its bytes?"
        for file in files:
            left = secrets_in(file.read_bytes()) & forgotten_at(number)
            assert not left, f"{sorted(left)} were forgotten and are in {file.name}"

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
        self.check_purged(root, number)
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


def make(words):
    """The program in one size, whole or broken."""
    size, *sabotages = words.split()
    log_record.MAX_EVENTS = RECORD_EVENTS
    epoch.LOG_BYTES = EPOCH_LOG_BYTES
    directory.Log = SmallLog
    for late in ("numpy.ma", "lmdb._envid"):  # at first use; else each child of the server would import them anew
        importlib.import_module(late)
    for name in sabotages:
        SABOTAGES[name]()
    return Program(SIZES[size])
