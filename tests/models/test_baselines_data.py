"""The baselines on any data: missing, degenerate, of any scale, in any order of the units."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lvmzoo import registry
from lvmzoo.batch import Batch
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.shared_variance import SharedVarianceOfUnits
from lvmzoo.models.base import HasSharedVariance, StatisticsModel
from tests.metrics.toy import make_session
from tests.models.gpfa_world import batch

NAMES = ["pca", "factor_analysis", "smoothing"]


def fitted(name: str, data: Batch) -> StatisticsModel:
    entry = registry.get(name)
    model = entry.model(entry.tiny(data.layout), [data.layout])
    assert isinstance(model, StatisticsModel)
    model.prepare([data])
    for _ in range(model.passes or 3):
        model.update(model.statistics(data))
    return model


def adversarial() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(5)
    plain = draw.normal(size=(8, 20, 5)).cumsum(1)
    return {
        "a unit twice": np.concatenate([plain, plain[..., :1]], -1),
        "a silent unit": np.concatenate([plain, np.zeros((8, 20, 1))], -1),
        "one unit": plain[..., :1],
        "trials of one bin": plain[:, :1],
        "one trial": plain[:1],
        "one trial of one bin": plain[:1, :1],
        "constant": np.full((8, 20, 5), 3.0),
        "tiny": 1e-6 * plain,
        "huge": 1e6 * plain,
        "large counts": draw.poisson(1e5, (8, 20, 5)).astype(float),
    }


@pytest.mark.parametrize("case", adversarial())
@pytest.mark.parametrize("name", NAMES)
def test_adversarial_input_stays_finite(name: str, case: str) -> None:
    data = batch(adversarial()[case])
    model = fitted(name, data)
    for shown in (data, data.hide([0])):
        for value in (model.latents(shown), model.rates(shown)):
            assert bool(torch.isfinite(value).all())
    if isinstance(model, HasSharedVariance):
        found = model.shared_variance
        used = torch.isfinite(found.share)
        assert math.isfinite(float(found.latents))
        assert bool(torch.isfinite(found.predicted[used]).all())
        assert bool((found.share[used] <= 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_bins_that_are_not_valid_are_not_looked_at(name: str) -> None:
    """Even where the batch says that something was observed there."""
    activity = np.random.default_rng(0).normal(size=(6, 20, 5)).cumsum(1)
    data = batch([trial[:length] for trial, length in zip(activity, (20, 20, 13, 20, 1, 9), strict=True)])
    dirty = dataclasses.replace(
        data,
        activity=torch.where(data.valid[..., None], data.activity, 1e6),
        observed=torch.ones_like(data.observed),
    )
    one, other = fitted(name, data), fitted(name, dirty)
    torch.testing.assert_close(one.latents(data), other.latents(dirty), rtol=0.0, atol=0.0)
    torch.testing.assert_close(one.rates(data), other.rates(dirty), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ["pca", "factor_analysis"])
def test_a_single_unit_shares_nothing(name: str) -> None:
    session = make_session()
    model = fitted(name, batch(np.random.default_rng(0).normal(size=(6, 20, 1))))
    assert SharedVarianceOfUnits()(Evaluation(model, session)) == []


@pytest.mark.parametrize("name", NAMES)
def test_units_have_no_order(name: str) -> None:
    activity = np.random.default_rng(0).normal(size=(6, 20, 5)).cumsum(1)
    turned = [3, 0, 4, 2, 1]
    data, other = batch(activity), batch(activity[..., turned])
    found, wanted = fitted(name, other).rates(other), fitted(name, data).rates(data)[..., turned]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_units_of_factor_analysis_may_differ_in_scale() -> None:
    activity = np.random.default_rng(0).normal(size=(6, 20, 5)).cumsum(1)
    scale = np.array([1e-3, 1.0, 1e3, 1.0, 1e-2])

    def rates(by: np.ndarray) -> Tensor:
        data = batch(activity * by)
        return fitted("factor_analysis", data).rates(data) / torch.from_numpy(by)

    torch.testing.assert_close(rates(scale), rates(np.ones(5)), rtol=1e-5, atol=1e-5)
