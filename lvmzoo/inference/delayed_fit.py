"""Fitting processes with delays: EM with Fisher scoring of timescales and delays, then a boxed quasi-Newton search.

As for :mod:`lvmzoo.inference.gaussian_process_fit`: EM finds the space of the latents quickly and turns them within it
slowly; quasi-Newton steps on the likelihood do that. The box matters: a timescale that overshoots has no way back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvmzoo.inference.delayed_expectations import Sums
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.gaussian_process import GaussianProcess
from lvmzoo.inference.gaussian_process import Sums as ReadoutSums
from lvmzoo.inference.gaussian_process_fit import gradient, smallest_noise, solve_readout
from lvmzoo.inference.gaussian_process_search import MEMORY, Search

__all__ = ["EM_PASSES", "DelayedFitting", "free_delays"]

EM_PASSES = 8
LARGEST_STEP = 0.5  # of a log timescale, of a log private variance, and of a delay in timescales, in one pass
DAMPING = 1e-3  # of the information, so that what the data do not tell stays where it is
SHORTEST_BINS = 0.3  # timescale; below it neighboring bins are independent
LONGEST_TRIALS = 4.0  # timescale; above it a process is constant within trials
HALVINGS = 3  # of a step that made the likelihood fall, before it is given up
STRETCH = 5  # accepted steps of the search over which its gain is judged


def free_delays(regions: int, across: int) -> Float[Tensor, "delay free"]:
    """Return the map of free delays to delays, region by region: those of the first region are zero."""
    return torch.eye(regions * across, dtype=torch.float64)[:, across:]


class DelayedFitting(nn.Module):
    """What a fit must remember from one pass to the next, in buffers, so that it can be continued bit for bit."""

    basis: Tensor  # of the delays: the free ones to all
    tested: Tensor  # the last shapes (log timescales, free delays) at which the likelihood was found not to have fallen
    step: Tensor  # of the shapes from there, not tested yet
    floor: Tensor  # of the private variances
    scale: Tensor  # of the units in the search: their private deviations at its start
    curvature: Tensor  # of the likelihood in each shape at the start of the search, per bin
    limits: Tensor  # shortest and longest timescale, longest delay
    best: Tensor  # log-likelihood per bin of the accepted parameters
    counts: Tensor  # passes, rejections in a row, accepted steps of the search, 1 when searching, passes of EM

    def __init__(
        self, units: int, columns: int, basis: Float[Tensor, "delay free"], latents: int, memory: int = MEMORY
    ) -> None:
        super().__init__()
        shapes = latents + basis.shape[1]
        start = {
            "basis": basis,
            "tested": torch.zeros(shapes),
            "step": torch.zeros(shapes),
            "floor": torch.zeros(units),
            "scale": torch.ones(units),
            "curvature": torch.ones(shapes),
            "limits": torch.tensor([SHORTEST_BINS, 1e3, 1e3]),
            "best": torch.tensor(-math.inf),
            "counts": torch.tensor([0.0, 0.0, 0.0, 0.0, EM_PASSES]),
        }
        for name, value in start.items():
            self.register_buffer(name, value.to(torch.float64).clone())
        self.search = Search(units * (columns + 2) + shapes, memory)
        self._again = False

    def begin(self, longest: int) -> None:
        """Allow timescales and delays that trials of at most ``longest`` bins can tell."""
        self.limits.copy_(torch.tensor([SHORTEST_BINS, max(LONGEST_TRIALS * longest, 10.0), longest / 2]))

    def again(self) -> None:
        """Forget the data, not how the likelihood curves: begin another search near where the last one began."""
        self._again = self.searching
        self.best.fill_(-math.inf)
        self.counts[:4] = 0.0

    @property
    def searching(self) -> bool:
        """Whether EM is over."""
        return bool(self.counts[3])

    @property
    def scoring(self) -> bool:
        """Whether the Fisher information is needed: for steps of EM, and the scales of a first search."""
        return not self.searching and not (self._again and int(self.counts[4]) == 0)

    @property
    def settled(self) -> bool:
        """Whether the gain since this was last true says how far the fit has come."""
        _, rejected, accepted, searching, _ = self.counts.tolist()
        return bool(searching) and ((rejected == 0 and accepted % STRETCH == 0) or self.search.exhausted)

    def update(
        self, model: DelayedProcesses, sums: Sums, sessions: Iterable[tuple[slice, bool]]
    ) -> tuple[DelayedProcesses, Float[Tensor, ""]]:
        """Return the parameters to look at next, and the log-likelihood per bin of the best ones so far.

        Parameters
        ----------
        model : where the sums were taken; the units of all sessions.
        sums : over all data.
        sessions : the units of each, and whether they are counts, for the smallest private variances.
        """
        if sums.bins == 0:
            return model, sums.log_likelihood
        value = float(sums.log_likelihood / sums.bins)
        if self.counts[0] == 0:
            self.floor.copy_(smallest_noise(_of_readout(sums), sessions))
        self.counts[0] += 1
        if self.searching:
            return self._search(model, sums, value), self.best.clone()
        if not value >= float(self.best) - 1e-12 * abs(value) and math.isfinite(float(self.best)):
            self.counts[1] += 1
            self.step *= 0.5 if self.counts[1] < HALVINGS else 0.0
            return self._shaped(model, self._stepped()), self.best.clone()
        self.counts[1] = 0
        self.best.fill_(value)
        self.tested.copy_(self._shapes(model))
        if self.counts[0] > self.counts[4]:
            return self._start_search(model, sums, value), self.best.clone()
        self.step.copy_(self._scoring_step(model, sums))
        C, d, r = solve_readout(_of_units(model), _of_readout(sums), self.floor)
        return self._shaped(model._replace(readout=C, offset=d, noise=r), self._stepped()), self.best.clone()

    def accepted(self, model: DelayedProcesses) -> DelayedProcesses:
        """Return the parameters without the last step, if that was not tested."""
        if self.searching:
            return self._decode(self.search.position, model)
        return model if self.counts[0] == 0 else self._shaped(model, self.tested)

    def _reduced(self, sums: Sums, latents: int) -> tuple[Tensor, Tensor]:
        """Return derivative and information of log timescales and free delays."""
        free = self.basis.shape[1]
        whole = torch.block_diag(torch.eye(latents).to(self.basis), self.basis)
        assert whole.shape[1] == latents + free
        return whole.T @ sums.slope, whole.T @ sums.information @ whole

    def _shapes(self, model: DelayedProcesses) -> Float[Tensor, " free_shape"]:
        """Return log timescales and free delays."""
        pieces = self.basis.T @ model.delays.flatten() / self.basis.square().sum(0)
        return torch.cat([model.timescales.log(), pieces])

    def _shaped(self, model: DelayedProcesses, shapes: Float[Tensor, " free_shape"]) -> DelayedProcesses:
        log_tau, free = shapes.split([len(model.timescales), self.basis.shape[1]])
        return model._replace(timescales=log_tau.exp(), delays=(self.basis @ free).view_as(model.delays))

    def _range(self, model: DelayedProcesses) -> tuple[Tensor, Tensor]:
        """Return the least and largest shapes."""
        shortest, longest, delay = self.limits.tolist()
        taus, free = torch.ones_like(model.timescales), self.basis.new_ones(self.basis.shape[1])
        return (
            torch.cat([taus * math.log(shortest), -delay * free]),
            torch.cat([taus * math.log(longest), delay * free]),
        )

    def _longest_steps(self, model: DelayedProcesses) -> Float[Tensor, " free_shape"]:
        """Return the largest change of each shape in one pass."""
        own = model.timescales[: model.across].repeat(len(model.delays))
        scales = (self.basis * own.clamp(min=1.0)[:, None]).amax(0) if own.numel() else self.basis.new_zeros(0)
        return LARGEST_STEP * torch.cat([torch.ones_like(model.timescales), scales])

    def _stepped(self) -> Tensor:
        shortest, longest, delay = self.limits.tolist()
        latents = len(self.tested) - self.basis.shape[1]
        log_tau, free = (self.tested + self.step).split([latents, self.basis.shape[1]])
        return torch.cat([log_tau.clamp(math.log(shortest), math.log(longest)), free.clamp(-delay, delay)])

    def _scoring_step(self, model: DelayedProcesses, sums: Sums) -> Float[Tensor, " free_shape"]:
        """Return the step of the shapes: Fisher scoring, damped and not too long."""
        slope, information = self._reduced(sums, len(model.timescales))
        scale = self._longest_steps(model)
        information = information * torch.outer(scale, scale)
        diagonal = information.diagonal()
        diagonal += DAMPING * diagonal + 1e-6 * diagonal.max() + 1e-12
        step = torch.linalg.solve(information, slope * scale)
        return scale * step / step.abs().max().clamp(min=1.0)

    def _start_search(self, model: DelayedProcesses, sums: Sums, value: float) -> DelayedProcesses:
        self.counts[3] = 1
        if not self._again:
            self._set_scales(model, sums)
        slope, box = self._gradient(model, sums), self._box(model)
        return self._decode(self.search.start(self._encode(model), value, slope, *box, again=self._again), model)

    def _set_scales(self, model: DelayedProcesses, sums: Sums) -> None:
        self.scale.copy_(model.noise.sqrt())
        information = self._reduced(sums, len(model.timescales))[1].diagonal() / sums.bins
        steps = self._longest_steps(model)
        relative = information * steps.square()  # delays of slow processes tell as much as fast ones, in timescales
        least = max(1e-3 * float(relative.max()), 1e-12)
        self.curvature.copy_((relative.clamp(min=least) / steps.square()).sqrt())

    def _search(self, model: DelayedProcesses, sums: Sums, value: float) -> DelayedProcesses:
        slope = self._gradient(model, sums)
        point, accepted = self.search.advance(self._encode(model), value, slope, *self._box(model))
        self.best.copy_(self.search.numbers[0])
        if accepted:
            self.counts[1], self.counts[2] = 0, self.counts[2] + 1
        else:
            self.counts[1] += 1
        return self._decode(point, model)

    def _encode(self, model: DelayedProcesses) -> Float[Tensor, " coordinate"]:
        """Return coordinates in which the complete data would have a curvature of one per bin."""
        return torch.cat(
            [
                (model.readout / self.scale[:, None]).flatten(),
                model.offset / self.scale,
                model.noise.log() * math.sqrt(0.5),
                self._shapes(model) * self.curvature,
            ]
        )

    def _decode(self, point: Float[Tensor, " coordinate"], model: DelayedProcesses) -> DelayedProcesses:
        units, columns = model.readout.shape
        C, d, log_noise, shapes = point.split([units * columns, units, units, len(self.curvature)])
        changed = model._replace(
            readout=C.view(units, columns) * self.scale[:, None],
            offset=d * self.scale,
            noise=torch.maximum((log_noise / math.sqrt(0.5)).exp(), self.floor),
        )
        return self._shaped(changed, shapes / self.curvature)

    def _gradient(self, model: DelayedProcesses, sums: Sums) -> Float[Tensor, " coordinate"]:
        C, d, log_noise, _ = gradient(_of_units(model), _of_readout(sums))
        shapes = self._reduced(sums, len(model.timescales))[0]
        parts = [
            (C * self.scale[:, None]).flatten(),
            d * self.scale,
            log_noise / math.sqrt(0.5),
            shapes / self.curvature,
        ]
        return torch.cat(parts) / sums.bins

    def _box(self, model: DelayedProcesses) -> tuple[Tensor, Tensor, Tensor]:
        """Return the least and largest value of each coordinate, and the largest change in one step."""
        units = len(self.floor)
        free = torch.full((units * (model.readout.shape[1] + 1),), math.inf).to(self.floor)
        noise = self.floor.log() * math.sqrt(0.5)
        least, most = (self.curvature * shapes for shapes in self._range(model))
        steps = [torch.full_like(noise, LARGEST_STEP * math.sqrt(0.5)), self._longest_steps(model) * self.curvature]
        return (
            torch.cat([-free, noise, least]),
            torch.cat([free, torch.full_like(noise, math.inf), most]),
            torch.cat([free, *steps]),
        )


def _of_units(model: DelayedProcesses) -> GaussianProcess:
    """Return what the readout of each unit needs: its columns are as good as latents."""
    return GaussianProcess(model.timescales[:1], model.readout, model.offset, model.noise)


def _of_readout(sums: Sums) -> ReadoutSums:
    columns = sums.activity.shape[1] - 1
    nothing = sums.slope.new_zeros(columns)
    return ReadoutSums(*sums[:5], slope=nothing, information=nothing.new_zeros(columns, columns))
