"""Ways to change a model directory as accidents do, each a function (path, rng). What a forger does is forgeries.py.

DAMAGE changes bytes and files: checksums then tell, so what opens must be right.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import engine
from engine.cold import file as cold_file
from engine.cold.file import lock_file

PAGE = 4096
TELLING = [0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 255, 256, 65_535, 65_536, 65_537, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
TELLING += [2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]

Mutator = Callable[[Path, random.Random], None]


def apply(mutators: list[Mutator], path: Path, rng: random.Random) -> str:
    """One to three of the mutators on a directory; returns their names."""
    chosen = [rng.choice(mutators) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    for mutate in chosen:
        mutate(path, rng)
    return " ".join(mutate.__name__ for mutate in chosen)


def segments(path: Path) -> list[Path]:
    return sorted((path / "log").glob("*.log"))


def data_file(path: Path) -> Path:
    return newest_data_file(path / "rows")


def newest_data_file(rows: Path) -> Path:
    try:
        return cold_file.data_file(rows, cold_file.newest(rows))
    except engine.EngineError:  # it has been lost
        return cold_file.data_file(rows)


def _some_file(path: Path, rng: random.Random) -> Path:
    files = [*segments(path), data_file(path), data_file(path)]
    return rng.choice([file for file in files if file.is_file()] or [path / "LOCK"])


def _any_file(path: Path, rng: random.Random) -> Path:
    """A file of the directory, also one that is not there (any more); nothing that a folder has replaced."""
    files = [path / "LOCK", data_file(path), lock_file(data_file(path)), *segments(path)]
    return rng.choice([file for file in files if not file.is_dir()])


def _edit(file: Path, change: Callable[[bytearray], None]) -> None:
    if not file.is_file():
        return
    data = bytearray(file.read_bytes())
    if data:
        change(data)
    file.write_bytes(data)


# --- accidents


def flip_bits(path: Path, rng: random.Random) -> None:
    def change(data: bytearray) -> None:
        for _ in range(rng.choice([1, 1, 2, 30])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)

    _edit(_some_file(path, rng), change)


def write_number(path: Path, rng: random.Random) -> None:
    """A telling number over two, four or eight bytes, often in a header."""

    def change(data: bytearray) -> None:
        size = rng.choice([2, 4, 8])
        at = rng.choice([rng.randrange(len(data)), rng.randrange(min(len(data), 200))])
        if rng.random() < 0.4:
            at = rng.randrange(max(1, len(data) // PAGE)) * PAGE + rng.randrange(32)
        at = min(at & ~1, max(0, len(data) - size))
        data[at : at + size] = (rng.choice(TELLING) % 2 ** (8 * size)).to_bytes(size, "little")

    _edit(_some_file(path, rng), change)


def zero_block(path: Path, rng: random.Random) -> None:
    def change(data: bytearray) -> None:
        size = rng.choice([1, 64, 512, PAGE])
        at = rng.randrange(len(data)) // size * size
        data[at : at + size] = bytes(len(data[at : at + size]))

    _edit(_some_file(path, rng), change)


def truncate(path: Path, rng: random.Random) -> None:
    file = _some_file(path, rng)
    size = file.stat().st_size
    os.truncate(file, rng.choice([rng.randrange(size + 1), size // PAGE * PAGE, max(0, size - rng.randrange(200))]))


def extend(path: Path, rng: random.Random) -> None:
    file = _some_file(path, rng)
    with file.open("ab") as f:
        f.write(rng.choice([bytes(rng.randrange(9000)), rng.randbytes(rng.randrange(9000)), file.read_bytes()[-5000:]]))


def move_page(path: Path, rng: random.Random) -> None:
    """A block over another, or the two swapped."""

    def change(data: bytearray) -> None:
        size = rng.choice([8, 64, 512, PAGE, PAGE])
        blocks = max(1, len(data) // size)
        a, b = (rng.randrange(blocks) * size for _ in "ab")
        if len(data) >= max(a, b) + size:
            first, second = data[a : a + size], data[b : b + size]
            data[a : a + size] = second
            if rng.random() < 0.5:
                data[b : b + size] = first

    _edit(_some_file(path, rng), change)


def lose_a_file(path: Path, rng: random.Random) -> None:
    file = _any_file(path, rng)
    file.unlink(missing_ok=True)


def replace_a_file(path: Path, rng: random.Random) -> None:
    """By a pipe, a folder, a link to nothing, an empty file, or another file of the directory."""
    file = _any_file(path, rng)
    others = [other for other in (data_file(path), *segments(path)) if other.is_file() and other != file]
    content = rng.choice(others).read_bytes() if others else b""
    file.unlink(missing_ok=True)
    how = rng.randrange(5)
    if how == 0:
        os.mkfifo(file)
    elif how == 1:
        file.mkdir()
    elif how == 2:
        file.symlink_to(path / "nowhere")
    else:
        file.write_bytes(content if how == 3 else b"")


def rename_a_segment(path: Path, rng: random.Random) -> None:
    if not (files := [file for file in segments(path) if file.is_file()]):
        return
    file = rng.choice(files)
    name = f"{rng.choice([0, 1, 2, int(file.name[:20]) + 1, 2**62, 10**20 - 1]):020d}.log"
    if rng.random() < 0.5:
        shutil.copyfile(file, path / "log" / "copy")
        (path / "log" / "copy").rename(path / "log" / name)
    else:
        file.rename(path / "log" / name)


def leave_a_compaction(path: Path, rng: random.Random) -> None:
    """What one that was cut off leaves behind: a file of an older generation, a half made one, their lock files."""
    data = data_file(path)
    if not data.is_file():
        return
    number = int(data.stem.partition("-")[2])
    older = cold_file.data_file(path / "rows", max(1, number - rng.randrange(3)))
    aside = cold_file.aside_file(cold_file.data_file(path / "rows", number + rng.randrange(2)))
    for file in (older, aside, lock_file(older)):
        if not os.path.lexists(file) and rng.random() < 0.7:
            file.write_bytes(rng.choice([b"", rng.randbytes(9000), data.read_bytes()]))


DAMAGE = [flip_bits, flip_bits, write_number, write_number, zero_block, truncate, extend, move_page, move_page]
DAMAGE += [lose_a_file, replace_a_file, rename_a_segment, leave_a_compaction]
