"""The linear dynamical system with count emissions: acceptance experiment A9, and what the model does with counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.count_expectations import CountMoments
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.models.single_region.lds import LDS, LDSConfig

KINDS = ["poisson", "negative_binomial"]


def layout(units: int, session: str = "a", inputs: Mapping[str, int] | None = None) -> Layout:
    ids = tuple(f"{session}{unit}" for unit in range(units))
    return Layout(session, {"region": units}, ids, Observation.COUNTS, 0.02, inputs=inputs or {})


def batch(counts: Tensor, session: str = "a", inputs: Tensor | None = None) -> Batch:
    trials, bins, units = counts.shape
    valid = torch.ones(trials, bins, dtype=torch.bool)
    index = torch.arange(trials)
    known = {} if inputs is None else {"u": inputs}
    where = layout(units, session, {} if inputs is None else {"u": inputs.shape[-1]})
    observed = valid[..., None].expand(counts.shape)
    return Batch(counts, valid, observed, {}, known, index, torch.zeros_like(index), where)


def rows(whole: Batch, selected: list[int]) -> Batch:
    return whole.map(lambda tensor: tensor[selected])


def build(emissions: str, layouts: list[Layout], true: LinearGaussian | None = None, latents: int = 2) -> LDS:
    model = LDS(LDSConfig(latents=latents, emissions=emissions), layouts)
    if true is not None:
        for name, value in true._asdict().items():
            if value is not None:
                getattr(model, name).copy_(value)
    return model


def fit(model: LDS, batches: list[Batch], passes: int) -> list[float]:
    model.prepare(batches)
    objective = []
    for _ in range(passes):
        parts = [model.statistics(part) for part in batches]
        total = CountMoments(*(sum(leaves[1:], leaves[0]) for leaves in zip(*parts, strict=True)))
        objective.append(float(model.update(total)))
    return objective


def planted(units: int = 50, base: float = -3.0, channels: int = 0, overdispersion: float = 0.4) -> LinearGaussian:
    """Return two slow rotations, of modulus .96 and unit variance, that log rates depend on."""
    draw = np.random.default_rng(0)
    A = np.zeros((4, 4))
    for plane, angle in enumerate((0.1, 0.3)):
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        A[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2] = 0.96 * np.array(turn)
    eye = np.eye(4)
    values = [
        A,
        (1 - 0.96**2) * eye,
        np.zeros(4),
        eye,
        0.4 * draw.normal(size=(units, 4)),
        np.full(units, base),
        np.full(units, overdispersion),
    ]
    if channels:
        values += [0.3 * draw.normal(size=(4, channels)), 0.4 * draw.normal(size=(units, channels))]
    return LinearGaussian(*map(torch.from_numpy, values))


def simulate(
    true: LinearGaussian, trials: int, bins: int, emissions: str, inputs: Tensor | None = None, seed: int = 0
) -> tuple[np.ndarray, Tensor]:
    """Draw latents and counts with NumPy alone."""
    draw = np.random.default_rng(seed)
    A, Q, mu, V, C, d, a = (value.numpy() for value in true[:7])
    x = np.zeros((trials, bins, len(mu)))
    x[:, 0] = draw.multivariate_normal(mu, V, trials)
    for t in range(1, bins):
        x[:, t] = x[:, t - 1] @ A.T + draw.multivariate_normal(np.zeros(len(mu)), Q, trials)
        if inputs is not None and true.drive is not None:
            x[:, t] += inputs[:, t - 1].numpy() @ true.drive.numpy().T
    eta = x @ C.T + d
    if inputs is not None and true.feedthrough is not None:
        eta += inputs.numpy() @ true.feedthrough.numpy().T
    rate = np.exp(eta)
    if emissions == "negative_binomial":
        rate = rate * draw.gamma(1 / a, a, rate.shape)
    return x, torch.from_numpy(draw.poisson(rate).astype(np.int16))


def aligned_r2(found: np.ndarray, latents: np.ndarray) -> float:
    """Return R2 of the true latents, in the second half of the trials, from a regression in the first."""
    half = len(found) // 2
    X, Y = (values.reshape(-1, values.shape[-1]) for values in (found[:half], latents[:half]))
    weights = np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y, rcond=None)[0]
    X, Y = (values.reshape(-1, values.shape[-1]) for values in (found[half:], latents[half:]))
    return float(1 - ((Y - np.c_[X, np.ones(len(X))] @ weights) ** 2).sum() / ((Y - Y.mean(0)) ** 2).sum())


def moduli(dynamics: Tensor) -> np.ndarray:
    return np.sort(np.abs(np.linalg.eigvals(dynamics.numpy())))


@pytest.mark.slow
def test_a9_few_spikes_are_enough() -> None:
    """0.07 spikes per bin: moduli within .01, the bound never falls, latents as good as with the true parameters."""
    true = planted()
    latents, counts = simulate(true, 200, 100, "poisson")
    assert 0.05 < float(counts.double().mean()) < 0.09
    model = build("poisson", [layout(50)], latents=4)
    data = batch(counts)
    objective = fit(model, [data], 30)
    assert int((np.diff(objective) < -1e-9 * np.abs(objective[1:])).sum()) == 0
    assert np.abs(moduli(model.dynamics) - 0.96).max() <= 0.01
    oracle = build("poisson", [layout(50)], true, latents=4)
    best = aligned_r2(oracle.latents(data).numpy(), latents)
    assert aligned_r2(model.latents(data).numpy(), latents) >= best - 0.01
    assert best >= 0.75


@pytest.mark.parametrize("emissions", KINDS)
def test_planted_parameters_are_found(emissions: str) -> None:
    true = planted(units=30, base=-1.0)
    latents, counts = simulate(true, 60, 60, emissions)
    model = build(emissions, [layout(30)], latents=4)
    data = batch(counts)
    objective = fit(model, [data], 15)
    assert int((np.diff(objective) < -1e-9 * np.abs(objective[1:])).sum()) == 0
    oracle = build(emissions, [layout(30)], true, latents=4)
    assert objective[-1] > float(oracle.log_likelihood(data).sum()) / (60 * 60)
    assert np.abs(moduli(model.dynamics) - 0.96).max() <= 0.02
    best = aligned_r2(oracle.latents(data).numpy(), latents)
    assert aligned_r2(model.latents(data).numpy(), latents) >= best - 0.02
    if emissions == "negative_binomial":
        assert float(model.noise.median()) == pytest.approx(0.4, abs=0.12)


def test_bursts_of_a_few_units_cost_the_others_no_latent() -> None:
    """Two units burst on their own: Poisson latents come to serve them, overdispersion has room for them."""
    latents, counts = simulate(planted(units=20, base=-0.5), 40, 25, "poisson")
    draw = np.random.default_rng(9)
    active = draw.random((40, 1, 1)) < 0.3
    counts[..., :2] = torch.from_numpy(draw.poisson(30 * draw.gamma(0.15, 1 / 0.15, (40, 25, 2))) * active)
    data = batch(counts)
    found = {}
    for emissions in KINDS:
        model = build(emissions, [layout(20)], latents=4)
        fit(model, [data], 15)
        found[emissions] = aligned_r2(model.latents(data).numpy(), latents)
    assert found["negative_binomial"] > 0.8
    assert found["negative_binomial"] > found["poisson"] + 0.1


def test_known_inputs_are_recovered() -> None:
    true = planted(units=30, base=-0.5, channels=2)
    inputs = torch.from_numpy(np.random.default_rng(3).normal(size=(60, 40, 2)))
    _, counts = simulate(true, 60, 40, "poisson", inputs)
    data = batch(counts, inputs=inputs)
    model = build("poisson", [data.layout], latents=4)
    objective = fit(model, [data], 12)
    assert int((np.diff(objective) < -1e-9 * np.abs(objective[1:])).sum()) == 0
    assert true.feedthrough is not None
    assert true.drive is not None
    assert model.feedthrough is not None
    assert model.drive is not None
    np.testing.assert_allclose(model.feedthrough, true.feedthrough, atol=0.12)
    response = model.readout @ model.drive  # of the log rates one bin later
    assert np.corrcoef(response.ravel(), (true.readout @ true.drive).ravel())[0, 1] > 0.98


def test_many_inputs_that_do_nothing_harm_little() -> None:
    """60 inputs in 300 bins: the regression on their recent past has more regressors than there are bins."""
    _, counts = simulate(planted(units=8, base=0.0), 20, 15, "poisson")
    inputs = torch.from_numpy(np.random.default_rng(3).normal(size=(20, 15, 60)))
    reached = []
    for data in (batch(counts), batch(counts, inputs=inputs)):
        reached.append(fit(build("poisson", [data.layout]), [data], 3)[-1])
    assert reached[1] > reached[0] - 0.5


def test_sessions_share_the_dynamics_and_each_unit_belongs_to_one() -> None:
    true = planted(units=24, base=-0.5)
    _, counts = simulate(true, 40, 40, "negative_binomial")
    layouts = [layout(14), layout(10, "b")]
    batches = [batch(counts[:20, :, :14]), batch(counts[20:, :, 14:], "b")]
    model = build("negative_binomial", layouts, latents=4)
    objective = fit(model, batches, 8)
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[1:])).all()
    assert float(model.statistics(batches[0]).gradient[14:].abs().max()) == 0.0
    assert model.rates(batches[1]).shape == (20, 40, 10)


@pytest.mark.parametrize("emissions", KINDS)
def test_what_the_model_says_of_itself(emissions: str) -> None:
    model = build(emissions, [layout(5)])
    assert model.is_bound
    assert model.positive_rates
    gaussian = build("gaussian", [layout(5)])
    assert not gaussian.is_bound
    assert not gaussian.positive_rates
    continuous = Layout("a", {"region": 2}, ("0", "1"), Observation.CONTINUOUS, 0.02)
    with pytest.raises(UserError, match="not counts"):
        LDS(LDSConfig(emissions=emissions), [continuous])
    with pytest.raises(UserError, match="emissions"):
        LDSConfig(emissions="poison")


@pytest.mark.parametrize("emissions", KINDS)
def test_any_partition_of_the_trials_gives_the_same_parameters(emissions: str) -> None:
    _, counts = simulate(planted(units=12, base=0.0), 12, 20, emissions)
    whole = batch(counts)
    fitted = []
    for parts in ([list(range(12))], [[5], [0, 7, 2], [1, 3, 4, 6, 8, 9], [10, 11]]):
        model = build(emissions, [layout(12)])
        fit(model, [rows(whole, part) for part in parts], 6)
        fitted.append(model.state_dict())
    for name, value in fitted[0].items():
        torch.testing.assert_close(value, fitted[1][name], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("emissions", KINDS)
def test_canonical_form_changes_no_expectation(emissions: str) -> None:
    _, counts = simulate(planted(units=12, base=0.0), 10, 20, emissions)
    data = batch(counts)
    model = build(emissions, [layout(12)], latents=3)
    fit(model, [data], 4)
    before = [model.log_likelihood(data), model.rates(data), model.forecast(data, 3)]
    model.finish()
    for a, b in zip(before, (model.log_likelihood(data), model.rates(data), model.forecast(data, 3)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    gram = model.readout.T @ model.readout
    assert float((gram - torch.diag(gram.diagonal())).abs().max()) < 1e-8 * float(gram.max())


def test_forecast_is_the_mean_of_what_follows() -> None:
    """Calibration with the true parameters: forecasts explain counts ahead, without bias, less the farther ahead."""
    true = planted(units=20, base=0.0)
    _, counts = simulate(true, 200, 30, "poisson", seed=5)
    data = batch(counts)
    model = build("poisson", [layout(20)], true, latents=4)
    errors = []
    for horizon in (1, 3, 8):
        ahead = model.forecast(data, horizon)
        y = counts.double()
        assert float(ahead.mean() / y.mean()) == pytest.approx(1.0, abs=0.05)
        errors.append(float((ahead - y * ahead.clamp(min=1e-9).log()).mean()))
    flat = float((y.mean() - y * y.mean().log()).mean())
    assert errors[0] < errors[1] < errors[2] < flat
    first = torch.exp(true.offset + 0.5 * true.readout.square().sum(1))
    torch.testing.assert_close(ahead[:, 0], first.expand(200, -1))


@pytest.mark.parametrize("emissions", KINDS)
def test_awkward_counts_give_finite_results(emissions: str) -> None:
    draw = np.random.default_rng(2)
    ordinary = draw.poisson(1.0, (6, 10, 6))
    silent, huge, doubled = ordinary.copy(), ordinary.copy(), ordinary.copy()
    silent[..., 2] = 0
    silent[..., 4] = 0
    silent[0, 0, 4] = 1
    huge[3, 4, 1] = 100_000
    doubled[..., 1] = doubled[..., 0]
    for counts in (silent, huge, doubled, ordinary[:1], ordinary[:, :1], np.zeros_like(ordinary), ordinary[..., :1]):
        data = batch(torch.from_numpy(counts))
        model = build(emissions, [layout(counts.shape[-1])], latents=3)
        objective = fit(model, [data], 5)
        assert np.isfinite(objective).all()
        assert (np.diff(objective) >= -1e-9 * np.abs(objective[1:])).all()
        model.finish()
        for value in (model.latents(data), model.rates(data), model.forecast(data, 2), model.filtered(data)):
            assert bool(torch.isfinite(value).all())
        assert float(model.rates(data).min()) > 0.0


def test_a_real_recording(shared_data: Path) -> None:
    """Monkey motor cortex, 174 units, every sixth trial left out: EM never falls, and beats constant rates."""
    stored = np.load(shared_data / "m1_reach_100ms.npz")
    lengths = stored["trial_length_bins"]
    longest = int(lengths.max())
    counts = np.zeros((len(lengths), longest, stored["counts"].shape[1]), np.uint8)
    for trial, values in zip(counts, np.split(stored["counts"], np.cumsum(lengths)[:-1]), strict=True):
        trial[: len(values)] = values
    whole = batch(torch.from_numpy(counts))
    whole.valid[torch.arange(longest) >= torch.from_numpy(lengths)[:, None]] = False
    test = list(range(0, len(lengths), 6))
    training, held_out = rows(whole, [i for i in range(len(lengths)) if i not in test]), rows(whole, test)
    model = build("poisson", [layout(174)], latents=8)
    objective = fit(model, [training], 4)
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[1:])).all()
    y, seen = held_out.activity.double(), held_out.valid
    mean = training.activity.double()[training.valid].mean(0).clamp(min=1e-3)
    flat = (y * mean.log() - mean - torch.lgamma(y + 1)).sum(-1)[seen].sum()
    assert float(model.log_likelihood(held_out).sum()) > float(flat)
