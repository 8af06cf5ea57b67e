"""One setting chosen by cross-validation, for any model: folds, one metric for all values, the one-standard-error rule.

The test part of the split is never looked at: folds are contiguous in the rest of the recording. A model whose moments
tell all values at once (``Selects``) is fitted once; others are fitted anew for every value and fold.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lvmzoo import registry
from lvmzoo.config import FOLDS, Experiment, LoggerConfig, SplitConfig
from lvmzoo.data.load import load, prepare
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Session
from lvmzoo.errors import DivergedError, UserError
from lvmzoo.findings import Progress, quiet_progress
from lvmzoo.models.base import Model, Selects, StatisticsModel
from lvmzoo.selected import Selection
from lvmzoo.selection_metric import HELD_OUT_UNITS, is_number, measure_of, refuse_other_questions
from lvmzoo.sentences import duration
from lvmzoo.train import train

__all__ = ["Selection", "select", "usual"]


def select(
    experiment: Experiment,
    key: str,
    values: Sequence[Any],
    recordings: Sequence[Recording] | None = None,
    *,
    progress: Progress = quiet_progress,
    keep: Callable[[Selection], None] = lambda selection: None,
) -> Selection:
    """Choose a setting by cross-validation within all data but the test part of the split.

    Parameters
    ----------
    experiment : everything but the setting. ``data.split.folds`` is the number of folds, 5 by default; the test part,
        ``data.split.test`` (or ``untouched``, where folds were asked for), belongs to none of them.
    key : of the setting, such as "model.latents".
    values : to compare, each once.
    recordings : data that are in memory already; None reads ``experiment.data``.
    progress : is told how far it is.
    keep : is given what is known after every fit, so that an interruption loses nothing.

    Raises
    ------
    UserError
        For a setting that cannot be chosen so, fewer than two values, or values of which none can be fitted.
    Interrupted
        When a signal stopped it.
    """
    entry = registry.get(experiment.model.name)
    refuse_other_questions(key, entry.model)
    if experiment.resume or experiment.adapt or experiment.trainer.devices > 1:
        raise UserError(
            "resume, adapt and trainer.devices do not go with a choice by cross-validation.",
            "Every value is fitted anew to each fold, in one process.",
            "Leave them out.",
        )
    values = _checked(key, values)
    experiments, wrong = _experiments(experiment, key, values)
    fold_splits = _fold_splits(experiment.data.split)
    recordings = load(experiment.data) if recordings is None else recordings
    leaf = key.removeprefix("model.")
    if issubclass(entry.model, Selects) and key.startswith("model.") and leaf in entry.model.selects:
        found = _in_one_pass(experiment, leaf, values, len(fold_splits), recordings)
    else:
        found = _by_refits(experiments, wrong, key, values, fold_splits, recordings, progress, keep)
    if not found.compared:
        reason = next(iter(found.failed.values()), "no fold had a score")
        raise UserError(
            f"No value of {key} could be compared.",
            f"The first failed: {reason}",
            f"Train one to see more: lvmzoo train model={entry.name} {key}={values[0]}.",
        )
    keep(found)
    return found


def usual(experiment: Experiment, key: str, value: Any) -> Experiment:
    """Return the experiment that fits a chosen value: to training data, scored on the test part that no fold saw."""
    split = _usual_split(experiment.data.split)
    return _with_setting(replace(experiment, data=replace(experiment.data, split=split)), key, value)


def _experiments(
    experiment: Experiment, key: str, values: Sequence[Any]
) -> tuple[dict[int, Experiment], dict[int, str]]:
    """Return the experiment with each value by its place, and why there is none; UserError where all are wrong."""
    found, wrong, last = {}, {}, None
    for place, value in enumerate(values):
        try:
            found[place] = _with_setting(experiment, key, value)
        except UserError as error:
            wrong[place], last = error.what, error
    if not found and last is not None:
        raise last
    return found, wrong


def _with_setting(experiment: Experiment, key: str, value: Any) -> Experiment:
    """Return an experiment with one setting changed; raises UserError for one that does not exist."""
    name, _, rest = key.partition(".")
    changed: Any = _changed(getattr(experiment, name), rest, value, key)
    return replace(experiment, **{name: changed})


def _changed(config: Any, key: str, value: Any, whole: str) -> Any:
    name, _, rest = key.partition(".")
    if isinstance(config, Mapping):
        return {**config, name: _changed(config.get(name, {}), rest, value, whole) if rest else value}
    known = [each.name for each in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if name not in known:
        raise UserError(
            f"There is no setting named '{whole}'.",
            f"There are: {', '.join(known) or 'none'}.",
            "`lvmzoo show NAME` lists the settings of a model.",
        )
    return replace(config, **{name: _changed(getattr(config, name), rest, value, whole) if rest else value})


def _checked(key: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return each value once, numbers in order."""
    for value in values:
        if is_number(value) and not math.isfinite(value):
            raise UserError(
                f"{key}={value} is no value to compare.", "Numbers are finite.", f"Leave it out of the values of {key}."
            )
    once = [value for place, value in enumerate(values) if value not in values[:place]]
    if len(once) < 2:
        raise UserError(
            f"{key} has {len(once)} value{'s' * (len(once) != 1)} to choose from.",
            "A choice needs two at least.",
            f"Write {key}=1,2,4 or '{key}=range(1,13)' (which ends before 13).",
        )
    return tuple(sorted(once)) if all(map(is_number, once)) else tuple(once)


def _fold_splits(split: SplitConfig) -> list[SplitConfig]:
    """Return the split of each fold; none of them sees the test part."""
    if split.by not in ("blocks", "folds") or split.fold is not None:
        given = f"data.split.by={split.by}" if split.fold is None else f"data.split.fold={split.fold}"
        raise UserError(
            f"{given} does not go with a choice by cross-validation.",
            "Its folds are contiguous stretches of the recording before the test part, each tested once.",
            "Leave it out; data.split.test says how much is left for the test, data.split.folds how many folds.",
        )
    number, untouched = split.folds or FOLDS, _usual_split(split).test
    base = replace(split, by="folds", folds=number, untouched=untouched)
    return [replace(base, fold=fold) for fold in range(number)]


def _usual_split(split: SplitConfig) -> SplitConfig:
    """Return the split that the chosen value is fitted with at the end: training, validation, test."""
    if split.by != "folds":
        return split
    return replace(split, by="blocks", folds=None, untouched=0.0, test=split.untouched or split.test)


def _in_one_pass(
    experiment: Experiment, setting: str, values: Sequence[Any], folds: int, recordings: Sequence[Recording]
) -> Selection:
    """Fit once to all but the test part; the model's own folds compare the values."""
    split = replace(_usual_split(experiment.data.split), validation=0.0)
    open_ = _with_setting(_with_setting(experiment, f"model.{setting}", None), "model.folds", folds)
    run = train(_quiet(replace(open_, data=replace(experiment.data, split=split))), recordings, write=False)
    model = run.model
    assert isinstance(model, Selects)
    compared = model.compared(setting)
    number = max((len(scores) for scores in compared.values()), default=folds)
    missing = np.full(number, np.nan)
    failed = {
        place: f"{experiment.model.name} compares {', '.join(map(str, compared))} on these data"
        for place, value in enumerate(values)
        if value not in compared
    }
    scores = np.stack([np.asarray(compared[value]) if value in compared else missing for value in values])
    title = model.selects[setting]
    return Selection(f"model.{setting}", tuple(values), scores, title, failed=failed, one_pass=True)


def _by_refits(
    experiments: Mapping[int, Experiment],
    wrong: Mapping[int, str],
    key: str,
    values: tuple[Any, ...],
    splits: Sequence[SplitConfig],
    recordings: Sequence[Recording],
    progress: Progress,
    keep: Callable[[Selection], None],
) -> Selection:
    """Fit every value to all folds but one, and score it on that one."""
    first = next(iter(experiments.values()))
    model, session = _built([*experiments.values()], splits[0], recordings)
    measure = measure_of(first, model, session, key, values)
    changes: dict[str, Any] = {}
    if measure.hides_units and not first.data.split.held_out_units:
        changes["held_out_units"] = HELD_OUT_UNITS
    if isinstance(model, StatisticsModel) and model.passes is not None:
        changes["validation"] = 0.0  # a solution in closed form looks at no validation data
    scores = np.full((len(values), len(splits)), np.nan)
    failed = dict(wrong)
    found = Selection(key, values, scores, measure.title, measure.unit, failed)
    began = time.monotonic()
    for place, experiment in experiments.items():
        for fold, split in enumerate(splits):
            done = (place * len(splits) + fold) / scores.size
            progress(_said(key, values, place, fold, len(splits), done, time.monotonic() - began), done)
            data = replace(experiment.data, split=replace(split, **changes))
            try:
                run = train(_quiet(replace(experiment, data=data)), recordings, write=False)
                scores[place, fold] = measure.of(run)
            except (UserError, DivergedError) as error:
                failed[place] = error.what if isinstance(error, UserError) else f"training diverged: {error}"
                break
            keep(replace(found, scores=scores.copy(), failed=dict(failed)))
    folds_with = np.isfinite(scores).any(0)
    for place in range(len(values)):
        if place not in failed and not np.isfinite(scores[place, folds_with]).all():
            failed[place] = "its score is not finite in every fold"
    return found


def _built(
    experiments: Sequence[Experiment], split: SplitConfig, recordings: Sequence[Recording]
) -> tuple[Model, Session]:
    """Return a model of the first value that one can be built with, not fitted; raises the UserError of the last."""
    for place, experiment in enumerate(experiments):
        entry = registry.get(experiment.model.name)
        try:
            window_bins = entry.window_bins(experiment.model)
            sessions = prepare(recordings, replace(experiment.data, split=split), window_bins=window_bins)
            return entry.model(experiment.model, [session.layout for session in sessions]), sessions[0]
        except UserError:
            if place == len(experiments) - 1:
                raise
    raise AssertionError("there are two values at least")


def _quiet(experiment: Experiment) -> Experiment:
    """Return an experiment whose fit shows no progress of its own and logs nowhere."""
    return replace(experiment, trainer=replace(experiment.trainer, progress=False), logger=LoggerConfig())


def _said(key: str, values: Sequence[Any], place: int, fold: int, folds: int, done: float, elapsed_s: float) -> str:
    left = f", {duration(elapsed_s * (1 - done) / done)} left" if done else ""
    return f"{key}={values[place]}, value {place + 1} of {len(values)}, fold {fold + 1} of {folds}{left}"
