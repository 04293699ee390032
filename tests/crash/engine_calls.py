"""What the crash program does with an engine, call by call, and the state that each log record leads to.

Responsible for the calls (`CALLS`), the states (`STATES`), the events, and the ids that are forgotten for good; not for
making calls, nor for what an engine must show at a state: engine_program.py does that. Pure.

Numbers of states count *records* from the creation (state 0), since states between two events differ, too: by their
settings, by a position or by what is hidden. A directory's state is told by these and the seq, which must fit.
"""

import re
from typing import NamedTuple

import numpy as np

EVENTS, RECORD_EVENTS = 400, 32
DIM = 8
POSITION_BYTES = 1200  # so that records span sectors of a disk, and can be torn


class Call(NamedTuple):
    """One call: `ingest` of events start+1..stop, opening with other `settings`, or an operation on ids. Makes states
    first+1..last. What comes before it: `checkpoint`, with all that one can do there, or `refresh`, one with a look by
    the reader alone."""

    first: int
    last: int
    start: int
    stop: int
    durable: bool = True
    position: bytes | None = None
    weighted: bool = False
    checkpoint: bool = False
    refresh: bool = False
    settings: dict | None = None
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


# Ids that come in few events, by seq, and never again once they are forgotten: no other bytes look like theirs. The
# last user comes once and when rows have to be earned, so it is in the log alone.
SECRET = 0x5EC2E7A1 << 32
SECRET_USERS = {31: SECRET + 1, 160: SECRET + 2, 250: SECRET + 2, 275: SECRET + 3}
SECRET_ITEMS = {38: SECRET + 4, 165: SECRET + 5, 255: SECRET + 5}

# By seq: what is done there. Each changes what is hidden, so that the state after it can be told; what is forgotten
# was hidden, had by many and is in rows of every kind: popular ones, rare ones, ids that are in no row. Or it changes
# the position, which the state tells, too.
OPERATIONS = [
    (20, "hide", (), (-5000, 5010, 77)),
    (45, "forget", (3, 105, SECRET_USERS[31]), (-5000, -3999, SECRET_ITEMS[38])),
    (100, "show", (), (5010,)),
    (150, "hide", (), (-2998, 8)),
    (151, "forget", (-7, -(2**63), 555), (-2998, -3999)),
    (152, "show", (), (77, 78)),
    (
        *(280, "forget"),
        (3, 100, 101, 102, SECRET_USERS[250], SECRET_USERS[275]),
        (8, *range(-5000, 5000, 3003), SECRET_ITEMS[255]),
    ),
    (310, "forget_position", (), ()),
]
START_LR = 0.2
SETTINGS = {120: {"lr": 0.1}, 260: {"lr": 0.3, "admit_after": 3}}  # by seq; lr tells which are in force


def make_plan() -> tuple[list[Call], list[State]]:
    """All calls, and the state after each record."""
    sizes = [1, 1, 5, 1, 16, 75, 1, 0, 9, 1, 3, 32, 2]
    reopen, operations = dict(SETTINGS), list(OPERATIONS)
    calls, states, number = [], [State(0, START_LR, None)], 0
    while (seq := states[-1].seq) < EVENTS:
        first = len(states) - 1
        if operations and operations[0][0] <= seq:
            _, operation, users, items = operations.pop(0)
            changed = set.union if operation == "hide" else set.difference
            hidden = tuple(sorted(changed(set(states[-1].hidden), items)))
            position = None if operation == "forget_position" else states[-1].position
            calls.append(Call(first, first + 1, seq, seq, operation=operation, users=users, items=items))
            states.append(states[-1]._replace(hidden=hidden, position=position))
            continue
        if due := [s for s in reopen if s <= seq]:
            settings = reopen.pop(due[0])
            states.append(states[-1]._replace(lr=settings["lr"]))
            calls.append(Call(first, first + 1, seq, seq, settings=settings))
            continue
        stop = min(EVENTS, seq + sizes[number % len(sizes)])
        position = None
        if stop == seq or (number % 3 == 1 and stop - seq <= RECORD_EVENTS):
            position = (b"%d of %d " % (stop, number)).ljust(POSITION_BYTES, b"p")
        for end in [*range(seq + RECORD_EVENTS, stop, RECORD_EVENTS), stop]:
            states.append(states[-1]._replace(seq=end, position=position or states[-1].position))
        durable, checkpoint, refresh = number % 7 not in (2, 3, 4), number % 17 == 11, number in (3, 4, 5, 30)
        calls.append(Call(first, len(states) - 1, seq, stop, durable, position, number % 2 == 0, checkpoint, refresh))
        number += 1
    assert len(set(states)) == len(states)
    return calls, states


def make_events() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and labels [EVENTS], popular ids and new ones all along."""
    rng = np.random.default_rng(5)
    n = np.arange(EVENTS)
    users = (rng.random(EVENTS) ** 2 * (6 + n // 8)).astype(np.int64)
    items = (rng.random(EVENTS) ** 2 * (12 + n // 6)).astype(np.int64) * 1001 - 5000
    names = np.concatenate([[3, -7, 10**12, -(2**63), 2**63 - 1], np.arange(100, 160)])
    users = names[users]
    for column, secret in ((users, SECRET_USERS), (items, SECRET_ITEMS)):
        column[np.array(list(secret)) - 1] = list(secret.values())
    return users, items, (rng.random(EVENTS) < 0.4).astype(np.float32)


def forgotten_at(number: int) -> set[int]:
    """The secret ids of which a purged directory at state `number` must hold no byte."""
    done = [call for call in CALLS if call.operation == "forget" and call.last <= number]
    return {id for call in done for id in call.users + call.items if id >> 32 == SECRET >> 32}


def secrets_in(content: bytes) -> set[int]:
    """The secret ids in these bytes, be it as rows and records have them or as keys do."""
    found = set()
    for end in re.finditer(re.escape(SECRET.to_bytes(8, "little")[4:]), content):
        found.add(int.from_bytes(content[end.start() - 4 : end.end()], "little"))
    for start in re.finditer(re.escape((SECRET ^ 1 << 63).to_bytes(8, "big")[:4]), content):
        found.add(int.from_bytes(content[start.start() : start.end() + 4], "big") ^ 1 << 63)
    return found


CALLS, STATES = make_plan()
USERS, ITEMS, LABELS = make_events()
LAST = len(STATES) - 1
