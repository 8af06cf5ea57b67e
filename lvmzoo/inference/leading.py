"""The largest singular value of each of many products of matrices, for less than it takes to find all of them.

The products are formed in single precision, and block power iteration turns a few columns towards their leading
directions. The value itself is a Rayleigh quotient of the matrices in double precision, whose error is of second order
in what the directions lack. It is taken where that error is below ``TOLERANCE``; other products are formed and
decomposed in double precision. Saad (2011), Numerical Methods for Large Eigenvalue Problems,
doi:10.1137/1.9781611970739.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["largest_singular_values"]

TOLERANCE = 1e-9  # of the squared singular value, by second-order perturbation
BLOCK = 4  # columns
SMALLEST, LARGEST = 12, 64  # rows of matrices for which it pays; powers of larger ones leave the range of floats
SET_ENTRIES = 600_000  # of the products that are iterated at a time, and then stay in the cache


def largest_singular_values(
    x: Float[Tensor, "time_x x sample"], y: Float[Tensor, "time_y y sample"]
) -> Float[Tensor, "time_x time_y"]:
    """Return the largest singular value of the product of each matrix of x with each of y, to about nine digits."""
    if x.shape[1] < y.shape[1]:
        return largest_singular_values(y, x).mT
    if not SMALLEST <= y.shape[1] <= x.shape[1] <= LARGEST:
        return torch.linalg.svdvals(torch.einsum("sun,tvn->stuv", x, y))[..., 0]
    # Scaled, so that the Gram matrices of products have eigenvalues of at most about one.
    scales = [torch.linalg.vector_norm(part, dim=(1, 2), keepdim=True).clamp(min=1e-300) for part in (x, y)]
    size = max(1, SET_ENTRIES // (len(y) * x.shape[1] * y.shape[1]))
    columns = (y / scales[1]).to(torch.float32).flatten(0, 1).mT
    rows = (x / scales[0]).to(torch.float32)
    found, certain = x.new_empty(len(x), len(y)), []
    for start in range(0, len(x), size):
        here = slice(start, start + size)
        product = rows[here].flatten(0, 1) @ columns
        product = product.view(-1, x.shape[1], len(y), y.shape[1]).transpose(1, 2)
        u, v, sure = _directions(product.flatten(0, 1))
        u, v = (torch.nn.functional.normalize(w.to(x.dtype), dim=-1).view(-1, len(y), w.shape[-1]) for w in (u, v))
        found[here] = ((u @ x[here]) * (v.transpose(0, 1) @ y).transpose(0, 1)).sum(-1)
        certain.append(sure.view(-1, len(y)))
    s, t = (~torch.cat(certain)).nonzero().mT
    for few in torch.arange(len(s), device=x.device).split(200):
        found[s[few], t[few]] = torch.linalg.svdvals(x[s[few]] @ y[t[few]].mT)[:, 0]
    return found


def _directions(
    m: Float[Tensor, "matrix row column"],
) -> tuple[Float[Tensor, "matrix row"], Float[Tensor, "matrix column"], Bool[Tensor, " matrix"]]:
    """Return unit vectors close to the leading singular vectors, and whether they are close enough."""
    power = m.mT @ m
    power /= power.diagonal(dim1=1, dim2=2).sum(-1).clamp(min=1e-30)[:, None, None]
    for _ in range(3):
        power = power @ power  # the eighth
    start = torch.randn(m.shape[-1], BLOCK, generator=torch.Generator().manual_seed(0)).to(m.device)
    directions = power @ (power @ start)
    v, sure = _best(m, directions)
    if not bool(sure.all()):
        rest = (~sure).nonzero()[:, 0]
        again = power[rest] @ (power[rest] @ torch.linalg.qr(directions[rest]).Q)
        v[rest], sure[rest] = _best(m[rest], again)
    u = (m @ v[..., None])[..., 0]
    return u, v, sure


def _best(
    m: Float[Tensor, "matrix row column"], directions: Float[Tensor, "matrix column direction"]
) -> tuple[Float[Tensor, "matrix column"], Bool[Tensor, " matrix"]]:
    """Return the best vector in the span of the directions, and whether it is good enough (Rayleigh & Ritz)."""
    basis = torch.linalg.qr(directions).Q
    image = m @ basis
    values, axes = torch.linalg.eigh(image.mT @ image)
    best, axis = values[:, -1], axes[:, None, :, -1]
    v = (basis * axis).sum(-1)
    residual = ((image * axis).sum(-1)[:, None] @ m)[:, 0] - best[:, None] * v
    # Second-order perturbation: what lies outside of the directions is below the smallest value in them.
    error = residual.square().sum(1) / (best - values[:, 0]).clamp(min=1e-30)
    return v, error <= TOLERANCE * best
