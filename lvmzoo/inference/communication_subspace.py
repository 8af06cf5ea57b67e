"""How two communication subspaces lie to each other: principal angles.

Bjorck & Golub (1973), Numerical methods for computing angles between linear subspaces, doi:10.2307/2005662.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["subspace_angles"]


def subspace_angles(one: Float[Tensor, "unit _"], other: Float[Tensor, "unit _"]) -> Float[Tensor, " angle"]:
    """Return the principal angles between the columns' spans, in degrees, smallest first; dependent columns count once.

    Small angles come from sines and large ones from cosines, so that all are exact.
    """
    a, b = _basis(one), _basis(other)
    if b.shape[1] > a.shape[1]:
        a, b = b, a
    if not b.shape[1]:
        return one.new_zeros(0)
    overlap = a.mT @ b
    cosine = torch.linalg.svdvals(overlap).clamp(max=1.0)
    sine = torch.linalg.svdvals(b - a @ overlap).clamp(max=1.0).flip(0)
    return torch.where(cosine.square() < 0.5, torch.arccos(cosine), torch.arcsin(sine)).rad2deg()


def _basis(columns: Float[Tensor, "unit _"]) -> Float[Tensor, "unit _"]:
    vectors, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    if not len(sizes):
        return columns
    return vectors[:, sizes > sizes[0] * max(columns.shape) * torch.finfo(columns.dtype).eps]
