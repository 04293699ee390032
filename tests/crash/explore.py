"""Random power cuts: record runs of a program, draw disk states from their journals, have each one checked.

Half of the recordings are of a run that is killed at a random call and then gone on with by a second process, so that
what a recovery read from the page cache, and acknowledged again, must have been made durable first.
Not its job: what a disk may hold (powerloss.py), and single faults (sweep.py).
"""

from random import Random

from .powerloss import Journal, Snapshot
from .sweep import KILLS, Failure, Report, Start, begin, on_servers, trace_calls, workspace


def record(server, calls: int, rng: Random, sync_delay_us: int) -> tuple[Journal | None, list[Failure]]:
    """The journal of one run to the end; with `calls`, one killed at a random one of them and gone on with.

    No journal, but a failure, where the program cannot go on after the kill.
    """
    with workspace() as place:
        root, journal, start = begin(place, Start()), place / "journal", Start()
        before, kind, at, call = Snapshot.of(root), "none", 0, ""
        if calls:
            kind, at = rng.choice(KILLS), rng.randint(1, calls)
            ran = server.run(root, kind, at, journal=journal, sync_delay_us=sync_delay_us)
            start, call = Start(None, ran["acked"], ran["submitted"]), ran["call"]
        ran = server.run(root, journal=journal, start=start, sync_delay_us=sync_delay_us)
        if ran["end"] != "ok" or ran["unsupported"]:
            detail = ran.get("error", ran["end"])
            return None, [Failure("the run after it failed", kind, at, call, ran["acked"], ran["submitted"], detail)]
        replayed = Journal.read(journal, before)
        replayed.check_whole(root)
        return replayed, []


def explore(
    servers, *, states: int = 2000, seed: int = 0, recordings: int | None = None, sync_delay_us: int = 200
) -> Report:
    """Check `states` random disks, drawn from `recordings` (default: one for 40 states, at least 8).

    A failure's `at` is the state's number: same seed, same states, if the program's threads keep their timing.
    """
    report = Report(calls=len(trace_calls(servers[0], Start())))
    count = recordings or max(8, states // 40)

    def recorded(server, i: int):
        return record(server, report.calls if i % 2 else 0, Random(f"{seed} recording {i}"), sync_delay_us)

    made = on_servers(servers, list(range(count)), recorded)
    journals = [journal for journal, _ in made if journal]
    report.failures += [failure for _, failures in made for failure in failures]

    def one(server, number: int) -> Failure | None:
        disk = journals[number % len(journals)].draw(Random(f"{seed} state {number}"))
        with workspace() as place:
            disk.write(place / "disk")
            judged = server.check(place / "disk", disk.acked, disk.submitted)
        if judged["end"] == "ok":
            return None
        detail = disk.story + "\n" + judged.get("error", judged["end"])
        return Failure("after power loss", f"state of seed {seed}", number, "", disk.acked, disk.submitted, detail)

    for failure in on_servers(servers, list(range(states)) if journals else [], one):
        report.points["power loss"] += 1
        report.failures += [failure] if failure else []
    return report
