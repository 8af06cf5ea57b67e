r"""Linear dynamical system whose latents belong to regions: which region drives which, how fast, how strongly.

.. math::
    x^i_t = A_{ii} x^i_{t-1} + \sum_{j \neq i} \sum_{l} A^{(l)}_{ij} x^j_{t-l} + w^i_t, \quad
    y^i_t = C_i x^i_t + d_i + v^i_t, \quad w^i_t \sim N(0, Q_i), v^i_t \sim N(0, R_i)

for each region i, with diagonal R, or counts of mean :math:`\exp(C_i x^i_t + d_i)`. What regions share can only have
come through :math:`A^{(l)}_{ij}`, from region j to region i, l bins later. Sessions share the dynamics and have
readouts of their own; known inputs enter as in ``lds``. Fitted by exact EM, in which structural zeros stay zero.

Semedo, Zandvakili, Kohn, Machens, Yu (2014), Extracting latent structure from multiple interacting neural populations,
NeurIPS 27; Glaser, Whiteway, Cunningham, Paninski, Linderman (2020), Recurrent switching dynamical systems models for
multiple interacting neural populations, NeurIPS 33, doi:10.1101/2020.10.21.349282; directed influence: Barnett, Seth
(2015), doi:10.1103/PhysRevE.91.040101.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.claims.influence_findings import influence
from lvmzoo.errors import UserError, unknown
from lvmzoo.findings import Findings, Progress, quiet_progress
from lvmzoo.inference.lagged_moments import Recorded
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.messages import Messages, messages
from lvmzoo.inference.regional_canonical import regional_canonical
from lvmzoo.inference.regional_maximization import maximize_regional
from lvmzoo.inference.regional_starting import regional_start
from lvmzoo.inference.regional_structure import Structure, shown_latents
from lvmzoo.models.base import Communicates, Connects
from lvmzoo.models.state_space import StateSpace
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["MultiRegionLDS", "MultiRegionLDSConfig"]


@dataclass(frozen=True)
class MultiRegionLDSConfig:
    """Regions with latents of their own, and who may drive whom."""

    name: str = "multi_region_lds"
    latents: int = 4  # of each region
    emissions: str = "gaussian"  # gaussian; of counts also poisson
    connections: list[str] | None = None  # who may drive whom, such as ["V1->V2"]; null: every region every other
    max_lag: int = 1  # longest communication between regions, in bins
    rank: int | None = None  # dimensions through which a region drives another; null: all
    residuals: bool = False  # subtract each condition's mean course over the training trials
    permutations: int = 200  # of trials between regions, for the null; 0: no null
    resamples: int = 100  # bootstrap of trials, for intervals; 0: none

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError."""
        for name, least in (("latents", 1), ("max_lag", 1), ("rank", 0), ("permutations", 0), ("resamples", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(
                    f"model.{name} is {value}.", f"It is at least {least}.", f"Set model.{name} to {least} or more."
                )
        if self.emissions not in ("gaussian", "poisson"):
            choices = ("gaussian", "poisson")
            raise unknown("choice of model.emissions", self.emissions, choices, "Set model.emissions to one of these.")
        if self.residuals and self.emissions != "gaussian":
            raise UserError(
                f"model.residuals is true and model.emissions is {self.emissions}.",
                "Counts less their mean are no counts.",
                "Set model.emissions to gaussian, or model.residuals to false.",
            )


class MultiRegionLDS(StateSpace, Communicates, Connects):
    """Latents of each region, which drive those of other regions after a lag; Gaussian or Poisson activity, EM."""

    def __init__(self, config: MultiRegionLDSConfig, layouts: Sequence[Layout]) -> None:
        names = _names(layouts)
        longest = max(layout.longest_bins for layout in layouts)
        if 0 < longest <= config.max_lag and config.max_lag > 1:
            raise UserError(
                f"model.max_lag is {config.max_lag} bins.",
                f"The longest trial has {longest} bins.",
                "Set model.max_lag to fewer bins than trials have, or use longer trials.",
            )
        structure = Structure(
            names, config.latents, _connections(config.connections, names), config.max_lag, config.rank
        )
        super().__init__(
            config,
            layouts,
            structure.size,
            structure.present,
            config.emissions,
            config.residuals,
        )
        self.structure = structure
        self._shown = shown_latents(self.structure.regions, layouts, self.structure.size)
        self.readout.mul_(self._shown)
        self.dynamics.copy_(torch.where(self.structure.allowed, self.dynamics, self.structure.shift))
        self.dynamics_noise.mul_(self.structure.noisy)

    @property
    def regions(self) -> Mapping[str, slice]:
        """Which latents belong to each region; they are also the region's rows of the state in ``dynamics``."""
        return self.structure.regions

    def blocks(self, lag: int) -> Mapping[tuple[str, str], Float[Tensor, "latent latent"]]:
        """Return what drives a region ``lag`` bins later, by (source, target); a region's own dynamics at lag 1."""
        own = [(name, name) for name in self.regions] if lag == 1 else []
        pairs = [*own, *(pair for pair in self.structure.connections if lag <= self.structure.max_lag)]
        return {(source, target): self.structure.block(self.dynamics, source, target, lag) for source, target in pairs}

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Start from the covariances of the activity within and between bins."""
        self.residuals.prepare(batches)
        if self.input_mean is not None:
            self.input_mean.copy_(self._mean_input(batches))

        def of_session(session: str) -> Iterable[Recorded]:
            return self._recorded(batches, session)

        self._set(self._emissions.start(regional_start(of_session, list(self.layouts.values()), self.structure)))

    def _maximized(self, statistics: Any) -> LinearGaussian:
        return maximize_regional(
            self._emissions,
            self._everything(),
            statistics,
            self.structure.regions,
            self.structure.allowed,
            self._shown,
            self.structure.rank,
            self.structure.columns,
        )

    @torch.no_grad()
    def finish(self) -> None:
        """Choose among the equivalent parameters, region by region."""
        values, moment = regional_canonical(self._everything(), self.latent_moment, self.structure, self._shown)
        self._set(values)
        self.latent_moment.copy_(moment)

    @property
    def routes(self) -> Mapping[str, tuple[str, ...]]:
        """Each region, predicted from all others."""
        return {name: tuple(other for other in self.regions if other != name) for name in self.regions}

    @torch.no_grad()
    def predict_target(self, batch: Batch, target: str) -> Float[Tensor, "trial bin target_unit"]:
        """Return the expected activity of a region given all bins of the other regions."""
        units = batch.layout.region(target)
        return self.rates(batch.hide(range(units.start, units.stop)))[..., units]

    @torch.no_grad()
    def findings(self, batch: Batch, seed: int, progress: Progress = quiet_progress) -> Findings:
        """Return who drives whom, how late and through how many dimensions, and the curves behind it."""
        activity, _, _, known = self._data(batch)
        return influence(
            self.parameters_of(batch.layout.session),
            self.structure,
            self._emissions,
            replace(batch, activity=activity),
            permutations=self.config.permutations,
            resamples=self.config.resamples,
            seed=seed,
            progress=progress,
            inputs=known,
        )

    @torch.no_grad()
    def messages(self, batch: Batch) -> Messages:
        """Return the smoothed latents of each region taken apart: what each region sent to it, and what is new.

        What known inputs do counts as new.
        """
        state = self._emissions.smoothed(self.parameters_of(batch.layout.session), *self._data(batch))[0]
        return messages(self.dynamics, self.structure, state, batch.valid)

    def advance(self, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the expected latents one bin later, with known inputs at their training mean.

        Where communication takes longer than a bin, regions are taken to have been for that long where they are.
        """
        A = self.dynamics[self._present, self._present].clone()
        for lag in range(2, self.structure.max_lag + 1):
            for (source, target), block in self.blocks(lag).items():
                A[self.regions[target], self.regions[source]] += block
        return latents @ A.to(latents).T


def _names(layouts: Sequence[Layout]) -> tuple[str, ...]:
    """Return the regions of all sessions, which must be the same."""
    names = tuple(layouts[0].units)
    if len(names) < 2:
        raise UserError(
            f"Session '{layouts[0].session}' has one region ({', '.join(names)}).",
            "multi_region_lds says how regions drive each other: it needs two regions with units that are not silent.",
            "Give each unit its region (an electrodes.location in NWB, `regions=` for arrays), check data.regions, "
            "or use model=lds for one region.",
        )
    for layout in layouts[1:]:
        if set(layout.units) != set(names):
            raise UserError(
                f"Session '{layout.session}' has the regions {', '.join(layout.units)}.",
                f"Session '{layouts[0].session}' has {', '.join(names)}: sessions share what drives each region.",
                "Choose regions that every session has (data.regions).",
            )
    return names


def _connections(given: Sequence[str] | None, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs (source, target) that may communicate."""
    everything = list(itertools.permutations(names, 2))
    if given is None:
        return tuple(everything)
    pairs = []
    for text in given:
        source, arrow, target = (part.strip() for part in text.partition("->"))
        if not arrow:
            raise UserError(
                f"model.connections holds '{text}'.",
                "A connection leads from a region to another.",
                f"Write it with an arrow, such as '{names[0]}->{names[1]}'.",
            )
        for name in (source, target):
            if name not in names:
                raise unknown("region of model.connections", name, names)
        if source == target:
            raise UserError(
                f"model.connections holds '{text}'.",
                "Every region drives itself; a connection leads to another region.",
                "Leave it out.",
            )
        pairs.append((source, target))
    return tuple(pair for pair in everything if pair in pairs)


def _tiny(layout: Layout) -> Any:
    return MultiRegionLDSConfig(latents=2, permutations=19, resamples=10)


register(
    Entry(
        model=MultiRegionLDS,
        config=MultiRegionLDSConfig,
        family=Family.MULTI_REGION,
        reference=Reference(
            "Glaser, Whiteway, Cunningham, Paninski & Linderman (2020). Recurrent switching dynamical systems models "
            "for multiple interacting neural populations. NeurIPS 33, 14867-14878.",
            "10.1101/2020.10.21.349282",
            "glaser2020recurrent",
        ),
        tiny=_tiny,
        training=Training(max_epochs=100),
    )
)
