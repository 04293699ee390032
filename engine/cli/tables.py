"""Tables that commands print: measures beside each other, and names with their values. They take what they show."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def measures(reports: Mapping[str, Any]) -> Table:
    """The measures of several reports of the same rows, a column for each."""
    table = Table(title="predict, then learn: ties count against, an unlisted item is a miss")
    table.add_column("rows")
    table.add_column("measure")
    for name in reports:
        table.add_column(name, justify="right")
    first = next(iter(reports.values())).summary
    for part, meaning in (("all", "all"), ("new", "item new to the user")):
        for measure in first[part]:
            if measure != "rows":
                values = [f"{r.summary[part][measure]:.4f}" for r in reports.values()]
                table.add_row(f"{meaning}: {first[part]['rows']:,}", measure, *values)
        table.add_section()
    return table


def pairs(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values, nested names joined by dots."""
    table = Table(title=title, title_justify="left", show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")  # over several lines rather than cut off

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                add(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            table.add_row(prefix, f"{value:,}" if type(value) is int else str(value))

    add("", values)
    return table
