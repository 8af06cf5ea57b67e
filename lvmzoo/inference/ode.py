r"""Solving dz/dt = f(z, u) for a batch of trials at once, on the grid of bins.

Euler, Heun and the classical Runge-Kutta method take equal steps that all trials share: of one bin, or of ``stride``
bins with cubic Hermite interpolation between them. Inputs u are constant within a bin, and no step crosses a bin's edge
where there are any. Gradients are those of the discretized solution, by backpropagation through the steps: exact for
what is computed, unlike those of the continuous adjoint equation (Chen, Rubanova, Bettencourt, Duvenaud 2018, Neural
ordinary differential equations, doi:10.48550/arXiv.1806.07366).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.errors import UserError

__all__ = ["METHODS", "Method", "hermite", "solve", "solve_adaptive"]

Field = Callable[[Tensor, Tensor | None], Tensor]  # (trial, latent), (trial, channel) -> slope per s, (trial, latent)


class Method(NamedTuple):
    """An explicit method of which each stage begins from the stage before it."""

    reach: tuple[float, ...]  # fraction of the step at which each stage looks, along the slope of the one before
    weights: tuple[float, ...]  # of the stages' slopes in the step


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "euler": Method((0.0,), (1.0,)),
        "heun": Method((0.0, 1.0), (0.5, 0.5)),
        "rk4": Method((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    }
)


def solve(
    field: Field,
    start: Float[Tensor, "trial latent"],
    bins: int,
    step: float,
    method: Method = METHODS["rk4"],
    stride: int = 1,
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Float[Tensor, "trial bin latent"]:
    """Return the solution at the beginning of every bin; that of the first bin is ``start``.

    Parameters
    ----------
    field : slope of the latents.
    start : latents of the first bin.
    bins : how many bins to return.
    step : width of a bin, in the time of ``field``.
    method : of the fixed-step solver.
    stride : bins in a step; with inputs it must be 1.
    inputs : constant within each bin; the input of a bin moves the latents from it to the next.
    """
    if inputs is not None and stride != 1:
        raise ValueError("A step longer than a bin would cross changes of the inputs: use stride=1.")
    length = step * stride
    steps = -(-(bins - 1) // stride)
    states, slopes = [start], []
    for n in range(steps):
        u = None if inputs is None else inputs[:, n]
        state = total = states[-1]
        slope = torch.zeros_like(state)
        for i, (reach, weight) in enumerate(zip(method.reach, method.weights, strict=True)):
            slope = field(state if i == 0 else state + reach * length * slope, u)
            total = total + weight * length * slope
            if i == 0 and stride > 1:
                slopes.append(slope)
        states.append(total)
    if stride == 1:
        return torch.stack(states, 1)
    slopes.append(field(states[-1], None))
    return hermite(torch.stack(states), torch.stack(slopes), length, stride)[:bins].transpose(0, 1)


def hermite(
    states: Float[Tensor, "knot trial latent"], slopes: Float[Tensor, "knot trial latent"], length: float, stride: int
) -> Float[Tensor, "bin trial latent"]:
    """Return the cubic Hermite interpolation at ``stride`` equal parts of every interval, and the last knot.

    Its error is of fourth order in ``length``, the time between knots.
    """
    s = torch.arange(stride, dtype=states.dtype, device=states.device) / stride
    basis = torch.stack(
        [(1 + 2 * s) * (1 - s) ** 2, s**2 * (3 - 2 * s), length * s * (1 - s) ** 2, length * s**2 * (s - 1)], 1
    )
    corners = torch.stack([states[:-1], states[1:], slopes[:-1], slopes[1:]], 1)
    inner = torch.einsum("sc,kctl->kstl", basis, corners).flatten(0, 1)
    return torch.cat([inner, states[-1:]])


def solve_adaptive(
    field: Field,
    start: Float[Tensor, "trial latent"],
    bins: int,
    step: float,
    tolerance: float = 1e-5,
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Float[Tensor, "trial bin latent"]:
    """Return what ``solve`` does, by torchdiffeq's adaptive Dormand-Prince method.

    The steps are as long as the trial that needs the shortest ones allows, and end where the inputs change. Hence a
    trial's solution depends on the others of the batch, within the tolerance.

    Raises
    ------
    UserError
        When torchdiffeq is not installed.
    """
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise UserError(
            "The adaptive solver needs the package torchdiffeq, which is not installed.",
            "The solvers with fixed steps (euler, heun, rk4) need nothing more.",
            "Run `pip install torchdiffeq`, or choose model.solver=rk4.",
        ) from error
    if bins == 1:
        return start.unsqueeze(1)
    # In units of bins, edges are whole numbers: an input is looked up without rounding errors.
    times = torch.arange(bins, dtype=torch.float64, device=start.device)

    def slope(time: Tensor, state: Tensor) -> Tensor:
        u = None if inputs is None else inputs[:, int(time.clamp(0, bins - 2))]
        return step * field(state, u)

    options: dict[str, object] = {"norm": lambda error: error.square().mean(-1).sqrt().amax()}
    if inputs is not None:
        options["jump_t"] = times[1:-1]
    solution: Tensor = odeint(slope, start, times, rtol=tolerance, atol=tolerance, method="dopri5", options=options)
    return solution.transpose(0, 1)
