"""Readouts: from latents to the parameters of a likelihood, one of them for each session."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lvmzoo.parts.likelihoods import Likelihood

__all__ = ["Readout"]


class Readout(nn.Module):
    """An affine map from latents to what varies of a likelihood's parameters; the others are one number a unit."""

    def __init__(self, latents: int, units: int, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        varying = likelihood.n_varying
        bound = 1 / math.sqrt(latents)
        self.weight = nn.Parameter(torch.empty(varying, units, latents).uniform_(-bound, bound))
        self.offset = nn.Parameter(torch.zeros(varying, units))
        constants = likelihood.n_parameters - varying
        self.constants = nn.Parameter(torch.zeros(constants, units)) if constants else None

    def forward(self, latents: Float[Tensor, "trial bin latent"]) -> Float[Tensor, "parameter trial bin unit"]:
        """Return the parameters in every bin."""
        varying = functional.linear(latents, self.weight.flatten(0, 1), self.offset.flatten())
        if self.constants is None and len(self.weight) == 1:
            return varying[None]
        trials, bins, _ = latents.shape
        parts = list(varying.unflatten(-1, self.offset.shape).unbind(-2))
        if self.constants is not None:
            parts += [constant.expand(trials, bins, -1) for constant in self.constants]
        return torch.stack(parts)
