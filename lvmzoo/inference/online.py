"""The Kalman filter of a linear dynamical system one bin at a time, as a recording goes on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.kalman import condition
from lvmzoo.inference.sequences import LinearGaussian

__all__ = ["Prediction", "first_prediction", "observe"]


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
