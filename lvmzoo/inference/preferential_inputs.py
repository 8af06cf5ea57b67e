"""How known inputs drive a linear system whose states and gains are known: least squares of its prediction errors.

With A, C and the Kalman gain K fixed, the errors e_t = y_t - C x_t - D u_t of the predictor x_{t+1} = (A - KC) x_t +
K y_t + (B - KD) u_t are linear in B - KD and D. Ljung (1999), System Identification, 2nd edition, section 10.6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.patterns import patterns, residual_blocks
from lvmzoo.inference.preferential_gains import Observer
from lvmzoo.inference.scan import linear_recurrence

__all__ = ["InputSums", "input_parameters", "input_sums"]

TOGETHER = 2**22  # numbers held at a time: 32 MB


class InputSums(NamedTuple):
    """Sums over the bins of trials in which nothing is missing; a response is what one element of B - KD does to x."""

    responses: Float[Tensor, "parameter parameter"]  # weighted by what the activity tells about x
    response_inputs: Float[Tensor, "parameter latent input"]
    inputs: Float[Tensor, "input input"]
    response_errors: Float[Tensor, " parameter"]
    errors: Float[Tensor, "unit input"]


def input_sums(
    observer: Observer,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin input"],
) -> InputSums:
    """Return the sums of one batch."""
    system, n, m = observer.system, len(observer.A), inputs.shape[-1]
    K, weights = _gain(observer)
    F = (system.dynamics - K @ system.readout).T.contiguous()
    zeros = system.offset.new_zeros
    sums = InputSums(zeros(m * n, m * n), zeros(m * n, n, m), zeros(m, m), zeros(m * n), zeros(len(K.T), m))
    root = torch.linalg.cholesky(system.readout.T @ weights + 1e-14 * torch.eye(n).to(F))
    basis = torch.eye(n).to(F)
    for whole in patterns(valid, observed):
        complete = whole.mask is None and bool(whole.units.all()) and bool(whole.seen[0].all())
        for part in whole.parts(max(1, TOGETHER // (whole.bins * m * n**2))) if complete else ():
            trials = len(part.lengths)
            lengths = torch.from_numpy(part.lengths).to(F.device)
            response, x = zeros(trials * m * n, n), zeros(trials, n)
            length = max(2, TOGETHER // (trials * m * n**2))
            for start in range(0, part.bins, length):
                stop = min(start + length, part.bins)
                there = (torch.arange(start, stop, device=F.device)[:, None] < lengths).to(F)
                u = inputs[part.rows, start:stop].to(F).transpose(0, 1) * there[..., None]
                y = zeros(stop - start, trials, len(K.T))
                for who, when, block in residual_blocks(activity, system.offset, part, start, stop):
                    shape = (who.stop - who.start, when.stop - when.start, -1)
                    y[when.start - start : when.stop - start, who] = block.view(shape).transpose(0, 1)
                drives = (u[..., None, None] * basis).flatten(1, 3)  # (bin, trial x input x element, latent)
                after = linear_recurrence(drives, F, response)
                responses = torch.cat([response[None], after[:-1]]).view(-1, trials, m * n, n)
                responses = responses * there[..., None, None]
                states = linear_recurrence(y @ K.T, F, x)
                error = (y - torch.cat([x[None], states[:-1]]) @ system.readout.T) * there[..., None]
                response, x = after[-1], states[-1]
                scaled = (responses @ root).permute(2, 0, 1, 3).flatten(1)
                sums.responses.addmm_(scaled, scaled.T)
                flat = responses.flatten(0, 1)
                sums.response_inputs.add_(torch.einsum("tpn,tm->pnm", flat, u.flatten(0, 1)))
                sums.inputs.add_(u.flatten(0, 1).T @ u.flatten(0, 1))
                sums.response_errors.add_(torch.einsum("tpn,tn->p", flat, error.flatten(0, 1) @ weights))
                sums.errors.add_(error.flatten(0, 1).T @ u.flatten(0, 1))
    return sums


def input_parameters(observer: Observer, sums: InputSums) -> tuple[Tensor, Tensor] | None:
    """Return B and D; None where no trial was complete."""
    if not float(sums.inputs.diagonal().max()) > 0:
        return None
    n, m = len(observer.A), len(sums.inputs)
    K, weights = _gain(observer)
    units = len(weights)
    precision = torch.linalg.inv(_innovations(observer))
    mixed = torch.einsum("pnm,un->pum", sums.response_inputs, weights).flatten(1)
    gram = torch.cat(
        [
            torch.cat([sums.responses, mixed], 1),
            torch.cat([mixed.T, torch.kron(precision.contiguous(), sums.inputs.contiguous())], 1),
        ]
    )
    cross = torch.cat([sums.response_errors, (precision @ sums.errors).flatten()])
    scale = gram.diagonal().clamp(min=1e-300).sqrt()
    solved = torch.linalg.lstsq(gram / torch.outer(scale, scale), (cross / scale)[:, None], driver="gelsd").solution
    theta = solved[:, 0] / scale
    D = theta[m * n :].view(units, m)
    return theta[: m * n].view(m, n).T + K @ D, D


def _innovations(observer: Observer) -> Tensor:
    system = observer.system
    return system.readout @ system.predicted @ system.readout.T + system.noise


def _gain(observer: Observer) -> tuple[Float[Tensor, "latent unit"], Float[Tensor, "unit latent"]]:
    """Return K, and the readout in units of the covariance of the prediction's errors."""
    system = observer.system
    both = torch.cat([system.dynamics @ system.predicted @ system.readout.T + system.cross, system.readout.T])
    solved = torch.linalg.solve(_innovations(observer), both.T)
    n = len(system.dynamics)
    return solved[:, :n].T, solved[:, n:]
