"""Equal dynamics are at no distance, whatever their coordinates; a planted difference is seen, and grows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from lvmzoo.errors import UserError
from lvmzoo.metrics.dsa import RIDGE, dsa, embedding_moments, operator
from lvmzoo.simulate.lds import dynamics_matrix

DYNAMICS = dynamics_matrix(4, np.random.default_rng(0))


def faster(angle):
    """Turn the first plane by more."""
    changed, (c, s) = DYNAMICS.copy(), (np.cos(angle), np.sin(angle))
    changed[:2, :2] = changed[:2, :2] @ np.array([[c, -s], [s, c]])
    return changed


def trials(dynamics=DYNAMICS, seed=0, count=20, bins=100):
    random, n = np.random.default_rng(seed), len(dynamics)
    noise = np.linalg.cholesky(np.eye(n) - dynamics @ dynamics.T)
    x = np.empty((bins, count, n))
    x[0] = random.normal(size=(count, n))
    for t in range(1, bins):
        x[t] = x[t - 1] @ dynamics.T + random.normal(size=(count, n)) @ noise.T
    return list(x.swapaxes(0, 1))


def test_orthonormal_coordinates_scale_and_place_do_not_matter():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    found = dsa(trials(), [3 * x @ turn.T + 7 for x in trials()])
    assert found.distance < 1e-6
    assert found.spread < 1e-6


def test_without_delays_no_coordinates_matter():
    mixing = np.random.default_rng(0).normal(size=(4, 4))
    assert dsa(trials(), [x @ mixing.T for x in trials()], delays=1).distance < 1e-6


def test_without_noise_the_coordinates_of_latents_do_not_matter_with_delays_either():
    starts = np.random.default_rng(0).normal(size=(10, 4))
    paths = [np.stack([np.linalg.matrix_power(DYNAMICS, t) @ start for t in range(60)]) for start in starts]
    mixing = np.random.default_rng(1).normal(size=(4, 4))
    assert dsa(paths, [x @ mixing.T for x in paths], components=4).distance < 1e-6


def test_a_planted_difference_is_seen_and_grows():
    found = [dsa(trials(), trials(faster(angle), seed=1), delays=2, components=4) for angle in (0.0, 0.1, 0.2, 0.4)]
    distances = [each.distance for each in found]
    assert distances == sorted(distances)
    assert all(3 * each.spread < each.distance for each in found[1:])
    assert distances[0] < distances[1] / 3


def test_the_spread_is_how_far_the_distance_varies():
    many = [dsa(trials(seed=2 * k), trials(faster(0.2), seed=2 * k + 1), 1, 4) for k in range(12)]
    varied = np.std([each.distance for each in many], ddof=1)
    assert 0.5 < np.mean([each.spread for each in many]) / varied < 2


def test_unequal_numbers_of_trials_and_latents():
    wider = [np.c_[x, 0 * x[:, :1]] for x in trials(count=13)]
    found = dsa(trials(), wider, delays=2, components=4)
    assert found.n == 20 * 98 + 13 * 98
    assert found.spread > 0
    assert dsa(trials(count=1), trials(count=1, seed=1), 1).spread is None


@pytest.mark.parametrize("delays", [1, 3])
def test_the_operator_is_ridge_regression_on_white_components(delays):
    x = trials(count=1, bins=300)[0]
    embedded = np.stack([x[i : i + delays].ravel() for i in range(len(x) - delays + 1)])
    white = PCA(5 if delays > 1 else 4, whiten=True).fit(embedded)
    v = white.transform(embedded) * np.sqrt(len(embedded) / (len(embedded) - 1))
    expected = Ridge(alpha=RIDGE * (len(v) - 1), fit_intercept=False).fit(v[:-1], v[1:]).coef_
    scale = np.sqrt(len(embedded) / (len(embedded) - 1)) / np.sqrt(white.explained_variance_)
    found = operator(embedding_moments(x, delays), white.components_.T * scale, len(expected))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_what_is_forgotten_at_once_has_zeros():
    still = [np.c_[x[:, :2], np.zeros((len(x), 2))] for x in trials()]
    moments = embedding_moments(still[0], 1)
    assert operator(moments, np.eye(4)[:, :2], 4)[2:].any() == np.False_
    assert np.isfinite(dsa(trials(), still, delays=1).distance)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="longer than 5 bins"):
        dsa([np.ones((5, 2))], trials())
    with pytest.raises(UserError, match="do not vary"):
        dsa([np.ones((50, 2))], trials())
    with pytest.raises(UserError, match="delays=0"):
        dsa(trials(), trials(), delays=0)
