"""Trials of several regions from arrays, ragged or not, and a regression fitted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.models.multi_region.reduced_rank_regression import ReducedRankRegression, ReducedRankRegressionConfig


def batch_of(
    regions: Mapping[str, np.ndarray],
    lengths: Sequence[int] | None = None,
    condition: np.ndarray | None = None,
    session: str = "planted",
) -> Batch:
    """Return trials of regions (trial, bin, unit), cut to some lengths; NaN is a missing sample."""
    activity = np.concatenate(list(regions.values()), 2)
    trials, bins, units = activity.shape
    valid = np.arange(bins) < np.asarray(lengths if lengths is not None else [bins] * trials)[:, None]
    layout = Layout(
        session=session,
        units={name: values.shape[2] for name, values in regions.items()},
        unit_ids=tuple(map(str, range(units))),
        observation=Observation.CONTINUOUS,
        bin_width_s=0.02,
        conditions=() if condition is None else tuple(map(str, range(int(condition.max()) + 1))),
        longest_bins=int(valid.sum(1).max()),
    )
    return Batch(
        activity=torch.from_numpy(activity),
        valid=torch.from_numpy(valid),
        observed=torch.from_numpy(valid[..., None] & ~np.isnan(activity)),
        behavior={},
        inputs={},
        trial_index=torch.arange(trials),
        start_bin=torch.zeros(trials, dtype=torch.int64),
        layout=layout,
        condition=None if condition is None else torch.from_numpy(condition),
    )


def fit(*batches: Batch, **config: Any) -> ReducedRankRegression:
    """Fit a regression to the trials of each session."""
    model = ReducedRankRegression(ReducedRankRegressionConfig(**config), [batch.layout for batch in batches])
    model.prepare(batches)
    parts = [model.statistics(batch) for batch in batches]
    model.update(type(parts[0])(*(sum(leaves[1:], start=leaves[0]) for leaves in zip(*parts, strict=True))))
    return model


def windows(
    values: np.ndarray, lags: Sequence[int], lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return windows of past bins, one loop after the other, with the trial and bin of each."""
    rows, trials, bins = [], [], []
    for trial, length in enumerate(lengths):
        for t in range(max(lags), length):
            rows.append(np.concatenate([values[trial, t - lag] for lag in lags]))
            trials.append(trial)
            bins.append(t)
    return np.array(rows), np.array(trials), np.array(bins)


def without_units(batch: Batch, hidden: np.ndarray) -> Batch:
    """Return the batch with some samples missing (trial, bin, unit), and garbage in their place."""
    seen = batch.observed & ~torch.from_numpy(hidden)
    return replace(batch, observed=seen, activity=torch.where(seen, batch.activity, torch.nan))
