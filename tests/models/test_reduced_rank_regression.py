"""Reduced-rank regression against brute force, a numerical optimum, planted ranks and published data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

from lvmzoo.batch import Layout, Observation
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError
from lvmzoo.models.multi_region.reduced_rank_regression import ReducedRankRegression, ReducedRankRegressionConfig


def make_trials(x: np.ndarray, y: np.ndarray) -> Trials:
    """Return trials of equal length from (trial, bin, unit) arrays of two regions."""
    trials, bins, _ = x.shape
    both = np.concatenate([x, y], 2).reshape(trials * bins, -1)
    layout = Layout(
        session="planted",
        units={"source": x.shape[2], "target": y.shape[2]},
        unit_ids=tuple(map(str, range(both.shape[1]))),
        observation=Observation.CONTINUOUS,
        bin_width_s=0.1,
    )
    start = np.arange(trials) * bins
    table = pd.DataFrame({"start_s": start * 0.1})
    return Trials(layout, torch.from_numpy(both), start, start + bins, torch.ones(len(both), dtype=torch.bool), table)


def planted(
    seed: int, rank: int = 3, trials: int = 60, bins: int = 12, p: int = 14, q: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(trials, bins, p)) @ random.normal(size=(p, p)) / p**0.5
    weights = random.normal(size=(p, rank)) @ random.normal(size=(rank, q))
    y = x @ weights + 2.0 * random.normal(size=(trials, bins, q)) + 5.0
    return x, y


def fit(trials: Trials, **config: Any) -> ReducedRankRegression:
    model = ReducedRankRegression(ReducedRankRegressionConfig(**config), [trials.layout])
    model.prepare([trials.batch()])
    model.update(model.statistics(trials.batch()))
    return model


def brute(x: np.ndarray, y: np.ndarray, fold: np.ndarray, ridge: float, rank: int) -> np.ndarray:
    """1 - NSE of each fold from explicit fits and predictions."""
    found = []
    for k in np.unique(fold):
        train, test = fold != k, fold == k
        mx, my = x[train].mean(0), y[train].mean(0)
        full = (
            Ridge(alpha=ridge, fit_intercept=False).fit(x[train] - mx, y[train] - my).coef_.T
            if ridge
            else np.linalg.lstsq(x[train] - mx, y[train] - my, rcond=None)[0]
        )
        # The metric in which the projection is best is that of the ridge-augmented predictions.
        augmented = np.concatenate([x[train] - mx, np.sqrt(ridge) * np.eye(x.shape[1])]) @ full
        directions = np.linalg.svd(augmented, full_matrices=False)[2][:rank].T
        predicted = (x[test] - mx) @ full @ directions @ directions.T
        found.append(1 - ((y[test] - my - predicted) ** 2).sum() / ((y[test] - my) ** 2).sum())
    return np.array(found)


@pytest.mark.parametrize("ridge", [0.0, 30.0])
def test_every_fold_and_rank_equals_brute_force(ridge: float) -> None:
    x, y = planted(0)
    model = fit(make_trials(x, y), ridge=[ridge], folds=6)
    fold = np.repeat(np.arange(60) * 6 // 60, 12)
    for rank in (0, 1, 3, 7, 10):
        expected = brute(x.reshape(-1, 14), y.reshape(-1, 10), fold, ridge, rank)
        np.testing.assert_allclose(model.of().explained[:, 0, rank].numpy(), expected, rtol=0, atol=1e-12)


def test_planted_rank_is_found() -> None:
    found = [fit(make_trials(*planted(seed))).of().rank.item() for seed in range(5)]
    assert sum(rank == 3 for rank in found) >= 4
    assert max(found) <= 4


def test_ridge_solution_is_the_constrained_optimum() -> None:
    """The loss at rank 2 equals the best that L-BFGS finds over factors of that rank."""
    x, y = planted(3, trials=20, p=6, q=5)
    model = fit(make_trials(x, y), ridge=[100.0], rank=2)
    x, y = x.reshape(-1, 6) - x.mean((0, 1)), y.reshape(-1, 5) - y.mean((0, 1))

    def loss(weights: np.ndarray) -> float:
        return float(((y - x @ weights) ** 2).sum() + 100.0 * (weights**2).sum())

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = flat[:12].reshape(6, 2), flat[12:].reshape(2, 5)
        slope = 2 * x.T @ (x @ a @ b - y) + 200.0 * a @ b
        return loss(a @ b), np.concatenate([(slope @ b.T).ravel(), (a.T @ slope).ravel()])

    starts = [np.random.default_rng(seed).normal(size=22) for seed in range(5)]
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    best = min(minimize(objective, start, jac=True, method="L-BFGS-B", options=options).fun for start in starts)
    ours = loss((model.of().encode[:, :2] @ model.of().readout[:2]).numpy())
    assert ours == pytest.approx(best, rel=1e-8)


def test_the_penalty_is_chosen_by_cross_validation() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 4, 60))
    y = x[..., :1] * 0.4 + random.normal(size=(30, 4, 8))
    model = fit(make_trials(x, y), ridge=[0.0, 10.0, 100.0, 1000.0])
    assert model.of().ridge > 0
    means = model.of().explained.mean(0)
    assert float(means.max()) == pytest.approx(float(means[model.config.ridge.index(float(model.of().ridge))].max()))


def test_rank_zero_predicts_the_mean_and_full_rank_is_least_squares() -> None:
    x, y = planted(1)
    trials = make_trials(x, y)
    mean = fit(trials, rank=0).predict_target(trials.batch(), "target")
    np.testing.assert_allclose(mean.numpy(), np.broadcast_to(y.mean((0, 1)), y.shape), atol=1e-10)
    full = fit(trials, rank=10).predict_target(trials.batch(), "target").numpy()
    design = np.c_[x.reshape(-1, 14), np.ones(720)]
    expected = design @ np.linalg.lstsq(design, y.reshape(-1, 10), rcond=None)[0]
    np.testing.assert_allclose(full.reshape(-1, 10), expected, atol=1e-9)


def test_bins_with_a_missing_unit_are_left_out() -> None:
    x, y = planted(2)
    trials = make_trials(x, y)
    batch = trials.batch()
    observed = batch.observed.clone()
    observed[:, 3, 5] = False
    observed[7, :, 20] = False
    activity = batch.activity.clone()
    activity[~observed] = torch.nan
    from dataclasses import replace

    model = ReducedRankRegression(ReducedRankRegressionConfig(rank=3), [trials.layout])
    dirty = replace(batch, activity=activity, observed=observed)
    model.prepare([dirty])
    model.update(model.statistics(dirty))
    keep = observed.all(-1).numpy()
    expected = np.linalg.lstsq(np.c_[x[keep], np.ones(keep.sum())], y[keep], rcond=None)[0][:-1]
    directions = np.linalg.svd((x[keep] - x[keep].mean(0)) @ expected, full_matrices=False)[2][:3].T
    np.testing.assert_allclose(
        (model.of().encode[:, :3] @ model.of().readout[:3]).numpy(), expected @ directions @ directions.T, atol=1e-9
    )


def test_hidden_source_units_are_replaced_by_their_expectation() -> None:
    x, y = planted(4)
    trials = make_trials(x, y)
    model = fit(trials, rank=3)
    batch = trials.batch()
    flat = x.reshape(-1, 14)
    covariance = np.cov(flat.T, bias=True)
    seen = np.r_[0:3, 4:14]
    guess = (flat[:, seen] - flat[:, seen].mean(0)) @ np.linalg.solve(
        covariance[np.ix_(seen, seen)], covariance[seen, 3]
    )
    full = flat - flat.mean(0)
    full[:, 3] = guess
    np.testing.assert_allclose(
        model.latents(batch.hide([3])).numpy().reshape(-1, 3), full @ model.of().encode[:, :3].numpy(), atol=1e-9
    )


def test_communication_subspace_of_published_recordings(shared_data: Path) -> None:
    """V1 -> V2 needs two dimensions, V1 -> V1 five or six; the values of Semedo et al. (2019)."""
    stored = np.load(shared_data / "v1v2_residuals.npz", allow_pickle=False)
    residuals, group = stored["residuals"], stored["group"]
    source = residuals[..., group == "V1_source"]
    to_v2 = fit(make_trials(source, residuals[..., group == "V2"]))
    np.testing.assert_allclose(to_v2.of().curve["explained"][1:5], [0.104, 0.123, 0.125, 0.125], atol=0.003)
    assert to_v2.of().curve["explained"][-1] == pytest.approx(0.116, abs=0.003)
    assert to_v2.of().rank == 2
    within = fit(make_trials(source, residuals[..., group == "V1_target"]))
    assert within.of().rank in (5, 6)
    assert max(within.of().curve["explained"]) == pytest.approx(0.118, abs=0.003)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"source": "V3"}, "There is no region named 'V3'"),
        ({"source": "target", "target": "target"}, "both 'target'"),
        ({"rank": 11}, "model.rank is 11"),
        ({"ridge": [-1.0]}, "model.ridge"),
        ({"ridge": [float("nan")]}, "model.ridge"),
        ({"folds": 1}, "model.folds is 1"),
        ({"rule": "paired"}, "no choice of model.rule named .paired."),
    ],
)
def test_wrong_settings_are_named(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("'", ".")):
        fit(make_trials(*planted(0)), **config)
