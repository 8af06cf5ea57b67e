"""Starting values of a linear dynamical system of which the user knows a part: the rest is put into its coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lvmzoo.errors import UserError
from lvmzoo.inference.linear_gaussian import LinearGaussian

__all__ = ["with_given"]

LEAST = 0.02  # of the latents' mean variance: smallest variance of their noise to start with
TELLING = 1e-3  # singular values below it, relative to the largest, say nothing about the coordinates


def with_given(start: LinearGaussian, given: Mapping[str, Any], diagonal: bool) -> LinearGaussian:
    """Return starting values with the given ones among them; the others are of latents z = T x.

    A given readout says what T is. Of given dynamics the eigenvalues do: each mode of theirs is taken for the mode of
    the starting values that is nearest.

    Parameters
    ----------
    start : starting values from the data.
    given : "dynamics" or "readout" (the units of all sessions one after the other), or both, as rows of numbers.
    diagonal : the dynamics are to be diagonal.

    Raises
    ------
    UserError : when what is given has another shape than the model, is not finite, or not diagonal though it should be.
    """
    dynamics, readout = (_matrix(name, given, getattr(start, name)) for name in ("dynamics", "readout"))
    if diagonal and dynamics is not None and bool((dynamics != torch.diag(dynamics.diagonal())).any()):
        raise UserError(
            "model.given.dynamics is not diagonal.",
            "With model.dynamics=diagonal each latent decays by itself.",
            "Give a matrix with zeros off its diagonal, or set model.dynamics to full.",
        )
    if readout is not None:
        T = torch.linalg.lstsq(readout, start.readout, driver="gelsd").solution
    elif dynamics is not None:
        T = _matching_modes(dynamics, start.dynamics)
    else:
        return start
    into = torch.linalg.pinv(T, rtol=TELLING)
    variance = T @ T.T
    floor = LEAST * float(variance.diagonal().mean())
    variance = _at_least(variance, floor)
    A = dynamics if dynamics is not None else T @ start.dynamics @ into
    Q = variance - A @ variance @ A.T
    if diagonal:  # what turns one latent into another has no place
        A, Q = torch.diag(A.diagonal()), torch.diag(Q.diagonal())
    return start._replace(
        dynamics=A,
        dynamics_noise=_at_least(Q, floor),
        initial_mean=T @ start.initial_mean,
        initial_covariance=variance,
        readout=readout if readout is not None else start.readout @ into,
        drive=None if start.drive is None else T @ start.drive,
    )


def _matrix(name: str, given: Mapping[str, Any], expected: Tensor) -> Tensor | None:
    if name not in given:
        return None
    try:
        values = torch.as_tensor(given[name], dtype=expected.dtype, device=expected.device)
    except (TypeError, ValueError, RuntimeError):  # rows of unequal length, or no numbers
        values = None
    if values is None or values.shape != expected.shape:
        shape = "is no matrix" if values is None else f"has the shape {tuple(values.shape)}"
        raise UserError(
            f"model.given.{name} {shape}.",
            f"The {name} of this model and these data are {tuple(expected.shape)}: rows and columns.",
            f"Give {expected.shape[0]} rows of {expected.shape[1]} numbers, or leave model.given.{name} out.",
        )
    if not bool(values.isfinite().all()):
        raise UserError(
            f"model.given.{name} holds missing or infinite numbers.",
            "EM can start only from a model whose every number is known.",
            f"Replace them, or leave model.given.{name} out.",
        )
    return values


def _matching_modes(
    dynamics: Float[Tensor, "latent latent"], other: Float[Tensor, "latent latent"]
) -> Float[Tensor, "latent latent"]:
    """Return T with T other = dynamics T where they have the same eigenvalues."""
    values, modes = torch.linalg.eig(dynamics)
    other_values, other_modes = torch.linalg.eig(other)
    row, column = linear_sum_assignment((values[:, None] - other_values).abs().cpu().numpy())
    return (modes[:, row] @ torch.linalg.pinv(other_modes)[column]).real


def _at_least(covariance: Tensor, floor: float) -> Tensor:
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * values.clamp(min=max(floor, 1e-12))) @ vectors.T
