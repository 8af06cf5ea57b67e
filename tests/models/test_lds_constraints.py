"""Constraints on the linear dynamical system: kept to the last bit, with an exact M-step and a rising likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.errors import UserError
from lvmzoo.estimator import Estimator, load
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments
from lvmzoo.inference.maximization import Constraints, maximize
from lvmzoo.models.single_region.lds import LDSConfig
from tests.inference.dense import Dense, draw_activity, random_model
from tests.models import lds_world as world


def data_of(true: LinearGaussian, trials: int = 30, bins: int = 20, channels: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(trials, bins, channels, generator=generator).double() if channels else None
    lengths = [bins] * (trials - 5) + [7] * 5
    return world.batch(draw_activity(true, trials, bins, inputs=inputs), lengths, inputs=inputs)


CASES = [{"dynamics": "diagonal"}, {"fixed": ["dynamics"]}, {"fixed": ["readout"]}, {"fixed": ["dynamics", "readout"]}]


@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("config", CASES)
def test_likelihood_rises_and_the_constraint_holds(config: dict, channels: int) -> None:
    data = data_of(random_model(3, 10, seed=1, channels=channels), channels=channels)
    model = world.build(data, 3, **config)
    model.prepare([data])
    start = {name: value.clone() for name, value in model.state_dict().items()}
    assert world.rises(world.fit(model, [data], 25, prepare=False))
    likelihood = model.log_likelihood(data)
    model.finish()
    np.testing.assert_allclose(model.log_likelihood(data), likelihood, rtol=1e-10)
    for name in config.get("fixed", []):
        assert torch.equal(getattr(model, name), start[name])
    if config.get("dynamics") == "diagonal":
        for matrix in (model.dynamics, model.dynamics_noise):
            assert torch.equal(matrix, torch.diag(matrix.diagonal()))
        np.testing.assert_allclose(model.readout.norm(dim=0), 1.0, atol=1e-10)
        assert (model.latent_moment.diagonal().diff() <= 0).all()
    kept = {name for name in start if torch.equal(getattr(model, name), start[name])}
    assert kept - {"input_mean"} == set(config.get("fixed", []))


def free(config: str) -> tuple[Constraints, Callable[[LinearGaussian], list[Tensor]]]:
    """Return constraints, and the parameters that they leave free."""
    if config == "diagonal":
        return Constraints(diagonal=True), lambda p: [p.dynamics.diagonal(), p.drive, p.dynamics_noise.diagonal().log()]
    if config == "dynamics":
        return Constraints(dynamics=True), lambda p: [p.drive, torch.linalg.cholesky(p.dynamics_noise)]
    return Constraints(readout=True), lambda p: [p.feedthrough, p.offset, p.noise.log()]


def expected_likelihood(config: str, values: list[Tensor], old: LinearGaussian, m: Moments) -> Tensor:
    """Return the part of the expected log-likelihood that depends on what is free, term by term."""
    if config == "readout":
        D, d, log_noise = values
        S = torch.cat([old.readout, D - old.feedthrough, (d - old.offset)[:, None]], 1)
        error = m.squares - 2 * (S * m.activity).sum(1) + torch.einsum("ni,nij,nj->n", S, m.readout, S)
        return -0.5 * (m.readout[:, -1, -1] * log_noise + error / log_noise.exp()).sum()
    if config == "diagonal":
        a, B, log_q = values
        A, Q = torch.diag(a), torch.diag(log_q.exp())
    else:
        (B, root), A = values, old.dynamics
        Q = root.tril() @ root.tril().T
    AB = torch.cat([A, B], 1)
    S = m.after - AB @ m.cross.T - m.cross @ AB.T + AB @ m.before @ AB.T
    return -0.5 * (m.transitions * torch.logdet(Q) + torch.trace(torch.linalg.solve(Q, S)))


@pytest.mark.parametrize("config", ["diagonal", "dynamics", "readout"])
def test_the_m_step_is_the_maximum(config: str) -> None:
    """Against a numerical optimizer that starts elsewhere, with inputs, whose effect is free in all three."""
    old = random_model(3, 4, seed=2, channels=2)
    if config == "diagonal":
        old = old._replace(
            dynamics=torch.diag(old.dynamics.diagonal()), dynamics_noise=torch.diag(old.dynamics_noise.diagonal())
        )
    data = data_of(random_model(3, 4, seed=1, channels=2), channels=2)
    moments = world.build(data, 3, old).statistics(data)
    constraints, pick = free(config)
    ours = pick(maximize(old, moments, [(slice(None), False)], constraints))
    shapes = [value.shape for value in ours]

    def negative(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(flat).requires_grad_()
        parts = [part.view(shape) for part, shape in zip(x.split([s.numel() for s in shapes]), shapes, strict=True)]
        value = -expected_likelihood(config, parts, old, moments)
        value.backward()
        return float(value), x.grad.numpy()

    start = np.concatenate([value.flatten().numpy() for value in pick(old)])
    best = minimize(
        negative, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-9}
    )
    flat = np.concatenate([value.flatten().numpy() for value in ours])
    value, gradient = negative(flat)
    assert value <= best.fun + 1e-7 * abs(best.fun)
    assert np.abs(gradient).max() < 1e-6 * abs(value)
    np.testing.assert_allclose(flat, best.x, atol=2e-3)


@pytest.mark.parametrize("pattern", ["units", "bins", "scattered"])
def test_the_m_step_with_missing_samples_is_that_of_the_joint_normal(pattern: str) -> None:
    old, channels = random_model(2, 5, seed=2, channels=2), 2
    data = data_of(random_model(2, 5, seed=1, channels=2), 12, 9, channels)
    generator = torch.Generator().manual_seed(1)
    observed = data.observed.clone()
    if pattern == "units":
        observed[..., 3] = False
        observed[:4, :, 1] = False
    elif pattern == "bins":
        observed[torch.rand(12, 9, generator=generator) < 0.3] = False
    else:
        observed &= torch.rand(12, 9, 5, generator=generator) < 0.7
    data = dataclasses.replace(data, observed=observed, activity=data.activity.masked_fill(~observed, torch.nan))
    known = torch.cat(list(data.inputs.values()), -1).double().numpy()
    model = world.build(data, 2, old)
    sums: dict[str, np.ndarray] = {}
    lengths = data.valid.sum(1).tolist()
    for i, bins in enumerate(lengths):
        shown = observed[i, :bins].numpy()
        seen = np.where(shown, data.activity[i, :bins], 0.0)
        for name, value in Dense(old, bins, known[i]).moments(seen, shown).items():
            sums[name] = sums.get(name, 0) + value
    moments = model.statistics(data)
    n = len(lengths)
    A = np.linalg.solve(sums["before"], sums["cross"].T).T
    Q = (sums["after"] - A @ sums["cross"].T - sums["cross"] @ A.T + A @ sums["before"] @ A.T) / (sum(lengths) - n)
    mean = sums["initial_sum"] / n
    expected = {
        "dynamics": A[:, :2],
        "drive": A[:, 2:],
        "dynamics_noise": Q,
        "initial_mean": mean,
        "initial_covariance": sums["initial_moment"] / n - np.outer(mean, mean),
    }
    C, D, d, r = (value.numpy().copy() for value in (old.readout, old.feedthrough, old.offset, old.noise))
    for unit in range(5):
        samples = sums["readout"][unit, -1, -1]
        if not samples:
            continue
        s = np.linalg.solve(sums["readout"][unit], sums["activity"][unit])
        C[unit], D[unit], d[unit] = s[:2], D[unit] + s[2:4], d[unit] + s[4]
        r[unit] = (sums["squares"][unit] - s @ sums["activity"][unit]) / samples
    expected |= {"readout": C, "feedthrough": D, "offset": d, "noise": r}
    ours = maximize(old, moments, [(slice(None), False)])._asdict()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-9, err_msg=name)


def test_independent_latents_are_recovered() -> None:
    true = random_model(3, 25, seed=4)
    a = torch.tensor([0.97, 0.8, 0.4], dtype=torch.float64)
    true = true._replace(dynamics=torch.diag(a), dynamics_noise=torch.diag(1 - a**2))
    data = world.batch(draw_activity(true, 150, 60))
    model = world.build(data, 3, dynamics="diagonal")
    assert world.rises(world.fit(model, [data], 80))
    np.testing.assert_allclose(model.dynamics.diagonal().sort(descending=True)[0], a, atol=0.02)


@pytest.mark.parametrize("name", ["dynamics", "readout"])
def test_given_values_can_be_kept(name: str) -> None:
    """Those of the planted system, in any coordinates: the rest is soon as good as a fit of everything."""
    true = world.rotations(4, 20, seed=0)
    _, y = world.build(world.batch(torch.zeros(1, 2, 20)), 4, true).sample("a", 80, 60, seed=1)
    data = world.batch(y)
    T = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = T @ true.dynamics @ torch.linalg.inv(T) if name == "dynamics" else true.readout @ torch.linalg.inv(T)
    model = world.build(data, 4, fixed=[name], given={name: given.tolist()})
    trace = world.fit(model, [data], 15)
    assert world.rises(trace)
    model.finish()
    assert torch.equal(getattr(model, name), given)
    everything = world.fit(world.build(data, 4), [data], 40)[-1]
    assert everything - 0.03 < trace[-1] < everything
    assert everything - trace[0] < 3


def test_given_values_must_fit() -> None:
    data = data_of(random_model(2, 5, seed=1))
    with pytest.raises(UserError, match=r"model.given.readout has the shape \(4, 2\)"):
        world.fit(world.build(data, 2, given={"readout": [[1.0, 0.0]] * 4}), [data], 1)
    with pytest.raises(UserError, match="is no matrix"):
        world.fit(world.build(data, 2, given={"dynamics": [[0.9, 0.1], [0.0]]}), [data], 1)
    with pytest.raises(UserError, match="missing or infinite"):
        world.fit(world.build(data, 2, given={"readout": [[1.0, float("nan")]] * 5}), [data], 1)
    with pytest.raises(UserError, match="not diagonal"):
        world.fit(world.build(data, 2, dynamics="diagonal", given={"dynamics": [[0.9, 0.1], [0, 0.9]]}), [data], 1)


def test_arrays_can_be_given_and_saved(tmp_path: Path) -> None:
    A = np.array([[0.9, 0.2], [-0.2, 0.9]])
    counts = np.random.default_rng(0).poisson(1.0, (10, 20, 5))
    model = Estimator("lds", latents=2, fixed=["dynamics"], given={"dynamics": A}, trainer={"max_epochs": 2})
    latents = model.fit(counts).transform(counts)
    model.save(tmp_path)
    np.testing.assert_array_equal(load(tmp_path).transform(counts), latents)
    np.testing.assert_array_equal(load(tmp_path).run_.model.dynamics, A)


def test_latents_that_no_unit_shows_keep_their_scale() -> None:
    data = data_of(random_model(2, 5, seed=1))
    model = world.build(data, 2, given={"readout": [[0.0, 0.0]] * 5})
    world.fit(model, [data], 3)
    model.finish()
    np.testing.assert_allclose(model.latent_moment, torch.eye(2), atol=1e-8)


def test_independent_latents_of_a_given_readout() -> None:
    data = data_of(random_model(3, 10, seed=1))
    given = random_model(3, 10, seed=1).readout
    model = world.build(data, 3, dynamics="diagonal", fixed=["readout"], given={"readout": given.tolist()})
    assert world.rises(world.fit(model, [data], 25))
    assert torch.equal(model.readout, given)
    assert torch.equal(model.dynamics, torch.diag(model.dynamics.diagonal()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dynamics": "diagnal"}, "Did you mean 'diagonal'"),
        ({"fixed": ["offset"]}, "model.fixed"),
        ({"given": {"noise": [1.0]}}, "model.given"),
        ({"initialization": "pca"}, "subspace"),
    ],
)
def test_choices_that_there_are_not(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LDSConfig(**config)
