"""Fitting Gaussian processes: EM with a step of Fisher scoring for the timescales, finished by a quasi-Newton search.

EM finds the space of the latents quickly, but turns them slowly within it to the directions that have one timescale
each; quasi-Newton steps on the likelihood do that. Both need the same sums: by Fisher's identity, those of EM hold the
gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvmzoo.inference.gaussian_process import GaussianProcess, Sums
from lvmzoo.inference.gaussian_process_search import Search
from lvmzoo.inference.maximization import noise_floors

__all__ = ["Fitting", "gradient", "scoring_step", "smallest_noise", "solve_readout"]

EM_PASSES = 10
LARGEST_STEP = 0.5  # of a log timescale, and of the logarithm of a private variance, in one pass
DAMPING = 1e-3  # of the information, so that a timescale that the data do not tell stays where it is
SHORTEST_BINS = 0.25  # timescale; below it neighboring bins are independent
LONGEST_TRIALS = 4.0  # timescale; above it a latent is constant within trials
HALVINGS = 3  # of a step of the timescales that made the likelihood fall, before it is given up
STRETCH = 5  # accepted steps of the search over which its gain is judged


class Fitting(nn.Module):
    """What a fit must remember from one pass to the next, in buffers, so that it can be continued bit for bit."""

    tested: Tensor  # the last timescales at which the likelihood was found not to have fallen
    step: Tensor  # of the log timescales from there, not tested yet
    floor: Tensor  # of the private variances
    scale: Tensor  # of the units in the search: their private deviations at its start
    curvature: Tensor  # of the likelihood in each log timescale at the start of the search, per bin
    limits: Tensor  # of the timescales
    best: Tensor  # log-likelihood per bin of the accepted parameters
    counts: Tensor  # passes, rejections in a row, accepted steps of the search, 1 when searching

    def __init__(self, units: int, latents: int) -> None:
        super().__init__()
        start = {
            "tested": torch.ones(latents),
            "step": torch.zeros(latents),
            "floor": torch.zeros(units),
            "scale": torch.ones(units),
            "curvature": torch.ones(latents),
            "limits": torch.tensor([SHORTEST_BINS, 1e3]),
            "best": torch.tensor(-math.inf),
            "counts": torch.zeros(4),
        }
        for name, value in start.items():
            self.register_buffer(name, value.to(torch.float64))
        self.search = Search(units * (latents + 2) + latents)

    def begin(self, longest: int, most: float) -> None:
        """Allow timescales that trials of at most ``longest`` bins can tell, and of ``most`` bins."""
        self.limits[1] = min(max(LONGEST_TRIALS * longest, 10.0), most)

    @property
    def settled(self) -> bool:
        """Whether the gain since this was last true says how far the fit has come."""
        _, rejected, accepted, searching = self.counts.tolist()
        return bool(searching) and ((rejected == 0 and accepted % STRETCH == 0) or self.search.exhausted)

    def update(
        self, process: GaussianProcess, sums: Sums, sessions: Iterable[tuple[slice, bool]]
    ) -> tuple[GaussianProcess, Float[Tensor, ""]]:
        """Return the parameters to look at next, and the log-likelihood per bin of the best ones so far.

        Parameters
        ----------
        process : where the sums were taken; the units of all sessions.
        sums : over all data.
        sessions : the units of each, and whether they are counts, for the smallest private variances.
        """
        if sums.bins == 0:
            return process, sums.log_likelihood
        value = float(sums.log_likelihood / sums.bins)
        if self.counts[0] == 0:
            self.floor.copy_(smallest_noise(sums, sessions))
        self.counts[0] += 1
        if self.counts[3]:
            return self._search(process, sums, value), self.best.clone()
        if not value >= float(self.best) - 1e-12 * abs(value) and math.isfinite(float(self.best)):
            self.counts[1] += 1
            self.step *= 0.5 if self.counts[1] < HALVINGS else 0.0
            return process._replace(timescales=self._stepped()), self.best.clone()
        self.counts[1] = 0
        self.best.fill_(value)
        self.tested.copy_(process.timescales)
        if self.counts[0] > EM_PASSES:
            return self._start_search(process, sums, value), self.best.clone()
        self.step.copy_(scoring_step(sums))
        C, d, r = solve_readout(process, sums, self.floor)
        return GaussianProcess(self._stepped(), C, d, r, *process[4:]), self.best.clone()

    def accepted(self, process: GaussianProcess) -> GaussianProcess:
        """Return the parameters without the last step, if that was not tested."""
        if self.counts[3]:
            return self._decode(self.search.position, process)
        return process if self.counts[0] == 0 else process._replace(timescales=self.tested.clone())

    def _stepped(self) -> Tensor:
        return (self.tested * self.step.exp()).clamp(float(self.limits[0]), float(self.limits[1]))

    def _start_search(self, process: GaussianProcess, sums: Sums, value: float) -> GaussianProcess:
        self.counts[3] = 1
        self.scale.copy_(process.noise.sqrt())
        information = sums.information.diagonal() / sums.bins
        self.curvature.copy_(information.clamp(min=max(1e-3 * float(information.max()), 1e-12)).sqrt())
        slope = self._gradient(process, sums)
        return self._decode(self.search.start(self._encode(process), value, slope, *self._box()), process)

    def _search(self, process: GaussianProcess, sums: Sums, value: float) -> GaussianProcess:
        slope = self._gradient(process, sums)
        point, accepted = self.search.advance(self._encode(process), value, slope, *self._box())
        self.best.copy_(self.search.numbers[0])
        if accepted:
            self.counts[1], self.counts[2] = 0, self.counts[2] + 1
        else:
            self.counts[1] += 1
        return self._decode(point, process)

    def _encode(self, process: GaussianProcess) -> Float[Tensor, " coordinate"]:
        """Return coordinates in which the complete data would have a curvature of one per bin."""
        return torch.cat(
            [
                (process.readout / self.scale[:, None]).flatten(),
                process.offset / self.scale,
                process.noise.log() * math.sqrt(0.5),
                process.timescales.log() * self.curvature,
            ]
        )

    def _decode(self, point: Float[Tensor, " coordinate"], process: GaussianProcess) -> GaussianProcess:
        units, latents = process.readout.shape
        C, d, log_noise, log_timescales = point.split([units * latents, units, units, latents])
        noise = torch.maximum((log_noise / math.sqrt(0.5)).exp(), self.floor)
        return GaussianProcess(
            (log_timescales / self.curvature).exp(),
            C.view(units, latents) * self.scale[:, None],
            d * self.scale,
            noise,
            *process[4:],
        )

    def _gradient(self, process: GaussianProcess, sums: Sums) -> Float[Tensor, " coordinate"]:
        C, d, log_noise, log_timescales = gradient(process, sums)
        parts = [
            (C * self.scale[:, None]).flatten(),
            d * self.scale,
            log_noise / math.sqrt(0.5),
            log_timescales / self.curvature,
        ]
        return torch.cat(parts) / sums.bins

    def _box(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the least and largest value of each coordinate, and the largest change in one step."""
        units, latents = len(self.floor), len(self.tested)
        free = torch.full((len(self.search.position) - units - latents,), math.inf).to(self.floor)
        noise = self.floor.log() * math.sqrt(0.5)
        least, most = (self.curvature * math.log(float(limit)) for limit in self.limits)
        steps = [torch.full_like(noise, LARGEST_STEP * math.sqrt(0.5)), LARGEST_STEP * self.curvature]
        return (
            torch.cat([-free, noise, least]),
            torch.cat([free, torch.full_like(noise, math.inf), most]),
            torch.cat([free, *steps]),
        )


def smallest_noise(sums: Sums, sessions: Iterable[tuple[slice, bool]]) -> Float[Tensor, " unit"]:
    """Return the floor of the private variances, a share of the variance of the activity."""
    samples = sums.readout[:, -1, -1].clamp(min=1)
    variance = sums.squares / samples - (sums.activity[:, -1] / samples).square()
    return noise_floors(variance, sessions)


def solve_readout(
    model: GaussianProcess, sums: Sums, floor: Float[Tensor, " unit"]
) -> tuple[Float[Tensor, "unit latent"], Float[Tensor, " unit"], Float[Tensor, " unit"]]:
    """Return C, d and r, each unit by its own normal equations over the bins that show it."""
    C, d, r = model.readout.clone(), model.offset.clone(), model.noise.clone()
    samples = sums.readout[:, -1, -1]
    known = samples > 0
    if not bool(known.any()):
        return C, d, r
    cross = sums.activity[known]
    solution = torch.linalg.solve(sums.readout[known], cross)
    C[known] = solution[:, :-1]
    d[known] += solution[:, -1]  # activity was taken relative to the old offset
    left = (sums.squares[known] - (solution * cross).sum(1)) / samples[known]
    r[known] = torch.maximum(left, floor[known])
    return C, d, r


def scoring_step(sums: Sums) -> Float[Tensor, " latent"]:
    """Return the step of the log timescales: Fisher scoring, damped and not longer than ``LARGEST_STEP``."""
    information = sums.information.clone()
    diagonal = information.diagonal()
    diagonal += DAMPING * diagonal + 1e-6 * diagonal.max() + 1e-12
    step = torch.linalg.solve(information, sums.slope)
    return step * (LARGEST_STEP / step.abs().max().clamp(min=LARGEST_STEP))


def gradient(
    model: GaussianProcess, sums: Sums
) -> tuple[Float[Tensor, "unit latent"], Float[Tensor, " unit"], Float[Tensor, " unit"], Float[Tensor, " latent"]]:
    """Return the derivative of the log-likelihood by C, d, log r and the log timescales (Fisher's identity)."""
    C, r = model.readout, model.noise
    moment, samples = sums.readout, sums.readout[:, -1, -1]
    readout = sums.activity - torch.einsum("nij,nj->ni", moment, torch.nn.functional.pad(C, (0, 1)))
    error = sums.squares - 2 * (C * sums.activity[:, :-1]).sum(1)
    error = error + torch.einsum("ni,nij,nj->n", C, moment[:, :-1, :-1], C)
    weighted = readout / r[:, None]
    return weighted[:, :-1], weighted[:, -1], 0.5 * (error / r - samples), sums.slope
