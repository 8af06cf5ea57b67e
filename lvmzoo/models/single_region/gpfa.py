r"""Gaussian-process factor analysis, fitted by EM and finished by a quasi-Newton search.

.. math:: x_i(\cdot) \sim GP(0, k_{\tau_i}), \quad y_t = C x_t + d + v_t, \quad v_t \sim N(0, R)

with diagonal R, a timescale for each latent, and activity y: square roots of counts, counts, or a continuous signal.
Trials are on their own and may have any length. Sessions share the timescales, and each has its own readout C, d, R.
Yu, Cunningham, Santhanam, Ryu, Shenoy, Sahani (2009), Gaussian-process factor analysis for low-dimensional single-trial
analysis of neural population activity, Journal of Neurophysiology 102, 614-635, doi:10.1152/jn.90941.2008.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError, unknown
from lvmzoo.inference import gaussian_process, gaussian_process_state_space
from lvmzoo.inference.factor_analysis import positive
from lvmzoo.inference.gaussian_process import GaussianProcess, Sums
from lvmzoo.inference.gaussian_process_dimension import Dimensions, choose_dimension
from lvmzoo.inference.gaussian_process_fit import Fitting
from lvmzoo.inference.gaussian_process_kernels import KERNELS, feature_count
from lvmzoo.inference.lagged_moments import Recorded, lagged_moments
from lvmzoo.inference.starting import starting_readout
from lvmzoo.models.base import HasPosterior, Reconstructs, Samples, Scores, StatisticsModel
from lvmzoo.parts.session_units import SessionUnits
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["GPFA", "GPFAConfig"]

STARTING = (0.02, 0.995)  # correlations one bin apart that a starting timescale is taken from
LONG_BINS = 100  # from here on a Matern kernel is cheaper as a linear dynamical system
LARGEST = 12_000  # features, of which half are solved for at a time: a matrix of 288 MB
NUGGET = 1e-3  # share of a latent's variance that is independent from bin to bin, as in the paper


@dataclass(frozen=True)
class GPFAConfig:
    """Gaussian-process factor analysis."""

    name: str = "gpfa"
    latents: int = 8  # Gaussian processes, each with a timescale of its own
    kernel: str = "squared_exponential"  # squared_exponential, matern12, matern32 or matern52 (rough to smooth)
    transform: str = "sqrt"  # of counts: sqrt (evens out their variance) or none; continuous activity is taken as it is

    def __post_init__(self) -> None:
        """Raise UserError for a setting that no model can have."""
        if self.latents < 1:
            raise UserError(
                f"model.latents is {self.latents}.",
                "Gaussian-process factor analysis has at least one latent.",
                "Set model.latents to 1 or more, such as 8.",
            )
        for name, allowed in (("kernel", tuple(KERNELS)), ("transform", ("sqrt", "none"))):
            if getattr(self, name) not in allowed:
                raise unknown(f"choice of model.{name}", getattr(self, name), allowed)


class GPFA(StatisticsModel, Reconstructs, Samples, Scores, HasPosterior):
    """Gaussian-process factor analysis: smooth latents, each with its own timescale, exact inference, EM."""

    passes = None
    positive_rates = False  # squares of square roots are positive, but a Poisson readout of the latents predicts better

    timescales: Tensor  # of the latents, in bins
    readout: Tensor  # C, the units of all sessions one after the other
    offset: Tensor  # d
    noise: Tensor  # diagonal of R

    def __init__(self, config: GPFAConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        self.units = SessionUnits(layouts)
        units = self.units.total
        generator = torch.Generator().manual_seed(0)
        start = {
            "timescales": torch.full((config.latents,), 5.0, dtype=torch.float64),
            "readout": 0.1 * torch.randn(units, config.latents, generator=generator, dtype=torch.float64),
            "offset": torch.zeros(units, dtype=torch.float64),
            "noise": torch.ones(units, dtype=torch.float64),
        }
        for name, value in start.items():
            self.register_buffer(name, value)
        self.fitting = Fitting(units, config.latents)

    @property
    def timescales_s(self) -> Float[Tensor, " latent"]:
        """Timescales of the Gaussian processes in seconds, in the order of ``processes``."""
        return self.timescales * next(iter(self.layouts.values())).bin_width_s

    def process_of(self, session: str) -> GaussianProcess:
        """Return the parameters of one session; raises UserError for a session that the model was not built for."""
        return self._process(self.units.of(session), self._square_root(session))

    def _is_counts(self, session: str) -> bool:
        return self.layouts[session].observation is Observation.COUNTS

    def _square_root(self, session: str) -> bool:
        return self.config.transform == "sqrt" and self._is_counts(session)

    def _process(self, units: slice = slice(None), square_root: bool = False) -> GaussianProcess:
        return GaussianProcess(
            self.timescales,
            self.readout[units],
            self.offset[units],
            self.noise[units],
            self.config.kernel,
            NUGGET if self.config.kernel == "squared_exponential" else 0.0,
            square_root,
        )

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Start from factor analysis within bins, latents that are uncorrelated one bin apart, and that correlation."""
        correlations, weights = [], []
        for session, units in self.units.slices.items():

            def of_session(session: str = session) -> Iterable[Recorded]:
                root = self._square_root(session)
                for batch in batches:
                    if batch.layout.session == session:
                        activity = self.modeled(batch) if root else batch.activity
                        yield Recorded(activity, batch.valid, batch.observed, batch.trial_index)

            number = units.stop - units.start
            moments = lagged_moments(of_session, number, 2)
            start = starting_readout(moments, self.config.latents, self._is_counts(session))
            self.readout[units], self.offset[units], self.noise[units] = start.readout, start.offset, start.noise
            correlations.append(start.dynamics.diagonal())
            weights.append(float(number))
        correlation = sum(w * c for w, c in zip(weights, correlations, strict=True)) / sum(weights)
        assert isinstance(correlation, Tensor)
        self.timescales.copy_((-2 * correlation.clamp(*STARTING).log()).rsqrt())
        longest = max((int(batch.valid.sum(1).max()) for batch in batches if batch.n_trials), default=1)
        most = gaussian_process_state_space.LONGEST_TIMESCALE.get(self.config.kernel, float("inf"))
        self.fitting.begin(longest, most)

    @torch.no_grad()
    def statistics(self, batch: Batch) -> Sums:
        """Return the expected sufficient statistics; units of other sessions hold zeros."""
        sums = self._engine(batch.n_bins).expectations(*self._given(batch))
        place = partial(self.units.place, batch.layout.session)
        return sums._replace(squares=place(sums.squares), activity=place(sums.activity), readout=place(sums.readout))

    @torch.no_grad()
    def update(self, statistics: Sums) -> Float[Tensor, ""]:
        """Set the parameters to look at next; return nats per bin of the best so far, which never falls."""
        sessions = [(units, self._is_counts(session)) for session, units in self.units.slices.items()]
        process, objective = self.fitting.update(self._process(), statistics, sessions)
        self._set(process)
        return objective

    @property
    def settled(self) -> bool:
        """Whether the gain of the objective since this was last true says how far the fit has come."""
        return self.fitting.settled

    def _set(self, process: GaussianProcess) -> None:
        for name in ("timescales", "readout", "offset", "noise"):
            getattr(self, name).copy_(getattr(process, name))

    @torch.no_grad()
    def finish(self) -> None:
        """Take back a last step that was not tested; order the processes by the variance they explain."""
        self._set(self.fitting.accepted(self._process()))
        order = self.readout.square().sum(0).argsort(descending=True)
        self.readout.copy_(positive(self.readout[:, order]))
        self.timescales.copy_(self.timescales[order])

    def _given(self, batch: Batch) -> tuple[GaussianProcess, Tensor, Tensor, Tensor]:
        process = self.process_of(batch.layout.session)
        return process, batch.activity, batch.valid, batch.observed

    def _engine(self, bins: int) -> ModuleType:
        """Return what does the arithmetic for trials of this length; raises UserError where nothing can."""
        squared = self.config.kernel == "squared_exponential"
        if not squared and bins > LONG_BINS:
            return gaussian_process_state_space
        largest = bins * self.config.latents
        if squared and largest > LARGEST:
            largest = min(largest, feature_count(self.timescales.tolist(), bins))
        if largest > LARGEST:
            raise UserError(
                f"A trial of {bins} bins is too long for {self.config.latents} latents with a squared-exponential "
                "kernel.",
                f"Its covariance would have {largest} rows; at most {LARGEST} fit into memory.",
                "Cut the recording (data.segment_s=10), or use a kernel whose time grows with the bins only "
                "(model.kernel=matern52).",
            )
        return gaussian_process

    def _orthonormal(self, session: str) -> tuple[Float[Tensor, "latent latent"], Float[Tensor, " latent"]]:
        """Return the map of processes to latents with an orthonormal readout, and the norms of C along them."""
        C = self.process_of(session).readout
        squares, vectors = torch.linalg.eigh(C.T @ C)
        norms, vectors = squares.flip(0).clamp(min=0).sqrt(), vectors.flip(1)
        along = C @ vectors
        largest = along.gather(0, along.abs().argmax(0, keepdim=True))[0]
        return (vectors * norms * torch.where(largest < 0, -1.0, 1.0)).T, norms

    @torch.no_grad()
    def variance_explained(self, session: str) -> Float[Tensor, " latent"]:
        """Return the share of each latent in the variance that units of a session have in common."""
        squares = self._orthonormal(session)[1].square()
        return squares / squares.sum().clamp(min=1e-300)

    @torch.no_grad()
    def processes(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the posterior mean of the Gaussian processes, one timescale each; see ``timescales_s``."""
        return _at_valid(self._engine(batch.n_bins).posterior_means(*self._given(batch)), batch)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the posterior mean of the orthonormalized latents, by falling variance explained.

        They are in the units of the (square-rooted) activity: directions in the space of the units, at right angles.
        """
        return self.processes(batch) @ self._orthonormal(batch.layout.session)[0].T

    @torch.no_grad()
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the posterior mean and covariance of the orthonormalized latents."""
        turn, _ = self._orthonormal(batch.layout.session)
        means, covariances = self._engine(batch.n_bins).posterior_moments(*self._given(batch))
        return _at_valid(means @ turn.T, batch), _at_valid(turn @ covariances @ turn.T, batch)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given all that is observed.

        Where square roots of counts are modeled it is their squared mean plus their variance, which is positive;
        otherwise it can be negative.
        """
        process, *data = self._given(batch)
        if not process.square_root:
            means = self._engine(batch.n_bins).posterior_means(process, *data)
            return _at_valid(means @ process.readout.T + process.offset, batch)
        means, covariances = self._engine(batch.n_bins).posterior_moments(process, *data)
        C = process.readout
        roots = means @ C.T + process.offset
        products = (C[:, :, None] * C[:, None, :]).flatten(1)
        return _at_valid(roots.square_() + covariances.flatten(2) @ products.T + process.noise, batch)

    @torch.no_grad()
    def leave_unit_out(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity of each unit given all other units: of its square root, where that is modeled.

        How well it agrees with the activity tells how many latents the units share: unlike a reconstruction, it does
        not improve with ever more of them.
        """
        return _at_valid(self._engine(batch.n_bins).cavity_means(*self._given(batch)), batch)

    @classmethod
    def select_dimension(
        cls, batch: Batch, candidates: Sequence[int], folds: int = 5, config: GPFAConfig | None = None
    ) -> Dimensions:
        """Return the number of latents whose predictions of each unit from the others are best on held-out trials.

        Parameters
        ----------
        batch : training trials of one session.
        candidates : numbers of latents to compare.
        folds : contiguous blocks of trials, each held out once.
        config : everything but the number of latents.
        """
        chosen = config or GPFAConfig()
        return choose_dimension(
            lambda latents: cls(replace(chosen, latents=latents), [batch.layout]), batch, candidates, folds
        )

    def modeled(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the activity as it is modeled: square roots of counts, or as it is."""
        activity = batch.activity.to(self.offset.dtype)
        return activity.sqrt() if self._square_root(batch.layout.session) else activity

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, in nats.

        It is a density of the square roots, where those are modeled: counts themselves have none under this model, so
        it compares with models of square-rooted counts only.
        """
        return self._engine(batch.n_bins).log_likelihood(*self._given(batch))

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw orthonormalized latents and activity of new trials of one session.

        Activity is the square of what is drawn, not an integer, where square roots of counts are modeled.
        """
        process = self.process_of(session)
        x, activity = self._engine(bins).draw(process, trials, bins, seed)
        return x @ self._orthonormal(session)[0].T, activity.square_() if process.square_root else activity


def _at_valid(values: Tensor, batch: Batch) -> Tensor:
    """Zero the bins that are not valid, in place."""
    if not bool(batch.valid.all()):
        values[~batch.valid] = 0.0
    return values


register(
    Entry(
        model=GPFA,
        config=GPFAConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            citation="Yu BM, Cunningham JP, Santhanam G, Ryu SI, Shenoy KV, Sahani M (2009). Gaussian-process factor "
            "analysis for low-dimensional single-trial analysis of neural population activity. Journal of "
            "Neurophysiology 102(1), 614-635.",
            doi="10.1152/jn.90941.2008",
            key="yu2009gaussian",
        ),
        tiny=lambda layout: GPFAConfig(latents=2),
        training=Training(max_epochs=200),
    )
)
