"""A directory of format 1 under faults at every call while it is migrated: it is of one format or of the other, whole.

migration_program.py says what is run. tests/directory/test_migration.py has the cases without faults.
"""

import sys
from pathlib import Path

import pytest

from .sweep import KINDS, Start, serving, sweep, workspace

sys.path.insert(0, str(Path(__file__).parents[1]))

from old_models import unpack

PROGRAM = Path(__file__).parent / "migration_program.py"


def swept(name: str, sabotage: str = "", **how):
    words = f"{name.replace(' ', '_')} {sabotage}"
    with serving(PROGRAM, words) as servers, workspace() as place:
        unpack(name, place / "start" / "m")
        return sweep(servers, kinds=(*KINDS, "kill-after", "eio-on"), start=Start(place / "start"), **how)


@pytest.mark.parametrize("name", ["logistic, adam", "middle"])
def test_a_share_of_all_faults(name):
    report = swept(name, sample=0.06)
    print(f"\nmigration, {name}: {report}")
    assert not report.failures, str(report)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["logistic, adam", "squared, sgd", "purged", "middle"])
def test_every_fault_at_every_call(name):
    report = swept(name)
    print(f"\nmigration, {name}: {report}")
    assert not report.failures, str(report)


def test_a_record_before_the_epoch_is_caught():
    assert swept("logistic, adam", "sabotaged", sample=60).failures
