"""The Kalman filter of a linear dynamical system bin by bin, as a recording goes on, and what it expects next."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.kalman import condition
from lvmzoo.inference.sequences import LinearGaussian

__all__ = ["Prediction", "first_prediction", "observe", "predicted"]


class Prediction(NamedTuple):
    """What is known of the latents of the coming bin."""

    mean: Float[Tensor, "trial latent"]
    covariance: Float[Tensor, "group latent latent"]  # one for all trials while they show the same units


def first_prediction(model: LinearGaussian, trials: int) -> Prediction:
    """Return what is known before the first bin."""
    return Prediction(model.initial_mean.repeat(trials, 1), model.initial_covariance[None])


def observe(
    model: LinearGaussian,
    coming: Prediction,
    activity: Num[Tensor, "trial unit"],
    observed: Bool[Tensor, "trial unit"],
    inputs: Float[Tensor, "trial channel"] | None = None,
) -> tuple[Prediction, Float[Tensor, "trial latent"]]:
    """Return the prediction of the bin after this one, and E(x_t | bins up to t)."""
    expected = model.offset.expand(len(activity), -1)
    if inputs is not None and model.feedthrough is not None:
        expected = expected + inputs @ model.feedthrough.T
    weights = model.readout / model.noise[:, None]
    h = torch.where(observed, activity - expected, 0.0) @ weights
    shown = observed[:1] if bool((observed == observed[:1]).all()) else observed
    J = torch.einsum("tn,ni,nj->tij", shown.to(weights), model.readout, weights)
    V = torch.from_numpy(condition(coming.covariance.cpu().numpy(), J.cpu().numpy())[0]).to(J)
    unexplained = h - (J @ coming.mean[..., None])[..., 0]
    mean = coming.mean + (V @ unexplained[..., None])[..., 0]
    after = mean @ model.dynamics.T
    if inputs is not None and model.drive is not None:
        after = after + inputs @ model.drive.T
    return Prediction(after, model.dynamics @ V @ model.dynamics.T + model.dynamics_noise), mean


def predicted(
    model: LinearGaussian,
    mean: Float[Tensor, "trial bin latent"],
    covariance: Float[Tensor, "trial bin latent latent"] | None,
    inputs: Float[Tensor, "trial bin channel"] | None,
    horizon: int,
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"] | None]:
    """Return what the bins up to ``horizon`` bins before each bin, and all known inputs, tell about its latents.

    ``mean`` and ``covariance`` are those of the filter, and are overwritten; without a covariance there is none.
    """
    drive: Tensor | float = 0.0
    if inputs is not None and model.drive is not None:
        drive = inputs[:, :-1] @ model.drive.T
    for _ in range(min(horizon, mean.shape[1])):
        mean[:, 1:] = mean[:, :-1] @ model.dynamics.T + drive
        mean[:, 0] = model.initial_mean  # nothing has been seen yet
        if covariance is not None:
            covariance[:, 1:] = model.dynamics @ covariance[:, :-1] @ model.dynamics.T + model.dynamics_noise
            covariance[:, 0] = model.initial_covariance
    return mean, covariance
