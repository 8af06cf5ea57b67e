r"""Preferential subspace identification: a linear dynamical system whose first states are those that behavior shares.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad y_t = C x_t + D u_t + d + v_t, \quad z_t = C_z x_t + D_z u_t + \epsilon_t

with activity y, behavior z and known inputs u (all of ``data.inputs``), and noise w, v that may be correlated. The
first ``relevant`` states are identified from how the past of y predicts the future of z, the others from what that
leaves of y; with none of them relevant this is plain subspace identification. Moments of the activity's block-Hankel
matrix are all that is needed, in one pass; a second one fits the readout of behavior from the Kalman states. Angles
are read out as cosine and sine, categories by a logistic regression.

Sani, Abbaspourazad, Wong, Pesaran, Shanechi (2021), Modeling behaviorally relevant neural dynamics enabled by
preferential subspace identification, Nature Neuroscience 24, 140-149, doi:10.1038/s41593-020-00733-0; with inputs:
Vahidi, Sani, Shanechi (2024), PNAS 121, e2212887121, doi:10.1073/pnas.2212887121.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Kind, Layout
from lvmzoo.errors import UserError, unknown
from lvmzoo.inference.hankel import HankelMoments, add_windows, covariance, segments, zero_moments
from lvmzoo.inference.preferential import Subspaces, Window
from lvmzoo.inference.preferential_choice import choose
from lvmzoo.inference.preferential_columns import Columns
from lvmzoo.inference.preferential_inputs import InputSums, input_parameters, input_sums
from lvmzoo.inference.preferential_readout import coded, codes, least_squares, logistic_step, logistic_sums
from lvmzoo.inference.preferential_system import usable
from lvmzoo.models.behavior.preferential import PreferentialSystem
from lvmzoo.parts.single_session import single_session
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["PSID", "PSIDConfig"]

HORIZONS = (2, 3, 5, 7, 10, 15)  # that cross-validation compares, as far as trials allow
MOST_RELEVANT, MOST_LATENTS = 16, 24  # that cross-validation looks at
LONG_ENOUGH = 0.8  # share of the bins that lie in trials as long as a window, for a horizon to be compared
NEWTON = 6  # steps of the logistic readout
STATES = ("predictor", "filter", "smoother")


@dataclass(frozen=True)
class PSIDConfig:
    """Preferential subspace identification."""

    name: str = "psid"
    latents: int | None = 8  # dimensions of the state, relevant ones included; null: by cross-validation
    relevant: int | None = 4  # of them that behavior shares; 0: plain subspace identification; null: cross-validation
    horizon_bins: int | None = 10  # of past and future that are compared; null: by cross-validation
    behavior: list[str] | None = None  # variables that define what is relevant; null: all of the recording
    states: str = "smoother"  # latents, and decoding, given all bins; filter: bins up to now; predictor: earlier ones
    components: int | None = None  # principal components of the activity to identify from; null: its units
    standardize: str = "behavior"  # divided by standard deviations: none, behavior (units of measure differ), or all
    folds: int = 5  # of the cross-validation, contiguous in time

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError."""
        for name, value, allowed in (
            ("states", self.states, STATES),
            ("standardize", self.standardize, ("none", "behavior", "all")),
        ):
            if value not in allowed:
                raise unknown(f"choice of model.{name}", value, allowed, f"Set model.{name} to one of these.")
        least = {"latents": 1, "relevant": 0, "horizon_bins": 2, "components": 1, "folds": 2}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise UserError(
                    f"model.{name} is {value}.",
                    f"It is at least {smallest}.",
                    f"Set model.{name}={max(smallest, 2)} or more.",
                )
        if self.latents is not None and self.relevant is not None and self.relevant > self.latents:
            raise UserError(
                f"model.relevant is {self.relevant}, with model.latents={self.latents}.",
                "The relevant dimensions are among the latents.",
                f"Set model.latents={self.relevant} or more, or fewer relevant dimensions.",
            )


class ReadoutSums(NamedTuple):
    """Sums over bins after the first pass; a regressor is [x, u, 1]."""

    log_likelihood: Float[Tensor, ""]
    bins: Float[Tensor, ""]
    gram: Float[Tensor, "variable regressor regressor"]  # of the bins that have a label
    cross: Float[Tensor, "regressor code"]
    gradient: Float[Tensor, "code regressor"]  # of logistic readouts
    curvature: Float[Tensor, "code regressor code regressor"]
    responses: Float[Tensor, "parameter parameter"]  # the others are those of ``InputSums``
    response_inputs: Float[Tensor, "parameter latent input"]
    inputs: Float[Tensor, "input input"]
    response_errors: Float[Tensor, " parameter"]
    errors: Float[Tensor, "unit input"]


class PSID(PreferentialSystem):
    """Preferential subspace identification: latents that behavior shares first, then the others, in closed form."""

    passes: int | None = 2  # more with known inputs, and with categories, whose readout takes steps of Newton
    chosen_horizon: Tensor
    stage: Tensor  # passes that are done
    n_trials: Tensor
    lags: Tensor  # bins of the windows

    def __init__(self, config: PSIDConfig, layouts: Sequence[Layout]) -> None:
        layout = single_session("psid", layouts)
        names = list(layout.behavior) if config.behavior is None else config.behavior
        for name in names:
            if name not in layout.behavior:
                raise unknown("behavior variable", name, layout.behavior, fix="See data.behavior.")
        variables = codes({name: layout.behavior[name] for name in names})
        columns = Columns(layout, variables, config.standardize, config.components)
        _check(config, layout, columns)
        most = config.latents or min(MOST_LATENTS, 2 * columns.activity)
        super().__init__(config, layouts, variables, most, config.relevant or 0)
        self.columns = columns
        logistic = any(code.variable.kind is Kind.CATEGORICAL for code in variables.values())
        self.passes = 2 + (self.input_channels > 0) + NEWTON * logistic
        self.chooses = None in (config.latents, config.relevant, config.horizon_bins)
        start = {"chosen_horizon": config.horizon_bins or 1, "stage": 0, "n_trials": 1}
        start["lags"] = 2 * (config.horizon_bins or max(HORIZONS))
        for name, value in start.items():
            self.register_buffer(name, torch.tensor(value))
        candidates = {"relevant": MOST_RELEVANT, "latents": MOST_LATENTS, "horizon": max(HORIZONS)}
        for name, largest in candidates.items() if self.chooses else ():
            empty = torch.full((config.folds, largest + 1), torch.nan, dtype=torch.float64)
            self.register_buffer(f"_curve_{name}", empty)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find means and scales, what is missing, and how long trials are."""
        self.columns.prepare(batches)
        self.input_mean.copy_(self.columns.mean[len(self.columns.mean) - self.input_channels :])
        last, lengths = 0, [torch.zeros(1, dtype=torch.int64)]
        for batch in batches:
            if bool(batch.valid.any()):
                last = max(last, int(batch.trial_index[batch.valid.any(1)].max()))
            ends = torch.nn.functional.pad(batch.valid.to(torch.int8), (1, 1)).diff(dim=1)
            lengths.append((ends == -1).nonzero()[:, 1] - (ends == 1).nonzero()[:, 1])
        self.n_trials.fill_(last + 1)
        bins = torch.cat([length.cpu() for length in lengths])
        if self.config.horizon_bins is None:
            most = max((h for h in HORIZONS if bins[bins >= 2 * h].sum() >= LONG_ENOUGH * bins.sum()), default=2)
            self.lags.fill_(2 * most)
        if int(bins.max()) < int(self.lags):
            raise UserError(
                f"The longest stretch of training data has {int(bins.max())} bins without a gap.",
                f"psid compares {int(self.lags) // 2} bins of past with as many of future (model.horizon_bins).",
                f"Set model.horizon_bins={max(2, int(bins.max()) // 2)} or less, smaller bins (data.bin_width_s), or "
                "longer trials.",
            )
        self._check_behavior()

    def _check_behavior(self) -> None:
        columns = self.columns
        varies = columns.varies[columns.units : columns.units + columns.codes]
        if self.config.relevant and not bool(varies.any()):
            raise UserError(
                f"The behavior of the training data ({', '.join(self.codes)}) does not vary, or has no label.",
                "The relevant states are those that predict how behavior changes.",
                "Name variables that vary in model.behavior, or set model.relevant=0 (plain subspace identification).",
            )

    @property
    def _window(self) -> Window:
        return Window(self.columns.activity, self.columns.codes, self.input_channels, int(self.lags))

    @torch.no_grad()
    def statistics(self, batch: Batch) -> HankelMoments | ReadoutSums:
        """Return moments of the windows in the first pass, and sums for what is read out from the states later."""
        if int(self.stage):
            return self._readout_sums(batch)
        groups = self.config.folds + 1 if self.chooses else 1
        moments = zero_moments(groups, int(self.lags), len(self.columns.kind), self.columns.kinds)
        moments = HankelMoments(*(leaf.to(self.dynamics.device) for leaf in moments))
        fetch = self.columns.fetch(batch)
        for segment in segments(batch.valid, self._folds(batch), self.config.folds, groups, int(self.lags)):
            add_windows(moments, segment, fetch)
        return moments

    def _folds(self, batch: Batch) -> Tensor:
        """Return the fold of each trial; -1: there are fewer trials than folds, and each is cut."""
        trials, folds = int(self.n_trials), self.config.folds
        if not self.chooses:
            return torch.zeros_like(batch.trial_index)
        if trials < folds:
            return torch.full_like(batch.trial_index, -1)
        return batch.trial_index.clamp(0, trials - 1) * folds // trials

    @torch.no_grad()
    def update(self, statistics: HankelMoments | ReadoutSums) -> Float[Tensor, ""]:
        """Solve for the parameters; return nats per bin, expected ones in the first pass."""
        objective = self._read_out(statistics) if isinstance(statistics, ReadoutSums) else self._identify(statistics)
        self.stage += 1
        return objective

    def _identify(self, moments: HankelMoments) -> Float[Tensor, ""]:
        window, config, kind = self._window, self.config, self.columns.kind.clamp(min=0)
        horizon, relevant, latents = config.horizon_bins, config.relevant, config.latents
        if self.chooses:
            most = latents or len(self.dynamics)
            if relevant is None and not self.columns.codes:
                relevant = 0
            choice = choose(
                moments,
                kind,
                window,
                [h for h in HORIZONS if 2 * h <= int(self.lags)] if horizon is None else [horizon],
                list(range(min(most, MOST_RELEVANT) + 1)) if relevant is None else [relevant],
                list(range(max(1, relevant or 0), most + 1)) if latents is None else [latents],
            )
            horizon, relevant, latents = choice.horizon, choice.relevant, choice.latents
            for name, curve in choice.curves.items():
                stored = getattr(self, f"_curve_{name}")
                stored[: len(curve.explained), list(curve.candidates)] = curve.explained.to(stored)
        assert horizon is not None
        assert relevant is not None
        assert latents is not None
        everything = torch.ones_like(moments.windows, dtype=torch.bool)
        spaces = Subspaces(covariance(moments, everything, kind), window, horizon)
        found = spaces.solve(relevant, latents)
        self.chosen_horizon.fill_(horizon)
        self.size.copy_(torch.tensor([len(found.dynamics), spaces.first(relevant).states.shape[0]]))
        columns = self.columns
        scale, offset = columns.scale[: columns.units], columns.mean[: columns.units]
        system = usable(found, scale, offset, columns.basis, columns.remaining)
        self._set(system)
        n, m = len(found.dynamics), self.input_channels
        of_codes = columns.scale[columns.units : columns.units + columns.codes, None]
        self.behavior_readout.zero_()
        self.behavior_readout[:, :n] = of_codes * found.behavior
        self.behavior_readout[:, n : n + m] = of_codes * found.behavior_feedthrough
        self.behavior_readout[:, n + m] = columns.mean[columns.units :][: columns.codes]
        errors = system.readout @ system.predicted @ system.readout.T + system.noise
        return -0.5 * (torch.linalg.slogdet(errors)[1] + len(errors) * (np.log(2 * np.pi) + 1))

    def _readout_sums(self, batch: Batch) -> ReadoutSums:
        observer, n, m = self._observer, int(self.size[0]), self.input_channels
        data = self._data(batch)
        x, likelihood = self._pass(batch, self.config.states, True)
        regressors = torch.cat([x, *([] if data[3] is None else [data[3]]), torch.ones_like(x[..., :1])], -1)
        zeros, width = self.dynamics.new_zeros, n + m + 1
        gram, cross = zeros(len(self.codes), width, width), zeros(width, self.columns.codes)
        gradient = zeros(self.columns.codes, width)
        curvature = zeros(*gradient.shape, *gradient.shape)
        mean = self.columns.mean[self.columns.units :]
        for i, (name, code) in enumerate(self.codes.items()):
            values = coded(batch.behavior[name], code)
            known = batch.valid & values.isfinite().all(-1)
            r, z = regressors[known], values[known]
            gram[i] = r.T @ r
            cross[:, code.columns] = r.T @ (z - mean[code.columns])
            if code.variable.kind is Kind.CATEGORICAL:
                at = code.columns
                weights = (
                    self.behavior_readout[at, :width] if int(self.stage) > self._linear else zeros(z.shape[1], width)
                )
                _, gradient[at], curvature[at, :, at] = logistic_sums(r, z, weights)
        inputs = [zeros(0, 0), zeros(0, 0, 0), zeros(0, 0), zeros(0), zeros(0, 0)]
        if data[3] is not None and int(self.stage) == 1:
            inputs = list(input_sums(observer, *data))  # type: ignore[arg-type]
        return ReadoutSums(likelihood, batch.valid.sum().to(gram), gram, cross, gradient, curvature, *inputs)

    @property
    def _linear(self) -> int:
        """Passes before the first step of a logistic readout."""
        return 2 if self.input_channels else 1

    def _read_out(self, sums: ReadoutSums) -> Float[Tensor, ""]:
        n, m = int(self.size[0]), self.input_channels
        if len(sums.inputs):
            solved = input_parameters(self._observer, InputSums(*sums[-5:]))
            if solved is not None:
                self.drive[:n], self.feedthrough[:] = solved
        width = n + m + 1
        for i, code in enumerate(self.codes.values()):
            at, gram = code.columns, sums.gram[i]
            readout = self.behavior_readout[at, :width]
            if not float(gram[-1, -1]):
                continue  # no label: what the moments say, if anything, stays
            if code.variable.kind is Kind.CATEGORICAL:
                start = readout if int(self.stage) > self._linear else torch.zeros_like(readout)
                scale = (gram.diagonal() / gram[-1, -1]).sqrt()
                readout.copy_(logistic_step(start, sums.gradient[at], sums.curvature[at, :, at], scale))
            else:
                readout[:, :-1] = least_squares(gram[:-1, :-1], sums.cross[:-1, at])
        return sums.log_likelihood / sums.bins.clamp(min=1)

    @property
    def curves(self) -> dict[str, dict[str, Any]]:
        """What cross-validation compared: "relevant", "latents" and "horizon", those that were null in the config.

        Each has its ``candidates``, the share of variance ``explained`` (of future behavior, of future activity, of the
        next bin), the ``standard_error`` of its difference from the best, and what was ``chosen``.
        """
        chosen = {"relevant": int(self.size[1]), "latents": int(self.size[0]), "horizon": int(self.chosen_horizon)}
        found = {}
        for name, value in chosen.items():
            stored = getattr(self, f"_curve_{name}") if self.chooses else self.dynamics.new_zeros(0, 0)
            candidates = stored.isfinite().any(0).nonzero().flatten()
            if len(candidates):
                explained = stored[stored.isfinite().any(1)][:, candidates]
                behind = explained[:, explained.mean(0).argmax(), None] - explained
                error = behind.std(0) / len(explained) ** 0.5
                found[name] = {
                    "candidates": candidates.tolist(),
                    "explained": explained.mean(0).tolist(),
                    "standard_error": error.tolist(),
                    "chosen": value,
                }
        return found


def _check(config: PSIDConfig, layout: Layout, columns: Columns) -> None:
    if config.relevant and not columns.codes:
        raise UserError(
            f"model.relevant={config.relevant} needs behavior, and session '{layout.session}' has none in use.",
            f"Its behavior variables are: {', '.join(layout.behavior) or 'none'}.",
            "Name variables in model.behavior and data.behavior, or set model.relevant=0 for plain subspace "
            "identification.",
        )
    if config.components is not None and config.components > layout.n_units:
        raise UserError(
            f"model.components is {config.components}.",
            f"Session '{layout.session}' has {layout.n_units} units.",
            f"Set model.components={layout.n_units} or less, or null.",
        )
    if config.horizon_bins is None:
        return
    for name, value, channels, what in (
        ("relevant", config.relevant, columns.codes, "channels of behavior"),
        ("latents", (config.latents or 0) - (config.relevant or 0), columns.activity, "channels of activity"),
    ):
        if (value or 0) > channels * (config.horizon_bins - 1):
            raise UserError(
                f"model.{name}={getattr(config, name)} is too many for model.horizon_bins={config.horizon_bins}.",
                f"{channels} {what} over {config.horizon_bins - 1} further bins tell of as many states as their "
                "product.",
                f"Set model.horizon_bins={-(-int(value or 0) // channels) + 1} or more, or fewer states.",
            )


def _tiny(layout: Layout) -> PSIDConfig:
    return PSIDConfig(latents=4, relevant=2 if layout.behavior else 0, horizon_bins=4)


register(
    Entry(
        model=PSID,
        config=PSIDConfig,
        family=Family.BEHAVIOR,
        reference=Reference(
            "Sani, Abbaspourazad, Wong, Pesaran & Shanechi (2021). Modeling behaviorally relevant neural dynamics "
            "enabled by preferential subspace identification. Nature Neuroscience 24, 140-149.",
            "10.1038/s41593-020-00733-0",
            "sani2021psid",
        ),
        tiny=_tiny,
        training=Training(max_epochs=20),
    )
)
