"""The rotation statistic on trajectories whose rotation, or lack of it, is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from scipy.ndimage import gaussian_filter1d

from lvmzoo.errors import UserError
from lvmzoo.metrics.rotation import rotation

BIN_S = 0.02


def smooth_noise(rng: np.random.Generator, conditions: int, bins: int, latents: int) -> np.ndarray:
    noise = gaussian_filter1d(rng.normal(size=(conditions, bins + 24, latents)), 4, axis=1)[:, 12 : 12 + bins]
    return noise / noise.std()


def turning(frequency_hz: float, conditions: int = 8, bins: int = 40) -> np.ndarray:
    phase = 2 * np.pi * frequency_hz * BIN_S * np.arange(bins) + 2 * np.pi * np.arange(conditions)[:, None] / conditions
    return np.stack([np.cos(phase), np.sin(phase)], axis=-1)


def mixed(rng: np.random.Generator, plane: np.ndarray, latents: int) -> np.ndarray:
    return plane @ np.linalg.qr(rng.normal(size=(latents, 2)))[0].T


@pytest.mark.parametrize("frequency", [0.7, 1.8, 6.0])
def test_a_pure_rotation_is_explained_wholly_and_has_its_frequency(frequency):
    rng = np.random.default_rng(0)
    common = 3 * smooth_noise(rng, 1, 40, 5)  # the same in all conditions: not a matter of this test
    basis = np.linalg.qr(rng.normal(size=(5, 2)))[0]
    found = rotation(turning(frequency) @ basis.T + common, BIN_S)
    assert found.r2 == pytest.approx(1)
    assert found.r2_linear == pytest.approx(1)
    assert found.frequency_hz == pytest.approx(frequency)
    assert found.frequency_spread_hz < 1e-9
    assert found.p < 0.002
    assert found.share == pytest.approx(1)
    np.testing.assert_allclose(found.plane.T @ found.plane, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(found.plane @ found.plane.T, basis @ basis.T, atol=1e-9)
    x, y = found.trajectories[..., 0], found.trajectories[..., 1]
    assert (x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:] > 0).all()  # counterclockwise


@pytest.mark.parametrize("sense", [1, -1])
def test_a_rotation_under_noise_is_found_whatever_its_sense(sense):
    p = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        data = mixed(rng, turning(2.0)[..., ::sense], 8) + 0.5 * smooth_noise(rng, 8, 40, 8)
        p.append(rotation(data, BIN_S, shuffles=400).p)
    assert np.mean(np.array(p) <= 0.05) >= 0.9


def test_little_noise_lowers_the_frequency_by_little():
    rng = np.random.default_rng(0)
    found = rotation(mixed(rng, turning(2.0), 8) + 0.15 * smooth_noise(rng, 8, 40, 8), BIN_S, shuffles=1)
    assert found.frequency_hz == pytest.approx(2.0, rel=0.07)
    assert found.frequency_hz < 2.0
    assert 0 < found.frequency_spread_hz < 0.15


def no_relation(rng: np.random.Generator) -> np.ndarray:
    return smooth_noise(rng, 8, 40, 8)


def two_phases(rng: np.random.Generator) -> np.ndarray:
    """Every condition has its own early and its own late pattern."""
    early, late = (np.exp(-0.5 * ((np.arange(40) - middle) / 5) ** 2)[:, None] for middle in (12, 26))
    patterns = rng.normal(size=(2, 8, 1, 8))
    return early * patterns[0] + late * patterns[1] + 0.2 * smooth_noise(rng, 8, 40, 8)


def straight(rng: np.random.Generator) -> np.ndarray:
    """Out along the direction of the target and back."""
    swing = np.sin(np.pi * np.arange(40) / 40)[:, None]
    return mixed(rng, 3 * swing * turning(0.0), 8) + smooth_noise(rng, 8, 40, 8)


def few_conditions(rng: np.random.Generator) -> np.ndarray:
    return smooth_noise(rng, 4, 40, 8)


@pytest.mark.parametrize("data", [no_relation, two_phases, straight, few_conditions])
def test_without_rotation_p_is_small_by_chance_only(data):
    p = np.array([rotation(data(np.random.default_rng(seed)), BIN_S, 199, seed).p for seed in range(200)])
    assert (p <= 0.05).mean() <= 0.085  # .05, and two standard errors
    assert (p <= 0.2).mean() <= 0.27
    assert 0.3 <= (p <= 0.5).mean() <= 0.62


def test_r2_equals_a_fit_by_a_general_optimizer():
    means = smooth_noise(np.random.default_rng(3), 5, 30, 3)
    centered = means - means.mean(0)
    state = ((centered[:, 1:] + centered[:, :-1]) / 2).reshape(-1, 3)
    change = (np.diff(centered, axis=1) / BIN_S).reshape(-1, 3)

    def residual(upper: np.ndarray) -> np.ndarray:
        skew = np.zeros((3, 3))
        skew[np.triu_indices(3, 1)] = upper
        return (change - state @ (skew - skew.T)).ravel()

    best = scipy.optimize.least_squares(residual, np.zeros(3), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    free = np.linalg.lstsq(state, change)[0]
    found = rotation(means, BIN_S, shuffles=10)
    total = (change**2).sum()
    assert found.r2 == pytest.approx(1 - 2 * best.cost / total, rel=1e-8)
    assert found.r2_linear == pytest.approx(1 - ((change - state @ free) ** 2).sum() / total, rel=1e-10)
    speed = np.hypot.reduce(best.x)  # in three dimensions there is one plane
    assert found.frequency_hz == pytest.approx(np.arctan(speed * BIN_S / 2) / np.pi / BIN_S, rel=1e-6)


def test_a_shuffle_is_what_its_description_says():
    """One shuffle, done to trajectories rather than to sums."""
    means = smooth_noise(np.random.default_rng(4), 6, 60, 4)
    found = rotation(means, BIN_S, shuffles=1, seed=7)
    centered = means - means.mean(0)
    axes = np.linalg.svd(centered.reshape(-1, 4), full_matrices=False)[2].T
    courses = centered @ axes
    orders = np.random.default_rng(7).permuted(np.broadcast_to(np.arange(6), (1, 4, 6)), axis=2)[0]
    dealt = np.stack([courses[order, :, axis] for axis, order in enumerate(orders)], axis=-1)

    def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ((x[:, 1:] + x[:, :-1]) / 2).reshape(-1, 4), np.diff(x, axis=1).reshape(-1, 4) / BIN_S

    wanted, got = (halves(x)[0].T @ halves(x)[0] for x in (courses, dealt))
    root = scipy.linalg.sqrtm(wanted)
    dealt = dealt @ (root @ np.linalg.inv(scipy.linalg.sqrtm(root @ got @ root)) @ root)
    state, change = halves(dealt)
    np.testing.assert_allclose(state.T @ state, wanted, atol=1e-8)
    odd = state.T @ change - change.T @ state
    skew = scipy.linalg.solve_sylvester(state.T @ state, state.T @ state, odd)
    expected = 1 - ((change - state @ skew) ** 2).sum() / (change**2).sum()
    # Signs of the components cancel; their order does not matter to the fit, only to who is dealt what.
    assert found.null[0] == pytest.approx(expected, rel=1e-6)


def test_p_and_its_interval():
    found = rotation(smooth_noise(np.random.default_rng(5), 8, 40, 6), BIN_S, shuffles=500)
    reached = (found.null >= found.r2).sum()
    assert found.p == pytest.approx((1 + reached) / 501)
    low, high = found.p_interval
    assert low < found.p < high
    assert found.null_interval == pytest.approx(tuple(np.percentile(found.null, [2.5, 97.5])))
    sure = rotation(turning(2.0), BIN_S, shuffles=500)
    assert sure.p_interval[0] <= sure.p <= sure.p_interval[1] < 0.02


def test_the_same_seed_gives_the_same_and_axes_of_the_latents_do_not_matter():
    rng = np.random.default_rng(6)
    means = mixed(rng, turning(1.5), 6) + smooth_noise(rng, 8, 40, 6) * [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    first, second = (rotation(means, BIN_S, shuffles=50, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.null, second.null)
    turned = rotation(10 * means @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 3.0, BIN_S, shuffles=50, seed=1)
    assert turned.r2 == pytest.approx(first.r2)
    assert turned.frequency_hz == pytest.approx(first.frequency_hz)
    np.testing.assert_allclose(turned.null, first.null, rtol=1e-6)


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (np.zeros((2, 40, 4)), "There are 2 conditions"),
        (np.zeros((5, 3, 4)), "There are 3 bins"),
        (np.zeros((5, 40, 1)), "There is 1 latent"),
        (np.full((5, 40, 4), np.nan), "not finite"),
        (np.ones((5, 40, 1)) * smooth_noise(np.random.default_rng(0), 1, 40, 4), "alike"),
        (np.arange(3.0)[:, None, None] * np.ones((3, 40, 4)), "independent courses"),
    ],
)
def test_what_cannot_be_judged_is_said(means, said):
    with pytest.raises(UserError, match=said):
        rotation(means, BIN_S)
