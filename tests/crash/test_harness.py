"""The harness proven on a toy: a right program passes every fault, and each way of being wrong is caught."""

from pathlib import Path
from random import Random

import pytest

from .explore import explore
from .powerloss import Journal, Snapshot
from .sweep import KINDS, Server, applies, begin, serving, sweep, trace_calls, workspace, Start

HERE = Path(__file__).parent
TOY = HERE / "toy_wal.py"


@pytest.fixture(scope="module")
def toy():
    with serving(TOY) as servers:
        yield servers


def test_toy_survives_every_fault_at_every_call(toy):
    report = sweep(toy, kinds=(*KINDS, "kill-after", "eio-on"))
    assert not report.failures, str(report)
    print(report)


def test_toy_survives_power_loss(toy):
    report = explore(toy, states=500)
    assert not report.failures, str(report)
