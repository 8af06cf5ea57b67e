"""Which inputs carry which outputs of a network: its Jacobian, kept small in training, and the pseudo-inverse of it.

Where ``z = f(x)`` undoes ``x = g(z)``, the rows of ``J_f^+`` are those of ``J_g``: zero for a unit that no latent
drives, which ``J_f`` itself, free to combine units that carry nothing, does not tell. A penalty on ``J_f`` while ``f``
is learned makes the estimate consistent.

Schneider, González Laiz, Filippova, Frey & Mathis (2025), Time-series attribution maps with regularized contrastive
learning, AISTATS, arXiv:2502.12977. The penalty and its random projections: Hoffman, Roberts & Yaida (2019), Robust
learning with Jacobian regularization, arXiv:1908.02729.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Attribution", "attribute", "jacobian_penalty", "jacobians", "phased_in", "pseudo_inverses"]

_RANK = 1e-5  # singular values below this fraction of the largest count as zero: those off a sphere of latents are


class Attribution(NamedTuple):
    """How strongly each input carries each output, in the mean over samples and summed over the bins in view."""

    inverse: Float[Tensor, "unit latent"]  # |J^+|
    jacobian: Float[Tensor, "unit latent"]  # |J|


def jacobian_penalty(
    inputs: Float[Tensor, "bin window unit"], outputs: Float[Tensor, "window latent"], projected: bool
) -> Float[Tensor, ""]:
    """Return half the squared Frobenius norm of the Jacobian of each window, in the mean; it can be differentiated.

    Parameters
    ----------
    inputs : windows that the outputs were computed from; a window's output depends on that window alone.
    outputs : vectors of the windows.
    projected : estimate it, without bias, from one random direction in the space of outputs instead of all axes.
    """
    windows, latents = outputs.shape
    if projected:
        direction = torch.nn.functional.normalize(torch.randn_like(outputs), dim=-1)
        directions, scale = [direction], latents
    else:
        directions, scale = [axis.expand_as(outputs) for axis in torch.eye(latents).to(outputs)], 1
    total = outputs.new_zeros(())
    for direction in directions:
        (gradient,) = torch.autograd.grad(outputs, inputs, direction, create_graph=True)
        total = total + gradient.square().sum()
    return scale * total / (2 * max(windows, 1))


def phased_in(step: int, warmup_steps: int) -> float:
    """Return the share of a penalty at a step: none at first, then growing over as many steps to the whole."""
    return 1.0 if warmup_steps == 0 else min(max((step - warmup_steps) / warmup_steps, 0.0), 1.0)


def jacobians(
    function: Callable[[Tensor], Tensor], inputs: Float[Tensor, "bin window unit"]
) -> Float[Tensor, "window latent bin unit"]:
    """Return the Jacobian of each window's output, exactly: one pass back for each latent.

    ``function`` maps windows to vectors (window, latent), each window by itself.
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        outputs = function(inputs)
        rows = [
            torch.autograd.grad(outputs[:, latent].sum(), inputs, retain_graph=latent + 1 < outputs.shape[1])[0]
            for latent in range(outputs.shape[1])
        ]
    return torch.stack(rows).permute(2, 0, 1, 3)


def pseudo_inverses(matrices: Float[Tensor, "window latent input"]) -> Float[Tensor, "window input latent"]:
    """Return the Moore-Penrose inverses of wide matrices, by way of their small Gram matrices."""
    gram = matrices @ matrices.mT
    return matrices.mT @ torch.linalg.pinv(gram, rtol=_RANK**2, hermitian=True)


def attribute(parts: Iterable[Float[Tensor, "_window latent bin unit"]]) -> Attribution:
    """Return the attribution of all windows, from the Jacobians of some at a time. Raises ValueError without any."""
    inverse, jacobian, windows = torch.zeros(()), torch.zeros(()), 0
    for part in parts:
        inverses = pseudo_inverses(part.double().flatten(2)).unflatten(1, part.shape[2:])
        inverse = inverse + inverses.abs().sum((0, 1))
        jacobian = jacobian + part.double().abs().sum((0, 2)).mT
        windows += len(part)
    if not windows:
        raise ValueError("there is no window to attribute")
    return Attribution(inverse / windows, jacobian / windows)
