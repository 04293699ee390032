"""Directories of format 1, as the last release that wrote it left them, and what that release found in them.

`format_1/models.zip` holds them, and `found.json`. All have dim 4. Four of them differ in loss and optimizer and have
one story, two events a step, seed 3: 30 events with a position, `hide`, `checkpoint`; 20 events with weights and
timestamps, `forget` of a user and an item, killed; opened with another lr; 15 events with another position, `show`,
`hide`, one event, a position alone, killed. So LMDB stands at event 30, and the log goes on to event 66. "bpr,
admission" has `admit_after` 2 and `row_ttl` 40 besides. The others:

    purged    the same story up to the other lr, then `checkpoint`: rows purged of what was forgotten, an empty log
    new       made and closed, without an event
    middle    40 and 41 events with room for eight rows and `admit_after` 2: LMDB stands in the middle of a record

`found.json` has by name: the digest, the seq, positions, settings, hidden ids, an answer; and "digest after more": of a
copy that was opened, and has learned `more`.
"""

import json
import zipfile
from pathlib import Path

import numpy as np

from engine.table.layout import vector_floats, warm_row_bytes

ARCHIVE = Path(__file__).with_name("format_1") / "models.zip"


def _found():
    with zipfile.ZipFile(ARCHIVE) as archive:
        return json.loads(archive.read("found.json"))


FOUND = _found()


def unpack(name, path):
    """Makes the directory `path` of the old model of this name."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        for entry in archive.namelist():
            folder, _, inside = entry.partition("/")
            if folder == name:
                file = path / inside
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                file.write_bytes(archive.read(entry))
                file.chmod(0o600)
    path.chmod(0o700)


def tight(name):
    """`warm_bytes` for a few rows, so that epochs end in the middle of the replay: as many as a step may need."""
    rows = {"purged": 34, "new": 65}.get(name, 10)
    return rows * warm_row_bytes(vector_floats(4, "adam")) * 16 // 7 + 16


def more(eng):
    """Nine events, and two operations."""
    rng = np.random.default_rng(5)
    values = {"logistic": rng.integers(0, 2, 9), "squared": rng.integers(1, 6, 9)}.get(eng.settings["loss"])
    eng.ingest(rng.integers(0, 12, 9) * 7 - 30, rng.integers(0, 20, 9) * 10**9, values)
    eng.hide(7)
    eng.forget(items=4 * 10**9)
