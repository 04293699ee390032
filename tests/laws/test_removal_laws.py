"""The same log gives the same bits, also when rows are hidden, forgotten and expire on the way.

One stream that mixes all of it, whatever else differs: memory or directory, room for all rows or for few, epochs
anywhere or none, killed and replayed anywhere, vector or portable kernels. The reference is the plainest engine.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killed import kill

import engine
from engine.machine.backend import native
from engine.table.layout import vector_floats, warm_row_bytes

DIM, STEP, CALLS = 8, 4, 84
SETTINGS = {"dim": DIM, "batch_size": STEP, "negatives": 6, "seed": 5, "epoch_seconds": 1e9}
FEW = -(-36 * warm_row_bytes(vector_floats(DIM, "adagrad")) * 16 // 7)


def calls(seed=2):
    """(what, users, items) of each call: skewed ids, new ones all along; some are forgotten and come again."""
    rng = np.random.default_rng(seed)
    for number in range(CALLS):
        n = int(rng.integers(1, 60))
        users = (rng.random(n) ** 2 * (40 + 2 * number)).astype(np.int64) * 2**33 - 2**39
        items = (rng.random(n) ** 2 * (40 + 2 * number)).astype(np.int64) * 2**41 - 2**47 + 3
        what = rng.choice(["ingest", "hide", "show", "forget", "lr"], p=[0.6, 0.1, 0.08, 0.17, 0.05])
        if what == "forget":
            yield what, users[: n // 8], items[: n // 10]
        else:
            yield what, users, items[: n // 4] if what in ("hide", "show") else items


def make(eng, what, users, items):
    if what == "ingest":
        eng.ingest(users, items, durable=False)
    elif what == "forget":
        eng.forget(users, items)
    elif what in ("hide", "show"):
        getattr(eng, what)(items)


def run(path, start=0, each=None, leave=engine.Engine.close, **more):
    """Makes all calls; returns the digest. A changed setting closes and opens a directory."""
    eng = engine.open(path, **SETTINGS, **more)
    for number, (what, users, items) in enumerate(calls()):
        if number < start:
            continue
        if what == "lr":
            if path == ":memory:":  # what opening does to a directory
                eng._writer.change_settings(
                    engine.contract.settings.Settings.resolve({"lr": 0.1 + number / 1000}, eng._store.model.settings)
                )
            else:
                leave(eng)
                eng = engine.open(path, **SETTINGS, **more | {"lr": 0.1 + number / 1000})
        else:
            make(eng, what, users, items)
        if each:
            each(eng, number)
    digest = eng.digest()
    leave(eng)
    return digest


@pytest.fixture(scope="module", params=[("softmax", 0), ("bpr", 2)], ids=["softmax", "bpr, admission"])
def law(request):
    """Settings, and the digest of the plainest engine there is."""
    settings = {"loss": request.param[0], "row_ttl": 500, "admit_after": request.param[1]}
    return settings, run(":memory:", **settings)


@pytest.mark.parametrize("leave", [engine.Engine.close, kill])
def test_a_directory_is_as_good_as_memory(law, home, leave):
    settings, digest = law
    assert run(home, **settings, leave=leave) == digest
    with engine.open(home) as eng:
        assert eng.digest() == digest
    assert engine.verify(home).entries > 0


def test_room_for_few_rows(law, home):
    settings, digest = law
    assert run(home, **settings, warm_bytes=FEW) == digest
    with engine.open(home, warm_bytes=FEW) as eng:
        assert eng.stats()["users"]["rows"] > 2 * eng.stats()["users"]["warm_capacity"]
        assert eng.digest() == digest


@pytest.mark.parametrize("room", [{}, {"warm_bytes": FEW}], ids=["all", "few"])
def test_epochs_anywhere(law, home, room):
    settings, digest = law

    def each(eng, number):
        if number % 3 == 0:
            eng.checkpoint()
        elif number % 3 == 1:
            eng._writer.begin_epoch()  # and go on while it is written

    assert run(home, **settings, **room, each=each) == digest


@pytest.mark.parametrize("room", [{}, {"warm_bytes": FEW}], ids=["all", "few"])
def test_killed_after_any_call(law, home, tmp_path, room):
    """What a kill leaves is the files as they are: a copy of them, opened, must come to the same end."""
    settings, digest = law
    copies = {}

    def each(eng, number):
        if number % 7 == 0:
            eng._writer.begin_epoch()
        if number % 40 == 13:
            copies[number] = (shutil.copytree(home, tmp_path / f"killed{number}"), eng.digest())

    run(home, **settings, **room, each=each)
    assert len(copies) == CALLS // 40
    for number, (copy, then) in copies.items():
        with engine.open(copy, **room) as eng:
            assert eng.digest() == then
        assert run(copy, number + 1, **room) == digest


def test_vector_and_portable_kernels(law):
    if not native.isa_available("avx2"):
        pytest.skip("this processor has only the portable path")
    settings, digest = law
    code = (
        f"import sys; sys.path += {[os.fspath(Path(__file__).parent), os.fspath(Path(__file__).parents[1])]!r}\n"
        f"import test_removal_laws as laws; print(laws.run(':memory:', **{settings!r}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"ROWTIDE_ISA": isa},
        ).stdout.strip()
        for isa in ("avx2", "portable")
    }
    assert found == {digest}


def test_each_operation_shows_in_the_digest():
    found = {run(":memory:", loss="bpr", row_ttl=ttl) for ttl in (0, 500, 600)}
    with engine.open(":memory:", **SETTINGS) as eng:
        eng.ingest([1, 2, 3], [4, 5, 6])
        for operation in (
            lambda: eng.hide(4),
            lambda: eng.hide(99),
            lambda: eng.forget(1),
            lambda: eng.forget([], [6]),
        ):
            found.add(eng.digest())
            operation()
        found.add(eng.digest())
    assert len(found) == 8
