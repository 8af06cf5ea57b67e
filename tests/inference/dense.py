"""A linear dynamical system as one multivariate normal: slow, and independent of every recursion."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import multivariate_normal

from lvmzoo.inference.linear_gaussian import LinearGaussian


def random_model(latents: int = 2, units: int = 5, seed: int = 0, channels: int = 0) -> LinearGaussian:
    """Return parameters without any special structure, with channels of known inputs if there are to be any."""
    draw = np.random.default_rng(seed)
    A = draw.normal(size=(latents, latents))
    A *= 0.9 / np.abs(np.linalg.eigvals(A)).max()

    def covariance() -> np.ndarray:
        root = draw.normal(size=(latents, latents + 2))
        return root @ root.T / (latents + 2)

    values = (
        A,
        covariance(),
        draw.normal(size=latents),
        covariance(),
        draw.normal(size=(units, latents)),
        draw.normal(size=units),
        draw.uniform(0.3, 1.5, size=units),
    )
    if channels:
        values = (*values, draw.normal(size=(latents, channels)), draw.normal(size=(units, channels)))
    return LinearGaussian(*(torch.from_numpy(np.ascontiguousarray(value)) for value in values))


def arrays(model: LinearGaussian) -> tuple[np.ndarray, ...]:
    """Return the parameters; those of known inputs have no column where there are none."""
    latents, units = len(model.dynamics), len(model.offset)
    inputs = (np.zeros((latents, 0)), np.zeros((units, 0))) if model.drive is None else ()
    return (*(value.numpy() for value in model if value is not None), *inputs)


def draw_activity(
    model: LinearGaussian, trials: int, bins: int, seed: int = 0, inputs: torch.Tensor | None = None
) -> torch.Tensor:
    """Return activity (trial, bin, unit) drawn from the model."""
    draw = np.random.default_rng(seed)
    A, Q, mu, V, C, d, r, B, D = arrays(model)
    u = np.zeros((trials, bins, 0)) if inputs is None else inputs.numpy()
    y = np.zeros((trials, bins, len(d)))
    for i, trial in enumerate(y):
        x = draw.multivariate_normal(mu, V)
        for t in range(bins):
            trial[t] = C @ x + d + D @ u[i, t] + draw.normal(size=len(d)) * np.sqrt(r)
            x = A @ x + B @ u[i, t] + draw.multivariate_normal(np.zeros(len(x)), Q)
    return torch.from_numpy(y)


class Dense:
    """The joint normal of all latents and all activity of one trial, given its known inputs (bin, channel)."""

    def __init__(self, model: LinearGaussian, bins: int, inputs: np.ndarray | None = None) -> None:
        A, Q, mu, V, C, d, r, B, D = arrays(model)
        u = np.zeros((bins, 0)) if inputs is None else inputs[:bins]
        self.latents, self.units, self.bins = len(mu), len(d), bins
        mean, covariance = np.zeros((bins, self.latents)), np.zeros((bins, self.latents, bins, self.latents))
        m, P = mu, V
        for t in range(bins):
            mean[t] = m
            block = P
            for s in range(t, bins):
                covariance[s, :, t, :] = block
                covariance[t, :, s, :] = block.T
                block = A @ block
            m, P = A @ m + B @ u[t], A @ P @ A.T + Q
        self.prior_mean = mean.ravel()
        self.prior = covariance.reshape(bins * self.latents, -1)
        self.loading = np.kron(np.eye(bins), C)
        self.offset = (d + u @ D.T).ravel()
        self.inputs = u
        self.noise = np.tile(r, bins)

    def likelihood(self, activity: np.ndarray, observed: np.ndarray) -> float:
        """Return the log-density of the observed samples (bin, unit)."""
        seen = np.flatnonzero(observed.ravel())
        if not len(seen):
            return 0.0
        mean = self.loading[seen] @ self.prior_mean + self.offset[seen]
        covariance = self.loading[seen] @ self.prior @ self.loading[seen].T + np.diag(self.noise[seen])
        return float(multivariate_normal(mean, covariance).logpdf(activity.ravel()[seen]))

    def posterior(self, activity: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (bin, latent) and covariance (bin, latent, bin, latent) given the observed samples."""
        seen = np.flatnonzero(observed.ravel())
        H = self.loading[seen]
        gain = np.linalg.solve(H @ self.prior @ H.T + np.diag(self.noise[seen]), H @ self.prior).T
        difference = activity.ravel()[seen] - self.offset[seen] - H @ self.prior_mean
        mean = self.prior_mean + gain @ difference
        covariance = self.prior - gain @ H @ self.prior
        shape = (self.bins, self.latents)
        return mean.reshape(shape), covariance.reshape(*shape, *shape)

    def moments(self, activity: np.ndarray, observed: np.ndarray) -> dict[str, np.ndarray]:
        """Return the expected sufficient statistics of one trial, from the dense posterior."""
        mean, covariance = self.posterior(activity, observed)
        second = covariance + mean[:, :, None, None] * mean[None, None]
        bins, known = range(self.bins), np.concatenate([self.inputs, np.ones((self.bins, 1))], 1)
        one = np.zeros((self.bins, self.latents + known.shape[1], self.latents + known.shape[1]))
        for t in bins:
            x, u = slice(0, self.latents), slice(self.latents, None)
            one[t, x, x], one[t, u, u] = second[t, :, t], np.outer(known[t], known[t])
            one[t, x, u] = np.outer(mean[t], known[t])
            one[t, u, x] = one[t, x, u].T
        cross = [np.concatenate([second[t + 1, :, t], np.outer(mean[t + 1], self.inputs[t])], 1) for t in bins[:-1]]
        residual = np.where(observed, activity - self.offset.reshape(activity.shape), 0.0)
        return {
            "initial_sum": mean[0],
            "initial_moment": second[0, :, 0],
            "before": one[:-1, :-1, :-1].sum(0),
            "after": sum((second[t, :, t] for t in bins[1:]), np.zeros_like(second[0, :, 0])),
            "cross": sum(cross, np.zeros((self.latents, one.shape[1] - 1))),
            "squares": (residual**2).sum(0),
            "activity": residual.T @ np.concatenate([mean, known], 1),
            "readout": np.einsum("tn,tij->nij", observed.astype(float), one),
        }
