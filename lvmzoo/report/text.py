"""What a report says in words: sentences, facts, and the table of metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.models.base import GradientModel, Model, StatisticsModel
from lvmzoo.sentences import duration, p_value

if TYPE_CHECKING:
    from lvmzoo.config import Experiment
    from lvmzoo.data.trials import Session
    from lvmzoo.metrics.base import Score
    from lvmzoo.run import Run

__all__ = [
    "Row",
    "bounds",
    "config_text",
    "fitting",
    "highlights",
    "number",
    "rows",
    "session_facts",
    "session_notes",
    "summary",
]

_METRICS = {
    "log_likelihood": "Log-likelihood",
    "bits_per_spike": "Bits per spike, units that the model saw",
    "co_bps": "Co-smoothing, held-out units",
    "fp_bps": "Forward prediction, all units",
    "variance_explained": "1 - NSE of the target region",
    "activity_r2": "R² of activity, units that the model saw",
    "co_r2": "R² of activity, held-out units",
    "rate_r2": "R² of the true rates, units that the model saw",
    "co_rate_r2": "R² of the true rates, held-out units",
    "psth_r2": "R² of condition averages, units that the model saw",
    "co_psth_r2": "R² of condition averages, held-out units",
    "residual_r2": "R² of single trials without these averages, units that the model saw",
    "co_residual_r2": "R² of single trials without these averages, held-out units",
    "latent_r2": "Recovery R² of the true latents",
    "state_r2": "State R²",
    "eigenvalue_error": "Error of the eigenvalues",
    "cycle_consistency": "Latents that the rates tell (cycle consistency)",
    "input_share": "Log rates lost without the inferred inputs",
    "split_canary": "What the split alone lets decode",
    "generated_rates": "Samples: R² of mean activity of units",
    "generated_correlations": "Samples: R² of correlations of pairs of units",
    "generated_counts": "Samples: distance of spike counts of units",
    "generated_population": "Samples: distance of spike counts of all units",
    "generated_intervals": "Samples: distance of intervals between spikes",
    "coverage_error_50": "Error of the coverage of 50 % intervals",
    "coverage_error_90": "Error of the coverage of 90 % intervals",
    "coverage_error_95": "Error of the coverage of 95 % intervals",
    "communication_correct": "Pairs of regions of which it is rightly said whether they share activity",
    "direction_correct": "Directions between regions that are told right",
    "edges_found": "True connections that are claimed",
    "edges_invented": "Connections claimed that are not there",
    "delay_found": "True connections whose delay is claimed, in its sense",
    "delay_error": "Median error of the delay",
    "dimensions_error": "Median error of the number of dimensions",
    "behavior_r2": "Behavior R², linear",
    "behavior_r2_knn": "Behavior R², nearest neighbors",
    "behavior_error": "Median error, linear",
    "behavior_error_knn": "Median error, nearest neighbors",
    "behavior_accuracy": "Accuracy, linear",
    "behavior_accuracy_knn": "Accuracy, nearest neighbors",
    "decoded_r2": "Behavior R², decoded by the model",
    "decoded_error": "Median error, decoded by the model",
    "decoded_accuracy": "Accuracy, decoded by the model",
}
_FORECASTS = {
    "forecast_r2_": "R² of activity, forecast",
    "forecast_behavior_r2_": "Behavior R², forecast",
    "forecast_behavior_error_": "Median error, forecast",
    "forecast_behavior_accuracy_": "Accuracy, forecast",
}
_FEW_SHOTS = "few_shot_co_bps_"
_KEY = (
    "latent_r2", "direction_correct", "communication_correct", "delay_error", "variance_explained", "co_bps", "co_r2",
    "decoded_error", "decoded_r2", "decoded_accuracy",
    "behavior_error_knn", "behavior_error", "behavior_r2", "behavior_accuracy", "behavior_r2_knn",
    "behavior_accuracy_knn", "bits_per_spike", "activity_r2", "log_likelihood",
)  # fmt: skip
_UNITS = {"deg": "°", "nats/bin": "nats per bin"}
_MOST_HIGHLIGHTS = 4


@dataclass(frozen=True)
class Row:
    """A score as the table shows it."""

    metric: str
    target: str
    value: str
    spread: str
    unit: str
    better: str
    n: str
    note: str


def number(value: float, digits: int = 3) -> str:
    """Return a number as people write it: about three significant digits, a real minus, no exponent where avoidable."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}" if 1e-4 <= abs(value) < 1e7 else f"{value:.{digits - 1}e}"
    return text.replace("-", "\N{MINUS SIGN}")


def _metric(score: Score) -> str:
    for family, meaning in _FORECASTS.items():
        if (horizon := score.metric.removeprefix(family)) != score.metric:
            return f"{meaning} {_count(int(horizon), 'bin')} ahead"
    if (shots := score.metric.removeprefix(_FEW_SHOTS)) != score.metric:
        return f"Co-smoothing, read out from {shots} trials"
    return _METRICS.get(score.metric, score.metric.replace("_", " "))


def bounds(score: Score) -> list[str]:
    """Return what the value is to be compared with."""
    parts = ["of what the model saw"] if score.seen else []
    if score.ceiling is not None:
        parts.append(f"ceiling {number(score.ceiling)}")
    if score.chance is not None and score.p is not None:
        unit = _UNITS.get(score.unit, "")
        parts.append(f"shuffled labels reach {number(score.chance, 2)}{unit} ({p_value(score.p)})")
    return parts


def _remarks(score: Score) -> str:
    return "; ".join(filter(None, [score.note, *bounds(score)]))


def _value(score: Score) -> tuple[str, str]:
    """Return value and spread with the same number of decimals: no more than the spread makes meaningful."""
    value = number(score.value)
    if score.spread is None or not math.isfinite(score.spread) or "e" in value or score.spread <= 0:
        return value, number(score.spread, 2) if score.spread else ""  # of a single thing there is none
    places = min(len(value.partition(".")[2]), max(0, 1 - math.floor(math.log10(score.spread))))
    shown, spread = f"{score.value:.{places}f}", f"{score.spread:.{places}f}"
    return shown.replace("-", "\N{MINUS SIGN}"), spread if float(spread) else number(score.spread, 1)


def rows(scores: list[Score]) -> list[Row]:
    """Return the scores of a session as the rows of its table."""
    return [
        Row(
            _metric(score),
            score.target,
            *_value(score),
            _UNITS.get(score.unit, score.unit),
            score.better,
            f"{score.n:,}".replace(",", "\u2009") if score.n else "",
            _remarks(score),
        )
        for score in scores
    ]


def highlights(scores: list[Score], used: tuple[str, ...] = ()) -> list[Row]:
    """Return the few scores of a session that say most, best known first, one a metric.

    Of several behavior variables the one shown is one that the model was trained with (``used``), else the one that is
    decoded best; the table has all. Of angles that is the one of the highest R2: the smallest error may be that of an
    angle that hardly varies.
    """
    r2 = {(score.metric, score.target): score.value for score in scores if score.metric.startswith("behavior_r2")}
    chosen: dict[str, Score] = {}
    for score in sorted(
        (score for score in scores if score.metric in _KEY and math.isfinite(score.value)),
        key=lambda score: (
            _KEY.index(score.metric),
            score.target not in used,
            -r2.get((score.metric.replace("_error", "_r2"), score.target), 0.0) if "_error" in score.metric else 0.0,
            score.value if score.better == "lower" else -score.value,
        ),
    ):
        family = score.metric.removesuffix("_knn")
        if (family == "bits_per_spike" and "co_bps" in chosen) or (family == "log_likelihood" and len(chosen) > 2):
            continue
        if family in ("behavior_r2", "decoded_r2") and any(
            kept.target == score.target and name == family.replace("_r2", "_error") for name, kept in chosen.items()
        ):
            continue
        chosen.setdefault(family, score)
    return rows(list(chosen.values())[:_MOST_HIGHLIGHTS])


def fitting(model: Model) -> str:
    """Say how a model is fitted."""
    if isinstance(model, StatisticsModel):
        return "by EM" if model.passes is None else "in closed form"
    return "by gradient descent" if isinstance(model, GradientModel) else "by its own procedure"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}".replace(",", "\u2009")


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _regions(session: Session) -> str:
    names = [name for name in session.layout.units if name not in ("all", "")]
    shown = [*names[:3], f"{len(names) - 3} more regions"] if len(names) > 4 else names
    return f" of {_join(shown)}" if shown else ""


def _seconds(session: Session, part: str) -> float:
    return float(getattr(session, part).n_bins * session.layout.bin_width_s)


def summary(run: Run) -> str:
    """Say in one sentence what was run."""
    name = run.entry.name
    sessions = run.sessions or []
    latents = getattr(run.experiment.model, "latents", None)
    what = f"{name} with {_count(latents, 'latent')}" if isinstance(latents, int) else name
    if not sessions:
        return f"{what}, fitted {fitting(run.model)}; the data are not part of this run."
    bin_ms = f"{1000 * sessions[0].layout.bin_width_s:.4g} ms"
    if len(sessions) == 1:
        session = sessions[0]
        data = f"{_count(session.layout.n_units, 'unit')}{_regions(session)} in session {session.layout.session}"
        amount = _amount(session, "train")
    else:
        data = f"{_count(sum(s.layout.n_units for s in sessions), 'unit')} in {len(sessions)} sessions"
        amount = f"{_count(sum(len(s.train) for s in sessions), 'trial')} of training data"
    regions = " What is said of regions is of the training trials." if run.findings else ""
    parent = run.experiment.adapt
    adapted = f" It was adapted from the run {Path(parent).name}." if parent is not None else ""
    return (
        f"{what}, fitted {fitting(run.model)} to {data}: {amount}, in bins of {bin_ms}.{adapted} Every figure and "
        f"number below that judges the model is of test data that it was not fitted to.{regions}"
    )


def _amount(session: Session, part: str) -> str:
    trials = len(getattr(session, part))
    length = duration(_seconds(session, part))
    return f"{_count(trials, 'trial')}, {length}" if trials != 1 else f"one stretch of {length}"


def session_facts(session: Session, experiment: Experiment) -> dict[str, str]:
    """Return what was recorded and how it was split, as short facts."""
    layout = session.layout
    about = [f"{count} in {region}" for region, count in layout.units.items() if region != "all"]
    if layout.held_out:
        about.append(f"{len(layout.held_out)} held out for co-smoothing")
    units = ", ".join(about)
    kind = "spike counts" if layout.observation is Observation.COUNTS else "a continuous signal"
    if experiment.data.smoothing_s > 0:
        kind += f" smoothed by a Gaussian of {1000 * experiment.data.smoothing_s:.4g} ms,"
    facts = {
        "Session": layout.session,
        "Units": f"{layout.n_units} ({units})" if units else str(layout.n_units),
        "Activity": f"{kind} in bins of {1000 * layout.bin_width_s:.4g} ms",
        "Training": _amount(session, "train"),
        "Validation": _amount(session, "validation") if len(session.validation) else "none",
        "Test": _amount(session, "test") if len(session.test) else "none",
        "Split": _split(session, experiment),
    }
    if layout.behavior:
        names = [f"{name} ({variable.kind.value})" for name, variable in layout.behavior.items()]
        facts["Behavior"] = ", ".join(names)
    return facts


def _split(session: Session, experiment: Experiment) -> str:
    split = experiment.data.split
    how = {
        "blocks": "contiguous blocks",
        "every": f"every {split.every}th trial is tested",
        "list": "named trials",
        "folds": f"fold {split.fold} of {split.folds} contiguous ones is tested",
    }.get(split.by, split.by)
    gap = smallest_gap_s(session)
    return how if gap is None else f"{how}, at least {duration(gap)} apart"


def smallest_gap_s(session: Session) -> float | None:
    """Return the shortest time between bins of different parts, in seconds; None where only one part has data."""
    pieces = []
    for number, part in enumerate((session.train, session.validation, session.test)):
        start = part.table["start_s"].to_numpy(float)
        pieces.append(np.stack([start, start + part.lengths * session.layout.bin_width_s, np.full(len(part), number)]))
    start, stop, part_of = np.concatenate(pieces, 1)[:, np.argsort(np.concatenate(pieces, 1)[0], kind="stable")]
    between = part_of[1:] != part_of[:-1]
    return float((start[1:] - stop[:-1])[between].clip(min=0).min()) if between.any() else None


def session_notes(session: Session, experiment: Experiment) -> list[str]:
    """Return the session's own notes, and what every reader must know about the split and the smoothing."""
    notes = list(session.notes)
    data = experiment.data
    said = " ".join(notes).lower()
    if data.split.by in ("every", "list") and "drift" not in said:
        notes.append(
            "Test trials lie between training trials: this split shares slow drift, which alone can look like decoding."
        )
    if data.smoothing_s > 0 and not data.causal_smoothing and "smooth" not in said:
        notes.append(f"The activity was smoothed ({1000 * data.smoothing_s:g} ms); the smoothing looks ahead in time.")
    return notes


def config_text(plain: Mapping[str, Any]) -> str:
    """Return a configuration as YAML."""
    import yaml

    return str(yaml.safe_dump(_plain(plain), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def plain_facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the facts of a run that are not shown elsewhere, as pairs of text."""
    for key, value in facts.items():
        if key in ("versions", "notes") or value in ("", None, {}, []):
            continue
        if key == "seconds" and isinstance(value, Mapping):
            yield "Time", ", ".join(f"{stage} {duration(float(s))}" for stage, s in value.items())
        elif isinstance(value, Mapping):
            yield key.capitalize(), ", ".join(f"{name} {item}" for name, item in value.items())
        else:
            yield key.capitalize(), str(value)
