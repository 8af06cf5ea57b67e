r"""Delayed latents across groups: what regions share, each with its own delay, and what each has for itself.

.. math:: y^m_t = C^m x^m_t + W^m w^m_t + d^m + v^m_t, \quad x^m_{jt} = s_j(t - D_{mj}) + n^m_{jt}

with Gaussian processes s and w of squared-exponential covariance, a timescale for each, real-valued delays D relative
to the first region, and noise v that is independent from unit to unit. The exact likelihood is maximized, by EM and a
quasi-Newton search, from starting values by canonical correlation over lags. Trials may have any length; sessions
share timescales and delays, and each has its own readout.

Gokcen, Jasper, Semedo, Zandvakili, Kohn, Machens, Yu (2022), Disentangling the flow of signals between populations of
neurons, Nature Computational Science 2, 512-525, doi:10.1038/s43588-022-00282-5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.claims.delayed_findings import Settings, delayed_findings
from lvmzoo.errors import UserError
from lvmzoo.findings import Findings, Progress, quiet_progress
from lvmzoo.inference.delayed_dimension import RegionalData, choose_sizes
from lvmzoo.inference.delayed_expectations import (
    Sums,
    activity_of,
    draw,
    expectations,
    log_likelihood,
    posterior_means,
    posterior_moments,
)
from lvmzoo.inference.delayed_fit import DelayedFitting, free_delays
from lvmzoo.inference.delayed_processes import DelayedProcesses, features_of
from lvmzoo.inference.delayed_sessions import by_variance, start_together
from lvmzoo.models.base import (
    Communicates,
    Connects,
    HasPosterior,
    Reconstructs,
    Samples,
    Scores,
    StatisticsModel,
)
from lvmzoo.models.multi_region.dlag_config import DLAGConfig
from lvmzoo.models.multi_region.dlag_trials import trials_of
from lvmzoo.parts.residuals import Residuals
from lvmzoo.parts.session_units import SessionUnits
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["DLAG", "DLAGConfig"]

LARGEST = 6_000  # features: a matrix of 288 MB


class DLAG(StatisticsModel, Reconstructs, Communicates, Connects, Samples, Scores, HasPosterior):
    """Gaussian-process latents within regions, and across them with real-valued delays; exact inference, EM."""

    passes = None

    timescales: Tensor  # bins: of the latents across regions, then of those within each region
    delays: Tensor  # (region, across) bins, relative to the first region
    readout: Tensor  # (unit, across + within), the units of all sessions one after the other
    offset: Tensor  # d
    noise: Tensor  # private variances
    scores: Tensor  # (fold, number of latents across regions): held-out nats per bin; empty: none were compared

    def __init__(self, config: DLAGConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        self.regions = tuple(dict.fromkeys(name for layout in layouts for name in layout.units))
        if len(self.regions) < 2:
            raise UserError(
                f"The data have one region ({', '.join(self.regions)}).",
                "dlag looks for what two or more regions share.",
                "Give each unit its region (an electrodes.location in NWB, `regions=` for arrays), or use gpfa.",
            )
        self.units = SessionUnits(layouts)
        self.residuals = Residuals(layouts, config.residuals)
        self._allocate(config.across or 1, config.within or 0)
        self.register_buffer("scores", torch.zeros(0, 0, dtype=torch.float64))

    def _allocate(self, across: int, within: int) -> None:
        """Make parameters for these numbers of latents."""
        units, regions = self.units.total, len(self.regions)
        generator = torch.Generator().manual_seed(0)
        start = {
            "timescales": torch.full((across + regions * within,), 5.0),
            "delays": torch.zeros(regions, across),
            "readout": 0.1 * torch.randn(units, across + within, generator=generator),
            "offset": torch.zeros(units),
            "noise": torch.ones(units),
        }
        for name, value in start.items():
            self.register_buffer(name, value.to(torch.float64))
        self.fitting = DelayedFitting(units, across + within, free_delays(regions, across), len(self.timescales))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for the numbers of latents that were chosen when the parameters were saved."""
        if f"{prefix}delays" in state_dict:
            across = state_dict[f"{prefix}delays"].shape[1]
            within = state_dict[f"{prefix}readout"].shape[1] - across
            if (across, within) != (self.across, self.within):
                device = self.delays.device
                self._allocate(across, within)
                self.to(device)
            self.scores = torch.zeros_like(state_dict[f"{prefix}scores"], device=self.delays.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[no-untyped-call]  # not annotated in torch

    @property
    def across(self) -> int:
        """Number of latents that all regions see."""
        return self.delays.shape[1]

    @property
    def within(self) -> int:
        """Number of latents of each region alone."""
        return self.readout.shape[1] - self.across

    @property
    def delays_ms(self) -> Float[Tensor, "region across"]:
        """When each region sees each latent, relative to the first region, in ms; positive: later."""
        return self.delays * (1e3 * self._bin_width_s)

    @property
    def timescales_ms(self) -> Float[Tensor, " latent"]:
        """Timescales in ms, in the order of the latents."""
        return self.timescales * (1e3 * self._bin_width_s)

    @property
    def _bin_width_s(self) -> float:
        return next(iter(self.layouts.values())).bin_width_s

    def process_of(self, session: str) -> DelayedProcesses:
        """Return the parameters of one session; raises UserError for a session that the model was not built for."""
        units = self.units.of(session)
        return DelayedProcesses(
            self.timescales,
            self.delays,
            self.readout[units],
            self.offset[units],
            self.noise[units],
            self._slices(self.layouts[session]),
        )

    def _slices(self, layout: Layout) -> tuple[slice, ...]:
        return tuple(layout.region(name) if name in layout.units else slice(0, 0) for name in self.regions)

    def _counts(self, session: str) -> bool:
        return self.layouts[session].observation is Observation.COUNTS

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Choose the numbers of latents where they are not given; start from covariances between regions by lag."""
        self.residuals.prepare(batches)
        sessions = [
            RegionalData(trials_of(layout, batches, self.residuals), self._slices(layout), self._counts(session))
            for session, layout in self.layouts.items()
        ]
        longest = max((int(data.valid.sum(1).max()) for data, _, _ in sessions if len(data.valid)), default=1)
        across, within = self.config.across, self.config.within
        if across is None or within is None:
            sizes = choose_sizes(sessions, across, within, self.config.folds)
            across, within = sizes.across, sizes.within
            self.scores = torch.from_numpy(sizes.scores).to(self.delays)
        device = self.delays.device
        self._allocate(across, within)
        self.to(device)
        self._set(start_together(sessions, across, within))
        self.fitting.begin(longest)
        self._check_size(longest)

    def _check_size(self, bins: int) -> None:
        """Refuse trials too long for exact inference; raises UserError."""
        count = features_of(self._everything(), bins)
        if count > LARGEST:
            raise UserError(
                f"A trial of {bins} bins is too long for {len(self.timescales)} latents.",
                f"Their covariance would have {count} rows; at most {LARGEST} fit into memory.",
                "Cut the recording (data.segment_s=2), or use wider bins (data.bin_width_s).",
            )

    @torch.no_grad()
    def statistics(self, batch: Batch) -> Sums:
        """Return the expected sufficient statistics; units of other sessions hold zeros."""
        sums = expectations(*self._given(batch), information=self.fitting.scoring)
        place = partial(self.units.place, batch.layout.session)
        return sums._replace(squares=place(sums.squares), activity=place(sums.activity), readout=place(sums.readout))

    @torch.no_grad()
    def update(self, statistics: Sums) -> Float[Tensor, ""]:
        """Set the parameters to look at next; return nats per bin of the best so far, which never falls."""
        sessions = [(units, self._counts(session)) for session, units in self.units.slices.items()]
        process, objective = self.fitting.update(self._everything(), statistics, sessions)
        self._set(process)
        return objective

    @property
    def settled(self) -> bool:
        """Whether the gain of the objective since this was last true says how far the fit has come."""
        return self.fitting.settled

    def _everything(self) -> DelayedProcesses:
        """Return the parameters of all sessions at once; regions do not matter to updates."""
        return DelayedProcesses(self.timescales, self.delays, self.readout, self.offset, self.noise, ())

    def _set(self, process: DelayedProcesses) -> None:
        for name in ("timescales", "delays", "readout", "offset", "noise"):
            getattr(self, name).copy_(getattr(process, name))

    @torch.no_grad()
    def finish(self) -> None:
        """Take back a last step that was not tested; order latents by the variance that they explain."""
        self._set(self.fitting.accepted(self._everything()))
        self._set(by_variance(self._everything(), [self._rows(name) for name in self.regions]))

    def _rows(self, region: str) -> Tensor:
        """Return the units of a region in all sessions."""
        rows = [
            torch.arange(self.units.total)[self.units.of(session)][layout.region(region)]
            for session, layout in self.layouts.items()
            if region in layout.units
        ]
        return torch.cat(rows).to(self.readout.device)

    def _given(self, batch: Batch) -> tuple[DelayedProcesses, Tensor, Tensor, Tensor]:
        self._check_size(batch.n_bins)
        return self.process_of(batch.layout.session), self.residuals(batch), batch.valid, batch.observed

    @property
    def _places(self) -> list[tuple[int, int]]:
        """(region, column) of each latent: those across as the first region sees them, then those within each."""
        across = [(0, column) for column in range(self.across)]
        return across + [(m, self.across + column) for m in range(len(self.regions)) for column in range(self.within)]

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return posterior means: of the latents across regions as the first region sees them, by falling variance.

        Then come the latents within the first region, those within the second, and so on.
        """
        regions, columns = zip(*self._places, strict=True)
        return _at_valid(posterior_means(*self._given(batch))[:, :, list(regions), list(columns)], batch)

    @torch.no_grad()
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the posterior mean and covariance of the latents, in the order of ``latents``."""
        means, covariances = posterior_moments(*self._given(batch), self._places)
        return _at_valid(means, batch), _at_valid(covariances, batch)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given all that is observed; it can be negative."""
        return self._expected(batch)

    def _expected(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        model, *data = self._given(batch)
        activity = activity_of(model, posterior_means(model, *data))
        return _at_valid(activity + self.residuals.mean(batch), batch)

    @property
    def routes(self) -> Mapping[str, tuple[str, ...]]:
        """Every region, predicted from all others."""
        return {name: tuple(other for other in self.regions if other != name) for name in self.regions}

    @torch.no_grad()
    def predict_target(self, batch: Batch, target: str) -> Float[Tensor, "trial bin target_unit"]:
        """Return the expected activity of a region given all others alone; raises UserError for an unknown region."""
        region = batch.layout.region(target)
        return self._expected(batch.hide(range(region.start, region.stop)))[..., region]

    def findings(self, batch: Batch, seed: int, progress: Progress = quiet_progress) -> Findings:
        """Return claims about every pair of regions, from a refit to the trials of this session alone.

        COMMUNICATION: each region predicts the other in trials left out. DELAY of each latent: likelihood ratio of a
        refit without delay, if the latent is shared beyond courses that trials repeat. DIRECTION: the share of the
        shared variance that a region leads. DIMENSIONS: the number of latents that predict a region from the other.
        """
        session = batch.layout.session
        settings = Settings(self.config.residuals, self.config.folds, self.config.permutations, self.config.resamples)
        return delayed_findings(
            self.process_of(session), batch, self.regions, settings, self.residuals(batch), seed, progress
        )

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, in nats."""
        return log_likelihood(*self._given(batch))

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and activity of new trials of one session; where residuals are modeled, residuals."""
        self._check_size(bins)
        x, activity = draw(self.process_of(session), trials, bins, seed)
        regions, columns = zip(*self._places, strict=True)
        return x[:, :, list(regions), list(columns)], activity


def _at_valid(values: Tensor, batch: Batch) -> Tensor:
    """Zero the bins that are not valid."""
    return (
        values if bool(batch.valid.all()) else values.masked_fill(~batch.valid[(..., *[None] * (values.ndim - 2))], 0.0)
    )


def _tiny(layout: Layout) -> Any:
    return DLAGConfig(across=1, within=1, folds=2, permutations=19, resamples=5)


register(
    Entry(
        model=DLAG,
        config=DLAGConfig,
        family=Family.MULTI_REGION,
        reference=Reference(
            "Gokcen E, Jasper AI, Semedo JD, Zandvakili A, Kohn A, Machens CK, Yu BM (2022). Disentangling the flow of "
            "signals between populations of neurons. Nature Computational Science 2(8), 512-525.",
            "10.1038/s43588-022-00282-5",
            "gokcen2022disentangling",
        ),
        tiny=_tiny,
        training=Training(max_epochs=200),
    )
)
