"""Settings, paths and devices that `engine.open` refuses: the error names the argument, and nothing was made."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from junk import Hostile, but, refused

import engine
from engine import ConfigError, CorruptionError
from engine.contract.settings import Settings


@pytest.mark.parametrize(
    "name",
    [
        "dim",
        "loss",
        "optimizer",
        "lr",
        "l2",
        "negatives",
        "batch_size",
        "seed",
        "device",
        "warm_bytes",
        "threads",
        "mode",
        "row_ttl",
        "admit_after",
    ],
)
def test_settings(home, name):
    for junk in but("nothing", "true"):
        number = name in ("lr", "l2") and isinstance(junk, float | np.floating) and math.isfinite(junk)
        fits = name == "warm_bytes" and isinstance(junk, int) and 0 < junk < 2**62
        if number or fits:
            continue
        refused(name, lambda junk=junk: engine.open(home, **{name: junk}), ConfigError)
        assert not home.exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"dim": 0}, {"dim": 4097}, {"dim": True}, {"dim": 8.0}, {"loss": "hinge"}, {"optimizer": "rmsprop"},
        {"lr": 0}, {"lr": -1},
        {"lr": 1e-50}, {"lr": math.nan}, {"lr": 1e7}, {"l2": -1e-9}, {"negatives": 0}, {"batch_size": 0},
        {"batch_size": 2**20}, {"seed": -1}, {"seed": 2**63}, {"device": "tpu"}, {"epoch_seconds": 0},
        {"epoch_seconds": None}, {"epoch_seconds": math.inf}, {"threads": 0}, {"threads": 10**6},
        {"warm_bytes": 0}, {"mode": "r+"},
        {"row_ttl": -1}, {"row_ttl": 2**53 + 1}, {"row_ttl": True}, {"row_ttl": 8.0}, {"row_ttl": math.nan},
        {"admit_after": -1}, {"admit_after": 256}, {"admit_after": False}, {"admit_after": 2.0},
        {"admit_after": math.nan}, {"admit_after": np.int64(256)}, {"row_ttl": np.float64(8)},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range(home, bad):
    (name,) = bad
    refused(name, lambda: engine.open(home, **bad), ConfigError)
    assert not home.exists()
    if name not in ("warm_bytes", "mode"):
        refused(name, lambda: engine.open(":memory:", **bad), ConfigError)


@pytest.mark.parametrize(("name", "most"), [("row_ttl", 2**53), ("admit_after", 255)])
def test_what_lets_rows_go_and_come_may_change(home, name, most):
    """0 and None: not; None on reopening: as it was."""
    for given, found in ((None, 0), (3, 3), (None, 3), (np.uint8(7), 7), (most, most), (None, most), (0, 0), (None, 0)):
        with engine.open(home, dim=4, **{name: given}) as eng:
            assert eng.settings[name] == found
            assert type(eng.settings[name]) is int
    refused(name, lambda: engine.open(home, **{name: -1}), ConfigError)
    with engine.open(home, mode="r") as reader:
        assert reader.settings[name] == 0
    refused(name, lambda: engine.open(home, mode="r", **{name: 1}), ConfigError)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_losses_that_learn_values_have_no_negatives(home, loss):
    refused("negatives", lambda: engine.open(home, loss=loss, negatives=1), ConfigError)
    for junk in but("nothing"):
        refused("negatives", lambda junk=junk: engine.open(home, loss=loss, negatives=junk), ConfigError)
    assert not home.exists()
    with engine.open(home, loss=loss, negatives=0) as eng:
        assert eng.settings["negatives"] == 0


def test_a_device_that_is_not_there(home, monkeypatch):
    monkeypatch.setattr("engine.machine.backend.triton_missing", lambda: "no CUDA device")
    refused("cuda", lambda: engine.open(home, device="cuda"), engine.DeviceError)
    assert not home.exists()


@pytest.mark.parametrize(
    "path",
    [None, 5, b"model", "", "a\0b", ["model"], np.array(["a", "b"]), Hostile(), Path(":memory:")],
    ids=range(9),
)
def test_paths(path):
    refused("path", lambda: engine.open(path), ConfigError)
    refused("path", lambda: engine.verify(path), ConfigError)
    refused("path", lambda: engine.verify(":memory:"), ConfigError)


def test_memory_has_no_limit_and_no_modes():
    refused("warm_bytes", lambda: engine.open(":memory:", warm_bytes=1 << 30), ConfigError)
    refused("mode", lambda: engine.open(":memory:", mode="x"), ConfigError)


def test_a_setting_of_a_later_version_is_refused_by_its_name():
    found = Settings.resolve({}, None).as_dict() | {"later": 1}
    with pytest.raises(ConfigError, match="'later'"):
        Settings.stored(found)
    with pytest.raises(CorruptionError, match="later"):
        Settings.resolve({}, None).changed({"later": 1})


def test_a_directory_from_before_a_setting_has_its_default():
    """`Settings` with one more field, as a later version would have it."""

    @dataclass(frozen=True, slots=True)
    class Later(Settings):
        patience: int = 3

    before = Settings.resolve({"dim": 8}, None).as_dict()
    assert Later.stored(before).as_dict() == before | {"patience": 3}
    del before["lr"]
    with pytest.raises(CorruptionError):
        Later.stored(before)


def test_what_memory_and_readers_have_no_use_for_is_said_with_its_value(home):
    refused("warm_bytes: got int 9, but ':memory:'", lambda: engine.open(":memory:", warm_bytes=9), ConfigError)
    engine.open(home, dim=4).close()
    refused(
        "warm_bytes: got int 9000000, but mode", lambda: engine.open(home, mode="r", warm_bytes=9_000_000), ConfigError
    )
    refused("untrusted: got str 'yes'", lambda: engine.open(home, untrusted="yes"), ConfigError)


def test_settings_that_were_asked_for_are_a_copy(memory):
    memory.settings["dim"] = 5
    assert memory.settings["dim"] == 8
