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

__all__ = ["Row", "body", "compare", "show", "write"]

# Of simulated regions whose connections are known: all that is shown where any run has them.
REGIONS = (
    "direction_correct",
    "delay_found",
    "delay_error",
    "dimensions_error",
    "communication_correct",
)
# What runs are ordered by: the first of these that any run has. Then the columns that follow it.
LEADING = (
    "direction_correct",
    "co_bps",
    "co_r2",
    "rate_r2",
    "latent_r2",
    "activity_r2",
    "bits_per_spike",
    "variance_explained",
)
SHOWN = (
    "co_bps",
    "co_r2",
    "rate_r2",
    "latent_r2",
    "activity_r2",
    "variance_explained",
    "decoded_r2",
    "decoded_error",
    "decoded_accuracy",
    "behavior_r2",
    "behavior_error",
    "behavior_error_knn",
    "behavior_accuracy",
    "behavior_within_1s_knn",
    "goodness_of_fit_behavior",
    "goodness_of_fit_time",
    "consistency",
    "session_consistency",
)
MOST_SETTINGS = 3  # that get a column each; more are written in one
FEWEST = 10  # a spread over fewer things (pairs of regions) says nothing, and is left out
WRONG = "directions wrong"
SHIFT = "data.shift_behavior"
NONE = "\N{EN DASH}"
LEGEND = "Bold: the best on the same data. \N{DOWNWARDS ARROW}: lower is better. \N{EN DASH}: no answer to that."


@dataclass
class Row:
    """One line: a run, or runs that differ in their seed alone."""

    name: str
    jobs: list[int]
    settings: tuple[str, ...] = ()  # what tells it from the others, a text for each column
    data: str = ""  # settings of the data, where those differ between runs: only rows of the same data compare
    values: dict[str, tuple[float, float | None]] = field(default_factory=dict)  # metric and target -> value, spread
    seconds: float = math.nan  # of a run, from data to report: the mean over seeds
    failed: str = ""  # why, where a run failed
    wrong: str = ""  # which directions between regions, where their truth is known


@dataclass(frozen=True)
class _Settings:
    """What runs set differently, seeds aside: a key with its values, one for each run."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def headings(self) -> list[str]:
        """Name of each column."""
        if len(self.keys) > MOST_SETTINGS or not self.keys:
            return ["model"]
        return [_short(key) for key in self.keys]

    def cells(self, job: int) -> tuple[str, ...]:
        """Return the text of each column for one run."""
        pairs = zip(self.keys, self.values[job], strict=True)
        if len(self.keys) > MOST_SETTINGS:
            return (" ".join(f"{key}={value}" for key, value in pairs if value),)
        return tuple(value for _, value in pairs)

    def data(self, job: int) -> str:
        """Return which data a run is of."""
        pairs = zip(self.keys, self.values[job], strict=True)
        return " ".join(f"{key}={value}" for key, value in pairs if key.startswith(("data.path", "data.simulator")))


def compare(outcomes: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Row]]:
    """Return the metrics that the runs have, and a row for each setting, best first; failures at the end.

    Several seeds of a setting become one row: the mean, and the standard deviation over seeds as its spread. Scores of
    several sessions are averaged. Runs on different recordings are not ranked together: one recording follows another.
    """
    settings = _settings(outcomes)
    grouped: dict[tuple[str, ...], list[int]] = {}
    for place, outcome in enumerate(outcomes):
        grouped.setdefault(settings.cells(place) or (str(outcome.get("model", "run")),), []).append(place)
    rows = []
    for cells, places in grouped.items():
        row = _row(" ".join(filter(None, cells)), [outcomes[place] for place in places])
        row.settings, row.data = cells, settings.data(places[0])
        rows.append(row)
    found = {key for row in rows for key in row.values}
    order = {name: i for i, name in enumerate((*REGIONS, *SHOWN, *LEADING))}
    metrics = sorted(found, key=lambda key: (order.get(key.split(" ")[0], len(order)), key))
    lead = next((name for name in LEADING if name in found), metrics[0] if metrics else "")
    sign = {key: _sign(outcomes, key) for key in metrics}
    of_data = {data: place for place, data in reversed(list(enumerate(row.data for row in rows)))}
    rows.sort(
        key=lambda row: (
            of_data[row.data],
            bool(row.failed),
            lead not in row.values,
            -sign.get(lead, 1) * row.values.get(lead, (0.0,))[0],
        )
    )
    return ([lead] if lead else []) + [key for key in metrics if key != lead], rows


def best(
    outcomes: Sequence[Mapping[str, Any]], metrics: Sequence[str], rows: Sequence[Row]
) -> set[tuple[str, tuple[str, ...]]]:
    """Return (metric, settings of a row) of those that are best on their data, unless all are the same."""
    found = set()
    for key in metrics:
        for data in {row.data for row in rows}:
            there = [row for row in rows if key in row.values and not row.failed and row.data == data]
            signed = [_sign(outcomes, key) * row.values[key][0] for row in there]
            if len(set(signed)) > 1:
                found |= {(key, row.settings) for row, value in zip(there, signed, strict=True) if value == max(signed)}
    return found


def show(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table for the terminal; the best of each column is bold."""
    metrics, rows = compare(outcomes)
    shown = _columns(metrics)
    winners = best(outcomes, metrics, rows)
    table = Table(box=None, pad_edge=False, caption=LEGEND if shown else None, caption_justify="left")
    headings = _settings(outcomes).headings
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=len(headings) > 1)
    for key in shown:
        heading = _heading(outcomes, key)
        table.add_column(heading.replace("_", "\n") if key in REGIONS else heading, justify="right")
    table.add_column("s", justify="right")
    table.add_column("job", justify="right")
    wrong = any(row.wrong for row in rows)
    if wrong:
        table.add_column(WRONG, overflow="fold")
    for previous, row in zip([None, *rows], rows, strict=False):
        if previous is not None and previous.data != row.data:
            table.add_row()
        cells = []
        for key in shown:
            text = _number(row.values.get(key))
            cells.append(f"[bold]{text}[/bold]" if (key, row.settings) in winners else text)
        if row.failed:
            cells = ["[red]failed[/red]", *[""] * (len(shown) - 1)] if shown else []
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.1f}"
        names = [escape(cell) for cell in row.settings]
        names[-1] += " [red]failed[/red]" if row.failed and not shown else ""
        last = [row.wrong] if wrong else []
        table.add_row(*names, *cells, seconds, ",".join(map(str, row.jobs)), *last)
    return table


def write(folder: Path, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Write table.csv (every metric) and table.md (those shown; the best of each column is bold)."""
    metrics, rows = compare(outcomes)
    headings = _settings(outcomes).headings
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(
        [*headings, *(part for key in metrics for part in (key, f"{key} spread")), "seconds", "jobs", "failed"]
    )
    for row in rows:
        pairs = [row.values.get(key, ("", None)) for key in metrics]
        cells = [cell for value, spread in pairs for cell in (value, "" if spread is None else spread)]
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.3f}"
        writer.writerow([*row.settings, *cells, seconds, " ".join(map(str, row.jobs)), row.failed])
    write_text(folder / "table.csv", stream.getvalue())
    headings, body_lines = body(outcomes, marked=True)
    lines = [headings, ["---"] * len(headings), *body_lines]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    write_text(folder / "table.md", f"{text}\n\n{LEGEND}\n")


def body(outcomes: Sequence[Mapping[str, Any]], marked: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of the metrics that are shown; ``marked`` sets the best of each column in bold."""
    metrics, rows = compare(outcomes)
    winners = best(outcomes, metrics, rows) if marked else set()
    shown = _columns(metrics)
    wrong = [WRONG] if any(row.wrong for row in rows) else []
    headings = [*_settings(outcomes).headings, *(_heading(outcomes, key) for key in shown), "s", *wrong]
    lines = []
    for row in rows:
        texts = [_number(row.values.get(key)) for key in shown]
        texts = [
            f"**{cell}**" if (key, row.settings) in winners else cell for key, cell in zip(shown, texts, strict=True)
        ]
        if row.failed:
            texts = [f"failed: {row.failed}", *[""] * (len(shown) - 1)] if shown else []
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.1f}"
        lines.append([*row.settings, *texts, seconds, *[row.wrong for _ in wrong]])
    return headings, lines


def _settings(outcomes: Sequence[Mapping[str, Any]]) -> _Settings:
    """Return what tells the runs from each other, their seeds aside."""
    words = [[w for w in outcome["overrides"] if not w.startswith("seed=")] for outcome in outcomes]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    own = [dict(_pair(w) for w in line if w not in common) for line in words]
    keys = tuple(dict.fromkeys(key for line in own for key in line))
    return _Settings(keys, tuple(tuple(line.get(key, "") for key in keys) for line in own))


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    if key == SHIFT:  # its seeds are one control
        return key, "" if value == "null" else "shifted"
    return key, value


def _short(key: str) -> str:
    if key == SHIFT:
        return "labels"
    return "model" if key.startswith("family") else key.removeprefix("data.simulator_options.")


def _heading(outcomes: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return a metric with its unit, and an arrow where lower is better."""
    units = {score.get("unit", "") for outcome in outcomes for score in outcome.get("scores", []) if _key(score) == key}
    unit = next(iter(units)) if len(units) == 1 else ""
    return key + (f" ({unit})" if unit else "") + (" \N{DOWNWARDS ARROW}" if _sign(outcomes, key) < 0 else "")


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
    notes = [s["note"] for outcome in members for s in outcome["scores"] if s["metric"] == REGIONS[0] and s.get("note")]
    row.wrong = "; ".join(dict.fromkeys(notes))
    seconds = [float(outcome["seconds"]) for outcome in members if "seconds" in outcome]
    row.seconds = statistics.fmean(seconds) if seconds else math.nan
    return row


def _of_run(scores: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float | None]]:
    """Return each metric of a run, the mean over its sessions; a spread only of a single session."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for score in scores:
        found.setdefault(_key(score), []).append(score)
    return {
        key: (
            statistics.fmean(s["value"] for s in same),
            same[0].get("spread") if len(same) == 1 and same[0].get("n", FEWEST) >= FEWEST else None,
        )
        for key, same in found.items()
    }


def _key(score: Mapping[str, Any]) -> str:
    return f"{score['metric']} {score['target']}".strip()


def _sign(outcomes: Sequence[Mapping[str, Any]], key: str) -> int:
    for outcome in outcomes:
        for score in outcome.get("scores", []):
            if _key(score) == key:
                return -1 if score.get("better") == "lower" else 1
    return 1


def _columns(metrics: Sequence[str]) -> list[str]:
    """Return the metrics that fit into a table to be read: the first, and those of behavior and truth."""
    shown = REGIONS if any(key in REGIONS for key in metrics) else SHOWN
    return [key for i, key in enumerate(metrics) if i == 0 or key.split(" ")[0] in shown]


def _number(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return NONE
    value, spread = found
    if not spread:  # none, or of a single thing
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.3f} ± {spread:.2g}"
