"""The model of a disk that powerloss.py draws from, law by law, on journals written by hand."""

from random import Random

import pytest

from .powerloss import Entry, File, Folder, Journal, Snapshot

ROOT, FILE = 1, 2


class Script:
    """Writes a journal: one folder, inode 1, durable and empty, or with a durable file `f`, inode 2."""

    def __init__(self, content=None):
        self.entries = []
        names = {} if content is None else {"f": File(content)}
        root = Folder(names, dict(names))
        self.before = Snapshot(root, {ROOT: root, **({FILE: names["f"]} if names else {})})
        self.add("start")

    def add(self, op, ino=0, path="", path2="", *, offset=0, result=0, data=b"", dsync=False):
        self.entries.append(Entry(op, dsync, len(self.entries), 0, ino, offset, result, path, path2, data))
        return len(self.entries) - 1

    def sync(self, ino, result=0):
        self.add("ended", offset=self.add("sync", ino), result=result)

    def drawn(self, count=300):
        """Every tree that comes up at the last cut."""
        journal, rng = Journal(self.entries, self.before), Random(0)
        states = [journal.state(len(journal), keep=0.5, torn=0.7, rng=rng).tree for _ in range(count)]
        assert journal.worst().tree in states
        return states


def contents(script):
    return {state["f"] for state in script.drawn()}


def test_synced_write_stays_and_unsynced_is_kept_torn_or_lost():
    script = Script(b"")
    script.add("write", FILE, data=b"a" * 1024)
    script.sync(FILE)
    script.add("write", FILE, offset=700, data=b"b" * 1000)
    found = contents(script)
    sectors = {(c[512:700], c[700:1024], c[1024:1536], c[1536:]) for c in found}
    assert {s[0] for s in sectors} == {b"a" * 188}
    assert {s[1] for s in sectors} == {b"a" * 324, b"b" * 324}
    assert {s[2] for s in sectors} == {b"", bytes(512), b"b" * 512}
    assert {s[3] for s in sectors} == {b"", bytes(164), b"b" * 164}


def test_write_during_a_sync_is_not_covered():
    script = Script(b"old")
    token = script.add("sync", FILE)
    script.add("write", FILE, data=b"new")
    script.add("ended", offset=token)
    assert contents(script) == {b"old", b"new"}


def test_sync_that_never_ended_covers_nothing():
    script = Script(b"old")
    script.add("write", FILE, data=b"new")
    script.add("sync", FILE)
    assert contents(script) == {b"old", b"new"}


def test_failed_sync_is_not_mended_by_a_later_one():
    script = Script(b"old")
    script.add("write", FILE, data=b"new")
    script.sync(FILE, result=-1)
    script.sync(FILE)
    assert contents(script) == {b"old", b"new"}


def test_dsync_write_covers_itself_alone():
    script = Script(b"....")
    script.add("write", FILE, data=b"a")
    call = script.add("write", FILE, offset=3, data=b"z", dsync=True)
    script.add("ended", offset=call)
    assert contents(script) == {b"...z", b"a..z"}


@pytest.mark.parametrize(
    ("op", "offset", "found"), [("truncate", 1, {b"old", b"o"}), ("grow", 5, {b"old", b"old\0\0"})]
)
def test_sizes_are_unsynced_too(op, offset, found):
    script = Script(b"old")
    script.add(op, FILE, offset=offset)
    assert contents(script) == found
    script.sync(FILE)
    assert contents(script) == {max(found, key=len) if op == "grow" else b"o"}


def test_creation_needs_a_sync_of_the_directory():
    script = Script()
    script.add("create", 5, "new")
    script.add("write", 5, data=b"x")
    script.sync(5)
    assert sorted(unique(script.drawn()), key=len) == [{}, {"new": b"x"}]
    script.sync(ROOT)
    assert unique(script.drawn()) == [{"new": b"x"}]


def test_rename_is_atomic_and_may_be_lost():
    script = Script(b"old")
    script.add("create", 5, "aside")
    script.sync(ROOT)
    script.add("rename", 0, "aside", "f")
    assert sorted(map(sorted, unique(script.drawn()))) == [["aside", "f"], ["f"]]


def test_removal_may_be_undone():
    script = Script(b"old")
    script.add("unlink", 0, "f")
    assert sorted(unique(script.drawn()), key=len) == [{}, {"f": b"old"}]
    script.sync(ROOT)
    assert unique(script.drawn()) == [{}]


def test_changes_of_a_directory_come_as_prefixes_and_as_subsets():
    script = Script()
    for n, name in enumerate("abc"):
        script.add("create", 5 + n, name)
    assert {"".join(sorted(tree)) for tree in script.drawn()} == {"", "a", "ab", "abc", "b", "c", "bc", "ac"}


def test_directory_built_aside_comes_whole_or_not_at_all():
    script = Script()
    script.add("mkdir", 5, "aside")
    script.add("create", 6, "aside/f")
    script.add("write", 6, data=b"x")
    script.sync(6)
    script.sync(5)
    script.add("rename", 0, "aside", "m")
    whole = {"m": None, "m/f": b"x"}
    assert all(tree == whole for tree in script.drawn() if "m" in tree)
    script.sync(ROOT)
    assert unique(script.drawn()) == [whole]


def test_inode_that_is_used_again_is_another_file():
    script = Script(b"old")
    script.add("unlink", 0, "f")
    script.add("create", FILE, "f")
    script.add("write", FILE, data=b"new")
    script.sync(FILE)
    assert {tree.get("f") for tree in script.drawn()} == {None, b"old", b"new"}


def test_marks_are_those_before_the_cut():
    script = Script(b"")
    script.add("mark", offset=7)
    cut = script.add("mark", offset=7, result=1)
    script.add("mark", offset=9)
    journal = Journal(script.entries, script.before, acked=3, submitted=4)
    assert [(d.acked, d.submitted) for d in map(journal.worst, (1, cut, cut + 1, cut + 2))] == [
        (3, 4),
        (3, 7),
        (7, 7),
        (7, 9),
    ]


def unique(states):
    return [s for i, s in enumerate(states) if s not in states[:i]]
