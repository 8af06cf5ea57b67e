"""Vector fields: the law by which latents move in continuous time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lvmzoo.inference.ode import Method
from lvmzoo.inference.tanh_ode import solve_tanh

__all__ = ["TanhField"]


class TanhField(nn.Module):
    r"""One hidden layer beside a linear part: dz/dt = A z + B u + b + W_2 tanh(W_1 z + V u + c).

    It starts contracting: A = -1, and W_2 small, so that no trajectory of an untrained field runs away.

    Parameters
    ----------
    latents, hidden, inputs : sizes of z, of the hidden layer and of u.
    """

    def __init__(self, latents: int, hidden: int, inputs: int = 0) -> None:
        super().__init__()
        bound = 1 / math.sqrt(latents + inputs)
        self.inner = nn.Parameter(torch.empty(hidden, latents).uniform_(-bound, bound))
        self.inner_offset = nn.Parameter(torch.empty(hidden).uniform_(-bound, bound))
        small = 0.1 / math.sqrt(hidden)
        self.outer = nn.Parameter(
            torch.cat([torch.empty(latents, hidden).uniform_(-small, small), -torch.eye(latents)], 1)  # W_2 and A
        )
        self.outer_offset = nn.Parameter(torch.zeros(latents))
        self.drive = (
            nn.Parameter(torch.empty(hidden + latents, inputs).uniform_(-small, small)) if inputs else None  # V and B
        )

    @property
    def linear(self) -> Float[Tensor, "latent latent"]:
        """The linear part A; a view."""
        return self.outer[:, len(self.inner) :]

    def forward(
        self, latents: Float[Tensor, "trial latent"], inputs: Float[Tensor, "trial channel"] | None = None
    ) -> Float[Tensor, "trial latent"]:
        """Return the slope; without inputs, where they are zero."""
        push, drift = self._terms(inputs)
        activation = torch.tanh(functional.linear(latents, self.inner) + push)
        return functional.linear(torch.cat([activation, latents], -1), self.outer) + drift

    def trajectory(
        self,
        start: Float[Tensor, "trial latent"],
        bins: int,
        step: float,
        method: Method,
        stride: int = 1,
        inputs: Float[Tensor, "trial bin channel"] | None = None,
    ) -> Float[Tensor, "trial bin latent"]:
        """Return what :func:`lvmzoo.inference.ode.solve` returns for this field, faster; differentiable once."""
        push, drift = self._terms(None if inputs is None else inputs[:, : bins - 1].transpose(0, 1))
        return solve_tanh(start, self.inner, self.outer, push, drift, bins, step, method, stride).transpose(0, 1)

    def _terms(self, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what the inputs add within the hidden layer and to the slope, offsets included."""
        if inputs is None or self.drive is None:
            return self.inner_offset, self.outer_offset
        hidden = len(self.inner)
        return (
            functional.linear(inputs, self.drive[:hidden], self.inner_offset),
            functional.linear(inputs, self.drive[hidden:], self.outer_offset),
        )
