"""Preferential subspace identification: the package psid, planted systems, the dissociation, missing samples."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag

from lvmzoo.inference import preferential_filter
from lvmzoo.inference.preferential import Identified
from lvmzoo.inference.preferential_filter import passes
from lvmzoo.inference.preferential_gains import Observer, System
from lvmzoo.inference.preferential_system import fading, usable
from lvmzoo.models.behavior.psid import PSID, PSIDConfig
from lvmzoo.simulate.dissociation import OTHER, RELEVANT, dissociation, dissociation_system
from tests.models import psid_world as world
from tests.models.frozen import make_psid as frozen
from tests.models.psid_world import plane

FROZEN = json.loads(Path(frozen.__file__).with_name("psid.json").read_text())


def predictions(model: PSID, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    test = world.batch([y], [np.full((len(y), 2), np.nan)])
    return model.rates(test)[0].numpy(), model.decode(test)["z"][0].numpy()


@pytest.mark.parametrize("name", ["block", "segments"])
@pytest.mark.parametrize("source", ["frozen", "package"])
def test_it_is_psid(name: str, source: str) -> None:
    """Eigenvalues and held-out one-step predictions equal those of the package."""
    if source == "package":
        pytest.importorskip("PSID")
        expected = frozen.values()[name]
    else:
        expected = FROZEN[name]
    y, z = frozen.case()
    cuts = () if name == "block" else frozen.CUTS
    train = [np.split(values[: frozen.BINS], cuts) for values in (y, z)]
    model = world.fit(world.batch(*train), horizon_bins=frozen.HORIZON)
    ours = np.sort_complex(np.linalg.eigvals(model.system().dynamics.numpy()))
    theirs = np.array([complex(*pair) for pair in expected["eigenvalues"]])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
    activity, behavior = predictions(model, y[frozen.BINS :])
    np.testing.assert_allclose(activity, expected["activity"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(behavior, expected["behavior"], rtol=0, atol=1e-8)


def test_any_partition_into_batches_gives_the_same() -> None:
    y, z = frozen.case()
    parts = [np.split(values[: frozen.BINS], frozen.CUTS) for values in (y, z)]
    whole = world.batch(*parts)
    one_by_one = [
        dataclasses.replace(world.batch([a], [b]), trial_index=torch.tensor([i]))
        for i, (a, b) in enumerate(zip(*parts, strict=True))
    ]
    expected, found = world.fit(whole), world.fit(whole, one_by_one)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_planted_dynamics_are_recovered() -> None:
    planted = world.Planted(0)
    y, z, _ = planted.draw(100_000)
    model = world.fit(world.batch([y], [z]), horizon_bins=10)
    assert world.eigenvalue_error(model.system().dynamics, planted.A) < 0.005
    # The relevant states are those that behavior sees, and the others do not drive them.
    assert world.eigenvalue_error(model.system().dynamics[:2, :2], planted.A[:2, :2]) < 0.005
    assert float(model.system().dynamics[:2, 2:].abs().max()) == 0
    assert set(model.eigenvalues()) == {"relevant", "other"}


@pytest.mark.slow
def test_a_million_samples_tell_the_dynamics_to_a_thousandth() -> None:
    planted = world.Planted(0)
    y, z, _ = planted.draw(1_000_000)
    model = first_pass(world.batch([y], [z]))
    assert world.eigenvalue_error(model.system().dynamics, planted.A) <= 0.001


def resonances() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a system of four states that behavior sees, and of two strong resonances that it has no part in."""
    random = np.random.default_rng(5)
    A = block_diag(plane(0.25, 0.95), plane(0.7, 0.9), plane(1.6, 0.99), plane(2.4, 0.99))
    C = random.normal(size=(12, 8)) * ([1.0] * 4 + [3.0] * 4)
    return A, C, np.concatenate([random.normal(size=(4, 4)), np.zeros((4, 4))], 1)


def test_behavior_is_found_below_strong_resonances_that_it_has_no_part_in() -> None:
    A, C, Cz = resonances()
    random = np.random.default_rng(6)
    x = random.normal(size=(60_000, 8))
    for t in range(1, len(x)):
        x[t] += A @ x[t - 1]
    y = x @ C.T + 0.5 * random.normal(size=(len(x), 12))
    z = x @ Cz.T + 0.3 * random.normal(size=(len(x), 4))
    (y, y_test), (z, z_test) = (np.split(values, [50_000]) for values in (y, z))
    train, test = world.batch([y], [z]), world.batch([y_test], [np.full_like(z_test, np.nan)])
    found = {}
    for latents, relevant in ((4, 4), (4, 0), (8, 4)):
        model = world.fit(train, latents=latents, relevant=relevant, horizon_bins=10)
        found[latents, relevant] = world.r2(z_test, model.decode(test)["z"][0].numpy())
        dynamics = model.system().dynamics[:4, :4]
        if latents == 8:
            assert world.eigenvalue_error(dynamics, A[:4, :4]) < 0.01
        elif not relevant:
            assert world.eigenvalue_error(dynamics, A[:4, :4]) > 0.1
    assert found[4, 4] >= 0.82
    assert found[4, 0] <= 0.1
    # All eight states decode as well as the Kalman predictor of the true system.
    none, (C, Cz) = torch.zeros(8, 0, dtype=torch.float64), map(torch.from_numpy, (C, Cz))
    noise = torch.eye(8, dtype=torch.float64), 0 * C.T, 0.25 * torch.eye(12, dtype=torch.float64)
    true = Identified(torch.from_numpy(A), none, C, C[:, :0], Cz, Cz[:, :0], *noise)
    system = usable(true, torch.ones(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64))
    (passed,) = passes(Observer(system), test.activity, test.valid, test.observed)
    assert found[8, 4] >= 0.99 * world.r2(z_test, (passed.x[:, 0] @ Cz.T).numpy())


def oracle(data: Any) -> Any:
    """Return predictions of behavior by the true system's Kalman predictor."""
    true = dissociation_system()
    as_tensor = torch.from_numpy
    none, identity = torch.zeros(4, 0, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    A, C, Cz = as_tensor(true.dynamics), as_tensor(true.readout), as_tensor(true.behavior)
    found = Identified(A, none, C, none[:2], Cz, none[:2], identity, 0 * C.T, identity[:2, :2])
    system = usable(found, torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    (passed,) = passes(Observer(system), data.activity, data.valid, data.observed)
    return passed.x[:, 0].numpy() @ true.behavior.T


def test_dissociation() -> None:
    """Two latents, if behavior chooses them, decode it as well as the true model; if the activity does, they do not."""
    recording = dissociation(0)
    y, z = (np.asarray(signal.values, float) for signal in (recording.activity, recording.behavior["hand"]))
    train = world.batch([y[:10_000]], [z[:10_000]])
    test = world.batch([y[10_000:]], [z[10_000:]])
    best = world.r2(z[10_000:], oracle(test))
    found = {}
    for latents, relevant in ((2, 2), (2, 0), (4, 2), (4, 0)):
        model = world.fit(train, latents=latents, relevant=relevant, horizon_bins=10)
        found[latents, relevant] = world.r2(z[10_000:], model.decode(test)["z"][0].numpy())
    assert best > 0.3
    assert found[2, 2] > best - 0.01
    assert found[2, 0] < best / 2
    assert found[4, 2] > best - 0.01
    assert found[4, 0] > best - 0.01
    # The standard error of an eigenvalue of 10 000 samples is about .006.
    longer = dissociation(1, 50)
    y, z = (np.asarray(signal.values, float) for signal in (longer.activity, longer.behavior["hand"]))
    model = world.fit(world.batch([y], [z]), horizon_bins=10)
    true = np.diag([RELEVANT, RELEVANT.conjugate(), OTHER, OTHER.conjugate()])
    assert world.eigenvalue_error(model.system().dynamics, true) < 0.005


def test_forecasts_are_the_state_space_prediction() -> None:
    planted = world.Planted(1)
    y, z, _ = planted.draw(4000)
    model = world.fit(world.batch([y], [z]))
    y_test, z_test, _ = planted.draw(300, stream=1)
    test = world.batch([y_test], [z_test])
    s = {name: np.asarray(value) for name, value in model.system()._asdict().items()}
    A, C, P = s["dynamics"], s["readout"], s["predicted"]
    K = (A @ P @ C.T + s["cross"]) @ np.linalg.inv(C @ P @ C.T + s["noise"])
    x = np.zeros((301, 4))
    for t in range(300):
        x[t + 1] = A @ x[t] + K @ (y_test[t] - s["offset"] - C @ x[t])
    for horizon in (1, 2, 7):
        ahead = np.zeros((300, 4))
        ahead[horizon - 1 :] = x[: 301 - horizon] @ np.linalg.matrix_power(A, horizon - 1).T
        expected = ahead @ C.T + s["offset"]
        np.testing.assert_allclose(model.forecast(test, horizon)[0], expected, rtol=0, atol=1e-10)
        ours, exact = world.r2(y_test, model.forecast(test, horizon)[0].numpy()), world.r2(y_test, expected)
        assert ours == pytest.approx(exact, abs=1e-8)
    readout = model.of().system.behavior_readout[:, :4].numpy()
    behavior = x[:298] @ (A @ A).T @ readout.T + model.of().system.behavior_readout[:, 4].numpy()
    np.testing.assert_allclose(model.forecast_behavior(test, 3)["z"][0, 2:], behavior)


def test_modes_that_grow_fade_in_forecasts() -> None:
    """More states than there are may grow; eigenvalues beyond the unit circle are mirrored, the others stay."""
    random = np.random.default_rng(0)
    basis = random.normal(size=(5, 5))
    values = np.array(
        [[0.9, -0.6, 0, 0, 0], [0.6, 0.9, 0, 0, 0], [0, 0, 0.5, 0, 0], [0, 0, 0, -1.2, 0], [0] * 4 + [0.3]]
    )
    grows = torch.from_numpy(basis @ values @ np.linalg.inv(basis))
    eigenvalues = np.linalg.eigvals(values)
    expected = np.where(abs(eigenvalues) > 1, 1 / eigenvalues.conj(), eigenvalues)
    found = np.linalg.eigvals(fading(grows).numpy())
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(expected), atol=1e-12)
    fades = 0.7 * grows
    assert fading(fades) is fades


def test_cross_validation_finds_what_was_planted() -> None:
    """From one pass: two relevant states of four, in a long recording and in trials."""
    planted = world.Planted(2, units=6)
    y, z, _ = planted.draw(12_000)
    for parts, horizon in ((1, None), (120, 5)):
        data = world.batch(np.split(y, parts), np.split(z, parts))
        model = world.fit(data, latents=None, relevant=None, horizon_bins=horizon)
        assert model.of().system.size.tolist() == [4, 2]
        curves = model.curves()
        assert set(curves) == {"relevant", "latents"} | ({"horizon"} if horizon is None else set())
        for name, chosen in (("relevant", 2), ("latents", 4)):
            assert curves[name]["chosen"] == chosen
            explained = dict(zip(curves[name]["candidates"], curves[name]["explained"], strict=True))
            assert explained[chosen] > explained[chosen - 1] + 0.02
        assert world.eigenvalue_error(model.system().dynamics, planted.A) < 0.02
    fixed = world.fit(data, latents=None, relevant=2)
    assert set(fixed.curves()) == {"latents"}


@pytest.mark.parametrize("what", ["samples", "bins"])
def test_a_tenth_of_the_samples_missing_costs_little(what: str) -> None:
    """The error of the eigenvalues at most doubles, in the median over systems; labels are missing, too."""
    errors: dict[str, list[float]] = {"whole": [], "holes": []}
    for seed in range(5):
        planted = world.Planted(seed)
        y, z, _ = planted.draw(8000)
        random = np.random.default_rng(seed)
        holed = y.copy()
        if what == "samples":
            holed[random.random(y.shape) < 0.1] = np.nan
        else:
            holed[random.random(len(y)) < 0.1] = np.nan
        few = np.where(random.random((len(z), 1)) < 0.1, np.nan, z)
        for name, data in (("whole", world.batch([y], [z])), ("holes", world.batch([holed], [few]))):
            model = first_pass(data)
            errors[name].append(world.eigenvalue_error(model.system().dynamics, planted.A))
    assert np.median(errors["holes"]) <= 2 * np.median(errors["whole"])


def test_a_tenth_of_the_samples_of_many_units_missing_costs_little() -> None:
    """So many places that errors of single pairs are larger than what noise leaves of some directions."""
    errors, decoded = np.zeros((3, 2)), np.zeros((3, 2))
    for seed in range(3):
        planted = world.Planted(seed, units=40)
        y, z, _ = planted.draw(3000)
        y_test, z_test, _ = planted.draw(2000, stream=1)
        holed = np.where(np.random.default_rng(seed).random(y.shape) < 0.1, np.nan, y)
        for k, activity in enumerate((y, holed)):
            model = world.fit(world.batch([activity], [z]), horizon_bins=8)
            errors[seed, k] = world.eigenvalue_error(model.system().dynamics, planted.A)
            decoded[seed, k] = world.r2(z_test, model.decode(world.batch([y_test], [z_test]))["z"][0].numpy())
    assert np.median(errors[:, 1]) <= 2 * np.median(errors[:, 0])
    assert (decoded[:, 1] > decoded[:, 0] - 0.02).all()


def first_pass(data: Any) -> PSID:
    """Identify only: the eigenvalues are there after the first pass."""
    model = PSID(PSIDConfig(latents=4, relevant=2, horizon_bins=10, standardize="none"), [data.layout])
    model.prepare([data])
    model.update(model.statistics(data))
    return model


def test_known_inputs_are_told_from_dynamics() -> None:
    planted = world.Planted(3, inputs=2)
    y, z, u = planted.draw(20_000)
    model = world.fit(world.batch([y], [z], [u]), horizon_bins=10)
    system = model.system()
    assert world.eigenvalue_error(system.dynamics, planted.A) < 0.01
    np.testing.assert_allclose(system.feedthrough, planted.D, atol=0.05)
    for lag in range(4):  # the effect on later activity does not depend on the coordinates
        ours = system.readout @ torch.linalg.matrix_power(system.dynamics, lag) @ system.drive
        true = planted.C @ np.linalg.matrix_power(planted.A, lag) @ planted.B
        assert float(((ours.numpy() - true) ** 2).sum() / (true**2).sum()) < 1e-3
    ignorant = world.fit(world.batch([y], [z]), horizon_bins=10)
    assert world.eigenvalue_error(ignorant.system().dynamics, planted.A) > 0.02
    y_test, z_test, u_test = planted.draw(2000, stream=1)
    ours = model.forecast(world.batch([y_test], [z_test], [u_test]), 5)[0].numpy()
    assert (
        world.r2(y_test, ours)
        > world.r2(y_test, ignorant.forecast(world.batch([y_test], [z_test]), 5)[0].numpy()) + 0.05
    )


def test_components_that_keep_everything_change_nothing() -> None:
    planted = world.Planted(4, units=6)
    y, z, _ = planted.draw(3000)
    data = world.batch([y], [z])
    plain, components = world.fit(data), world.fit(data, components=6)
    torch.testing.assert_close(components.rates(data), plain.rates(data), rtol=1e-7, atol=1e-7)
    few = world.fit(data, components=4)
    assert world.eigenvalue_error(few.system().dynamics, planted.A) < 0.05
    hidden = few.rates(data.hide([2]))
    assert world.r2(y[:, 2:3], hidden[0, :, 2:3].numpy()) > 0.3  # from the other units


def test_units_of_measure_of_behavior_do_not_matter() -> None:
    """Where behavior is standardized; the relevant states would be those of the largest numbers otherwise."""
    planted = world.Planted(5)
    y, z, _ = planted.draw(3000)
    models = [world.fit(world.batch([y], [z * scale]), standardize="behavior") for scale in ([1, 1], [1e3, 1e-3])]
    one, other = (model.system().dynamics for model in models)
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def dense(system: System, y: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and covariance of all states given what is observed, and its log-likelihood, as one Gaussian."""
    s = {name: np.asarray(value) for name, value in system._asdict().items()}
    n, p, bins = len(s["dynamics"]), len(s["readout"]), len(y)
    joint = np.block([[s["state_noise"], s["cross"]], [s["cross"].T, s["noise"]]])
    size = n + bins * (n + p)
    sources = np.zeros((size, size))
    sources[:n, :n] = s["predicted"]
    x, activity, state = [], [], np.eye(n, size)
    for t in range(bins):
        at = n + t * (n + p)
        sources[at : at + n + p, at : at + n + p] = joint
        x.append(state)
        activity.append(s["readout"] @ state + np.eye(p, size, at + n))
        state = s["dynamics"] @ state + np.eye(n, size, at)
    X, Y = np.concatenate(x), np.concatenate(activity)[seen.flatten()]
    values = (y - s["offset"]).flatten()[seen.flatten()]
    cov = Y @ sources @ Y.T
    gain = X @ sources @ Y.T @ np.linalg.inv(cov)
    likelihood = -0.5 * (values @ np.linalg.solve(cov, values) + np.linalg.slogdet(2 * np.pi * cov)[1])
    return (gain @ values).reshape(bins, n), X @ sources @ X.T - gain @ Y @ sources @ X.T, float(likelihood)


@pytest.mark.parametrize("what", ["nothing", "a unit", "samples and bins"])
def test_states_and_likelihood_are_those_of_the_joint_gaussian(what: str) -> None:
    planted = world.Planted(6, units=5)
    y, z, _ = planted.draw(2000)
    model = world.fit(world.batch([y], [z]), states="smoother")
    trial = y[:12].copy()
    if what == "a unit":
        trial[:, 1] = np.nan
    elif what == "samples and bins":
        trial[3, 2] = trial[5:7] = trial[9, :3] = np.nan
    test = world.batch([trial, y[20:27]], [z[:12], z[20:27]])
    seen = ~np.isnan(trial)
    mean, covariance, likelihood = dense(model.system(), trial, seen)
    smoothed, of_smoothed = model.posterior(test)
    np.testing.assert_allclose(smoothed[0], mean, rtol=1e-9, atol=1e-9)
    for t in range(12):
        np.testing.assert_allclose(of_smoothed[0, t], covariance[4 * t : 4 * t + 4, 4 * t : 4 * t + 4], atol=1e-9)
    assert float(model.log_likelihood(test)[0]) == pytest.approx(likelihood, abs=1e-8)
    short, _, of_short = dense(model.system(), y[20:27], np.ones((7, 5), bool))
    np.testing.assert_allclose(smoothed[1, :7], short, rtol=1e-9, atol=1e-9)
    assert float(model.log_likelihood(test)[1]) == pytest.approx(of_short, abs=1e-8)
    filtered = model.filtered(test)[0]
    for t in (0, 4, 6, 11):
        upto, _, _ = dense(model.system(), trial[: t + 1], seen[: t + 1])
        np.testing.assert_allclose(filtered[t], upto[-1], rtol=1e-9, atol=1e-9)


def test_steps_give_what_whole_trials_give() -> None:
    planted = world.Planted(7, inputs=1)
    y, z, u = planted.draw(1500)
    model = world.fit(world.batch([y], [z], [u]))
    y[1000:1020][np.random.default_rng(0).random((20, 8)) < 0.2] = np.nan
    test = world.batch([y[1000:1100], y[1200:1300]], [z[:100], z[:100]], [u[1000:1100], u[1200:1300]])
    whole, state = model.filtered(test), model.initial("a", 2)
    for t in range(100):
        state, latents = model.step(state, test.bins(t, t + 1))
        torch.testing.assert_close(latents, whole[:, t], rtol=1e-9, atol=1e-9)
    assert state.covariance is None  # steady again, long after the last missing sample


def test_draws_have_the_moments_of_the_data() -> None:
    planted = world.Planted(8, units=4)
    y, z, _ = planted.draw(20_000)
    model = world.fit(world.batch([y], [z]), horizon_bins=10)
    _, drawn = model.sample("a", 4, 5000, seed=0)
    for lag in (0, 1, 4):
        ours, theirs = (
            sum(np.cov(v[lag:].T, v[: len(v) - lag].T)[:4, 4:] for v in parts) / len(parts)
            for parts in (drawn.numpy(), [y])
        )
        assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


def test_single_missing_samples_bin_by_bin_and_in_stretches_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = world.Planted(9, units=5, inputs=1)
    y, z, u = planted.draw(1500)
    model = world.fit(world.batch([y], [z], [u]), states="smoother")
    holed = y[:80].copy()
    holed[np.random.default_rng(0).random(holed.shape) < 0.2] = np.nan
    test = world.batch([holed, y[100:130]], [z[:80], z[100:130]], [u[:80], u[100:130]])
    found = [*model.posterior(test), model.filtered(test), model.log_likelihood(test)]
    monkeypatch.setattr(preferential_filter, "SCATTERED", 0)
    expected = [*model.posterior(test), model.filtered(test), model.log_likelihood(test)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
