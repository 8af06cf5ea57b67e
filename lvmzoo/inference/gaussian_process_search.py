"""Ascent by limited-memory quasi-Newton steps within a box, one value and gradient at a time.

The state is a flat set of tensors, so that a search can be saved and continued bit for bit. Coordinates are to be
scaled such that the curvature is about one: the first step is then about as long as one of EM.

Nocedal, Wright (2006), Numerical Optimization, doi:10.1007/978-0-387-40065-5, sections 7.2 and 16.7.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

__all__ = ["Search"]

MEMORY = 10  # pairs of steps and changes of the gradient
SUFFICIENT = 1e-4  # of the gain that the gradient promises: a step with less is shortened
SHORTEST = 1e-8  # share of a step below which there is nothing left to gain


class Search(nn.Module):
    """Where a search stands, in buffers."""

    position: Tensor  # the best so far
    gradient: Tensor
    direction: Tensor
    steps: Tensor  # (memory, coordinate)
    changes: Tensor  # of the gradient along them, with the opposite sign
    numbers: Tensor  # value at the position, share of the direction that is tried, pairs in the memory

    def __init__(self, coordinates: int, memory: int = MEMORY) -> None:
        super().__init__()
        for name in ("position", "gradient", "direction"):
            self.register_buffer(name, torch.zeros(coordinates, dtype=torch.float64))
        for name in ("steps", "changes"):
            self.register_buffer(name, torch.zeros(memory, coordinates, dtype=torch.float64))
        self.register_buffer("numbers", torch.zeros(3, dtype=torch.float64))

    def start(
        self,
        position: Tensor,
        value: float,
        gradient: Tensor,
        lower: Tensor,
        upper: Tensor,
        longest: Tensor,
        again: bool = False,
    ) -> Tensor:
        """Begin at a point; return the first to try.

        Parameters
        ----------
        position, value, gradient : the point.
        lower, upper : the box.
        longest : largest change of each coordinate in one step.
        again : whether what an earlier search learned of the curvature holds here, too.
        """
        pairs = int(self.numbers[2]) if again else 0
        if pairs:  # the last pair sets the scale of the first step, which is long
            order = self.steps[-pairs:].norm(dim=1).argsort()
            for kept in (self.steps, self.changes):
                kept[-pairs:] = kept[-pairs:][order]
        self.position.copy_(position)
        self.gradient.copy_(gradient)
        self.numbers.copy_(self.numbers.new_tensor([value, 1.0, pairs]))
        return self._aim(lower, upper, longest)

    def advance(
        self, tried: Tensor, value: float, gradient: Tensor, lower: Tensor, upper: Tensor, longest: Tensor
    ) -> tuple[Tensor, bool]:
        """Judge the point that was tried; return the next one, and whether this one was accepted.

        Parameters
        ----------
        tried, value, gradient : a point, and what was found there.
        lower, upper : the box.
        longest : largest change of each coordinate in one step.
        """
        step = tried - self.position
        best, share, pairs = self.numbers.tolist()
        promised = float(self.gradient @ step)
        if value >= best + SUFFICIENT * promised and bool(torch.isfinite(gradient).all()):
            change = self.gradient - gradient
            if float(step @ change) > 1e-10 * float(step.norm() * change.norm()):
                self.steps.copy_(torch.roll(self.steps, -1, 0))
                self.changes.copy_(torch.roll(self.changes, -1, 0))
                self.steps[-1], self.changes[-1] = step, change
                pairs = min(pairs + 1, len(self.steps))
            self.position.copy_(tried)
            self.gradient.copy_(gradient)
            self.numbers.copy_(self.numbers.new_tensor([value, 1.0, pairs]))
            return self._aim(lower, upper, longest), True
        missed = best + promised - value
        shorter = 0.5 * promised / missed if 0 < missed < float("inf") else 0.1  # where a parabola has its top
        self.numbers[1] = share * min(max(shorter, 0.1), 0.5)
        if float(self.numbers[1]) < 1e-3 and pairs:
            self.numbers[1:] = 0.0
            return self._aim(lower, upper, longest), False
        return self._point(lower, upper), False

    @property
    def exhausted(self) -> bool:
        """Whether no step along the gradient gains anything."""
        return float(self.numbers[2]) == 0 and float(self.numbers[1]) < SHORTEST

    def _point(self, lower: Tensor, upper: Tensor) -> Tensor:
        target = self.position + self.numbers[1] * self.direction
        return torch.minimum(torch.maximum(target, lower), upper)

    def _aim(self, lower: Tensor, upper: Tensor, longest: Tensor) -> Tensor:
        """Set the direction; return the point at its end."""
        outward = ((self.position <= lower) & (self.gradient < 0)) | ((self.position >= upper) & (self.gradient > 0))
        direction = self._newton(~outward)
        if not float(direction @ self.gradient) > 0:
            direction = torch.where(outward, 0.0, self.gradient)
        excess = float((direction.abs() / longest).max())
        self.direction.copy_(direction / max(1.0, excess))
        self.numbers[1] = 1.0
        return self._point(lower, upper)

    def _newton(self, free: Bool[Tensor, " coordinate"]) -> Tensor:
        """Return the gradient times the inverse curvature, by the two-loop recursion over the free coordinates."""
        q = torch.where(free, self.gradient, 0.0)
        pairs = int(self.numbers[2])
        if not pairs:
            return q
        steps, changes = self.steps[-pairs:] * free, self.changes[-pairs:] * free
        products = (steps * changes).sum(1)
        usable = [k for k in range(pairs) if float(products[k]) > 0]
        weights = {}
        for k in reversed(usable):
            weights[k] = steps[k] @ q / products[k]
            q = q - weights[k] * changes[k]
        if usable:
            q = q * (products[usable[-1]] / changes[usable[-1]].square().sum())
        for k in usable:
            q = q + (weights[k] - changes[k] @ q / products[k]) * steps[k]
        return q
