"""The page of a comparison: its table to sort and filter, latents side by side, forecasts, decoding, consistency."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lvmzoo.comparison import Column, Comparison, Row, compare
from lvmzoo.comparison_settings import FOLD, SEED, number_of
from lvmzoo.flags import Flag
from lvmzoo.pooling import PAIRS
from lvmzoo.report.behind import behind
from lvmzoo.report.comparison_figures import decoding_figures, forecast_figures
from lvmzoo.report.likeness import likeness_figures
from lvmzoo.report.page import Item, Section, write_page
from lvmzoo.report.side_by_side import consistency_figures, latent_figures
from lvmzoo.sentences import duration
from lvmzoo.sweep_runs import SavedRun, read_runs
from lvmzoo.sweep_table import legend, limits, number, order

__all__ = ["write_leaderboard"]

_MOST_SETTINGS = 12  # whose latents are drawn
# Beside what the terminal has room for: what tells whether a score is to be trusted.
_FEW_SHOTS = "few_shot_co_bps_"
_MORE = ("fp_bps", "cycle_consistency", "bits_per_spike", "co_psth_r2", "psth_r2", "state_r2")


@dataclass(frozen=True)
class Cell:
    """A metric of a row."""

    sort: str  # what it is sorted by; "" for none
    value: str
    spread: str
    behind: str  # how many bins, spikes or others, and what the spread is of: a tooltip
    remarks: str  # ceiling and chance
    best: bool


@dataclass(frozen=True)
class Line:
    """A row as the page shows it."""

    names: list[str]
    cells: list[Cell]
    failed: str
    seconds: str
    duration: str
    flags: list[Flag]
    links: list[tuple[str, str, str]]  # of each run: text, address, and what it is
    wrong: str
    words: str  # that the filter looks in


def write_leaderboard(path: Path, outcomes: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page of some runs and return where it is.

    Parameters
    ----------
    path : of the page.
    outcomes : of the jobs of a sweep, as in its job-N.json; links go to the report of each run.
    """
    comparison, runs = compare(outcomes), read_runs(outcomes)
    shown = [(row, found) for row in comparison.rows if (found := [runs[job] for job in row.jobs if job in runs])]
    shown = shown[:_MOST_SETTINGS]
    sections = [
        Section("latents", "Latents side by side").draw(lambda: latent_figures(shown)),
        Section("consistency", "Consistency").draw(lambda: consistency_figures(shown) if len(runs) > 1 else iter(())),
        Section("dynamics", "Dynamics").draw(lambda: likeness_figures(shown)),
        Section("forecasts", "Forecasts").draw(lambda: _of_groups(comparison, runs, forecasts=True)),
        Section("decoding", "Decoding").draw(lambda: _of_groups(comparison, runs, forecasts=False)),
    ]
    sessions = list(dict.fromkeys(name for run in runs.values() for name in run.layouts))
    on = f" on {', '.join(sessions[:4])}{', …' if len(sessions) > 4 else ''}" if sessions else ""
    rows, script = len(comparison.rows), (Path(__file__).parent / "leaderboard.js").read_text()
    content = {
        "title": f"{rows} setting{'s' * (rows != 1)} side by side" if rows != 1 else comparison.rows[0].label,
        "summary": f"{_counted(outcomes)}{on}. {' '.join(_verdict(comparison))}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "headings": _without(comparison, comparison.headings),
        "columns": (columns := _columns(comparison)),
        "groups": [
            (group[0].data_label, [_line(row, comparison, columns, outcomes, path.parent) for row in group])
            for group in comparison.groups
        ],
        "flagged": any(row.flags for row in comparison.rows),
        "wrong": any(row.wrong for row in comparison.rows),
        "order": " ".join([*order(comparison), *limits(comparison)]),
        "common": [(comparison.data_label(data), flag) for data, flags in comparison.common.items() for flag in flags],
        "notes": " ".join(_notes(comparison, columns, runs)),
        "sections": [section for section in sections if not section.empty],
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    write_page(path, "leaderboard.html", content)
    return path


def _counted(outcomes: Sequence[Mapping[str, Any]]) -> str:
    return str(outcomes[0].get("run", "1 run")) if len(outcomes) == 1 else f"{len(outcomes)} runs"


def _without(comparison: Comparison, cells: Sequence[str]) -> list[str]:
    """Return cells of what tells rows apart, but for the data: rows of the same data have a title."""
    return [cell for place, cell in enumerate(cells) if place != comparison.data_column]


def _columns(comparison: Comparison) -> list[Column]:
    shown = comparison.shown
    shots = [c.key.removeprefix(_FEW_SHOTS) for c in comparison.metrics if c.key.startswith(_FEW_SHOTS)]
    more = {*_MORE, _FEW_SHOTS + max(filter(str.isdigit, shots), key=int, default="")}
    return shown + [c for c in comparison.metrics if c not in shown and c.key in more]


def _verdict(comparison: Comparison) -> Iterator[str]:
    """Say which row is first, and which is the first without a warning."""
    lead = comparison.lead
    for group in comparison.groups:
        there = [row for row in group if lead and lead.key in row.values]
        if lead is None or len(there) < 2:
            continue
        first, clean = there[0], next((row for row in there if not row.flags), None)
        best = number(first.values[lead.key])
        tied = [row.label for row in there if number(row.values[lead.key]) == best and not comparison.validated]
        where = f"On {first.data_label}, " if first.data else ""
        how = " on validation data" if comparison.validated else ""
        if len(tied) > 1:
            who = f"{', '.join(tied[:-1])} and {tied[-1]}"
            yield f"{where}{who} share the first place by {lead.key}, with {best} on test data."
        else:
            the = "the" if where else "The"
            yield f"{where}{the} first by {lead.key}{how} is {first.label}, with {best} on test data."
        if first.flags:
            kinds = " and ".join(flag.kind for flag in first.flags)
            yield f"It carries a warning ({kinds}); " + (
                f"the first without one is {clean.label}, with {number(clean.values[lead.key])}."
                if clean
                else "so do all others."
            )


def _line(
    row: Row, comparison: Comparison, columns: Sequence[Column], outcomes: Sequence[Mapping[str, Any]], folder: Path
) -> Line:
    own = [outcome for outcome in outcomes if int(outcome["job"]) in row.jobs]
    known = not math.isnan(row.seconds)
    return Line(
        _without(comparison, row.settings),
        [_cell(row, column, comparison) for column in columns],
        row.failed,
        f"{row.seconds:.3f}" if known else "",
        duration(row.seconds) if known else "",
        row.flags,
        list(_links(own, folder)),
        row.wrong,
        " ".join(
            [*row.settings, *row.runs, row.data, *(flag.kind for flag in row.flags), "failed" * bool(row.failed)]
        ).lower(),
    )


def _cell(row: Row, column: Column, comparison: Comparison) -> Cell:
    found = row.values.get(column.key)
    if found is None:
        return Cell("", number(None), "", "", "", False)
    value, _, spread = number(found).replace("-", "\N{MINUS SIGN}").partition(" ± ")
    remarks = [
        f"of {found.ceiling:.3g}" if found.ceiling is not None else "",
        f"chance {found.chance:.2g}" if found.chance is not None else "",
        f"{found.n} pair{'s' * (found.n != 1)} of seeds" if column.key == PAIRS and found.n else "",
    ]
    said = ", ".join(filter(None, remarks)).replace("-", "\N{MINUS SIGN}")
    return Cell(repr(found.value), value, spread, behind(row, column), said, comparison.best(row, column))


def _links(own: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[tuple[str, str, str]]:
    for outcome in own:
        report = Path(outcome.get("folder", "")) / "report.html"
        if outcome["code"] or not report.is_file():
            continue
        numbers = [(word, number_of(outcome, key)) for word, key in (("fold", FOLD), ("seed", SEED))]
        which = ", ".join(f"{word} {n}" for word, n in numbers if n is not None)
        address = quote(Path(os.path.relpath(report.resolve(), folder.resolve())).as_posix())
        text = (which or "report") if len(own) > 1 else "report"
        yield outcome.get("run", text), address, report.parent.name


def _of_groups(comparison: Comparison, runs: Mapping[int, SavedRun], forecasts: bool) -> Iterator[Item]:
    for group in comparison.groups:
        widths = [layout.bin_width_s for row in group for job in row.jobs if job in runs
                  for layout in runs[job].layouts.values()]  # fmt: skip
        if not forecasts:
            yield from decoding_figures(group, comparison.metrics)
        elif widths:
            yield from forecast_figures(group, widths[0])


def _notes(comparison: Comparison, columns: Sequence[Column], runs: Mapping[int, SavedRun]) -> Iterator[str]:
    yield from legend(comparison, columns)
    names = [column.key for column in columns]
    values = [row.values[name] for row in comparison.rows for name in names if name in row.values]
    if any(value.ceiling is not None for value in values):
        yield "Of …: the ceiling, the most that a prediction reaches given the noise; of seen units it may be exceeded."
    if any(value.chance is not None for value in values):
        yield "Chance: what one in twenty shuffles of the labels reaches."
    if any("goodness_of_fit" in name for name in names):
        yield "Goodness of fit of positives in time and by label answers different questions; compare within a column."
    if any(run.shifted for run in runs.values()):
        yield "Shifted labels are the control: what they reach is chance."
