"""Random power cuts: record runs of a program, draw disk states from their journals, have each one checked.

Half of the recordings are of a run that is killed at a random call and then gone on with by a second process, so that
what a recovery read from the page cache, and acknowledged again, must have been made durable first.
Not its job: what a disk may hold (powerloss.py), and single faults (sweep.py).
"""

from random import Random

from .powerloss import Journal, Snapshot
from .sweep import Failure, Report, Start, begin, on_servers, workspace


def record(server, rng: Random, calls: int, *, sync_delay_us: int) -> Journal:
    """The journal of one run to the end; killed once on the way, and gone on with, if `calls` is not 0."""
    with workspace() as place:
        root, journal, start = begin(place, Start()), place / "journal", Start()
        before = Snapshot.of(root)
        if calls:
            kind = rng.choice(["kill", "kill-half", "kill-after"])
            ran = server.run(root, kind, rng.randint(1, calls), journal=journal, sync_delay_us=sync_delay_us)
            start = Start(None, ran["acked"], ran["submitted"])
        ran = server.run(root, journal=journal, start=start, sync_delay_us=sync_delay_us)
        if ran["end"] != "ok" or ran["unsupported"]:
            raise RuntimeError(f"the recorded run failed: {ran}")
        replayed = Journal.read(journal, before)
        replayed.check_whole(root)
        return replayed


def explore(servers, *, states: int = 2000, seed: int = 0, recordings: int = 8, sync_delay_us: int = 200) -> Report:
    """Check `states` random disks. A failure's `at` is the state's number: same seed, same states (bar thread timing)."""
    report = Report()
    rng = Random(seed)
    journals: list[Journal] = []
    calls = 0
    for i in range(recordings):
        journals.append(record(servers[0], rng, calls if i % 2 else 0, sync_delay_us=sync_delay_us))
        calls = calls or max(e.call for e in journals[0].entries)
    report.calls = calls

    def one(server, number: int) -> Failure | None:
        disk = journals[number % recordings].draw(Random(seed * 1_000_003 + number))
        with workspace() as place:
            disk.write(place / "disk")
            judged = server.check(place / "disk", disk.acked, disk.submitted)
        if judged["end"] == "ok":
            return None
        detail = disk.story + "\n" + judged.get("error", judged["end"])
        return Failure("after power loss", f"state of seed {seed}", number, "", disk.acked, disk.submitted, detail)

    for failure in on_servers(servers, list(range(states)), one):
        report.points["power loss"] += 1
        report.failures += [failure] if failure else []
    return report
