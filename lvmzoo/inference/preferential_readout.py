"""Readouts of behavior from states: linear regression, and multinomial logistic regression by Newton's method.

Both need only sums over bins, those of a logistic readout once for each step of Newton.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Kind, Variable

__all__ = ["Coded", "coded", "codes", "decoded", "least_squares", "logistic_step", "logistic_sums"]

PENALTY = 1.0  # on half the squared weights of a logistic readout, of states in units of their spread


class Coded(NamedTuple):
    """Where the code of a variable lies among those of all."""

    variable: Variable
    columns: slice


def codes(variables: Mapping[str, Variable]) -> dict[str, Coded]:
    """Return what the variables become: channels; cosine and sine of angles; an indicator for each level."""
    result, start = {}, 0
    for name, variable in variables.items():
        width = {Kind.CIRCULAR: 2 * variable.channels, Kind.CATEGORICAL: max(len(variable.levels), 1)}
        stop = start + width.get(variable.kind, variable.channels)
        result[name] = Coded(variable, slice(start, stop))
        start = stop
    return result


def coded(values: Float[Tensor, "*bin channel"], code: Coded) -> Float[Tensor, "*bin code"]:
    """Return the code of a variable; NaN where a channel is unknown."""
    values = values.to(torch.float64)
    if code.variable.kind is Kind.CIRCULAR:
        return torch.cat([values.cos(), values.sin()], -1)
    if code.variable.kind is Kind.CATEGORICAL:
        level = values.nan_to_num(-1.0).round().to(torch.int64)
        hot = (level == torch.arange(code.columns.stop - code.columns.start, device=level.device)).to(torch.float64)
        return torch.where(values.isnan(), values, hot)
    return values


def decoded(code: Float[Tensor, "*bin code"], variable: Variable) -> Float[Tensor, "*bin channel"]:
    """Return the value of a code: the angle of cosine and sine, the index of the largest."""
    if variable.kind is Kind.CIRCULAR:
        cosine, sine = code.chunk(2, -1)
        return torch.atan2(sine, cosine)
    if variable.kind is Kind.CATEGORICAL:
        return code.argmax(-1, keepdim=True).to(code.dtype)
    return code


def least_squares(
    gram: Float[Tensor, "regressor regressor"], cross: Float[Tensor, "regressor code"]
) -> Float[Tensor, "code regressor"]:
    """Return the regression of least norm; a regressor without variance gets no weight."""
    scale = gram.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale.clamp(min=1e-300), 0.0)
    correlation = gram * torch.outer(inverse, inverse)
    return (
        inverse[:, None] * (torch.linalg.pinv(correlation, rtol=1e-12, hermitian=True) @ (inverse[:, None] * cross))
    ).T


def logistic_sums(
    x: Float[Tensor, "bin regressor"], level: Float[Tensor, "bin level"], weights: Float[Tensor, "level regressor"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "level regressor"], Float[Tensor, "level regressor level regressor"]]:
    """Return the log-likelihood of the levels (one-hot), its gradient, and minus its Hessian."""
    logits = x @ weights.T
    log_p = torch.log_softmax(logits, 1)
    p = log_p.exp()
    hessian = torch.zeros(*weights.shape, *weights.shape, dtype=x.dtype, device=x.device)
    for i in range(len(weights)):
        for j in range(i + 1):
            curvature = p[:, i] * (float(i == j) - p[:, j])
            hessian[i, :, j] = hessian[j, :, i] = (x * curvature[:, None]).T @ x
    return (level * log_p).sum(), (level - p).T @ x, hessian


def logistic_step(
    weights: Float[Tensor, "level regressor"],
    gradient: Float[Tensor, "level regressor"],
    hessian: Float[Tensor, "level regressor level regressor"],
    scale: Float[Tensor, " regressor"],
) -> Float[Tensor, "level regressor"]:
    """Return the weights after a step of Newton on the penalized likelihood.

    Parameters
    ----------
    weights, gradient, hessian : where the sums were taken.
    scale : of the regressors; the last, the intercept, is hardly penalized.
    """
    penalty = (PENALTY * scale.square()).clamp(min=1e-8).repeat(len(weights), 1)
    penalty[:, -1] = 1e-6
    curvature = hessian.flatten(2).flatten(0, 1) + torch.diag(penalty.flatten())
    step = torch.linalg.solve(curvature, (gradient - penalty * weights).flatten())
    return weights + step.view_as(weights)
