"""One table of a sweep: its runs side by side, best first, printed and written as table.csv and table.md."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from lvmzoo.run import write_text

__all__ = ["Row", "compare", "show", "write"]

# What runs are ordered by: the first of these that any run has. Then the columns that follow it.
LEADING = ("co_bps", "co_r2", "rate_r2", "latent_r2", "activity_r2", "bits_per_spike", "variance_explained")
SHOWN = (
    "co_bps",
    "co_r2",
    "rate_r2",
    "latent_r2",
    "activity_r2",
    "variance_explained",
    "behavior_r2",
    "behavior_error",
    "behavior_error_knn",
    "behavior_accuracy",
)


@dataclass
class Row:
    """One line: a run, or runs that differ in their seed alone."""

    name: str
    jobs: list[int]
    values: dict[str, tuple[float, float | None]] = field(default_factory=dict)  # metric and target -> value, spread
    seconds: float = math.nan  # of a run, from data to report: the mean over seeds
    failed: str = ""  # why, where a run failed


def compare(outcomes: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Row]]:
    """Return the metrics that the runs have, and a row for each setting, best first; failures at the end.

    Several seeds of a setting become one row: the mean, and the standard deviation over seeds as its spread. Scores of
    several sessions are averaged.
    """
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for name, outcome in zip(_names(outcomes), outcomes, strict=True):
        grouped.setdefault(name, []).append(outcome)
    rows = [_row(name, members) for name, members in grouped.items()]
    found = {key for row in rows for key in row.values}
    order = {name: i for i, name in enumerate((*SHOWN, *LEADING))}
    metrics = sorted(found, key=lambda key: (order.get(key.split(" ")[0], len(order)), key))
    lead = next((name for name in LEADING if name in found), metrics[0] if metrics else "")
    sign = {key: _sign(outcomes, key) for key in metrics}
    rows.sort(
        key=lambda row: (bool(row.failed), lead not in row.values, -sign.get(lead, 1) * row.values.get(lead, (0.0,))[0])
    )
    return ([lead] if lead else []) + [key for key in metrics if key != lead], rows


def best(outcomes: Sequence[Mapping[str, Any]], metrics: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """Return for each metric the name of the row that is best in it."""
    found = {}
    for key in metrics:
        there = [row for row in rows if key in row.values and not row.failed]
        if len(there) > 1:
            found[key] = max(there, key=lambda row: _sign(outcomes, key) * row.values[key][0]).name
    return found


def show(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table for the terminal; the best of each column is bold."""
    metrics, rows = compare(outcomes)
    shown = _columns(metrics)
    winners = best(outcomes, metrics, rows)
    table = Table(box=None, pad_edge=False)
    table.add_column(_heading(outcomes), overflow="fold")
    for key in shown:
        table.add_column(key, justify="right")
    table.add_column("s", justify="right")
    table.add_column("job", justify="right")
    for row in rows:
        cells = []
        for key in shown:
            text = _number(row.values.get(key))
            cells.append(f"[bold]{text}[/bold]" if winners.get(key) == row.name else text)
        if row.failed:
            cells = ["[red]failed[/red]", *[""] * (len(shown) - 1)] if shown else []
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.1f}"
        name = escape(row.name) + (" [red]failed[/red]" if row.failed and not shown else "")
        table.add_row(name, *cells, seconds, ",".join(map(str, row.jobs)))
    return table


def write(folder: Path, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Write table.csv (every metric) and table.md (those shown; the best of each column is bold)."""
    metrics, rows = compare(outcomes)
    winners = best(outcomes, metrics, rows)
    heading = _heading(outcomes)
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(
        [heading, *(part for key in metrics for part in (key, f"{key} spread")), "seconds", "jobs", "failed"]
    )
    for row in rows:
        pairs = [row.values.get(key, ("", None)) for key in metrics]
        cells = [cell for value, spread in pairs for cell in (value, "" if spread is None else spread)]
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.3f}"
        writer.writerow([row.name, *cells, seconds, " ".join(map(str, row.jobs)), row.failed])
    write_text(folder / "table.csv", stream.getvalue())
    shown = _columns(metrics)
    lines = [[heading, *shown, "s"], ["---"] * (len(shown) + 2)]
    for row in rows:
        texts = [_number(row.values.get(key)) for key in shown]
        texts = [
            f"**{cell}**" if winners.get(key) == row.name else cell for key, cell in zip(shown, texts, strict=True)
        ]
        if row.failed:
            texts = [f"failed: {row.failed}", *[""] * (len(shown) - 1)] if shown else []
        lines.append([row.name, *texts, "" if math.isnan(row.seconds) else f"{row.seconds:.1f}"])
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    write_text(folder / "table.md", text + "\n")


def _names(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what tells each run from the others, its seed aside: values alone where all set the same thing."""
    words = [[w for w in outcome["overrides"] if not w.startswith("seed=")] for outcome in outcomes]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    own = [[w for w in line if w not in common] for line in words]
    if len(_keys(own)) == 1 and all(len(line) == 1 for line in own):
        return [line[0].split("=", 1)[1] for line in own]
    if not any(own):
        return [str(outcome.get("model", "run")) for outcome in outcomes]
    return [" ".join(line) for line in own]


def _heading(outcomes: Sequence[Mapping[str, Any]]) -> str:
    words = [[w for w in outcome["overrides"] if not w.startswith("seed=")] for outcome in outcomes]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    keys = _keys([[w for w in line if w not in common] for line in words])
    key = next(iter(keys)) if len(keys) == 1 else ""
    return "model" if key in ("", "model") or key.startswith("family") else key


def _keys(own: Sequence[Sequence[str]]) -> set[str]:
    return {word.split("=", 1)[0] for line in own for word in line}


def _row(name: str, members: Sequence[Mapping[str, Any]]) -> Row:
    row = Row(name, [int(outcome["job"]) for outcome in members])
    reasons = [outcome["error"][0].removeprefix("Error: ") for outcome in members if outcome["code"]]
    if reasons:
        row.failed = reasons[0]
        return row
    runs = [_of_run(outcome["scores"]) for outcome in members]
    for key in runs[0]:
        values = [run[key][0] for run in runs if key in run]
        spread = statistics.stdev(values) if len(values) > 1 else runs[0][key][1]
        row.values[key] = statistics.fmean(values), spread
    seconds = [float(outcome["seconds"]) for outcome in members if "seconds" in outcome]
    row.seconds = statistics.fmean(seconds) if seconds else math.nan
    return row


def _of_run(scores: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float | None]]:
    """Return each metric of a run, the mean over its sessions; a spread only of a single session."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for score in scores:
        found.setdefault(f"{score['metric']} {score['target']}".strip(), []).append(score)
    return {
        key: (statistics.fmean(s["value"] for s in same), same[0].get("spread") if len(same) == 1 else None)
        for key, same in found.items()
    }


def _sign(outcomes: Sequence[Mapping[str, Any]], key: str) -> int:
    for outcome in outcomes:
        for score in outcome.get("scores", []):
            if f"{score['metric']} {score['target']}".strip() == key:
                return -1 if score.get("better") == "lower" else 1
    return 1


def _columns(metrics: Sequence[str]) -> list[str]:
    """Return the metrics that fit into a table to be read: the first, and those of behavior and truth."""
    return [key for i, key in enumerate(metrics) if i == 0 or key.split(" ")[0] in SHOWN]


def _number(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return ""
    value, spread = found
    return f"{value:.4g}" if spread is None else f"{value:.3f} ± {spread:.2g}"
