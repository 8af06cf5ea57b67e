"""Each simulator is what it says: its statistics against its definition."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from lvmzoo.batch import Observation
from lvmzoo.config import DataConfig
from lvmzoo.data.load import prepare
from lvmzoo.errors import UserError
from lvmzoo.metrics.baselines import principal_components
from lvmzoo.metrics.latent_r2 import LatentR2
from lvmzoo.models.single_region.lds import LDS, LDSConfig
from lvmzoo.simulate import get, simulators
from lvmzoo.simulate.lds import dynamics_matrix, lds
from lvmzoo.simulate.lorenz import integrate, lorenz
from lvmzoo.simulate.planar import (
    SPIRAL_SPAN,
    VAN_DER_POL_SPAN,
    spiral,
    spiral_field,
    van_der_pol,
    van_der_pol_field,
)
from lvmzoo.simulate.reach import LATENTS, reach
from lvmzoo.simulate.spikes import poisson_spikes, smooth_noise, spikes_in_bins
from lvmzoo.simulate.two_regions import two_regions

SMALL = {
    "lds": {"trials": 6, "units": 7},
    "two_regions": {"trials": 5, "units": 6},
    "regions": {"regions": 3, "trials": 6, "units": 5},
    "lorenz": {"conditions": 4, "trials": 2, "units": 5},
    "reach": {"trials": 8, "pmd_units": 6, "m1_units": 4},
    "spiral": {"trials": 6, "units": 5},
    "van_der_pol": {"trials": 6, "units": 5},
    "manifolds": {"bins": 300, "units": 5},
    "movie": {"repeats": 5, "units": 6, "movie_s": 3.0},
}

SIGNALS = ("dissociation",)  # those without spikes have tests of their own


def counts_of(recording, width_s):
    edges = np.arange(0, recording.stop_s + width_s / 2, width_s)
    return np.stack([np.histogram(recording.activity.unit(i), edges)[0] for i in range(recording.n_units)], axis=1)


def test_names_and_the_nearest_one():
    assert list(simulators()) == [*SMALL, *SIGNALS]
    with pytest.raises(UserError, match="Did you mean 'reach'"):
        get("reech")


@pytest.mark.parametrize("name", SMALL)
def test_equal_seeds_give_equal_recordings_and_others_do_not(name):
    one, same, other = (get(name)(seed=seed, **SMALL[name]) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.activity.times, same.activity.times)
    np.testing.assert_array_equal(one.truth["latents"].values, same.truth["latents"].values)
    assert not np.array_equal(one.truth["latents"].values, other.truth["latents"].values)


@pytest.mark.parametrize("name", SMALL)
def test_rates_are_those_of_the_spikes(name):
    recording = get(name)(seed=1)
    rates = np.asarray(recording.truth["rates"].values, dtype=float)
    counts = np.diff(recording.activity.offsets)
    expected = rates.mean(0) * recording.stop_s
    assert np.abs((counts - expected) / np.sqrt(expected)).max() < 5
    # Also bin by bin: what the rates leave over is Poisson noise.
    width = 1 / recording.truth["rates"].rate_hz
    binned, mean = counts_of(recording, width)[: len(rates)], rates * width
    assert ((binned - mean) ** 2).sum() / mean.sum() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("name", SMALL)
def test_a_run_can_use_it(name):
    recording = get(name)(seed=0, **SMALL[name])
    (session,) = prepare([recording], DataConfig(simulator=name))
    assert session.train.truth["latents"].shape[1] == recording.truth["latents"].channels
    assert {"latents", "rates"} <= set(session.test.truth)
    first = inspect.signature(get(name)).parameters
    assert next(iter(first)) == "seed"
    assert all(parameter.default is not inspect.Parameter.empty for parameter in first.values())


def test_poisson_spikes_follow_their_rates():
    random = np.random.default_rng(0)
    rates = np.tile(np.array([[5.0, 50.0], [20.0, 0.0]]), (20000, 1))
    trains = poisson_spikes(rates, 0.01, random)
    step = [np.floor(train * 100 + 1e-6) % 2 for train in trains]
    assert (step[0] == 0).mean() == pytest.approx(0.2, abs=0.01)
    assert (step[1] == 0).all()
    assert len(trains[1]) == pytest.approx(50 * 200, rel=0.04)
    intervals = np.diff(poisson_spikes(np.full((40000, 1), 30.0), 0.01, random)[0])
    assert intervals.std() / intervals.mean() == pytest.approx(1.0, abs=0.03)


def test_spikes_in_bins_come_back_as_the_same_counts():
    random = np.random.default_rng(0)
    counts = random.poisson(0.7, (500, 4))
    edges = 0.02 * np.arange(501)
    for unit, train in enumerate(spikes_in_bins(counts, 0.02, random)):
        np.testing.assert_array_equal(np.histogram(train, edges)[0], counts[:, unit])


def test_smooth_noise_has_the_covariance_of_its_gaussian_process():
    noise = smooth_noise(200_000, 1, 12.0, np.random.default_rng(0))[:, 0]
    for lag in (0, 6, 12, 24):
        assert (noise[: len(noise) - lag] * noise[lag:]).mean() == pytest.approx(np.exp(-(lag**2) / 288), abs=0.04)


def test_lds_moves_as_its_dynamics_say():
    recording = lds(seed=5, trials=400, latents=3)
    x = np.asarray(recording.truth["latents"].values, dtype=float).reshape(400, 100, 3)
    before, after = x[:, :-1].reshape(-1, 3), x[:, 1:].reshape(-1, 3)
    fitted = np.linalg.lstsq(before, after, rcond=None)[0].T
    np.testing.assert_allclose(fitted, dynamics_matrix(3, np.random.default_rng(5)), atol=0.01)
    np.testing.assert_allclose(np.cov(x[:, 50].T), np.eye(3), atol=0.25)


def test_gaussian_lds_has_noise_of_unit_variance():
    recording = lds(observation="gaussian", trials=50)
    assert recording.observation is Observation.CONTINUOUS
    residual = np.asarray(recording.activity.values) - np.asarray(recording.truth["rates"].values)
    assert residual.std() == pytest.approx(1.0, abs=0.02)
    (session,) = prepare([recording], DataConfig(simulator="lds"))
    np.testing.assert_allclose(session.train.activity[:100], recording.activity.values[:100], atol=1e-5)
    with pytest.raises(UserError, match="Did you mean 'gaussian'"):
        lds(observation="gausian")


@pytest.mark.parametrize("delay_s", [0.03, -0.05])
def test_the_delay_between_two_regions_is_in_the_spikes(delay_s):
    recording = two_regions(seed=1, delay_s=delay_s, trials=300, within=1, across=1)
    counts = counts_of(recording, 0.005).astype(float)
    latents = np.asarray(recording.truth["latents"].values)[::5]
    a, b = counts[:, :40] - counts[:, :40].mean(0), counts[:, 40:] - counts[:, 40:].mean(0)
    # Read the shared latent out of each region's spikes, then see by how much the second trails.
    in_a = a @ np.linalg.lstsq(a, latents[: len(a), 0], rcond=None)[0]
    in_b = b @ np.linalg.lstsq(b, latents[: len(b), 1], rcond=None)[0]
    lags = np.arange(-20, 21)
    profile = [(in_a[40:-40] * in_b[40 + lag : len(in_b) - 40 + lag]).mean() for lag in lags]
    assert lags[int(np.argmax(profile))] * 0.005 == pytest.approx(delay_s, abs=0.0051)


def test_what_regions_share_is_the_same_but_for_the_delay():
    recording = two_regions(trials=5, delay_s=0.03)
    latents = np.asarray(recording.truth["latents"].values)
    np.testing.assert_array_equal(latents[:-30, :2], latents[30:, 2:4])
    assert list(recording.units["region"]) == ["A"] * 40 + ["B"] * 40


def test_lorenz_steps_are_those_of_an_adaptive_solver():
    state = np.array([[1.0, 2.0, 20.0], [-8.0, -3.0, 30.0]])
    for start in state:
        exact = solve_ivp(
            lambda _, s: [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]],
            (0, 0.5),
            start,
            rtol=1e-11,
            atol=1e-11,
        ).y[:, -1]
        np.testing.assert_allclose(integrate(start[None], 0.002, 250)[-1, 0], exact, atol=1e-5)


def test_lorenz_is_on_the_attractor():
    recording = lorenz(trials=1)
    assert (recording.truth["latents"].channels, recording.n_units) == (3, 30)
    assert len(set(recording.trials["condition"])) == 65
    latents = np.asarray(recording.truth["latents"].values)
    # Undo the scaling by what is known of the attractor: means 0, 0, 23.5; standard deviations 7.9, 9.0, 8.6.
    x, y, z = (latents * [7.92, 9.0, 8.62] + [0, 0, 23.55]).T
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(0.88, abs=0.05)
    assert z.min() > -1
    assert z.max() < 50
    assert (x**2 + y**2 + (z - 38) ** 2).max() < 40**2  # the sphere that traps all orbits has radius 39.1
    assert 0.2 < (x > 0).mean() < 0.8  # both lobes


def test_trials_of_a_lorenz_condition_share_their_latents():
    recording = lorenz(conditions=3, trials=3)
    latents = np.asarray(recording.truth["latents"].values).reshape(9, 100, 3)
    for condition in range(3):
        rows = np.flatnonzero(recording.trials["condition"] == condition)
        assert len(rows) == 3
        np.testing.assert_array_equal(latents[rows[0]], latents[rows[1]])


@pytest.mark.parametrize(
    ("generator", "field", "span", "slope"),
    [
        (
            spiral,
            spiral_field,
            SPIRAL_SPAN,
            lambda _, s: [-0.1 * s[0] ** 3 + 2 * s[1] ** 3, -2 * s[0] ** 3 - 0.1 * s[1] ** 3],
        ),
        (van_der_pol, van_der_pol_field, VAN_DER_POL_SPAN, lambda _, s: [s[1], (1 - s[0] ** 2) * s[1] - s[0]]),
    ],
)
def test_planar_systems_move_as_an_adaptive_solver_says(generator, field, span, slope):
    latents = np.asarray(generator(trials=3, units=2).truth["latents"].values).reshape(3, 100, 2)
    for path in latents:
        times = span / 100 * np.arange(100)
        exact = solve_ivp(slope, (0, times[-1]), path[0], t_eval=times, rtol=1e-9, atol=1e-9).y.T
        np.testing.assert_allclose(path, exact, atol=1e-3)
        np.testing.assert_allclose(field(path), np.stack([slope(0, s) for s in path]), rtol=1e-5, atol=1e-5)


def test_the_spiral_closes_in_and_the_oscillator_joins_its_cycle():
    inward = np.hypot(*np.asarray(spiral(trials=50, units=2).truth["latents"].values).T).reshape(50, 100)
    assert (inward[:, -1] < 0.95 * inward[:, 0]).all()
    path = np.asarray(van_der_pol(trials=50, units=2).truth["latents"].values).reshape(50, 100, 2)
    assert np.ptp(path[:, :5, 0]) > 4.5  # starts are everywhere
    largest = path[:, 30:, 0].max(1)  # the cycle reaches x = 2.009
    assert np.abs(largest - 2.009).max() < 0.3
    assert np.median(np.abs(largest - 2.009)) < 0.01


@pytest.fixture(scope="module")
def session():
    return reach(seed=0)


def test_reach_has_the_promised_size(session):
    rates = np.diff(session.activity.offsets) / session.stop_s
    assert session.n_units >= 60
    assert set(session.units["region"]) == {"PMd", "M1"}
    assert rates.min() > 5
    assert rates.max() < 15
    assert len(session.trials) == 200
    assert session.trials["target"].value_counts().eq(25).all()
    length = session.trials["stop_s"] - session.trials["start_s"]
    assert 0.8 < length.min() < length.max() < 1.4
    assert length.round(3).nunique() > 50  # ragged


def test_events_of_a_reach_come_in_order(session):
    columns = ["start_s", "target_on_s", "go_cue_s", "movement_on_s", "stop_s"]
    assert (np.diff(session.trials[columns].to_numpy(), axis=1) > 0.05).all()
    assert (session.trials["start_s"].to_numpy()[1:] > session.trials["stop_s"].to_numpy()[:-1]).all()


def test_the_hand_goes_to_the_target_and_back(session):
    position, velocity = session.behavior["hand_position"], session.behavior["hand_velocity"]
    times = position.times()
    np.testing.assert_allclose(
        np.gradient(position.values[:, 0], times)[1000:1200], velocity.values[1000:1200, 0], atol=0.05
    )
    end = position.values[np.searchsorted(times, session.trials["stop_s"])]
    angle = np.arctan2(end[:, 1], end[:, 0])
    error = np.angle(np.exp(1j * (angle - session.trials["target_angle"].to_numpy())))
    assert np.abs(error).max() < 0.5
    assert np.hypot(*end.T).mean() == pytest.approx(0.08, abs=0.005)
    begin = position.values[np.searchsorted(times, session.trials["start_s"])]
    assert np.hypot(*begin.T).max() < 0.01
    speed = np.hypot(*velocity.values[np.searchsorted(times, session.trials["go_cue_s"] - 0.05)].T)
    assert speed.mean() < 0.05 * np.hypot(*velocity.values.T).max()


def test_reach_latents_depend_on_the_target_and_vary_between_trials(session):
    truth = session.truth["latents"]
    assert truth.description == ", ".join(LATENTS)
    step = np.searchsorted(truth.times(), session.trials["movement_on_s"])
    values = np.stack([truth.values[i - 30 : i + 40] for i in step])
    target = session.trials["target"].to_numpy()
    mean = np.stack([values[target == k].mean(0) for k in range(8)])
    share = 1 - ((values - mean[target]) ** 2).sum((0, 1)) / ((values - values.mean((0, 1))) ** 2).sum((0, 1))
    assert (share > 0.5).all()
    assert (share < 0.95).all()


def test_an_lds_can_recover_the_latents_of_reaches(session):
    """What `make train` shows: Recovery R2 on held-out trials of at least .9, above PCA on smoothed counts."""
    (prepared,) = prepare([session], DataConfig(simulator="reach", bin_width_s=0.02))
    model = LDS(LDSConfig(latents=8), [prepared.layout])
    batch = prepared.train.batch()
    model.prepare([batch])
    for _ in range(20):
        model.update(model.statistics(batch))
    from lvmzoo.metrics import Evaluation

    ours = LatentR2()(Evaluation(model, prepared))[0]
    baseline = LatentR2()(principal_components(prepared, 8)[0])[0]
    assert ours.metric == baseline.metric == "latent_r2"
    assert ours.value > 0.915
    assert 0.8 < baseline.value < ours.value
