"""Promise 1 on the engine itself: whatever happens to process or disk, reopening gives the state at a record's end.

Every fault at every call and 2,000 random power cuts are heavy (`make crash`); a seeded part of them runs always,
and so do the engines that are broken on purpose, each of which must be caught. engine_program.py says what is run.
"""

from pathlib import Path

import pytest

from .explore import explore
from .sweep import KILLS, KINDS, Failure, Report, Start, begin, crashed, serving, sweep, trace_calls, workspace

pytestmark = pytest.mark.timeout(1800)  # of many tries; on a busy machine they take their time
PROGRAM = Path(__file__).parent / "engine_program.py"
ALL = (*KINDS, "kill-after", "eio-on")
STATES, SHARE = 2000, 80
MAKE_AND_DROP = ("open", "unlink")
SEEDS = 16  # that a sabotage is looked for with, at most
# Where the first ones find nothing: which does. It saves time alone.
FIRST_SEED = {
    "roomy forget_position_unlogged": 11,
    "roomy no_crc": 2,
    "roomy lmdb_before_log": 1,
    "roomy position_apart": 1,
    "roomy trust_tail": 1,
    "roomy sync_again": 1,
    "roomy purged_before_it_is": 1,
}
CRASHES, RECOVERY_CALLS = 12, 10  # so many, spread over the run; from opening to the first calls after it


@pytest.fixture(scope="module", params=["tight", "roomy", "sequence"])
def size(request):
    return request.param


@pytest.fixture(scope="module")
def servers(size):
    with serving(PROGRAM, size) as made:
        yield made


def good(report: Report, what: str) -> None:
    print(f"\nengine, {what}: {report}")
    assert not report.failures, str(report)


def recoveries(servers, crashes: int, sample: float | None = None) -> Report:
    """Faults in the opening that follows a crash, for so many crashes spread over the run."""
    total, calls = Report(), len(trace_calls(servers[0], Start()))
    for i in range(crashes):
        with workspace() as place:
            start = crashed(servers[0], place, KILLS[i % 3], 1 + (2 * i + 1) * calls // (2 * crashes))
            report = sweep(servers, kinds=ALL, start=start, first=RECOVERY_CALLS, sample=sample, seed=i)
        total.calls += report.calls
        total.points += report.points
        total.ends += report.ends
        total.failures += report.failures
    return total


def test_the_run_has_epochs_and_rotation(servers, size):
    lines = [line.split()[1:3] for line in trace_calls(servers[0], Start())]
    commits = sum(name == "fdatasync" and path.startswith("m/rows/data-") for name, path in lines)
    made, dropped = (sum(name == what and path.startswith("m/log/") for name, path in lines) for what in MAKE_AND_DROP)
    # The run asks for some checkpoints; "roomy" has epochs by log growth besides, "tight" whenever RAM is full.
    assert commits > (40 if size == "tight" else 8)
    assert made >= 3
    assert dropped >= 2


def test_the_run_does_everything(servers):
    with workspace() as place:
        ran = servers[0].run(begin(place, Start()))
    assert ran["end"] == "ok", ran.get("error")
    done = ran["value"]
    operations = {"hide": 2, "show": 2, "forget": 3, "forget_position": 1}
    assert done.items() >= (operations | {"purge": 2, "compaction": 2, "backup": 2}).items()
    assert done["learned"] + done["unlearned"] == 400
    assert done["unlearned"] > 40, "few ids have to earn their rows"
    assert done["expired"] > 15
    assert done["whole"] >= 4, "the reader scans at first, after what it cannot follow, and after a compaction"
    assert done["followed"] >= 2


def test_a_share_of_all_faults(servers):
    good(sweep(servers, kinds=ALL, sample=1 / SHARE), "a share of all faults")


def test_a_share_of_the_power_cuts(servers):
    good(explore(servers, states=STATES // SHARE), "a share of the power cuts")


def test_some_faults_while_recovering(servers):
    good(recoveries(servers, 3, 0.2), "some faults while recovering")


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_every_fault_at_every_call(servers, size):
    # Where "tight" and "sequence" only repeat what "roomy" has, a share of it has to do (above).
    good(sweep(servers, kinds=ALL if size == "roomy" else KINDS), "every fault at every call")


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_every_fault_while_recovering(servers):
    good(recoveries(servers, CRASHES), "every fault while recovering")


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_all_power_cuts(servers):
    good(explore(servers, states=STATES, seed=1), "power cuts")


def kills(servers, seed: int) -> Report:
    return sweep(servers, kinds=("kill",), power=False, sample=20, seed=seed)


def power_cuts(servers, seed: int) -> Report:
    return explore(servers, states=50, recordings=4, seed=seed)


def errors_then_power_cuts(servers, seed: int) -> Report:
    return sweep(servers, kinds=("eio", "enospc"), sample=30, seed=seed)


def undisturbed(servers, seed: int) -> Report:
    """No fault: the run itself compares what a reader beside it sees."""
    with workspace() as place:
        ran = servers[0].run(begin(place, Start()))
    bad = Failure("the run itself", "none", 0, "", ran["acked"], ran["submitted"], ran.get("error", ran["end"]))
    return Report(failures=[] if ran["end"] == "ok" else [bad])


@pytest.mark.parametrize(
    ("sabotage", "catches"),
    [
        ("roomy no_fsync", power_cuts),
        ("roomy no_crc", power_cuts),
        ("roomy no_sync_before_lmdb", power_cuts),
        ("roomy lmdb_before_log", kills),
        ("roomy learn_twice", kills),
        ("roomy skip_one", kills),
        ("roomy position_apart", kills),
        ("roomy ack_before_sync", power_cuts),
        ("roomy trust_tail", power_cuts),
        ("roomy no_directory_sync", power_cuts),
        ("roomy sync_again", errors_then_power_cuts),
        ("roomy names_unsynced", power_cuts),
        ("roomy backup_unsynced", power_cuts),
        ("roomy backup_copy_unsynced", power_cuts),
        ("roomy hide_unlogged", kills),
        ("roomy forget_unlogged", kills),
        ("roomy forget_position_unlogged", kills),
        ("roomy purged_before_it_is", kills),
        ("roomy expire_at_epochs", kills),
        ("roomy sightings_unsaved", undisturbed),
        ("tight decision_unsaved", kills),
        ("roomy value_sums_unsaved", undisturbed),
        ("roomy moments_lost", kills),
        ("roomy readers_follow_removals", undisturbed),
        ("sequence neighbours_lost", undisturbed),
        ("sequence weights_unsaved", undisturbed),
        ("sequence recent_unsaved", undisturbed),
    ],
)
def test_each_sabotage_is_caught(sabotage, catches):
    with serving(PROGRAM, sabotage) as servers:
        first = FIRST_SEED.get(sabotage, 0)
        caught = any(catches(servers, (first + more) % SEEDS).failures for more in range(SEEDS))
    assert caught
