"""Delayed CCA on data that are hard on it, or too little to tell anything from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lvmzoo.errors import UserError
from lvmzoo.findings import Findings, Question
from lvmzoo.models.multi_region.delayed_cca import DelayedCCA, DelayedCCAConfig
from tests.models import regions_world
from tests.models.test_delayed_cca import ask, claim, fit, with_activity


def finite(found: Findings) -> None:
    for one in found.claims:
        assert np.isfinite(one.value), one
        assert one.p is None or np.isfinite(one.p)
    for profile in found.profiles:
        assert np.isfinite(profile.value).all()


@pytest.mark.parametrize("kind", ["shrinkage", "pca"])
@pytest.mark.parametrize("case", ["one unit", "identical", "constant", "few trials", "unequal", "missing"])
def test_hard_data(case: str, kind: str) -> None:
    config: dict[str, Any] = {
        "regularization": kind,
        "permutations": 19,
        "resamples": 5,
        "time_points": 3,
        "max_lag_bins": 3,
    }
    batch = regions_world.coupled(0, 2, units=(6, 6), ragged=True)
    expected: bool | None = True
    if case == "one unit":
        batch = regions_world.coupled(0, 2, units=(1, 6), shared=1, own=0)
    elif case == "identical":
        batch = with_activity(batch, lambda a: a[..., 6:].copy_(a[..., :6]))
    elif case == "constant":
        batch, expected = with_activity(batch, lambda a: a[..., 6:].fill_(3.0)), False
    elif case == "few trials":
        batch = regions_world.coupled(0, 2, trials=24, bins=12, units=(30, 30))
    elif case == "unequal":
        batch = regions_world.coupled(0, 2, units=(2, 40))
    else:
        observed = batch.observed.clone()
        observed[:, 5, 2] = False
        observed[3] = False
        batch = replace(with_activity(batch, lambda a: a.masked_fill_(~observed, torch.nan)), observed=observed)
    model = fit(batch, **config)
    found = model.findings(batch, 0)
    finite(found)
    assert claim(found, Question.COMMUNICATION).evidence is expected
    for output in (model.latents(batch), model.predict_target(batch, "B"), model.predict_target(batch, "A")):
        assert bool(output[batch.valid].isfinite().all())
    if case == "identical":
        assert claim(found, Question.COMMUNICATION).value == pytest.approx(1.0, abs=1e-6)
        assert claim(found, Question.DELAY).value == pytest.approx(0.0, abs=1.0)
        assert claim(found, Question.DELAY).evidence is False
    if case == "constant":
        assert claim(found, Question.COMMUNICATION).value == 0


def test_too_short_to_tell() -> None:
    for trials, bins in ((1, 300), (8, 40)):
        found = ask(regions_world.coupled(0, 4, trials=trials, bins=bins))
        assert found.claims
        for one in found.claims:
            assert one.evidence is None
            assert one.p is None
            assert np.isnan(one.value) == (one.question == Question.DIMENSIONS)
            assert one.note.startswith("too short to tell")


def test_without_permutations_or_resamples_nothing_is_claimed() -> None:
    batch = regions_world.coupled(0, 2)
    for name in ("permutations", "resamples"):
        for one in ask(batch, **{name: 0}).claims:
            assert one.evidence is None
            assert name in one.note
            assert (one.p is None) == (name == "permutations" or one.question == Question.DIMENSIONS)
            if one.question != Question.DIMENSIONS:
                assert (one.interval is None) == (name == "resamples")


def test_too_few_permutations_to_tell() -> None:
    """They leave no p below .05: that is no "no evidence"."""
    for one in ask(regions_world.coupled(0, 2), permutations=10).claims:
        assert one.evidence is None
        assert one.note.startswith("too few permutations to tell: 10 give p of 0.091 at least")
        assert np.isnan(one.value) == (one.question == Question.DIMENSIONS)


@pytest.mark.parametrize("residuals", [False, True])
def test_two_trials_of_a_condition_do_not_resemble_each_other_by_their_mean(residuals: bool) -> None:
    """Neither by the mean that is subtracted, nor by a drift fitted to what few means leave."""
    values = []
    for seed in range(6):
        batch = regions_world.independent("autocorrelated", seed, bins=12)
        condition = torch.randperm(80, generator=torch.Generator().manual_seed(seed)) % 40
        batch = replace(batch, condition=condition, layout=replace(batch.layout, conditions=tuple(map(str, range(40)))))
        found = ask(batch, residuals=residuals, resamples=0, permutations=2, max_lag_bins=3)
        values.append(claim(found, Question.COMMUNICATION).value)
    assert np.mean(values) < 0.1


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 7])
@pytest.mark.parametrize("residuals", [False, True])
def test_constants_whose_sums_are_not_exact(constant: float, residuals: bool) -> None:
    """What rounding leaves of them without their mean is no activity."""
    batch = regions_world.coupled(0, 2, bins=12, ragged=True, conditions=True)
    batch = with_activity(batch, lambda a: a[..., 5:].fill_(constant))
    for kind in ("shrinkage", "pca"):
        found = ask(batch, regularization=kind, residuals=residuals, time_points=3, permutations=19, resamples=2)
        communication = claim(found, Question.COMMUNICATION)
        assert communication.value == 0
        assert communication.p == 1
        assert communication.control is None or 0 <= communication.control < 1
        for profile in found.profiles:
            assert not profile.value.any()


def test_wrong_settings_are_refused() -> None:
    layout = regions_world.coupled(0, 1, trials=2).layout
    wrong: tuple[dict[str, Any], ...] = (
        {"regularization": "ridge"},
        {"shrinkage": []},
        {"shrinkage": [-1.0]},
        {"folds": 1},
        {"pairs": 0},
    )
    for config in wrong:
        with pytest.raises(UserError):
            DelayedCCAConfig(**config)
    with pytest.raises(UserError, match="one region"):
        DelayedCCA(DelayedCCAConfig(), [replace(layout, units={"A": layout.n_units})])
    seconds = DelayedCCA(DelayedCCAConfig(max_lag_s=0.06, permutations=19, resamples=2, time_points=0), [layout])
    batch = regions_world.coupled(0, 1)
    seconds.prepare([batch])
    seconds.update(seconds.statistics(batch))
    found = seconds.findings(replace(batch, layout=layout), 0)
    assert "the best of \N{MINUS SIGN}60 to 60 ms" in claim(found, Question.COMMUNICATION).note
    (profile, *_) = found.profiles
    np.testing.assert_allclose(profile.axes["lag (ms)"], np.arange(-3, 4) * 20.0)
