"""The command line, `rowtide` or `python -m engine`: parses, calls, prints. No logic of its own.

Needs the extra `cli`. Results go to stdout, progress and errors to stderr. Every EngineError is one line and status 1.
"""

import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

from .. import __version__
from .. import open as open_model
from .. import verify as verify_model
from ..contract.arguments import shown
from ..contract.errors import EngineError, InputError
from ..contract.losses import LOSSES, OPTIMIZERS, POINTWISE
from ..directory.directory import MEMORY, exists, remove_unused
from ..directory.lock import holder
from ..log.segment import last_seq_in
from ..machine import backend
from ..machine.files import as_engine_error
from .refusals import in_words_of

if TYPE_CHECKING:
    from ..sources.replay import Replayed

_NEEDS = "rowtide: {} is missing; the command line needs the extra 'cli': pip install 'rowtide[cli]'"

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Table

    from .tables import measures, pairs
except ImportError as missing:
    raise SystemExit(_NEEDS.format(missing.name)) from missing

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out, err = Console(markup=False), Console(stderr=True, markup=False)

_LOSSES, _POINTWISE, _OPTIMIZERS = (", ".join(names) for names in (LOSSES, POINTWISE, OPTIMIZERS))

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
EngineDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="The engine's directory.")]


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"rowtide {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """An online-learning engine that serves what it learned in the next request."""


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, CSV or JSON Lines, in time order.")],
    path: Annotated[Path, typer.Option(help="The engine's directory; made if absent.")],
    user: Annotated[str, typer.Option(help="Column of user ids.")],
    item: Annotated[str, typer.Option(help="Column of item ids.")],
    value: Annotated[str | None, typer.Option(help="Column of ratings or 0/1, for losses that take them.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of times; must not decrease.")] = None,
    time_unit: Annotated[str, typer.Option(help="Of times that are numbers: s, ms, us or ns.")] = "s",
    basket: Annotated[
        str | None, typer.Option(help="Column of baskets, judged as one request. With --evaluate.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Rows to take, such as: kind == 'purchase' and qty > 0")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Judge the last rows: predict, then learn.")] = False,
    test_share: Annotated[float, typer.Option(help="The share of rows that --evaluate judges.")] = 0.2,
    k: Annotated[list[int] | None, typer.Option("-k", help="List lengths to measure; may be repeated.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the judged rows there.")] = None,
    source: Annotated[str | None, typer.Option(help="Name to keep the position under; else the file's path.")] = None,
    dim: Annotated[int | None, typer.Option(help="Length of the vectors.")] = None,
    loss: Annotated[str | None, typer.Option(help=f"{_LOSSES}; {_POINTWISE} with --value.")] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"{_OPTIMIZERS}.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    negatives: Annotated[int | None, typer.Option(help="Negatives of a step.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Events of a step.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Learn a file of events. Run again after an interruption, it goes on where it stopped."""
    from ..sources.files import Columns, EventFile
    from ..sources.replay import judge_source, learn_source

    if not evaluate and (basket or csv):
        raise InputError("basket, csv: only --evaluate uses them")
    if csv is not None and not csv.absolute().parent.is_dir():
        raise InputError(f"csv: got {csv}, wanted a file in a directory that is there")
    events = EventFile(file, Columns(user, item, value, time, basket, where, time_unit))
    name = source or str(file.resolve())
    settings: dict[str, Any] = {"dim": dim, "loss": loss, "optimizer": optimizer, "lr": lr}
    settings |= {"negatives": negatives, "batch_size": batch_size, "device": device}
    made_here = str(path) != MEMORY and not exists(path)
    try:
        with open_model(str(path), **settings) as eng:
            if evaluate:
                with _bar("judging") as step:
                    done = judge_source(eng, events, name, test_share=test_share, k=k or (1, 10, 20), progress=step)
            else:
                with _bar("learning") as step:
                    done = learn_source(eng, events, name, progress=step)
            seq = eng.seq
    except EngineError:
        if made_here:
            remove_unused(path)
        raise
    except KeyboardInterrupt as interrupt:
        print("rowtide: interrupted; run the same command to go on", file=sys.stderr)
        raise typer.Exit(130) from interrupt
    _print_replayed(done, seq, csv)


def _print_replayed(done: "Replayed", seq: int, csv: Path | None) -> None:
    """What a replay did; writes the judged rows to the file `csv`."""
    if done.resumed:
        out.print(f"went on at file row {done.resumed:,}: what came before was learned by an earlier run")
    rate = done.events / done.seconds if done.seconds else 0
    again = f", {done.again:,} of them again" if done.again else ""
    left = f"{done.filtered:,} left out by where, {done.skipped:,} without user or item skipped"
    out.print(f"{done.rows:,} rows read{again}: {left}")
    took = f"{done.seconds:.1f} s ({rate:,.0f}/s)"
    out.print(f"{done.events:,} events learned in {took}, mean loss {done.loss:.4f}, seq {seq:,}")
    if done.report is None or done.popularity is None:
        return
    judged = done.report.summary["judged"]
    if done.resumed and done.report.summary["learned"] == judged:
        out.print(f"only the remaining {judged:,} rows were judged; those before are in the earlier run's result")
    if judged:
        out.print(f"mean loss of the judged rows, each before it was learned: {done.report.summary['loss']:.4f}")
        _print_whole(measures({"engine": done.report, "live popularity": done.popularity}))
    if csv is not None:
        try:
            done.report.to_csv(csv)
        except OSError as e:
            raise as_engine_error(csv, e) from e
        out.print(f"{judged:,} judged rows written to {csv}")


@app.command()
def topk(
    directory: EngineDirectory,
    user: Annotated[int, typer.Argument(metavar="USER", help="A user id; a stranger gets the fallback list.")],
    k: Annotated[int, typer.Option("-k", help="Length of the list.")] = 10,
    exclude_seen: Annotated[bool, typer.Option("--exclude-seen", help="Without the items that the user had.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the best items for a user, as of the last epoch. Changes nothing, also beside a writer."""
    with open_model(_present(directory), mode="r") as reader:
        answer = reader.topk(user, k, exclude_seen=exclude_seen)
    at = _standing(directory, answer.seq)
    count = int(answer.counts)
    listed = list(zip(answer.ids[:count].tolist(), answer.scores[:count].tolist(), strict=True))
    if as_json:
        _print_json({"user": user, **at, "items": [{"item": item, "score": score} for item, score in listed]})
        return
    table = Table("rank", "item", "score", title=f"user {user} at seq {answer.seq:,}")
    for rank, (item, score) in enumerate(listed, 1):
        table.add_row(str(rank), str(item), f"{score:.4f}")
    _print_whole(table)
    _print_standing(at)


@app.command()
def info(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]")] = None,
    as_json: AsJson = False,
) -> None:
    """Print which backends are alive here and why the others are not; with DIR also its settings, rows, bytes, seqs and
    positions, as of the last epoch. Changes nothing, also beside a writer."""
    python, backends = sys.version.split()[0], backend.implementations()
    found: dict[str, Any] = {}
    if directory is not None:
        with open_model(_present(directory), mode="r") as reader:
            found = {"settings": dict(reader.settings), "stats": reader.stats()}
            found["stats"]["hidden_items"] = len(reader.hidden())
            named = reader.positions().items()
            found["positions"] = {name: at.decode("ascii", "backslashreplace") for name, at in named}
        at = _standing(directory, found["stats"]["seq"])
    if as_json:
        _print_json({"python": python, "backends": backends} | (at | found if found else {}))
        return
    out.print(pairs(f"rowtide on Python {python}", backends))
    if found:
        out.print(pairs(f"settings of {directory}", found["settings"]))
        out.print(pairs(f"state of {directory}", found["stats"]))
        if found["positions"]:
            out.print(pairs(f"positions of {directory}", {name: shown(x) for name, x in found["positions"].items()}))
        _print_standing(at)


@app.command()
def verify(directory: EngineDirectory, as_json: AsJson = False) -> None:
    """Read a directory's rows and log, and check them. Changes nothing, also beside a writer."""
    report = dataclasses.asdict(verify_model(_present(directory)))
    if as_json:
        _print_json({"directory": str(directory), **report})
        return
    out.print(pairs(f"{directory} is whole", report))
    at = _standing(directory, report["lmdb_seq"])
    _print_standing(
        at, f"The last epoch is at seq {at['seq']:,}. The log, checked too, goes on to seq {report['seq']:,}"
    )


@app.command()
def backup(
    directory: EngineDirectory,
    target: Annotated[Path, typer.Argument(metavar="DST", help="The second directory; must not be there yet.")],
    as_json: AsJson = False,
) -> None:
    """Make a second directory of the last epoch, verified and on disk. Changes nothing, also beside a writer."""
    with open_model(_present(directory), mode="r") as reader:
        at = _standing(directory, reader.backup(target))
    if as_json:
        _print_json({**at, "backup": str(target)})
        return
    out.print(f"{target} is a backup of {directory} at seq {at['seq']:,}", soft_wrap=True)
    _print_standing(at)


@app.command()
def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep the engine's files in this directory, empty or new.")] = None,
    events: Annotated[int, typer.Option(help="Events of the stream.", min=2_000)] = 128_000,
    seed: Annotated[int, typer.Option(help="Seed of the shop.", min=0)] = 7,
) -> None:
    """Watch the engine learn a drifting shop, answer a click, and survive being killed."""
    from .demo import run

    run(out, keep, events, seed)


@app.command()
def profile(
    workload: Annotated[str, typer.Option(help="ingest, topk or mixed: both beside each other.")],
    folder: Annotated[Path, typer.Option("--out", help="Where trace.json and roofline.png go; made if absent.")] = Path(
        "profile"
    ),
    items: Annotated[int, typer.Option(help="Items of the catalogue.")] = 1_000_000,
    users: Annotated[int, typer.Option(help="Users that have a row.")] = 100_000,
    dim: Annotated[int, typer.Option(help="Length of the vectors.")] = 64,
    loss: Annotated[str, typer.Option(help=f"{_LOSSES}.")] = "softmax",
    optimizer: Annotated[str, typer.Option(help=f"{_OPTIMIZERS}.")] = "adagrad",
    batch_size: Annotated[int, typer.Option(help="Events of a step; more than 256 run the row kernels.")] = 16,
    events: Annotated[int, typer.Option(help="Events to learn.")] = 65_536,
    queries: Annotated[int, typer.Option(help="Calls of topk.")] = 200,
    at_once: Annotated[int, typer.Option(help="Users of one call.")] = 1,
    k: Annotated[int, typer.Option("-k", help="Length of the lists.")] = 10,
    hot_bytes: Annotated[
        int | None, typer.Option(help="Device memory for rows; less than they take: they move.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    ranges_only: Annotated[
        bool, typer.Option("--ranges-only", help="Run with NVTX ranges and nothing else, for Nsight around it.")
    ] = False,
) -> None:
    """Profile a made-up workload on the GPU: a trace, time and bytes of every kernel, a roofline."""
    from ..profiling import roofline, run, trace

    chosen = trace.Workload(
        kind=workload, items=items, users=users, dim=dim, loss=loss, optimizer=optimizer, batch_size=batch_size,
        events=events, queries=queries, at_once=at_once, k=k, hot_bytes=hot_bytes, seed=seed,
    )  # fmt: skip
    if ranges_only:
        run.run_marked(chosen)
        return
    found = run.profile(chosen, folder)
    out.print(f"{workload} on {found.device}: {chosen.shape}", soft_wrap=True)
    table = Table(*trace.HEAD, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True  # a number cut off would be another number
    rows = trace.cells(found)
    for row in rows:
        table.add_row(*("-" if cell == roofline.NOT_MEASURED else cell for cell in row))
    out.print(table)
    if any(roofline.NOT_MEASURED in row for row in rows):
        out.print(f"-: {roofline.NOT_MEASURED}")
    out.print(found.roofs.said(), soft_wrap=True)
    out.print(f"trace: {found.trace}", soft_wrap=True)
    picture = folder / run.PICTURE
    try:
        with run.writing(picture) as fresh:
            roofline.plot(found.points, found.roofs, f"{workload} on {found.device}", fresh)
    except ModuleNotFoundError as missing:
        out.print(f"no roofline: {missing.name} is missing; pip install 'rowtide[profile]'")
    else:
        out.print(f"roofline: {picture}", soft_wrap=True)


def _present(directory: Path) -> Path:
    """Commands that only look must not make a directory of a mistyped name."""
    if not exists(directory):
        raise InputError(f"path: got {directory}, wanted the directory of an engine")
    return directory


def _standing(directory: Path, seq: int) -> dict[str, Any]:
    """Where the epoch that was read stands: its seq, that of the log, and who writes now."""
    log_seq = max(seq, last_seq_in(directory / "log"))
    return {"directory": str(directory), "seq": seq, "log_seq": log_seq, "writer_pid": holder(directory)}


def _print_standing(at: dict[str, Any], said: str | None = None) -> None:
    if at["log_seq"] == at["seq"]:
        return
    said = said or f"This is the last epoch, at seq {at['seq']:,}. The log goes on to seq {at['log_seq']:,}"
    if at["writer_pid"] is None:
        out.print(f"{said}; no process that can be seen writes it. The next opening for writing learns the rest.")
    else:
        out.print(f"{said}; process {at['writer_pid']} writes it.")


def _print_json(found: dict[str, Any]) -> None:
    """One object on one line of stdout, with null for numbers that JSON does not have."""
    print(json.dumps(_finite(found)))


def _finite(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _finite(inner) for name, inner in x.items()}
    if isinstance(x, list):
        return [_finite(inner) for inner in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _print_whole(table: Table) -> None:
    """As wide as its cells, whatever the terminal's width: an id that is cut off would be another id."""
    before = out.width
    out.width = max(before, Measurement.get(out, out.options.update(width=1 << 16), table).maximum)
    try:
        out.print(table, crop=False)
    finally:
        out.width = before


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A progress bar; yields what a replay calls after every call to the engine."""
    note = TextColumn("{task.fields[note]}")
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), note
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task, began = progress.add_task(what, total=None, note=""), perf_counter()

        def step(done: int, total: int | None, learned: int, loss: float) -> None:
            rate = learned / max(perf_counter() - began, 1e-9)
            progress.update(task, completed=done, total=total, note=f"{rate:,.0f} events/s, loss {loss:.4f}")

        yield step


def main() -> None:
    """The entry point: one line and status 1 for what the engine refuses, no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a directory's name need not be UTF-8
    commands = getattr(typer.main.get_command(app), "commands", {})
    try:
        app()
    except EngineError as error:
        said = in_words_of(commands, sys.argv[1:], str(error))
        sys.exit(f"rowtide: {type(error).__name__}: {said}")
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != "pyarrow":
            raise
        sys.exit(_NEEDS.format(missing.name))
