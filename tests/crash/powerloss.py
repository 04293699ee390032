"""Disk states after a power cut, built from the shim's journal.

`Snapshot` is a directory before the run, all of it durable. `Journal` replays what was recorded on top of it: files
with their writes, directories with their changes, each with the moment at which it became durable. `Journal.state`
draws what a disk that honours fsync may hold when the power goes at a given entry, `worst` the disk that kept only
what it had to.

The model, harsher than any one file system but allowed by POSIX:
- a write, truncation or growth is durable once a sync of its file that began after it has ended, or, through an O_DSYNC
  descriptor, once it has itself ended. Before: kept, dropped, or torn into 512-byte sectors, the size grown or not;
- a sync of a file that failed leaves what it covered undurable for ever: the kernel may have dropped those pages as
  clean (names are different: a file system that cannot write its own structures takes no more of them);
- a creation, rename or removal is durable once its directory (of a rename: the target's) was synced. Before: kept or
  dropped, each on its own or as a prefix of that directory's changes. A rename is atomic.
LMDB's lock file is shared memory with a name, not data: it is never part of a state.

Pure, but for reading and writing the paths it is given. Any thread.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

OPS = (
    "start",
    "mark",
    "create",
    "mkdir",
    "write",
    "truncate",
    "grow",
    "sync",
    "ended",
    "rename",
    "unlink",
    "link",
    "symlink",
)
HEADER = struct.Struct("<4I5qQ")
SECTOR = 512
NEVER = float("inf")
NOT_DATA = ("lock.mdb", ".mdb-lock")


@dataclass(frozen=True, eq=False)
class Entry:
    """One journal entry, as `struct entry` of shim.c."""

    op: str
    dsync: bool
    call: int
    thread: int
    ino: int
    offset: int
    result: int
    path: str
    path2: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.call} {self.op} {self.path} {self.path2} offset={self.offset} len={len(self.data)}"


@dataclass(eq=False)
class Change:
    """A step of a file (write, truncate, grow) or of the directory tree (`edits`: directory, name, node or None)."""

    at: int
    entry: Entry
    edits: tuple = ()
    durable: float = NEVER
    doomed: bool = False


@dataclass(eq=False)
class File:
    data: bytes = b""
    changes: list[Change] = field(default_factory=list)


@dataclass(eq=False)
class Link:
    target: str = ""
    changes: list[Change] = field(default_factory=list)


@dataclass(eq=False)
class Folder:
    """`names` at the start; `now` as the replay goes on."""

    names: dict = field(default_factory=dict)
    now: dict = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """A directory tree at one moment: the nodes, and which inode is which."""

    root: Folder
    by_inode: dict

    @classmethod
    def of(cls, path: Path) -> "Snapshot":
        by_inode: dict = {}

        def node(p: Path):
            inode = p.lstat().st_ino
            if inode in by_inode:
                return by_inode[inode]
            if p.is_symlink():
                made = Link(str(p.readlink()))
            elif p.is_dir():
                names = {child.name: node(child) for child in p.iterdir()}
                made = Folder(names, dict(names))
            else:
                made = File(p.read_bytes())
            by_inode[inode] = made
            return made

        return cls(node(path), by_inode)


@dataclass(frozen=True)
class Disk:
    """One state: relative path -> bytes, None for a folder, str for a symbolic link's target."""

    tree: dict
    acked: int
    submitted: int
    story: str

    def write(self, target: Path) -> None:
        """Make it real, in a fresh folder `target`."""
        target.mkdir()
        for path, content in self.tree.items():
            if content is None:
                (target / path).mkdir()
            elif isinstance(content, str):
                (target / path).symlink_to(content)
            else:
                (target / path).write_bytes(content)


class Journal:
    """A replayed journal. `len(journal)` entries; a cut `c` means that entries 0..c-1 have happened."""

    def __init__(self, entries: list[Entry], before: Snapshot, acked: int = 0, submitted: int = 0):
        self.entries = entries
        self._root = before.root
        self._nodes = dict(before.by_inode)
        self._files: list[File] = [n for n in self._nodes.values() if isinstance(n, File)]
        self._tree_changes: list[tuple[Folder, Change]] = []
        self._marks = [(submitted, acked)]
        self._replay()

    @classmethod
    def read(cls, path: Path, before: Snapshot, acked: int = 0, submitted: int = 0) -> "Journal":
        """Parse the file; an entry cut short by the kill is ignored. `before` is used up."""
        raw, at, entries = path.read_bytes(), 0, []
        while at + HEADER.size <= len(raw):
            op, dsync, n1, n2, call, thread, ino, offset, result, n3 = HEADER.unpack_from(raw, at)
            at += HEADER.size
            if at + n1 + n2 + n3 > len(raw):
                break
            path1, path2 = raw[at : at + n1].decode(), raw[at + n1 : at + n1 + n2].decode()
            at += n1 + n2
            data = raw[at : at + n3]
            at += n3
            entries.append(Entry(OPS[op], bool(dsync), call, thread, ino, offset, result, path1, path2, data))
        return cls(entries, before, acked, submitted)

    def __len__(self) -> int:
        return len(self.entries)

    def _place(self, path: str) -> tuple[Folder, str]:
        *parents, name = path.split("/")
        folder = self._root
        for part in parents:
            folder = folder.now[part]
        return folder, name

    def _edit(self, at: int, entry: Entry, owner: Folder, *edits) -> None:
        change = Change(at, entry, edits)
        owner.changes.append(change)
        self._tree_changes.append((owner, change))
        for folder, name, node in edits:
            if node is None:
                folder.now.pop(name, None)
            else:
                folder.now[name] = node

    def _replay(self) -> None:
        syncs: dict[int, list[Change]] = {}  # call number of a sync under way -> what it covers
        for at, e in enumerate(self.entries):
            submitted, acked = self._marks[-1]
            if e.op == "mark":
                submitted, acked = (submitted, max(acked, e.offset)) if e.result else (max(submitted, e.offset), acked)
            self._marks.append((submitted, acked))
            if e.op == "start":
                syncs = {}
            elif e.op in ("create", "mkdir", "symlink"):
                folder, name = self._place(e.path2 if e.op == "symlink" else e.path)
                node = File() if e.op == "create" else Folder() if e.op == "mkdir" else Link(e.path)
                if isinstance(node, File):
                    self._files.append(node)
                self._nodes[e.ino] = node
                self._edit(at, e, folder, (folder, name, node))
            elif e.op == "unlink":
                folder, name = self._place(e.path)
                self._edit(at, e, folder, (folder, name, None))
            elif e.op in ("rename", "link"):
                (source, old), (target, new) = self._place(e.path), self._place(e.path2)
                gone = ((source, old, None),) if e.op == "rename" else ()
                self._edit(at, e, target, *gone, (target, new, source.now[old]))
            elif e.op in ("write", "truncate", "grow"):
                change = Change(at, e)
                self._nodes[e.ino].changes.append(change)
                if e.dsync:
                    syncs[e.call] = [change]
            elif e.op == "sync":
                syncs[e.call] = [c for c in self._nodes[e.ino].changes if c.durable == NEVER]
            elif e.op == "ended":
                for change in syncs.pop(e.offset, ()):
                    if e.result != 0:
                        change.doomed = not change.edits
                    elif not change.doomed:
                        change.durable = min(change.durable, at)

    def check_whole(self, root: Path) -> None:
        """Raise unless replaying everything gives exactly `root`: if not, the shim missed a call."""
        want, got = self.state(len(self), keep=1.0).tree, _flatten(Snapshot.of(root).root, None, _initial)
        wrong = sorted(p for p in want.keys() | got.keys() if want.get(p, 0) != got.get(p, 0))
        if wrong:
            raise RuntimeError(f"the journal does not explain what is on disk in {wrong[:5]}: a call escaped the shim")

    def worst(self, cut: int | None = None) -> Disk:
        """The disk that kept only what it had to."""
        return self.state(len(self) if cut is None else cut, keep=0.0)

    def draw(self, rng: Random) -> Disk:
        """A random disk: a random temper, and a cut uniform over the entries.

        With a restart on record, half of the cuts fall soon after it: what recovery trusts is at stake there, briefly.
        """
        keep, torn = rng.choice([0.0, 0.0, 0.5, 0.9]), rng.choice([0.0, 0.5, 1.0, 1.0])
        restart = max(at for at, e in enumerate(self.entries) if e.op == "start")
        if restart and rng.random() < 0.5:
            cut = min(len(self), restart + 1 + int(rng.expovariate(0.1)))
        else:
            cut = rng.randint(0, len(self))
        return self.state(cut, keep=keep, torn=torn, rng=rng)

    def state(self, cut: int, *, keep: float, torn: float = 0.0, rng: Random | None = None) -> Disk:
        """The disk when the power goes before entry `cut`: what was not durable is kept, or else torn, by chance."""
        rng = rng or Random(0)
        # Prefixes or subsets, for the whole disk at once: journalling file systems keep order, others need not.
        in_order = rng.random() < 0.5
        ended: set[int] = set()
        names: dict[Folder, dict] = {}

        def names_of(folder: Folder) -> dict:
            return names.setdefault(folder, dict(folder.names))

        for owner, change in self._tree_changes:
            if change.at >= cut:
                break
            if change.durable >= cut:
                if id(owner) in ended:
                    continue
                if rng.random() >= keep:
                    if in_order:
                        ended.add(id(owner))
                    continue
            for folder, name, node in change.edits:
                if node is None:
                    names_of(folder).pop(name, None)
                else:
                    names_of(folder)[name] = node

        def content(file: File) -> bytes:
            data = bytearray(file.data)
            for change in file.changes:
                if change.at >= cut:
                    break
                if change.durable < cut or rng.random() < keep:
                    _apply(data, change.entry)
                elif rng.random() < torn:
                    _tear(data, change.entry, rng)
            return bytes(data)

        submitted, acked = self._marks[cut]
        last = f"power cut after entry {cut} of {len(self)} ({self.entries[cut - 1] if cut else 'none'})"
        story = f"{last}, keep {keep}, torn {torn}, {'in order' if in_order else 'any order'}"
        return Disk(_flatten(self._root, names_of, content), acked, submitted, story)


def _initial(file: File) -> bytes:
    return file.data


def _flatten(root: Folder, names_of, content) -> dict:
    tree: dict = {}

    def walk(folder: Folder, prefix: str) -> None:
        for name, node in sorted((names_of(folder) if names_of else folder.names).items()):
            if name.endswith(NOT_DATA):
                continue
            path = prefix + name
            if isinstance(node, Folder):
                tree[path] = None
                walk(node, path + "/")
            else:
                tree[path] = node.target if isinstance(node, Link) else content(node)

    walk(root, "")
    return tree


def _apply(data: bytearray, e: Entry) -> None:
    if e.op == "write":
        data.extend(bytes(max(0, e.offset - len(data))))
        data[e.offset : e.offset + len(e.data)] = e.data
    else:
        if e.op == "truncate":
            del data[e.offset :]
        data.extend(bytes(max(0, e.offset - len(data))))


def _tear(data: bytearray, e: Entry, rng: Random) -> None:
    """Some sectors of a write arrive. A truncation or growth is one step: not torn, dropped."""
    if e.op != "write":
        return
    end = e.offset + len(e.data)
    if rng.random() < 0.5:
        data.extend(bytes(max(0, end - len(data))))
    at = e.offset
    while at < end:
        stop = min(end, (at // SECTOR + 1) * SECTOR)
        if rng.random() < 0.5:
            data.extend(bytes(max(0, at - len(data))))
            data[at:stop] = e.data[at - e.offset : stop - e.offset]
        at = stop
