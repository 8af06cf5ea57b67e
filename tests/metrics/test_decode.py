"""Readouts agree with scikit-learn, keep to the circle, and come back from their saved state."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from lvmzoo.batch import Kind, Variable
from lvmzoo.errors import UserError
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.decode import angular_error, decoder_from_state, fit_decoder
from lvmzoo.metrics.decoding import best_decoders
from lvmzoo.metrics.spread import group_sums, r2, ratio_sem
from tests.metrics.toy import make_session

CONTINUOUS = Variable(Kind.CONTINUOUS, 2)
HEADING = Variable(Kind.CIRCULAR)


def linear(bins=400, noise=3.0, seed=0):
    random = np.random.default_rng(seed)
    latents = random.normal(size=(bins, 30)) * np.logspace(-1, 1, 30)
    return latents, latents[:, :2] * [3.0, 1.0] + noise * random.normal(size=(bins, 2))


def ring(bins=1500, seed=0, noise=0.1):
    random = np.random.default_rng(seed)
    angle = random.uniform(-np.pi, np.pi, (bins, 1))
    return np.c_[np.cos(angle), np.sin(angle)] + noise * random.normal(size=(bins, 2)), angle


def test_ridge_is_scikit_learns_grid_search():
    latents, behavior = linear()
    ours = fit_decoder(latents, behavior, CONTINUOUS)
    x = (latents - latents.mean(0)) / np.sqrt(latents.var(0).mean())
    search = GridSearchCV(Ridge(), {"alpha": np.logspace(-4, 0, 9)}, cv=KFold(5)).fit(x, behavior)
    assert ours.penalty == pytest.approx(search.best_params_["alpha"])
    np.testing.assert_allclose(ours.predict(latents), search.predict(x), atol=1e-8)


@pytest.mark.parametrize("kind", ["ridge", "knn"])
def test_an_angle_does_not_jump_where_its_range_ends(kind):
    latents, angle = ring()
    shifted = angle % (2 * np.pi)  # the same direction, cut elsewhere
    decoder = fit_decoder(latents[:1000], angle[:1000], HEADING, kind)
    other = fit_decoder(latents[:1000], shifted[:1000], HEADING, kind)
    error = np.degrees(angular_error(angle[1000:], decoder.predict(latents[1000:])))
    assert np.median(error) < 6
    assert angular_error(other.predict(latents[1000:]), decoder.predict(latents[1000:])).max() < 1e-6


def test_angular_error_goes_the_shorter_way():
    np.testing.assert_allclose(
        angular_error(np.array([[0.1], [3.0]]), np.array([[6.2], [-3.0]])), [[0.18319], [0.28319]], atol=1e-5
    )


def test_neighbors_are_those_of_scikit_learn():
    latents, angle = ring()
    behavior = np.c_[np.cos(angle) * 3, angle**2]
    held = (latents[800:1000], behavior[800:1000])
    decoder = fit_decoder(latents[:800], behavior[:800], CONTINUOUS, "knn", held)
    other = KNeighborsRegressor(decoder.neighbors, metric=decoder.distance).fit(latents[:800], behavior[:800])
    np.testing.assert_allclose(decoder.predict(latents[1000:]), other.predict(latents[1000:]), atol=1e-10)
    scores = {
        (distance, k): r2_score(
            held[1], KNeighborsRegressor(k, metric=distance).fit(latents[:800], behavior[:800]).predict(held[0])
        )
        for distance in ("euclidean", "cosine")
        for k in (1, 2, 4, 8, 16, 32, 64)
    }
    assert (decoder.distance, decoder.neighbors) == max(scores, key=scores.get)


@pytest.mark.parametrize("kind", ["ridge", "knn"])
def test_categories(kind):
    latents, angle = ring(noise=0.3)
    label = np.floor((angle + np.pi) / (2 * np.pi) * 4).clip(0, 3)
    decoder = fit_decoder(latents[:1000], label[:1000], Variable(Kind.CATEGORICAL, 1, tuple("abcd")), kind)
    predicted = decoder.predict(latents[1000:])
    assert set(np.unique(predicted)) <= {0.0, 1.0, 2.0, 3.0}
    assert (predicted == label[1000:]).mean() > 0.75
    if kind == "knn":
        other = KNeighborsClassifier(decoder.neighbors, metric=decoder.distance).fit(
            decoder.references, label[:1000, 0]
        )
        assert (predicted[:, 0] == other.predict(latents[1000:])).mean() > 0.99  # ties aside


@pytest.mark.parametrize("kind", ["ridge", "knn"])
def test_bins_without_a_label_are_left_out(kind):
    latents, behavior = linear()
    garbage = latents.copy()
    behavior[::5, 1] = np.nan
    garbage[::5] = 1e6
    known = np.isfinite(behavior).all(1)
    a = fit_decoder(garbage, behavior, CONTINUOUS, kind).predict(latents)
    b = fit_decoder(latents[known], behavior[known], CONTINUOUS, kind).predict(latents)
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(a).all()


@pytest.mark.parametrize("kind", ["ridge", "knn"])
def test_state_survives_json(kind):
    latents, angle = ring()
    decoder = fit_decoder(latents, angle, HEADING, kind)
    plain, tensors = decoder.state()
    again = decoder_from_state(json.loads(json.dumps(plain)), {name: torch.clone(t) for name, t in tensors.items()})
    np.testing.assert_array_equal(decoder.predict(latents), again.predict(latents))


def test_constant_latents_and_constant_behavior_stay_finite():
    latents = np.c_[np.full((50, 1), 7.7), np.zeros((50, 1))]
    decoder = fit_decoder(latents, np.full((50, 2), 2.5), CONTINUOUS)
    np.testing.assert_allclose(decoder.predict(latents), 2.5)


def test_an_unknown_kind_is_named():
    latents, behavior = linear(20)
    with pytest.raises(UserError, match="There is no decoder named 'rigde'"):
        fit_decoder(latents, behavior, CONTINUOUS, "rigde")


def test_r2_is_that_of_scikit_learn_and_leaves_nan_out():
    random = np.random.default_rng(0)
    truth = random.normal(size=(300, 3)) * [1, 10, 100]
    predicted = truth + random.normal(size=(300, 3)) * [0.5, 1, 80]
    groups = np.arange(300) // 10
    assert r2(truth, predicted, groups)[0] == pytest.approx(r2_score(truth, predicted))
    pooled = r2(truth, predicted, groups, pooled=True)[0]
    assert pooled == pytest.approx(r2_score(truth, predicted, multioutput="variance_weighted"))
    holes = truth.copy()
    holes[::3, 1] = np.nan
    known = np.isfinite(holes[:, 1])
    expected = np.mean(
        [
            r2_score(truth[:, 0], predicted[:, 0]),
            r2_score(truth[known, 1], predicted[known, 1]),
            r2_score(truth[:, 2], predicted[:, 2]),
        ]
    )
    assert r2(holes, predicted, groups)[0] == pytest.approx(expected)
    constant = np.c_[truth[:, :1], np.full((300, 1), 1 / 3)]
    assert r2(constant, predicted[:, :2], groups)[0] == pytest.approx(r2_score(truth[:, 0], predicted[:, 0]))
    assert np.isnan(r2(constant[:, 1:], predicted[:, :1], groups)[0])


def test_standard_error_is_the_spread_over_repetitions():
    random = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(400):
        scale = random.gamma(2.0, size=(40, 1))
        numerator = scale * random.normal(1.0, 0.4, (40, 1))
        values.append(numerator.sum() / scale.sum())
        errors.append(ratio_sem(numerator, scale))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)
    assert ratio_sem(np.ones((1, 2)), np.ones((1, 2))) is None


def test_group_sums():
    sums = group_sums(np.arange(6.0)[:, None], np.array([2, 2, 5, 7, 7, 7]))
    np.testing.assert_array_equal(sums[:, 0], [1, 2, 12])


def test_without_validation_bins_the_readout_that_predicts_the_last_fifth_is_taken():
    session = make_session(timed=True)
    session = dataclasses.replace(session, validation=session.train.select([]))
    plain = Evaluation(None, session)
    time = {part: plain.behavior(part, "movie_s") for part in ("train", "validation", "test")}
    straight = {part: np.hstack([x, 0 * x]) for part, x in time.items()}
    bent = {part: np.hstack([np.cos(2 * x), np.sin(2 * x)]) for part, x in time.items()}
    noisy = {p: x + np.random.default_rng(0).normal(0, 1, x.shape) for p, x in straight.items()}
    kinds = [best_decoders(Evaluation(None, session, 0, {"latents": x}))["movie_s"].kind for x in (noisy, bent)]
    assert kinds == ["ridge", "knn"]
