"""Linear recurrences with a constant matrix, fast for few and long sequences.

x_t = x_{t-1} M + u_t is evaluated block by block: one product with a block-Toeplitz matrix gives every block as if it
began at zero, the ends of the blocks obey the same recurrence with M^L and are solved recursively, and their effect on
the following block is added. The result is exact whether or not M is stable, and almost all work is in large products.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BLOCK", "linear_recurrence"]

BLOCK = 16  # bins a block: the product costs BLOCK times the flops of the recurrence, at many times their speed


def linear_recurrence(
    inputs: Float[Tensor, "bin trial latent"],
    matrix: Float[Tensor, "latent latent"],
    start: Float[Tensor, "trial latent"],
    reverse: bool = False,
) -> Float[Tensor, "bin trial latent"]:
    """Return x with x_t = x_{t-1} M + u_t, where ``start`` is the state before the first bin.

    Parameters
    ----------
    inputs : u.
    matrix : M; states are rows, so this is the transpose of the usual dynamics matrix.
    start : state before the first bin, or after the last one if ``reverse``.
    reverse : run from the last bin to the first: x_t = x_{t+1} M + u_t.
    """
    bins, trials, latents = inputs.shape
    blocks = bins // BLOCK
    if blocks < 2:
        return _sequential(inputs, matrix, start, reverse)
    head = bins - blocks * BLOCK if reverse else 0  # bins outside whole blocks come last in the recurrence
    main = inputs[head : head + blocks * BLOCK]
    powers = _powers(matrix)
    grid = main.unflatten(0, (blocks, BLOCK)).transpose(1, 2).reshape(blocks * trials, BLOCK * latents)
    within = grid @ _toeplitz(powers, reverse)
    last = slice(0, latents) if reverse else slice((BLOCK - 1) * latents, None)
    ends = within[:, last].reshape(blocks, trials, latents)
    ends = linear_recurrence(ends, powers[BLOCK], start, reverse)
    before = torch.cat([ends[1:], start[None]] if reverse else [start[None], ends[:-1]])
    order = range(BLOCK, 0, -1) if reverse else range(1, BLOCK + 1)
    within.addmm_(before.flatten(0, 1), torch.cat([powers[k] for k in order], dim=1))
    states = within.view(blocks, trials, BLOCK, latents).transpose(1, 2).reshape(blocks * BLOCK, trials, latents)
    if reverse and head:
        return torch.cat([_sequential(inputs[:head], matrix, states[0], reverse), states])
    if len(states) < bins:
        return torch.cat([states, _sequential(inputs[len(states) :], matrix, states[-1], reverse)])
    return states


def _sequential(inputs: Tensor, matrix: Tensor, start: Tensor, reverse: bool) -> Tensor:
    states = inputs.clone()
    previous = start
    for t in range(len(states) - 1, -1, -1) if reverse else range(len(states)):
        previous = states[t].addmm_(previous, matrix)
    return states


def _powers(matrix: Tensor) -> Tensor:
    powers = [torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)]
    for _ in range(BLOCK):
        powers.append(powers[-1] @ matrix)
    stacked = torch.stack(powers)
    stacked[stacked.abs() < 1e-150] = 0.0  # denormal numbers would make every product slow
    return stacked


def _toeplitz(powers: Tensor, reverse: bool) -> Tensor:
    steps = torch.arange(BLOCK, device=powers.device)
    ahead = steps[None, :] - steps[:, None]  # from input row to output column
    ahead = -ahead if reverse else ahead
    blocks = powers[ahead.clamp(min=0)] * (ahead >= 0)[..., None, None]
    return blocks.transpose(1, 2).flatten(2, 3).flatten(0, 1)
