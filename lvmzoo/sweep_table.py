"""A comparison as one table, best run first: printed, and written as table.csv and table.md."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from lvmzoo.comparison import Column, Comparison, Row
from lvmzoo.pooling import Value
from lvmzoo.run import write_text

__all__ = ["NONE", "TIME", "body", "in_lines", "legend", "limits", "number", "order", "show", "warnings", "write"]

WRONG = "directions wrong"
FLAGS = "flags"
NONE = "\N{EN DASH}"
TIME = "s: seconds that a run took, from reading the data to the scores."


def show(comparison: Comparison) -> Table:
    """Return the table for the terminal; the best of each column is bold."""
    shown, wrong, flagged = comparison.shown, _wrong(comparison), _flagged(comparison)
    named = any(row.runs for row in comparison.rows)
    table = Table(box=None, pad_edge=False)
    for heading in comparison.headings:
        table.add_column(heading, overflow="fold", no_wrap=len(comparison.headings) > 1)
    for column in shown:
        widest = max(len(number(row.values.get(column.key))) for row in comparison.rows)
        table.add_column(in_lines(column.heading, widest), justify="right", overflow="fold")
    table.add_column("s", justify="right")
    table.add_column("run" if named else "job", justify="left" if named else "right", overflow="fold")
    for heading in (*flagged, *wrong):
        table.add_column(heading, overflow="fold")
    for previous, row in zip([None, *comparison.rows], comparison.rows, strict=False):
        if previous is not None and previous.data != row.data:
            table.add_row()
        cells = []
        for column in shown:
            text = number(row.values.get(column.key))
            cells.append(f"[bold]{text}[/bold]" if comparison.best(row, column) else text)
        if row.failed:
            cells = ["[red]failed[/red]", *[""] * (len(shown) - 1)] if shown else []
        names = [escape(cell) for cell in row.settings]
        names[-1] += " [red]failed[/red]" if row.failed and not shown else ""
        flags = [f"[yellow]{escape(_kinds(row))}[/yellow]" for _ in flagged]
        jobs = escape("\n".join(row.runs)) if named else ",".join(map(str, row.jobs))
        table.add_row(*names, *cells, _seconds(row), jobs, *flags, *(escape(row.wrong) for _ in wrong))
    return table


def write(folder: Path, comparison: Comparison) -> None:
    """Write table.csv (every metric) and table.md (those shown; the best of each column is bold)."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    metrics = comparison.metrics
    parts = [part for column in metrics for part in (column.key, f"{column.key} spread", f"{column.key} n")]
    validation = [f"{comparison.lead.key} validation"] if comparison.lead and comparison.validated else []
    named = any(row.runs for row in comparison.rows)
    jobs = "runs" if named else "jobs"
    writer.writerow([*comparison.headings, *parts, *validation, "seconds", jobs, FLAGS, "failed"])
    for row in comparison.rows:
        values = [row.values.get(column.key) for column in metrics]
        cells = [cell for value in values for cell in _cells(value)]
        judged = [values[0].validation if values[0] else None for _ in validation]
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.3f}"
        which = " ".join(row.runs if named else map(str, row.jobs))
        writer.writerow([*row.settings, *cells, *judged, seconds, which, _kinds(row), row.failed])
    write_text(folder / "table.csv", stream.getvalue())
    headings, body_lines = body(comparison)
    lines = [headings, ["---"] * len(headings), *body_lines]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    remarks = [*order(comparison), *limits(comparison), *legend(comparison, comparison.shown), TIME]
    warned = "".join(f"- {line}\n" for line in warnings(comparison))
    write_text(
        folder / "table.md",
        f"{text}\n\n{warned}{chr(10) * bool(warned)}{' '.join(remarks)}\n",
    )


def body(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of the metrics that are shown, the best of each column in bold as Markdown has it."""
    shown, wrong, flagged = comparison.shown, _wrong(comparison), _flagged(comparison)
    headings = [*comparison.headings, *(column.heading for column in shown), "s", *flagged, *wrong]
    lines = []
    for row in comparison.rows:
        texts = [number(row.values.get(column.key)) for column in shown]
        texts = [
            f"**{cell}**" if comparison.best(row, column) else cell for column, cell in zip(shown, texts, strict=True)
        ]
        if row.failed:
            texts = [f"failed: {row.failed}", *[""] * (len(shown) - 1)] if shown else []
        lines.append(
            [*row.settings, *texts, _seconds(row), *(_kinds(row) for _ in flagged), *(row.wrong for _ in wrong)]
        )
    return headings, lines


def order(comparison: Comparison) -> Iterator[str]:
    """Say what put the rows in their order, and what choosing in that way is worth."""
    lead, finished = comparison.lead, [row for row in comparison.rows if row.values]
    if lead is None or len(finished) < 2:
        return
    if comparison.validated:
        yield (
            f"Rows are in the order of {lead.key} on validation data; the scores shown are of test data, which no "
            "choice saw."
        )
    else:
        yield f"Rows are in the order of {lead.key} on the test data themselves: the first is flattered by the choice."
    for data, value in comparison.nested.items():
        yield (
            f"Choosing on validation data in every fold gives {lead.key} {number(value)} on test data"
            f"{f' ({comparison.data_label(data)})' if data else ''}."
        )


def limits(comparison: Comparison) -> Iterator[str]:
    """Say what no flag could have told, and which seeds tell nothing."""
    for data, reason in comparison.not_compared.items():
        yield f"{comparison.data_label(data)}: {reason}" if data else reason
    alike = [row for row in comparison.rows if row.seeds_alike]
    if alike:
        names = list(dict.fromkeys(row.whole_label for row in alike))
        which = "" if len(alike) == len(comparison.rows) else f" of {'; '.join(names)}"
        yield (
            f"Seeds change nothing in the fits{which}: equal runs are no more evidence than one of them, and ± is that "
            "of one."
        )


def legend(comparison: Comparison, columns: Sequence[Column]) -> Iterator[str]:
    """Say what there is to know of a table with these columns, a sentence each."""
    if not columns:
        return
    yield from _spreads(comparison)
    yield "Bold: the best on the same data."
    if any(column.lower for column in columns):
        yield "\N{DOWNWARDS ARROW}: lower is better."
    if any(column.seen for column in columns):
        yield "Seen: of units, in bins, that the model looked at; how well it explains, not how well it predicts."
    yield f"{NONE}: no answer to that."


def _spreads(comparison: Comparison) -> Iterator[str]:
    """Say what the spread of a value is, for the kinds of rows that there are."""
    rows = [row for row in comparison.rows if row.values]
    single = any(row.folds == 1 and (len(row.jobs) == 1 or row.seeds_alike) for row in rows)
    folds = any(row.folds > 1 for row in rows)
    seeds = any(row.folds == 1 and len(row.jobs) > 1 and not row.seeds_alike for row in rows)
    kinds = [
        "the standard error of the mean over folds" if folds else "",
        "the standard deviation over seeds" if seeds else "",
        "the standard error over trials, or blocks, of a single run" if single else "",
    ]
    if any(value.spread for row in rows for value in row.values.values()):
        yield f"±: {'; '.join(filter(None, kinds))}."


def warnings(comparison: Comparison) -> Iterator[str]:
    """Give each warning with the row that it is of, and its reason; those of all rows first."""
    for data, flags in comparison.common.items():
        for flag in flags:
            yield f"all{f' with {comparison.data_label(data)}' if data else ''}, {flag.kind}: {flag.reason}"
    for row in comparison.rows:
        for flag in row.flags:
            yield f"{row.whole_label}, {flag.kind}: {flag.reason}"


def number(value: Value | None) -> str:
    """Return a value with its spread, as the table has it."""
    if value is None:
        return NONE
    if not value.spread or value.spread <= 1e-9 * abs(value.value):  # none, of a single thing, or rounding
        return f"{value.value:.3g}" if abs(value.value) < 1000 else f"{value.value:.0f}"
    return f"{value.value:.3f} ± {value.spread:.2g}"


def _cells(value: Value | None) -> tuple[float | int | None, ...]:
    """Return a value, its spread and how much is behind it."""
    return (None, None, None) if value is None else (value.value, value.spread, value.n or None)


def in_lines(text: str, width: int) -> str:
    """Break a text after spaces and underscores into lines of about so many characters."""
    lines = [""]
    for part in re.findall(r"[^ _]+[ _]?|[ _]", text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _seconds(row: Row) -> str:
    return "" if math.isnan(row.seconds) else f"{row.seconds:.1f}"


def _kinds(row: Row) -> str:
    return ", ".join(flag.kind for flag in row.flags)


def _wrong(comparison: Comparison) -> list[str]:
    """Return the heading of the column, where there is one."""
    return [WRONG] if any(row.wrong for row in comparison.rows) else []


def _flagged(comparison: Comparison) -> list[str]:
    return [FLAGS] if any(row.flags for row in comparison.rows) else []
