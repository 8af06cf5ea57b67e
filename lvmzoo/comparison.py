"""Runs side by side: a row for each setting, seeds and folds pooled, in the order of what validation data say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lvmzoo.comparison_settings import FOLD, SEED, number_of, settings_of
from lvmzoo.flags import Flag, flags, not_compared
from lvmzoo.pooling import PAIRS, Value, key_of, mean, pool, same, values_of

__all__ = ["Column", "Comparison", "Row", "compare"]

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


@dataclass
class Row:
    """One line: a run, or runs that differ in their seed or fold alone."""

    name: str
    jobs: list[int]
    settings: tuple[str, ...] = ()  # what tells it from the others, a text for each column
    data: str = ""  # settings of the data, where those differ between runs: only rows of the same data compare
    words: str = ""  # what tells it from rows of the same data: "lds latents=4"
    data_label: str = ""  # what these data are called
    values: dict[str, Value] = field(default_factory=dict)  # by metric and target
    folds: int = 1
    seeds_alike: bool = False  # its runs differ in their seed, and in nothing that came of it
    runs: list[str] = field(default_factory=list)  # what its runs are called, where they are not jobs of one sweep
    seconds: float = math.nan  # of a run, from data to report: the mean over seeds and folds
    failed: str = ""  # why, where a run failed
    wrong: str = ""  # which directions between regions, where their truth is known
    flags: list[Flag] = field(default_factory=list)  # what at least half of its runs are warned of

    @property
    def label(self) -> str:
        """What it is called among rows of the same data."""
        return self.words or " ".join(filter(None, self.settings)) or self.name or "run"

    @property
    def whole_label(self) -> str:
        """What it is called among all rows."""
        return f"{self.label}, {self.data_label}" if self.data_label else self.label


class Column(NamedTuple):
    """A metric as a column."""

    key: str  # metric and target
    unit: str
    lower: bool  # is better
    seen: bool  # of units, in bins, that the model saw

    @property
    def heading(self) -> str:
        """The metric with its unit, and an arrow where lower is better."""
        remarks = ", ".join(filter(None, (self.unit, "seen" if self.seen else "")))
        return self.key + (f" ({remarks})" if remarks else "") + (" \N{DOWNWARDS ARROW}" if self.lower else "")


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` finds."""

    headings: list[str]  # of what tells rows apart
    data_column: int | None  # which of these says of which data a row is
    metrics: list[Column]  # the one that orders the rows first
    rows: list[Row]  # the best first, those of each data together, failures at the end
    validated: bool  # the order was chosen on validation data
    nested: Mapping[str, Value]  # data -> test score of the settings that are the best on validation data in each fold
    common: Mapping[str, list[Flag]]  # data -> warnings of all its rows: of the data and their split, not of a model
    not_compared: Mapping[str, str]  # data -> why no row of it could be found below a baseline

    @property
    def lead(self) -> Column | None:
        """What the rows are in the order of."""
        return self.metrics[0] if self.metrics else None

    @property
    def shown(self) -> list[Column]:
        """The metrics that fit into a table to be read: the first, and those of behavior and truth."""
        shown = REGIONS if any(column.key in REGIONS for column in self.metrics) else SHOWN
        return [c for i, c in enumerate(self.metrics) if i == 0 or c.key.split(" ")[0] in shown]

    @property
    def groups(self) -> list[list[Row]]:
        """Rows of the same data."""
        return [[row for row in self.rows if row.data == data] for data in dict.fromkeys(r.data for r in self.rows)]

    def data_label(self, data: str) -> str:
        """Return what the data of some rows are called; "" where all rows are of the same."""
        return next((row.data_label for row in self.rows if row.data == data), "")

    def best(self, row: Row, column: Column) -> bool:
        """Whether a row is the best of its data, unless all of these are the same."""
        there = [r.values[column.key].value for r in self.rows if r.data == row.data and column.key in r.values]
        if column.key not in row.values or len(set(there)) < 2:
            return False
        return row.values[column.key].value == (min(there) if column.lower else max(there))


def compare(outcomes: Sequence[Mapping[str, Any]]) -> Comparison:
    """Return the metrics that the runs have, and a row for each setting, best first; failures at the end.

    Seeds and folds of a setting become one row. Scores of several sessions are averaged. Runs on different recordings
    are not ranked together: one recording follows another. The order is that of the leading metric on validation data
    where all runs have it there, else of its test scores.

    Parameters
    ----------
    outcomes : of the jobs of a sweep, as in its job-N.json.
    """
    settings = settings_of(outcomes)
    grouped: dict[tuple[str, ...], list[int]] = {}
    for place, outcome in enumerate(outcomes):
        grouped.setdefault(settings.cells(place) or (str(outcome.get("model", "run")),), []).append(place)
    runs = [{} if outcome["code"] else values_of(outcome["scores"]) for outcome in outcomes]
    rows, members = [], {}
    for cells, places in grouped.items():
        row = _row([outcomes[place] for place in places], [runs[place] for place in places])
        row.name, row.settings, row.data = " ".join(filter(None, cells)), cells, settings.data(places[0])
        row.words = settings.label(places[0]) or str(outcomes[places[0]].get("model", ""))
        row.data_label = settings.label(places[0], of_data=True)
        rows.append(row)
        members[cells] = places
    metrics = _columns(outcomes, {key for row in rows for key in row.values})
    lead = metrics[0] if metrics else None
    judged_by = [row.values[lead.key] for row in rows if lead and lead.key in row.values]
    validated = bool(judged_by) and all(value.validation is not None for value in judged_by)
    of_data = {data: place for place, data in reversed(list(enumerate(row.data for row in rows)))}

    def order(row: Row) -> tuple[int, bool, bool, float]:
        value = row.values.get(lead.key) if lead else None
        if lead is None or value is None:
            return of_data[row.data], bool(row.failed), True, 0.0
        judged = value.value if value.validation is None or not validated else value.validation
        return of_data[row.data], bool(row.failed), False, judged if lead.lower else -judged

    rows.sort(key=order)
    nested, common, unjudged = {}, {}, {}
    for data in of_data:
        there = [row for row in rows if row.data == data and not row.failed]
        finished = [members[row.settings] for row in there]
        _flag(there, finished, outcomes)
        common[data] = _common(there)
        if reason := not_compared([outcomes[place] for places in finished for place in places]):
            unjudged[data] = reason
        if lead and validated and (found := _nested(lead, finished, outcomes, runs)):
            nested[data] = found
    return Comparison(settings.headings, settings.data_column, metrics, rows, validated, nested, common, unjudged)


def _columns(outcomes: Sequence[Mapping[str, Any]], found: set[str]) -> list[Column]:
    order = {name: place for place, name in enumerate((*REGIONS, *SHOWN, *LEADING))}
    keys = sorted(found, key=lambda key: (order.get(key.split(" ")[0], len(order)), key))
    lead = next((name for name in LEADING if name in found), keys[0] if keys else "")
    scores: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        for score in outcome.get("scores", []):
            scores.setdefault(key_of(score), []).append(score)
    return [
        Column(
            key,
            unit=next(iter(units)) if len(units := {score.get("unit", "") for score in scores[key]}) == 1 else "",
            lower=scores[key][0].get("better") == "lower",
            seen=any(score.get("seen") for score in scores[key]),
        )
        for key in dict.fromkeys([lead, *keys] if lead else [])
    ]


def _row(members: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Value]]) -> Row:
    row = Row("", [int(outcome["job"]) for outcome in members])
    row.runs = [str(outcome["run"]) for outcome in members if "run" in outcome]
    reasons = [outcome["error"][0].removeprefix("Error: ") for outcome in members if outcome["code"]]
    if reasons:
        row.failed = reasons[0]
        return row
    folds = [number_of(outcome, FOLD) for outcome in members]
    row.folds = len(set(folds))
    row.seeds_alike = _alike([run for fold, run in zip(folds, runs, strict=True) if fold == folds[0]])
    for key in dict.fromkeys(key for run in runs for key in run):
        row.values[key] = pool([(fold, run[key]) for fold, run in zip(folds, runs, strict=True) if key in run])
    notes = [s["note"] for outcome in members for s in outcome["scores"] if s["metric"] == REGIONS[0] and s.get("note")]
    row.wrong = "; ".join(dict.fromkeys(notes))
    seconds = [float(outcome["seconds"]) for outcome in members if "seconds" in outcome]
    row.seconds = statistics.fmean(seconds) if seconds else math.nan
    return row


def _alike(runs: Sequence[Mapping[str, Value]]) -> bool:
    """Return whether several runs of one recording, of other seeds, have the same scores.

    Most of them: readouts that are learned from a few trials draw these at random.
    """
    shared = [key for key in runs[0] if key != PAIRS and all(key in run for run in runs)]
    equal = [key for key in shared if same([run[key].value for run in runs])]
    return len(runs) > 1 and 2 * len(equal) > len(shared)


def _flag(rows: Sequence[Row], members: Sequence[Sequence[int]], outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Give rows of the same data the warnings that at least half of their runs get; runs of a fold are compared.

    Where all rows have the same seeds, only runs of the same seed are compared: simulations have other data in each.
    """
    seeds = {frozenset(number_of(outcomes[place], SEED) for place in places) for places in members}
    keys = (FOLD, SEED) if len(seeds) == 1 else (FOLD,)
    together: dict[tuple[int | None, ...], list[int]] = {}
    for place in (place for places in members for place in places):
        together.setdefault(tuple(number_of(outcomes[place], key) for key in keys), []).append(place)
    found: dict[int, list[Flag]] = {}
    for same_data in together.values():
        found |= dict(zip(same_data, flags([outcomes[place] for place in same_data]), strict=True))
    for row, places in zip(rows, members, strict=True):
        raised = [flag for place in places for flag in found[place]]
        for kind in dict.fromkeys(flag.kind for flag in raised):
            alike = [flag for flag in raised if flag.kind == kind]
            if 2 * len(alike) >= len(places):
                often = f" (In {len(alike)} of {len(places)} runs; this is one of them.)" if len(places) > 1 else ""
                row.flags.append(Flag(kind, alike[0].reason + often))


def _common(rows: Sequence[Row]) -> list[Flag]:
    """Take the warnings that several rows all have, in the same words, away from these, and return them."""
    if len(rows) < 2:
        return []
    found = [flag for flag in rows[0].flags if all(flag in row.flags for row in rows)]
    for row in rows:
        row.flags = [flag for flag in row.flags if flag not in found]
    return found


def _nested(
    lead: Column,
    members: Sequence[Sequence[int]],
    outcomes: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Value]],
) -> Value | None:
    """Return the test score over folds of the setting that is the best on validation data in each of them.

    None where there is nothing to choose, or a fold that a setting has no score in.
    """
    folds = [dict.fromkeys(number_of(outcomes[place], FOLD) for place in places) for places in members]
    if len(members) < 2 or len(folds[0]) < 2 or any(set(other) != set(folds[0]) for other in folds):
        return None
    chosen = []
    for fold in folds[0]:
        found = []
        for places in members:
            of_fold = [runs[place].get(lead.key) for place in places if number_of(outcomes[place], FOLD) == fold]
            values = [value for value in of_fold if value is not None]
            if len(values) < len(of_fold):
                return None
            found.append(mean(values))
        if any(value.validation is None for value in found):
            return None
        sign = 1 if lead.lower else -1
        chosen.append(min(found, key=lambda value: sign * (value.validation or 0.0)).value)
    return Value(statistics.fmean(chosen), statistics.stdev(chosen) / math.sqrt(len(chosen)))
