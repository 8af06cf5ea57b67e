"""What is true of the linear dynamical system: the acceptance experiments A1 to A8, and its capabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments
from lvmzoo.models.single_region.lds import LDS, LDSConfig
from tests.inference.dense import Dense, draw_activity, random_model


def layout(units: int, session: str = "a", held_out: tuple[int, ...] = ()) -> Layout:
    ids = tuple(f"{session}{unit}" for unit in range(units))
    return Layout(session, {"region": units}, ids, Observation.CONTINUOUS, 0.02, held_out=held_out)


def batch(activity: Tensor, lengths: Sequence[int] | None = None, session: str = "a", first: int = 0) -> Batch:
    """Return trials; bins beyond a trial's length hold garbage."""
    trials, bins, units = activity.shape
    valid = torch.ones(trials, bins, dtype=torch.bool)
    for i, length in enumerate(lengths or []):
        valid[i, length:] = False
    if activity.is_floating_point():
        activity = torch.where(valid[..., None], activity, torch.nan)
    index = torch.arange(first, first + trials)
    observed = valid[..., None].expand(activity.shape)
    return Batch(activity, valid, observed, {}, {}, index, torch.zeros_like(index), layout(units, session))


def rows(whole: Batch, selected: slice) -> Batch:
    return whole.map(lambda tensor: tensor[selected])


def total(model: LDS, batches: Sequence[Batch]) -> Moments:
    parts = [model.statistics(part) for part in batches]
    return Moments(*(sum(leaves[1:], leaves[0]) for leaves in zip(*parts, strict=True)))


def fit(model: LDS, batches: Sequence[Batch], passes: int, prepare: bool = True) -> list[float]:
    if prepare:
        model.prepare(batches)
    return [float(model.update(total(model, batches))) for _ in range(passes)]


def build(units: int, latents: int = 2, true: LinearGaussian | None = None) -> LDS:
    model = LDS(LDSConfig(latents=latents), [layout(units)])
    if true is not None:
        for name, value in true._asdict().items():
            if value is not None:
                getattr(model, name).copy_(value)
    return model


def parameters(model: LDS) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def simulation(trials: int, bins: int, units: int, latents: int, seed: int) -> LinearGaussian:
    """Return planted parameters: slow rotations, unit latent variance, several signal-to-noise ratios."""
    draw = np.random.default_rng(seed)
    A = np.zeros((latents, latents))
    for k in range(latents // 2):
        angle, radius = draw.uniform(0.05, 0.5), draw.uniform(0.9, 0.98)
        block = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = radius * np.array(block)
    eye = np.eye(latents)
    values = (
        A,
        eye - A @ A.T,
        np.zeros(latents),
        eye,
        draw.normal(size=(units, latents)) * 0.5,
        draw.normal(size=units),
        draw.uniform(0.5, 1.5, size=units),
    )
    return LinearGaussian(*(torch.from_numpy(value) for value in values))


def test_gradient_of_the_likelihood_is_that_of_the_expected_one() -> None:
    """A2, Fisher's identity, with the likelihood from the joint covariance by automatic differentiation."""
    true, point = random_model(seed=3), random_model(seed=4)
    y = draw_activity(true, 3, 7)
    model = build(5, true=point)
    moments = model.statistics(batch(y))
    free = [value.clone().requires_grad_() for value in point if value is not None]
    A, Q, mu, V, C, d, r = free
    mean, covariance, m, P = [], {}, mu, V
    for t in range(7):
        mean.append(m)
        block = P
        for s in range(t, 7):
            covariance[s, t], covariance[t, s] = block, block.T
            block = A @ block
        m, P = A @ m, A @ P @ A.T + Q
    prior = torch.cat([torch.cat([covariance[s, t] for t in range(7)], 1) for s in range(7)])
    loading = torch.block_diag(*[C] * 7)
    joint = torch.distributions.MultivariateNormal(
        loading @ torch.cat(mean) + d.repeat(7), loading @ prior @ loading.T + torch.diag(r.repeat(7))
    )
    likelihood = joint.log_prob(y.flatten(1)).sum()
    assert float(moments.log_likelihood) == pytest.approx(float(likelihood), rel=1e-11)
    exact = torch.autograd.grad(likelihood, free)

    def expected(S: Tensor, covariance: Tensor, n: Tensor) -> Tensor:
        return -0.5 * (n * torch.logdet(covariance) + torch.trace(torch.linalg.solve(covariance, S)))

    dynamics = moments.after - A @ moments.cross.T - moments.cross @ A.T + A @ moments.before @ A.T
    start = moments.initial_moment - torch.outer(mu, moments.initial_sum) - torch.outer(moments.initial_sum, mu)
    readout = torch.cat([C, (d - d.detach())[:, None]], 1)
    error = moments.squares - 2 * (readout * moments.activity).sum(1)
    error = error + torch.einsum("ni,nij,nj->n", readout, moments.readout, readout)
    bound = (
        expected(dynamics, Q, moments.transitions)
        + expected(start + moments.trials * torch.outer(mu, mu), V, moments.trials)
        - 0.5 * (moments.readout[:, -1, -1] * r.log() + error / r).sum()
    )
    for name, ours, reference in zip(point._fields[:7], torch.autograd.grad(bound, free), exact, strict=True):
        if reference.dim() == 2 and name != "readout" and name != "dynamics":
            ours, reference = ours + ours.T, reference + reference.T
        np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("missing", [False, True])
def test_likelihood_never_falls_and_converges_to_a_stationary_point(missing: bool) -> None:
    """A3, and A2 at the fixed point, by finite differences."""
    y = draw_activity(random_model(units=10, seed=5), 30, 15)
    data = batch(y, [15] * 20 + [7] * 10)
    if missing:
        gone = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.2
        data = Batch(**{**data.__dict__, "observed": data.observed & ~gone})
        data.activity[gone] = 1e6
    model = build(10)
    trace = fit(model, [data], 50)
    assert np.diff(trace).min() >= -1e-9 * abs(trace[-1])
    if missing:
        return
    fit(model, [data], 300, prepare=False)
    for name in ("dynamics", "readout", "offset", "noise", "initial_mean"):
        value = getattr(model, name)
        for flat in range(min(value.numel(), 4)):
            step, ends = 1e-4, []
            for sign in (1, -1):
                value.view(-1)[flat] += sign * step
                ends.append(float(model.log_likelihood(data).sum()))
                value.view(-1)[flat] -= sign * step
            assert abs(ends[0] - ends[1]) / (2 * step) / int(data.valid.sum()) < 1e-4, name


def test_planted_dynamics_are_recovered() -> None:
    """A4: eigenvalues, subspace, and the likelihood of new trials beside the true parameters."""
    true = simulation(260, 100, 50, 8, seed=0)
    _, y = build(50, 8, true).sample("a", 260, 100, seed=1)
    train, held_out = batch(y[:200]), batch(y[200:])
    model = build(50, 8)
    trace = fit(model, [train], 100)
    assert np.diff(trace).min() >= -1e-9 * abs(trace[-1])

    def size(A: Tensor) -> np.ndarray:
        return np.sort(np.abs(np.linalg.eigvals(A.numpy())))

    assert np.abs(size(model.dynamics) - size(true.dynamics)).max() <= 0.015
    assert np.degrees(subspace_angles(model.readout.numpy(), true.readout.numpy())).max() <= 2.0
    oracle = float(build(50, 8, true).log_likelihood(held_out).sum())
    gap = (oracle - float(model.log_likelihood(held_out).sum())) / abs(oracle)
    assert gap <= 0.0015


@pytest.mark.parametrize("kind", ["plain", "ragged", "scattered"])
def test_batches_do_not_change_the_fit(kind: str) -> None:
    """A7, with a filler trial in between."""
    true = simulation(40, 30, 12, 2, seed=2)
    _, y = build(12, 2, true).sample("a", 37, 30, seed=3)
    lengths = [1 + (7 * i) % 30 for i in range(37)] if kind != "plain" else None
    whole = batch(y, lengths)
    if kind == "scattered":
        shown = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.9
        whole = Batch(**{**whole.__dict__, "observed": whole.observed & shown})
    filler = batch(torch.full((1, 4, 12), torch.nan, dtype=torch.float64), [0])
    fits = []
    for size in (37, 5, 1):
        model = build(12)
        parts = [rows(whole, slice(i, i + size)) for i in range(0, 37, size)]
        fit(model, [*parts, filler], 5)
        fits.append(parameters(model))
    for other in fits[1:]:
        for name, value in fits[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


def test_trials_and_what_is_hidden_do_not_leak() -> None:
    y = draw_activity(random_model(units=6), 5, 20)
    data = batch(y, [20, 12, 20, 1, 7]).hide([2])
    model = build(6, true=random_model(units=6, seed=7))
    outputs = [model.latents, model.rates, model.log_likelihood, lambda part: model.forecast(part, 2)]
    for garbage in (torch.nan, 1e6):
        changed = Batch(**{**data.__dict__, "activity": torch.where(data.observed, data.activity, garbage)})
        for output in outputs:
            assert torch.equal(output(changed), output(data))
        for ours, expected in zip(model.statistics(changed), model.statistics(data), strict=True):
            assert torch.equal(ours, expected)
    for i in range(5):
        for output in outputs:
            np.testing.assert_allclose(output(rows(data, slice(i, i + 1)))[0], output(data)[i], atol=1e-12)
    assert not model.latents(data)[~data.valid].any()


def test_integer_counts_equal_their_values_as_floats() -> None:
    counts = torch.poisson(torch.full((4, 30, 6), 3.0), generator=torch.Generator().manual_seed(0))
    fits = []
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.float32, torch.float64):
        model = build(6)
        fit(model, [batch(counts.to(dtype))], 3)
        fits.append(parameters(model))
    for other in fits[1:]:
        for name, value in fits[0].items():
            assert torch.equal(other[name], value), name


def test_held_out_units_are_predicted_from_the_others() -> None:
    true = random_model(latents=3, units=6)
    y = draw_activity(true, 3, 9)
    data = batch(y, [9, 9, 4]).hide([1, 4])
    model = build(6, 3, true)
    rates = model.rates(data)
    mean, covariance = model.posterior(data)
    for i, bins in enumerate([9, 9, 4]):
        shown = data.observed[i, :bins].numpy()
        latents, joint = Dense(true, bins).posterior(y[i, :bins].numpy(), shown)
        expected = latents @ true.readout.numpy().T + true.offset.numpy()
        np.testing.assert_allclose(rates[i, :bins], expected, atol=1e-10)
        np.testing.assert_allclose(mean[i, :bins], latents, atol=1e-10)
        np.testing.assert_allclose(covariance[i, :bins], np.einsum("titj->tij", joint), atol=1e-10)


@pytest.mark.parametrize("horizon", [1, 3, 20])
def test_forecast_is_the_conditional_mean(horizon: int) -> None:
    true = random_model(units=6)
    y = draw_activity(true, 2, 8)
    ours = build(6, true=true).forecast(batch(y), horizon)
    for i in range(2):
        for t in range(8):
            shown = np.zeros((8, 6), bool)
            shown[: max(0, t - horizon + 1)] = True
            latents, _ = Dense(true, 8).posterior(y[i].numpy(), shown)
            expected = true.readout.numpy() @ latents[t] + true.offset.numpy()
            np.testing.assert_allclose(ours[i, t], expected, atol=1e-10)


def test_forecast_needs_a_horizon() -> None:
    with pytest.raises(UserError, match="horizon is 0"):
        build(5).forecast(batch(torch.zeros(1, 2, 5)), 0)


def test_samples_have_the_moments_of_the_model() -> None:
    true = random_model(units=3)
    model = build(3, true=true)
    latents, activity = model.sample("a", 40_000, 3, seed=0)
    dense = Dense(true, 3)
    expected = dense.loading @ dense.prior @ dense.loading.T + np.diag(dense.noise)
    np.testing.assert_allclose(np.cov(activity.flatten(1).T), expected, atol=0.05 * np.abs(expected).max())
    np.testing.assert_allclose(activity.mean(0).ravel(), dense.loading @ dense.prior_mean + dense.offset, atol=0.06)
    np.testing.assert_allclose(np.cov(latents.flatten(1).T), dense.prior, atol=0.05 * np.abs(dense.prior).max())
    assert torch.equal(model.sample("a", 4, 3, seed=5)[1], model.sample("a", 4, 3, seed=5)[1])
    assert not torch.equal(model.sample("a", 4, 3, seed=5)[1], model.sample("a", 4, 3, seed=6)[1])


def test_canonical_form_changes_the_coordinates_only() -> None:
    y = draw_activity(random_model(latents=3, units=8), 30, 25)
    data = batch(y)
    model = build(8, 3)
    fit(model, [data], 30)
    before, rates, likelihood = parameters(model), model.rates(data), model.log_likelihood(data)
    model.finish()
    np.testing.assert_allclose(model.log_likelihood(data), likelihood, rtol=1e-10)
    np.testing.assert_allclose(model.rates(data), rates, atol=1e-9)
    for lag in range(4):
        markov = [
            p["readout"] @ torch.linalg.matrix_power(p["dynamics"], lag) @ p["latent_moment"] @ p["readout"].T
            for p in (before, parameters(model))
        ]
        np.testing.assert_allclose(markov[1], markov[0], atol=1e-9)
    np.testing.assert_allclose(model.readout.T @ model.readout, np.eye(3), atol=1e-9)
    variance = model.latent_moment.diagonal()
    np.testing.assert_allclose(model.latent_moment, torch.diag(variance), atol=1e-9 * float(variance.max()))
    assert (variance.diff() <= 0).all()
    assert (model.readout.gather(0, model.readout.abs().argmax(0, keepdim=True)) > 0).all()
    mean, covariance = model.posterior(data)
    second = covariance.mean((0, 1)) + (mean.flatten(0, 1).T @ mean.flatten(0, 1)) / (30 * 25)
    # Of the parameters one update later:
    np.testing.assert_allclose(second, model.latent_moment, atol=0.02 * float(variance.max()))
    once = parameters(model)
    model.finish()
    for name, value in parameters(model).items():
        np.testing.assert_allclose(value, once[name], atol=1e-9, err_msg=name)


def two_sessions() -> tuple[LDS, list[Batch], list[LinearGaussian]]:
    """Return sessions that share planted dynamics but have different units, trials and lengths."""
    a = simulation(0, 0, 20, 4, seed=10)
    b = simulation(0, 0, 30, 4, seed=11)._replace(dynamics=a.dynamics, dynamics_noise=a.dynamics_noise)
    _, y = build(20, 4, a).sample("a", 40, 60, seed=1)
    _, z = build(30, 4, b).sample("a", 25, 80, seed=2)
    data = [batch(y), batch(z, [80] * 20 + [33] * 5, session="b")]
    return LDS(LDSConfig(latents=4), [layout(20, "a"), layout(30, "b")]), data, [a, b]


def test_sessions_share_dynamics_and_keep_their_readouts() -> None:
    model, data, true = two_sessions()
    trace = fit(model, data, 60)
    assert np.diff(trace).min() >= -1e-9 * abs(trace[-1])
    for part, truth in zip(data, true, strict=True):
        fitted = model.parameters_of(part.layout.session)
        assert np.degrees(subspace_angles(fitted.readout.numpy(), truth.readout.numpy())).max() < 5
        oracle = build(len(truth.offset), 4, truth)
        best = float(oracle.log_likelihood(Batch(**{**part.__dict__, "layout": layout(len(truth.offset))})).sum())
        assert float(model.log_likelihood(part).sum()) > best  # of the data that it was fitted to
        np.testing.assert_allclose(model.rates(part).shape, part.activity.shape)
    sizes = [np.sort(np.abs(np.linalg.eigvals(A.numpy()))) for A in (model.dynamics, true[0].dynamics)]
    np.testing.assert_allclose(sizes[0], sizes[1], atol=0.02)
    moments = total(model, data)
    single = [LDS(LDSConfig(latents=4), [part.layout]) for part in data]
    for one, part in zip(single, data, strict=True):
        for name, value in model.parameters_of(part.layout.session)._asdict().items():
            if value is not None:
                getattr(one, name).copy_(value)
    parts = [one.statistics(part) for one, part in zip(single, data, strict=True)]
    np.testing.assert_allclose(moments.cross, parts[0].cross + parts[1].cross, rtol=1e-12)
    np.testing.assert_allclose(moments.activity, torch.cat([part.activity for part in parts]), rtol=1e-12)


def test_starting_latents_of_sessions_agree() -> None:
    """The start depends on the dynamics alone: the session's own dynamics lie near the shared ones."""
    model, data, _ = two_sessions()
    model.prepare(data)
    start = fit(model, data, 1)[0]
    end = fit(model, data, 40, prepare=False)[-1]
    alone = []
    for part in data:
        one = LDS(LDSConfig(latents=4), [part.layout])
        alone.append(fit(one, [part], 40)[-1] * float(part.valid.sum()))
    separate = sum(alone) / sum(float(part.valid.sum()) for part in data)
    assert start > separate - 1.5
    assert separate - end < 0.02  # sharing costs next to nothing: the latents mean the same in both sessions


def test_unknown_session_is_named() -> None:
    with pytest.raises(UserError, match="no readout for session 'b'"):
        build(5).latents(batch(torch.zeros(1, 2, 5), session="b"))


def test_at_least_one_latent() -> None:
    with pytest.raises(UserError, match="latents is 0"):
        LDS(LDSConfig(latents=0), [layout(5)])


def test_a_saved_model_gives_the_same_output() -> None:
    data = batch(draw_activity(random_model(), 8, 10))
    model = build(5)
    fit(model, [data], 4)
    model.finish()
    again = build(5)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.latents(data), model.latents(data))
    moments = model.statistics(data)
    assert torch.equal(again.update(moments), model.update(moments))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert value.dtype == torch.float64


ADVERSARIES = [
    "silent unit",
    "duplicated units",
    "more latents than units",
    "one-bin trials",
    "one trial",
    "missing bins",
    "counts of 1e5",
    "scale 1e-6",
    "scale 1e6",
    "offset 1e6",
    "constant",
    "one unit",
]


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_awkward_data_stay_finite(adversary: str) -> None:
    """A8."""
    true = simulation(0, 0, 6, 2, seed=3)
    _, y = build(6, 2, true).sample("a", 12, 40, seed=4)
    latents, lengths = 2, None
    if adversary == "silent unit":
        y[..., 3] = 0.0
    elif adversary == "duplicated units":
        y[..., 3] = y[..., 1]
    elif adversary == "more latents than units":
        latents = 9
    elif adversary == "one-bin trials":
        y = y[:, :1]
    elif adversary == "one trial":
        y = y[:1]
    elif adversary == "counts of 1e5":
        y = (y * 3e4 + 1e5).round().to(torch.int32)
    elif adversary == "scale 1e-6":
        y = y * 1e-6
    elif adversary == "scale 1e6":
        y = y * 1e6
    elif adversary == "offset 1e6":
        y = y + 1e6
    elif adversary == "constant":
        y = torch.full_like(y, 2.0)
    elif adversary == "one unit":
        y = y[..., :1]
    data = batch(y, lengths)
    if adversary == "missing bins":
        data.valid[:, 5:9] = False
        data.valid[0] = False
        data = Batch(**{**data.__dict__, "observed": data.valid[..., None].expand(y.shape)})
        data.activity[~data.valid] = torch.nan
    model = build(y.shape[-1], latents)
    trace = fit(model, [data], 30)
    model.finish()
    assert np.isfinite(trace).all()
    assert np.diff(trace).min() >= -1e-8 * max(1.0, abs(trace[-1]))
    for name, value in model.state_dict().items():
        assert torch.isfinite(value).all(), name
    mean, covariance = model.posterior(data)
    for output in (mean, covariance, model.rates(data), model.forecast(data, 2), model.log_likelihood(data)):
        assert torch.isfinite(output).all()
    assert float(torch.linalg.eigvalsh(covariance).min()) >= 0


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_measure_does_not_matter(scale: float) -> None:
    true = simulation(0, 0, 6, 2, seed=3)
    _, y = build(6, 2, true).sample("a", 12, 40, seed=4)
    plain, scaled = build(6), build(6)
    likelihood = fit(plain, [batch(y)], 20)[-1]
    ours = fit(scaled, [batch(y * scale)], 20)[-1]
    assert ours + 6 * np.log(scale) == pytest.approx(likelihood, rel=1e-9)
    np.testing.assert_allclose(scaled.latents(batch(y * scale)), plain.latents(batch(y)), atol=1e-7)
