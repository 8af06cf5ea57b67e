r"""Gaussian processes with Matern kernels as linear dynamical systems: exact, in time that grows with the bins only.

A Matern process of smoothness p - 1/2 is the first of p states of a linear system: the process and its derivatives,
here each divided by :math:`\lambda^k` with :math:`\lambda = \sqrt{2p - 1} / \tau`, so that their covariance does not
depend on the timescale. The functions are those of :mod:`lvmzoo.inference.gaussian_process`, for long trials.

Hartikainen, Sarkka (2010), Kalman filtering and smoothing solutions to temporal Gaussian process regression models,
doi:10.1109/MLSP.2010.5589113.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference import linear_gaussian
from lvmzoo.inference.gaussian_process import GaussianProcess, Sums
from lvmzoo.inference.gaussian_process_kernels import KERNELS
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments
from lvmzoo.inference.sampling import draw_trials

__all__ = [
    "LONGEST_TIMESCALE",
    "cavity_means",
    "draw",
    "expectations",
    "log_likelihood",
    "posterior_means",
    "posterior_moments",
    "state_space",
]

STATES = {"matern12": 1, "matern32": 2, "matern52": 3}
LONGEST_TIMESCALE = {
    "matern12": 1e5,
    "matern32": 1e4,
    "matern52": 300.0,
}  # bins; beyond it, rounding rules the gradient
COMPANION = {
    1: [[-1.0]],
    2: [[0.0, 1.0], [-1.0, -2.0]],
    3: [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, -3.0, -3.0]],
}
COVARIANCE = {
    1: [[1.0]],
    2: [[1.0, 0.0], [0.0, 1.0]],
    3: [[1.0, 0.0, -1 / 3], [0.0, 1 / 3, 0.0], [-1 / 3, 0.0, 1.0]],
}
FREQUENCIES = (64, 8192)  # fewest and most that the information of the timescales is summed over


def state_space(model: GaussianProcess) -> LinearGaussian:
    """Return the linear dynamical system of a model with a Matern kernel, without a nugget."""
    p = STATES[model.kernel]
    A, V = _dynamics(p, model.timescales)
    dynamics, covariance = torch.block_diag(*A), torch.block_diag(*V)
    readout = model.readout.new_zeros(*model.readout.shape, p)
    readout[..., 0] = model.readout
    noise = covariance - dynamics @ covariance @ dynamics.T
    return LinearGaussian(
        dynamics,
        (noise + noise.T) / 2,
        covariance.new_zeros(len(covariance)),
        covariance,
        readout.flatten(1),
        model.offset,
        model.noise,
    )


def _dynamics(
    p: int, timescales: Float[Tensor, " latent"]
) -> tuple[Float[Tensor, "latent state state"], Float[Tensor, "latent state state"]]:
    """Return the transition over one bin, exp(lambda F), and the covariance of the states."""
    identity = torch.eye(p).to(timescales)
    rate = math.sqrt(2 * p - 1) / timescales[:, None, None]
    nilpotent = rate * (timescales.new_tensor(COMPANION[p]) + identity)
    series, term = identity.expand_as(nilpotent), identity.expand_as(nilpotent)
    for k in range(1, p):
        term = term @ nilpotent / k
        series = series + term
    return torch.exp(-rate) * series, timescales.new_tensor(COVARIANCE[p]).expand_as(nilpotent)


def expectations(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Sums:
    """Return the posterior expectations of the sufficient statistics, and the log-likelihood (the E-step)."""
    p, latents = STATES[model.kernel], len(model.timescales)
    moments = linear_gaussian.expectations(state_space(model), _modeled(model, activity), valid, observed)
    kept = [*range(0, p * latents, p), p * latents]
    return Sums(
        moments.log_likelihood,
        moments.bins,
        moments.squares,
        moments.activity[:, kept],
        moments.readout[:, kept][:, :, kept],
        _slope(model, moments),
        moments.bins * _information(model),
    )


def _slope(model: GaussianProcess, moments: Moments) -> Float[Tensor, " latent"]:
    """Return the derivative of the log-likelihood by the log timescales: that of the expected one of the states."""
    p = STATES[model.kernel]
    firsts = range(0, p * len(model.timescales), p)

    def blocks(matrix: Tensor) -> Tensor:
        return torch.stack([matrix[first : first + p, first : first + p] for first in firsts])

    before, after, cross = blocks(moments.before), blocks(moments.after), blocks(moments.cross)
    with torch.enable_grad():
        free = model.timescales.detach().log().requires_grad_()
        A, V = _dynamics(p, free.exp())
        Q = V - A @ V @ A.mT
        S = after - A @ cross.mT - cross @ A.mT + A @ before @ A.mT
        trace = torch.linalg.solve(Q, S).diagonal(dim1=-2, dim2=-1).sum()
        expected = -0.5 * (moments.transitions * torch.logdet(Q).sum() + trace)
        return torch.autograd.grad(expected, free)[0]


def _information(model: GaussianProcess) -> Float[Tensor, "latent latent"]:
    """Return the information of the log timescales per bin of a long trial, whose frequencies are independent."""
    timescales, C = model.timescales, model.readout
    fewest, most = FREQUENCIES
    size = min(most, max(fewest, 2 ** math.ceil(math.log2(16 * float(timescales.max()) + 1))))
    lags = torch.arange(size, dtype=C.dtype, device=C.device)
    lags = torch.minimum(lags, size - lags)
    kernel, slope = (torch.fft.fft(values).real for values in KERNELS[model.kernel](lags / timescales[:, None]))
    kernel = kernel.clamp(min=1e-12)
    relative, root = slope / kernel, kernel.sqrt().T
    J = C.T @ (C / model.noise[:, None])
    identity = torch.eye(len(J), dtype=C.dtype, device=C.device)
    learned = identity - torch.linalg.inv(identity + root[:, :, None] * J * root[:, None, :])
    return 0.5 * torch.einsum("wij,wij,iw,jw->ij", learned, learned, relative, relative) / size


def log_likelihood(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, " trial"]:
    """Return the log-likelihood of what is observed in each trial, in nats; 0 for trials without a valid bin."""
    return linear_gaussian.log_likelihood(state_space(model), _modeled(model, activity), valid, observed)


def posterior_means(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin latent"]:
    """Return E(x_t | all bins); zero after a trial's last valid bin."""
    states = linear_gaussian.smoothed_means(state_space(model), _modeled(model, activity), valid, observed)
    return states[..., :: STATES[model.kernel]]


def posterior_moments(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
    """Return E(x_t | all bins) and Cov(x_t | all bins); zero after a trial's last valid bin."""
    p = STATES[model.kernel]
    covariances = linear_gaussian.smoothed_covariance(state_space(model), valid, observed)
    return posterior_means(model, activity, valid, observed), covariances[..., ::p, ::p]


def cavity_means(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin unit"]:
    """Return E(y_n | all units but n) of each unit: of the square root of counts, where that is modeled."""
    result = model.offset.new_zeros((*valid.shape, len(model.offset)))
    for unit in range(len(model.offset)):
        others = observed.clone(memory_format=torch.contiguous_format)
        others[..., unit] = False
        means = posterior_means(model, activity, valid, others)
        result[..., unit] = means @ model.readout[unit] + model.offset[unit]
    return result


def draw(
    model: GaussianProcess, trials: int, bins: int, seed: int
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
    """Draw latents and activity of new trials: of its square root, where that is modeled."""
    system = LinearGaussian._make(None if value is None else value.cpu() for value in state_space(model))
    states, activity = draw_trials(system, trials, bins, torch.Generator().manual_seed(seed))
    device = model.offset.device
    return states[..., :: STATES[model.kernel]].to(device), activity.to(device)


def _modeled(model: GaussianProcess, activity: Tensor) -> Tensor:
    return activity.to(model.offset.dtype).sqrt() if model.square_root else activity
