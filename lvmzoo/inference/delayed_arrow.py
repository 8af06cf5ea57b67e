"""Matrices of an arrow's shape: a hub, and arms that meet in it alone, factored arm by arm.

Processes across regions are the hub of the posterior precision, those within a region an arm each: what is cubic in the
number of features is so in those of one region.

Golub, Van Loan (2013), Matrix Computations, fourth edition, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Arrow"]


class Arrow:
    """A positive definite matrix, its rows those of the hub, then those of each arm."""

    def __init__(
        self,
        hub: Float[Tensor, "hub hub"],
        borders: Sequence[Float[Tensor, "_arm hub"]],
        arms: Sequence[Float[Tensor, "_arm _arm"]],
    ) -> None:
        """Factor; ``borders`` are the rows of the arms in the columns of the hub."""
        self._arms = [torch.linalg.cholesky(arm) for arm in arms]
        self._borders = [
            torch.linalg.solve_triangular(root, border, upper=False)
            for root, border in zip(self._arms, borders, strict=True)
        ]
        left = hub.clone()
        for border in self._borders:
            left.addmm_(border.T, border, alpha=-1)
        self._hub = torch.linalg.cholesky(left)
        self._sizes = [len(root) for root in (self._hub, *self._arms)]

    @property
    def log_determinant(self) -> Float[Tensor, ""]:
        """Logarithm of the determinant."""
        return 2 * torch.cat([root.diagonal() for root in (self._hub, *self._arms)]).log().sum()

    def half(self, values: Float[Tensor, "row any"]) -> Float[Tensor, "row any"]:
        """Return values times the inverse of a root: their inner products are those by the inverse matrix."""
        hub, *parts = values.split(self._sizes)
        halves = [
            torch.linalg.solve_triangular(root, part, upper=False) for root, part in zip(self._arms, parts, strict=True)
        ]
        for border, half in zip(self._borders, halves, strict=True):
            hub = hub - border.T @ half
        return torch.cat([torch.linalg.solve_triangular(self._hub, hub, upper=False), *halves])

    def rest(self, half: Float[Tensor, "row any"]) -> Float[Tensor, "row any"]:
        """Return the inverse matrix times values, given their ``half``."""
        hub, *halves = half.split(self._sizes)
        hub = torch.linalg.solve_triangular(self._hub.T, hub, upper=True)
        parts = [
            torch.linalg.solve_triangular(root.T, part - border @ hub, upper=True)
            for root, border, part in zip(self._arms, self._borders, halves, strict=True)
        ]
        return torch.cat([hub, *parts])

    def inverse(self) -> Float[Tensor, "row row"]:
        """Return the inverse matrix."""
        through = torch.cat(
            [
                -torch.eye(self._sizes[0]).to(self._hub),
                *(
                    torch.linalg.solve_triangular(root.T, border, upper=True)
                    for root, border in zip(self._arms, self._borders, strict=True)
                ),
            ]
        )
        half = torch.linalg.solve_triangular(self._hub, through.T, upper=False)
        found = half.T @ half
        first = self._sizes[0]
        for root in self._arms:
            last = first + len(root)
            found[first:last, first:last] += torch.cholesky_inverse(root)
            first = last
        return found
