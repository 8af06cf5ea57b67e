"""Counts given a Gaussian chain, without recursions: the best posterior by direct search over its parameters."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import gammaln
from torch import Tensor

from lvmzoo.inference.linear_gaussian import LinearGaussian
from tests.inference.dense import Dense

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def log_probability(y: np.ndarray, eta: np.ndarray, a: np.ndarray | None) -> np.ndarray:
    """Return log p(y) of counts of log rate eta; a: overdispersion, None for Poisson."""
    if a is None:
        return y * eta - np.exp(eta) - gammaln(y + 1)
    r = 1 / a
    constant = gammaln(y + r) - gammaln(r) - gammaln(y + 1)
    return constant + y * (eta - np.log(r)) - (y + r) * np.logaddexp(0.0, eta - np.log(r))


def dense_optimum(
    model: LinearGaussian, activity: np.ndarray, observed: np.ndarray, poisson: bool, inputs: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the largest bound of one trial, and the mean (bin, latent) and covariance that reach it."""
    dense = Dense(model, len(activity), inputs)
    size = len(dense.prior_mean)
    seen = torch.from_numpy(np.flatnonzero(observed.ravel()))
    y = torch.from_numpy(np.where(observed, activity, 0.0).ravel())[seen]
    H, offset = torch.from_numpy(dense.loading)[seen], torch.from_numpy(dense.offset)[seen]
    a = model.noise.repeat(len(activity))[seen]
    prior_mean, prior = torch.from_numpy(dense.prior_mean), torch.from_numpy(dense.prior)
    precision = torch.linalg.inv(prior)
    lower = torch.tril_indices(size, size)

    def unpack(values: Tensor) -> tuple[Tensor, Tensor]:
        root = values.new_zeros(size, size)
        root[lower[0], lower[1]] = values[size:]
        return values[:size], root

    def bound(values: Tensor) -> Tensor:
        m, root = unpack(values)
        mean, spread = H @ m + offset, (H @ root).square().sum(1).sqrt()
        if poisson:
            fit = y * mean - torch.exp(mean + spread.square() / 2)
        else:
            eta = mean[:, None] + spread[:, None] * torch.from_numpy(NODES)
            fall = torch.log1p(a[:, None] * eta.exp()) @ torch.from_numpy(WEIGHTS)
            fit = y * (mean + a.log()) - (y + 1 / a) * fall + torch.lgamma(y + 1 / a) - torch.lgamma(1 / a)
        fit = fit - torch.lgamma(y + 1)
        change = m - prior_mean
        divergence = (precision @ root * root).sum() + change @ precision @ change - size + torch.logdet(prior)
        return fit.sum() - 0.5 * divergence + root.diagonal().abs().log().sum()

    def negative(values: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(values).requires_grad_(True)
        value = -bound(at)
        value.backward()
        assert at.grad is not None
        return value.item(), at.grad.numpy()

    start = torch.cat([prior_mean, 0.3 * torch.linalg.cholesky(prior)[lower[0], lower[1]]]).numpy()
    found = minimize(negative, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 3000})
    m, root = unpack(torch.from_numpy(found.x))
    return -float(found.fun), m.numpy().reshape(len(activity), -1), (root @ root.T).numpy()
