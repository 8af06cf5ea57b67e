"""The multi-region linear dynamical system on data that one does not wish for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lvmzoo.batch import Batch
from tests.models.lds_world import rises
from tests.models.multi_region_lds_world import batch, build, draw, fit, influence, layout, world


def activity(units: dict[str, int], trials: int = 20, bins: int = 15, counts: bool = False) -> np.ndarray:
    return draw(world(0, units, (("A", "B"),)), 1, trials, bins, counts)


def one_unit(counts: bool) -> Batch:
    units = {"A": 8, "B": 1}
    return batch(activity(units, counts=counts), layout(units, counts))


def identical(counts: bool) -> Batch:
    values = activity({"A": 6, "B": 6}, counts=counts)
    values[..., 6:] = values[..., :6]
    return batch(values, layout({"A": 6, "B": 6}, counts))


def silent(counts: bool) -> Batch:
    values = activity({"A": 6, "B": 5}, counts=counts)
    values[..., 6:] = 0.0
    return batch(values, layout({"A": 6, "B": 5}, counts))


def fewer_trials_than_units(counts: bool) -> Batch:
    units = {"A": 20, "B": 15}
    return batch(activity(units, trials=4, counts=counts), layout(units, counts))


def unequal(counts: bool) -> Batch:
    units = {"A": 40, "B": 2, "C": 5}
    return batch(activity(units, trials=12, counts=counts), layout(units, counts))


def one_trial(counts: bool) -> Batch:
    units = {"A": 6, "B": 5}
    return batch(activity(units, trials=1, bins=60, counts=counts), layout(units, counts))


def ragged(counts: bool) -> Batch:
    units = {"A": 6, "B": 5}
    lengths = [15, 1, 2, 12, 15, 5, 9, 15, 3, 11, 15, 15, 1, 15, 12, 15, 15, 15, 8, 15]
    return batch(activity(units, counts=counts), layout(units, counts), lengths)


def missing(counts: bool) -> Batch:
    units = {"A": 6, "B": 5}
    values = activity(units, counts=counts)
    random = np.random.default_rng(0)
    values[random.uniform(size=values.shape[:2]) < 0.1] = np.nan  # whole bins
    values[random.uniform(size=values.shape) < 0.1] = np.nan
    values[3] = np.nan
    return batch(values, layout(units, counts))


def single_bins(counts: bool) -> Batch:
    units = {"A": 6, "B": 5}
    return batch(activity(units, bins=1, counts=counts), layout(units, counts))


@pytest.mark.parametrize(
    "make",
    [one_unit, identical, silent, fewer_trials_than_units, unequal, one_trial, ragged, missing, single_bins],
)
@pytest.mark.parametrize("config", [{}, {"max_lag": 3, "rank": 1}, {"emissions": "poisson"}], ids=str)
def test_stays_finite_and_never_falls(make: Any, config: dict[str, Any]) -> None:
    counts = "emissions" in config
    data = make(counts)
    model = build(data.layout, latents=3, **config)
    assert rises(fit(model, [data], 3 if counts else 15))
    for name, value in model.state_dict().items():
        assert bool(value.isfinite().all()), name
    latents = model.latents(data)
    assert bool(latents.isfinite().all())
    assert bool((latents[~data.valid] == 0).all())
    for values in (
        model.rates(data),
        model.forecast(data, 1),
        model.filtered(data),
        model.log_likelihood(data),
        model.posterior(data)[1],
        *(model.predict_target(data, name) for name in data.layout.units),
    ):
        assert bool(values.isfinite().all())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_of_measure_do_not_matter(scale: float) -> None:
    units = {"A": 6, "B": 5}
    values = activity(units)
    found = []
    for factor in (1.0, scale):
        data = batch(factor * values, layout(units))
        model = build(data.layout)
        fit(model, [data], 15)
        found.append(influence(model.parameters_of("s"), data.layout))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-8)
