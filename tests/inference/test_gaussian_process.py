"""Likelihood, posterior and sums of Gaussian processes, against one multivariate normal and its derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lvmzoo.inference import gaussian_process as process
from lvmzoo.inference import gaussian_process_state_space as state_space
from lvmzoo.inference.gaussian_process import GaussianProcess
from lvmzoo.inference.gaussian_process_fit import gradient

UNITS, LATENTS, TRIALS, BINS = 5, 3, 3, 7
ENGINES = [("squared_exponential", "dense"), ("squared_exponential", "spectral"), ("matern32", "dense")]
TOLERANCE = {"dense": 1e-11, "spectral": 2e-9}  # what the spectral engine leaves out is 1e-10 of the kernel

KERNELS: dict[str, Callable[[Tensor], Tensor]] = {  # written anew, from the textbook
    "squared_exponential": lambda u: torch.exp(-(u**2) / 2),
    "matern12": lambda u: torch.exp(-u),
    "matern32": lambda u: (1 + 3**0.5 * u) * torch.exp(-(3**0.5) * u),
    "matern52": lambda u: (1 + 5**0.5 * u + 5 * u**2 / 3) * torch.exp(-(5**0.5) * u),
}


def random_process(kernel: str, engine: str = "auto", units: int = UNITS, seed: int = 0) -> GaussianProcess:
    """Return parameters without any special structure."""
    draw = np.random.default_rng(seed)
    return GaussianProcess(
        torch.tensor([1.2, 3.0, 8.0], dtype=torch.float64),
        torch.from_numpy(draw.normal(size=(units, LATENTS))),
        torch.from_numpy(draw.normal(size=units)),
        torch.from_numpy(draw.uniform(0.3, 1.0, units)),
        kernel,
        1e-3 if kernel == "squared_exponential" else 0.0,
        engine=engine,
    )


def observations(case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return activity, valid and observed; what is not observed holds NaN."""
    draw = np.random.default_rng(1)
    activity = torch.from_numpy(2 * draw.normal(size=(TRIALS, BINS, UNITS)))
    valid = torch.ones(TRIALS, BINS, dtype=torch.bool)
    observed = torch.ones(TRIALS, BINS, UNITS, dtype=torch.bool)
    if case == "ragged":
        valid[0, 4:], valid[2, 1:] = False, False
    if case == "gap":
        valid[1, 3], valid[1, 6:] = False, False
    if case == "bins":
        observed[:, 2], observed[:, 5] = False, False
    if case == "unit":
        observed[..., 3] = False
    if case == "scattered":
        observed = torch.from_numpy(draw.random((TRIALS, BINS, UNITS)) > 0.3)
    observed &= valid[..., None]
    return torch.where(observed, activity, torch.nan), valid, observed


class Joint:
    """The joint normal of one trial's latents and observed activity; differentiable in the parameters."""

    def __init__(self, model: GaussianProcess, observed: Tensor, bins: int = BINS) -> None:
        self.seen = observed.flatten()
        lags = torch.arange(bins, dtype=torch.float64)
        lags = (lags[:, None] - lags).abs()
        eye = torch.eye(bins, dtype=torch.float64)
        blocks = [
            (1 - model.nugget) * KERNELS[model.kernel](lags / tau) + model.nugget * eye for tau in model.timescales
        ]
        prior = torch.stack(blocks)  # latent, bin, bin
        latents = len(blocks)
        self.prior = torch.einsum("its,ij->tisj", prior, torch.eye(latents, dtype=torch.float64)).reshape(
            bins * latents, bins * latents
        )
        self.loading = torch.kron(eye, model.readout)[self.seen]
        self.mean = model.offset.repeat(bins)[self.seen]
        self.covariance = self.loading @ self.prior @ self.loading.T + torch.diag(model.noise.repeat(bins)[self.seen])
        self.shape = (bins, latents)

    def likelihood(self, activity: Tensor) -> Tensor:
        values = activity.flatten()[self.seen]
        return torch.distributions.MultivariateNormal(self.mean, self.covariance).log_prob(values)

    def posterior(self, activity: Tensor) -> tuple[Tensor, Tensor]:
        gain = torch.linalg.solve(self.covariance, self.loading @ self.prior).T
        mean = gain @ (activity.flatten()[self.seen] - self.mean)
        covariance = self.prior - gain @ self.loading @ self.prior
        return mean.view(self.shape), covariance.view(*self.shape, *self.shape)


def likelihood(model: GaussianProcess, activity: Tensor, observed: Tensor) -> Tensor:
    return torch.stack([Joint(model, shown).likelihood(y) for y, shown in zip(activity, observed, strict=True)])


@pytest.mark.parametrize("case", ["complete", "ragged", "gap", "bins", "unit", "scattered"])
@pytest.mark.parametrize(("kernel", "engine"), ENGINES)
def test_equals_a_multivariate_normal(kernel: str, engine: str, case: str) -> None:
    """G2 and G5, with every kind of missing data: likelihood, posterior, sums for EM, and each unit without itself."""
    model, tolerance = random_process(kernel, engine), TOLERANCE[engine]
    activity, valid, observed = observations(case)
    close = {"rtol": tolerance, "atol": tolerance}
    exact = likelihood(model, activity, observed)
    torch.testing.assert_close(process.log_likelihood(model, activity, valid, observed), exact, **close)
    means, covariances = process.posterior_moments(model, activity, valid, observed)
    torch.testing.assert_close(process.posterior_means(model, activity, valid, observed), means)
    cavity = process.cavity_means(model, activity, valid, observed)
    moments = torch.zeros(UNITS, LATENTS + 1, LATENTS + 1, dtype=torch.float64)
    products = torch.zeros(UNITS, LATENTS + 1, dtype=torch.float64)
    for trial, shown in enumerate(observed):
        mean, covariance = Joint(model, shown).posterior(activity[trial])
        reached = 1 + int(valid[trial].nonzero().max())
        for t in range(reached):
            torch.testing.assert_close(means[trial, t], mean[t], **close)
            torch.testing.assert_close(covariances[trial, t], covariance[t, :, t], **close)
            one = torch.cat([mean[t], torch.ones(1, dtype=torch.float64)])
            second = torch.outer(one, one)
            second[:-1, :-1] += covariance[t, :, t]
            moments[shown[t]] += second
            products[shown[t]] += torch.outer((activity[trial, t] - model.offset)[shown[t]], one)
        for unit in range(UNITS):
            others = shown.clone()
            others[:, unit] = False
            alone = Joint(model, others).posterior(activity[trial])[0] @ model.readout[unit] + model.offset[unit]
            torch.testing.assert_close(cavity[trial, :reached, unit], alone[:reached], **close)
    sums = process.expectations(model, activity, valid, observed)
    torch.testing.assert_close(sums.log_likelihood, exact.sum(), **close)
    torch.testing.assert_close(sums.readout, moments, **close)
    torch.testing.assert_close(sums.activity, products, **close)
    residual = torch.where(observed, activity - model.offset, 0.0)
    torch.testing.assert_close(sums.squares, residual.square().sum((0, 1)))
    assert sums.bins == valid.sum()


@pytest.mark.parametrize("case", ["complete", "scattered"])
@pytest.mark.parametrize(("kernel", "engine"), ENGINES)
def test_gradient_and_information(kernel: str, engine: str, case: str) -> None:
    """G3: derivatives by every parameter equal those of the joint normal, by automatic differentiation."""
    model = random_process(kernel, engine)
    activity, valid, observed = observations(case)
    free = [value.clone().requires_grad_() for value in (model.readout, model.offset, model.noise.log())]
    log_timescales = model.timescales.log().requires_grad_()
    moving = model._replace(
        timescales=log_timescales.exp(), readout=free[0], offset=free[1], noise=free[2].exp(), engine="dense"
    )
    exact = torch.autograd.grad(likelihood(moving, activity, observed).sum(), [*free, log_timescales])
    sums = process.expectations(model, activity, valid, observed)
    for found, wanted in zip(gradient(model, sums), exact, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)

    def covariance(log_tau: Tensor, shown: Tensor) -> Tensor:
        return Joint(model._replace(timescales=log_tau.exp()), shown).covariance

    information = torch.zeros(LATENTS, LATENTS, dtype=torch.float64)
    for shown in observed:
        slopes = torch.autograd.functional.jacobian(
            lambda v, shown=shown: covariance(v, shown), log_timescales.detach()
        )
        inverse = torch.linalg.inv(covariance(log_timescales.detach(), shown))
        scaled = torch.einsum("ab,bci->iac", inverse, slopes)
        information += 0.5 * torch.einsum("iab,jba->ij", scaled, scaled)
    torch.testing.assert_close(sums.information, information, rtol=1e-6, atol=1e-6)


def test_no_error_at_the_edges() -> None:
    """G8: the variance of the first and last bins is that of the dense engine; on a circle, that of the others."""
    bins = 60
    model = random_process("squared_exponential")
    valid = torch.ones(1, bins, dtype=torch.bool)
    observed = valid[..., None].expand(1, bins, UNITS)
    activity = torch.zeros(1, bins, UNITS, dtype=torch.float64)
    variances = [
        process.posterior_moments(model._replace(engine=engine), activity, valid, observed)[1][0]
        for engine in ("dense", "spectral")
    ]
    torch.testing.assert_close(variances[0], variances[1], rtol=0.0, atol=1e-9)
    assert float((variances[0][0] - variances[0][bins // 2]).abs().max()) > 1e-2  # which a circle would not show


def test_wide_models_need_no_inverse() -> None:
    """G7: more latents than units, a unit twice, and one that tells nothing."""
    model = random_process("squared_exponential", units=2)
    readout = model.readout.clone()
    readout[1] = readout[0]
    model = model._replace(readout=readout)
    activity = torch.from_numpy(np.random.default_rng(2).normal(size=(2, BINS, 2)))
    valid = torch.ones(2, BINS, dtype=torch.bool)
    observed = torch.ones(2, BINS, 2, dtype=torch.bool)
    exact = likelihood(model, activity, observed)
    torch.testing.assert_close(process.log_likelihood(model, activity, valid, observed), exact, rtol=1e-11, atol=1e-11)
    silent = model._replace(readout=torch.zeros_like(readout))
    means, covariances = process.posterior_moments(silent, activity, valid, observed)
    assert float(means.abs().max()) == 0.0
    identity = torch.eye(LATENTS, dtype=torch.float64).expand_as(covariances)
    torch.testing.assert_close(covariances, identity, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52"])
def test_state_space_equals_dense(kernel: str) -> None:
    bins = 40
    model = random_process(kernel)
    system = state_space.state_space(model)
    first = slice(None, None, len(system.initial_mean) // LATENTS)
    moved = system.initial_covariance
    for lag in range(20):
        wanted = torch.diag(KERNELS[kernel](lag / model.timescales))
        torch.testing.assert_close(moved[first, first], wanted, rtol=1e-12, atol=1e-12)
        moved = system.dynamics @ moved
    draw = np.random.default_rng(3)
    valid = torch.ones(TRIALS, bins, dtype=torch.bool)
    valid[1, 25:] = False
    observed = torch.from_numpy(draw.random((TRIALS, bins, UNITS)) > 0.1) & valid[..., None]
    activity = torch.from_numpy(draw.normal(size=(TRIALS, bins, UNITS)))
    given = (model, activity, valid, observed)
    one, other = process.expectations(*given), state_space.expectations(*given)
    for name in ("log_likelihood", "bins", "squares", "activity", "readout"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.slope, other.slope, rtol=1e-6, atol=1e-6)
    for name in ("log_likelihood", "posterior_means", "cavity_means"):
        found, wanted = (getattr(engine, name)(*given) for engine in (state_space, process))
        if found.ndim == 3:
            found, wanted = found[valid], wanted[valid]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    for found, wanted in zip(state_space.posterior_moments(*given), process.posterior_moments(*given), strict=True):
        torch.testing.assert_close(found[valid], wanted[valid], rtol=1e-9, atol=1e-9)


def test_information_of_long_trials() -> None:
    """The sum over frequencies agrees with the exact information up to what the edges of the trial add."""
    bins = 600
    model = random_process("matern32")
    valid = torch.ones(1, bins, dtype=torch.bool)
    observed = valid[..., None].expand(1, bins, UNITS)
    activity = torch.zeros(1, bins, UNITS, dtype=torch.float64)
    one = process.expectations(model, activity, valid, observed).information
    other = state_space.expectations(model, activity, valid, observed).information
    scale = one.diagonal().sqrt()
    assert float(((one - other) / torch.outer(scale, scale)).abs().max()) < 0.03


def test_square_roots_of_counts() -> None:
    counts = torch.from_numpy(np.random.default_rng(4).poisson(3.0, (TRIALS, BINS, UNITS)).astype(np.uint8))
    valid = torch.ones(TRIALS, BINS, dtype=torch.bool)
    observed = torch.ones(TRIALS, BINS, UNITS, dtype=torch.bool)
    for engine, kernel in ((process, "squared_exponential"), (state_space, "matern52")):
        model = random_process(kernel)
        wanted = engine.log_likelihood(model, counts.double().sqrt(), valid, observed)
        found = engine.log_likelihood(model._replace(square_root=True), counts, valid, observed)
        torch.testing.assert_close(found, wanted)
        assert math.isfinite(float(found.sum()))
