r"""Solving dz/dt = A z + W_2 tanh(W_1 z + p) + q fast, with its exact gradient.

The same steps as :func:`lvmzoo.inference.ode.solve`, with the backward pass written out. Automatic differentiation of
the loop would record some ten operations a stage, each on a small matrix; here each stage is two matrix products into
memory that is laid out beforehand, and the gradients of all weights are one product over all stages at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvmzoo.inference.ode import Method, hermite

__all__ = ["solve_tanh"]


def solve_tanh(
    start: Float[Tensor, "trial latent"],
    inner: Float[Tensor, "hidden latent"],
    outer: Float[Tensor, "latent hidden_and_latent"],
    push: Float[Tensor, " hidden"] | Float[Tensor, "step trial hidden"],
    drift: Float[Tensor, " latent"] | Float[Tensor, "step trial latent"],
    bins: int,
    step: float,
    method: Method,
    stride: int = 1,
) -> Float[Tensor, "bin trial latent"]:
    """Return the solution at the beginning of every bin, bins first.

    Parameters
    ----------
    start : latents of the first bin.
    inner : W_1.
    outer : W_2 and A, side by side.
    push, drift : p and q; of each step and trial where they depend on inputs, and then ``stride`` is 1.
    bins : how many bins to return.
    step : width of a bin, in the time of the equation.
    method : of the solver.
    stride : bins in a step.
    """
    if push.ndim == 3 and stride != 1:
        raise ValueError("A step longer than a bin would cross changes of the inputs: use stride=1.")
    if bins == 1:
        return start.unsqueeze(0)
    steps = -(-(bins - 1) // stride)
    with torch.autocast(start.device.type, enabled=False):  # products into given memory take no part in it
        states, slopes = _Solve.apply(
            start.to(inner.dtype), inner, outer, push, drift, steps, step * stride, method, stride > 1
        )
    return states if stride == 1 else hermite(states, slopes, step * stride, stride)[:bins]


class _Solve(torch.autograd.Function):
    """States at the knots, and where asked for the slopes there (else a single row of zeros)."""

    @staticmethod
    def forward(
        ctx: Any,
        start: Tensor,
        inner: Tensor,
        outer: Tensor,
        push: Tensor,
        drift: Tensor,
        steps: int,
        length: float,
        method: Method,
        sloping: bool,
    ) -> tuple[Tensor, Tensor]:
        trials, latents = start.shape
        hidden, stages = len(inner), len(method.reach)
        rows = steps * stages + int(sloping)
        features = start.new_empty(rows, trials, hidden + latents)  # tanh(...) and where it was taken, for ``outer``
        states = start.new_empty(steps + 1, trials, latents)
        slopes = start.new_zeros(steps + 1 if sloping else 1, trials, latents)
        into, out_of = inner.T, outer.T
        k = start.new_empty(stages, trials, latents)
        weights = length * start.new_tensor(method.weights)
        rows_of, activations, places = (
            part.unbind(0) for part in (features, features[..., :hidden], features[..., hidden:])
        )
        slopes_of, state_of, total = k.unbind(0), states.unbind(0), states.view(steps + 1, -1).unbind(0)
        every = k.view(stages, -1).T
        state_of[0].copy_(start)
        row = 0
        for n in range(steps):
            p, q = (push[n], drift[n]) if push.ndim == 3 else (push, drift)
            for i, reach in enumerate(method.reach):
                if i == 0:
                    places[row].copy_(state_of[n])
                else:
                    torch.add(state_of[n], slopes_of[i - 1], alpha=reach * length, out=places[row])
                torch.addmm(p, places[row], into, out=activations[row]).tanh_()
                torch.addmm(q, rows_of[row], out_of, out=slopes_of[i])
                row += 1
            torch.addmv(total[n], every, weights, out=total[n + 1])
            if sloping:
                slopes[n] = k[0]
        if sloping:
            places[row].copy_(state_of[-1])
            torch.addmm(push, state_of[-1], into, out=activations[row]).tanh_()
            torch.addmm(drift, rows_of[row], out_of, out=slopes[-1])
        ctx.save_for_backward(features, inner, outer)
        ctx.steps, ctx.length, ctx.method, ctx.sloping, ctx.varying = steps, length, method, sloping, push.ndim == 3
        return states, slopes

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def backward(ctx: Any, of_states: Tensor, of_slopes: Tensor) -> tuple[Tensor | None, ...]:
        features, inner, outer = ctx.saved_tensors
        steps, length, method = ctx.steps, ctx.length, ctx.method
        hidden, stages = len(inner), len(method.reach)
        rows, trials, _ = features.shape
        latents = inner.shape[1]
        of_push, of_k = features.new_empty(rows, trials, hidden), features.new_empty(rows, trials, latents)
        of_row = features.new_empty(trials, hidden + latents)
        of_at = features.new_empty(stages, trials, latents)
        weights = length * features.new_tensor(method.weights)[:, None, None]

        activations, of_push_of, of_k_of, of_at_of = (
            part.unbind(0) for part in (features[..., :hidden], of_push, of_k, of_at)
        )
        of_activation, of_place = of_row[:, :hidden], of_row[:, hidden:]

        def through(row: int, out: Tensor) -> None:
            """Pass the gradient of one stage's slope on to the place where it was taken."""
            torch.mm(of_k_of[row], outer, out=of_row)
            torch.ops.aten.tanh_backward.grad_input(of_activation, activations[row], grad_input=of_push_of[row])
            torch.mm(of_push_of[row], inner, out=out)
            out.add_(of_place)

        of_state = of_states[-1].clone()
        if ctx.sloping:
            of_k[-1] = of_slopes[-1]
            through(rows - 1, of_at[0])
            of_state += of_at[0]
        for n in range(steps - 1, -1, -1):
            first = n * stages
            torch.mul(of_state, weights, out=of_k[first : first + stages])
            for i in range(stages - 1, -1, -1):
                if i + 1 < stages:
                    of_k_of[first + i].add_(of_at_of[i + 1], alpha=method.reach[i + 1] * length)
                if i == 0 and ctx.sloping:
                    of_k_of[first].add_(of_slopes[n])
                through(first + i, of_at_of[i])
            of_state += of_at.sum(0)
            of_state += of_states[n]
        flat = of_k.view(-1, latents)
        of_outer = flat.T @ features.view(len(flat), -1)
        of_inner = of_push.view(-1, hidden).T @ features.view(len(flat), -1)[:, hidden:]
        if ctx.varying:
            grads = of_push.view(steps, stages, trials, hidden).sum(1), of_k.view(steps, stages, trials, latents).sum(1)
        else:
            grads = of_push.sum((0, 1)), of_k.sum((0, 1))
        return of_state, of_inner, of_outer, *grads, None, None, None, None
