"""Starting values of linear dynamical systems with counts, from those of the Gaussian system with the same moments."""

from __future__ import annotations

import torch

from lvmzoo.inference.sequences import LinearGaussian

__all__ = ["log_linear"]

RAREST = 1e-3  # counts per bin: of a unit that is hardly seen to fire
START = (0.02, 2.0)  # smallest and largest overdispersion to start from


def log_linear(model: LinearGaussian) -> LinearGaussian:
    """Return the system of log rates whose counts have about the mean and covariance of a Gaussian system.

    A log rate of variance s^2 has the rate's variance exp(s^2) - 1, relative to its squared mean (Macke et al. 2011,
    Empirical models of spiking in neural populations, NeurIPS 24). Latents have unit variance. The private variance in
    excess of the mean becomes the overdispersion.
    """
    mean = model.offset.clamp(min=RAREST)
    readout = model.readout / mean[:, None]
    relative = readout.square().sum(1)  # variance of the rate over its squared mean
    variance = torch.log1p(relative)
    readout = readout * (variance / relative.clamp(min=1e-12)).sqrt()[:, None]
    excess = (model.noise - mean) / (mean.square() * (1 + relative))
    return model._replace(
        readout=readout,
        offset=mean.log() - 0.5 * variance,
        noise=excess.clamp(*START),
        feedthrough=None if model.feedthrough is None else model.feedthrough / mean[:, None],
    )
