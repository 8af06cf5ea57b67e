r"""Fixed points of a map, and the linear dynamics around them.

A point that a map ``advance`` leaves where it is solves F(z) = advance(z) - z = 0. From many starts at once, damped
Newton steps (Levenberg, Marquardt)

.. math:: \delta = -(J^\top J + \lambda I)^{-1} J^\top F, \quad J = \partial F / \partial z,

lower the speed :math:`|F|` of every start until it stops; unlike simulation, they find unstable points as well.
Sussillo, Barak (2013), Opening the black box, Neural Computation 25, 626-649, doi:10.1162/NECO_a_00409.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["FixedPoints", "Modes", "fixed_points", "jacobians", "modes"]

Advance = Callable[
    [Tensor], Tensor
]  # (point, latent) -> (point, latent), each point for itself, by differentiable steps

_STEPS = 200
_MOST = 64  # points that are told apart: of a line of fixed points any number could be
_APART = 0.01  # points nearer to each other than this fraction of the starts' spread are one
_STUCK = 1e8  # damping at which no step makes a start slower
_REACH = 1.5  # how far from the starts' mean points count, in units of the farthest start: beyond, it is extrapolation


class FixedPoints(NamedTuple):
    """Points where a map stands still; the one that most starts led to comes first."""

    points: Float[Tensor, "point latent"]
    speeds: Float[Tensor, " point"]  # how far the map still moves each, per bin
    jacobians: Float[Tensor, "point latent latent"]  # of the map; its eigenvalues tell stability


class Modes(NamedTuple):
    """Eigenvalues of linear maps of one bin, as times."""

    eigenvalues: Complex[Tensor, "... latent"]  # largest modulus first
    timescales_s: Float[Tensor, "... latent"]  # to decay by e; negative: to grow by e; infinite: neither
    frequencies_hz: Float[Tensor, "... latent"]  # at least 0; the two of a pair are equal


def fixed_points(
    advance: Advance, starts: Float[Tensor, "start latent"], tolerance: float | None = None
) -> FixedPoints:
    """Return the fixed points that damped Newton steps lead to.

    Parameters
    ----------
    advance : the map of one bin.
    starts : where to look: latents of the data, some dozens of them.
    tolerance : a point counts as fixed below this fraction of the starts' median speed; None is what the starts' type
        resolves (1e-3 in single, 1e-8 in double precision).

    Points much farther out than any start are left out, and so are starts that end at a slow point that still moves.
    There may be none.
    """
    usable = torch.isfinite(starts).all(1)
    points = starts.detach()[usable].clone()
    if not len(points):
        return _none(starts)
    if tolerance is None:
        tolerance = 1e-3 if points.dtype == torch.float32 else 1e-8
    center = points.mean(0)
    radius = (points - center).norm(dim=1).max()
    speeds = _residual(advance, points).norm(dim=1)
    allowed = tolerance * speeds.median() + 16 * torch.finfo(points.dtype).eps * points.norm(dim=1).max()
    points, speeds = _descend(advance, points, allowed * 1e-2)
    keep = (speeds <= allowed) & ((points - center).norm(dim=1) <= _REACH * radius.clamp(min=1e-12))
    if not bool(keep.any()):
        return _none(starts)
    spread = (starts.detach()[usable] - center).square().sum(1).mean().sqrt()
    chosen = _distinct(points[keep], speeds[keep], _APART * spread)
    points = points[keep][chosen]
    return FixedPoints(points, speeds[keep][chosen], jacobians(advance, points))


def jacobians(advance: Advance, points: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent latent"]:
    """Return d advance(z) / d z at each point: rows are outputs.

    One backward pass a latent, for all points together, so that ``advance`` may hold layers that ``vmap`` refuses.
    """
    with torch.enable_grad():
        place = points.detach().clone().requires_grad_(True)
        outputs = advance(place)
        rows = [
            torch.autograd.grad(outputs[:, latent].sum(), place, retain_graph=True)[0]
            for latent in range(outputs.shape[1])
        ]
    return torch.stack(rows, 1)


def modes(dynamics: Float[Tensor, "... latent latent"], bin_width_s: float) -> Modes:
    """Return the eigenvalues of maps of one bin, with the time and the frequency that each stands for."""
    eigenvalues = torch.linalg.eigvals(dynamics)
    order = eigenvalues.abs().argsort(dim=-1, descending=True, stable=True)
    eigenvalues = eigenvalues.gather(-1, order)
    timescales = -bin_width_s / eigenvalues.abs().log()
    return Modes(eigenvalues, timescales, eigenvalues.angle().abs() / (2 * math.pi * bin_width_s))


def _residual(advance: Advance, points: Tensor) -> Tensor:
    with torch.no_grad():
        return advance(points) - points


def _descend(advance: Advance, points: Tensor, enough: Tensor) -> tuple[Tensor, Tensor]:
    """Take damped Newton steps from every point, each with its own damping; return where they end, and the speeds."""
    points = points.clone()
    residual = _residual(advance, points)
    speeds = residual.norm(dim=1)
    damping = torch.full_like(speeds, 1e-3)
    identity = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
    for _ in range(_STEPS):
        active = torch.nonzero((speeds > enough) & (damping < _STUCK) & torch.isfinite(speeds))[:, 0]
        if not len(active):
            break
        slope = jacobians(advance, points[active]) - identity
        square = slope.mT @ slope
        scale = square.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12) * damping[active]
        gradient = slope.mT @ residual[active].unsqueeze(-1)
        step, failed = torch.linalg.solve_ex(square + scale[:, None, None] * identity, gradient)
        moved = points[active] - step[..., 0]
        after = _residual(advance, moved)
        speed = after.norm(dim=1)
        better = (speed < speeds[active]) & (failed == 0)  # False as well where a step left the finite numbers
        taken = active[better]
        points[taken], residual[taken], speeds[taken] = moved[better], after[better], speed[better]
        damping[active] = torch.where(better, damping[active] / 5, damping[active] * 4).clamp(min=1e-12)
    return points, speeds


def _distinct(points: Tensor, speeds: Tensor, apart: Tensor) -> list[int]:
    """Return one row for each group of nearby points, its slowest, the largest group first."""
    near = torch.cdist(points, points) <= apart
    groups: list[tuple[int, int]] = []
    left = torch.ones(len(points), dtype=torch.bool, device=points.device)
    for row in speeds.argsort().tolist():
        if bool(left[row]) and len(groups) < _MOST:
            groups.append((-int((near[row] & left).sum()), row))
            left &= ~near[row]
    return [row for _, row in sorted(groups)]


def _none(starts: Tensor) -> FixedPoints:
    latents = starts.shape[1]
    return FixedPoints(starts.new_zeros(0, latents), starts.new_zeros(0), starts.new_zeros(0, latents, latents))
