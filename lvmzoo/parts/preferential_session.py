"""Preferential subspace identification of one session: from moments to a system, from its states to behavior."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvmzoo.batch import Batch, Kind, Layout
from lvmzoo.errors import UserError
from lvmzoo.inference.hankel import HankelMoments, add_windows, covariance, segments, steadying_noise, zero_moments
from lvmzoo.inference.preferential import Subspaces, Window
from lvmzoo.inference.preferential_choice import Curve, by_dimension, choose
from lvmzoo.inference.preferential_columns import Columns
from lvmzoo.inference.preferential_inputs import InputSums, input_parameters, input_sums
from lvmzoo.inference.preferential_readout import Coded, coded, least_squares, logistic_step, logistic_sums
from lvmzoo.inference.preferential_system import less_noise, usable
from lvmzoo.parts.preferential_system import PreferentialSystem

__all__ = ["PreferentialSession", "ReadoutSums", "Sizes"]

HORIZONS = (2, 3, 5, 7, 10, 15)  # that cross-validation compares, as far as trials allow
MOST_RELEVANT, MOST_LATENTS = 16, 24  # that cross-validation looks at
LONG_ENOUGH = 0.8  # share of the bins that lie in trials as long as a window, for a horizon to be compared
NEWTON = 6  # steps of the logistic readout
DIMENSIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)  # at which decoding is compared


class Sizes(NamedTuple):
    """What was asked for; None: by cross-validation."""

    latents: int | None
    relevant: int | None
    horizon: int | None
    folds: int


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


class PreferentialSession(nn.Module):
    """The system of one session and how it is identified.

    Parameters
    ----------
    layout : of the session.
    variables : codes of the behavior variables that define what is relevant.
    columns : of the moments.
    sizes : of the state and of the window.
    states : bins that latents are inferred from, see ``PreferentialSystem``.
    """

    chosen_horizon: Tensor
    stage: Tensor  # passes that are done
    n_trials: Tensor
    lags: Tensor  # bins of the windows

    def __init__(
        self, layout: Layout, variables: Mapping[str, Coded], columns: Columns, sizes: Sizes, states: str
    ) -> None:
        super().__init__()
        self.sizes, self.columns = sizes, columns
        most = sizes.latents or min(MOST_LATENTS, 2 * columns.activity)
        self.system = PreferentialSystem(layout, variables, most, sizes.relevant or 0, states)
        logistic = any(code.variable.kind is Kind.CATEGORICAL for code in variables.values())
        self.passes = 2 + (self.system.input_channels > 0) + NEWTON * logistic
        self.chooses = None in (sizes.latents, sizes.relevant, sizes.horizon)
        start = {"chosen_horizon": sizes.horizon or 1, "stage": 0, "n_trials": 1}
        start["lags"] = 2 * (sizes.horizon or max(HORIZONS))
        for name, value in start.items():
            self.register_buffer(name, torch.tensor(value))
        candidates = {"relevant": MOST_RELEVANT, "latents": MOST_LATENTS, "horizon": max(HORIZONS)}
        for name, largest in candidates.items() if self.chooses else ():
            empty = torch.full((sizes.folds, largest + 1), torch.nan, dtype=torch.float64)
            self.register_buffer(f"_curve_{name}", empty)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find means and scales, what is missing, and how long trials are; ``batches`` are iterated several times."""
        self.columns.prepare(batches)
        channels = self.system.input_channels
        self.system.input_mean.copy_(self.columns.mean[len(self.columns.mean) - channels :])
        last, lengths = 0, [torch.zeros(1, dtype=torch.int64)]
        for batch in batches:
            if bool(batch.valid.any()):
                last = max(last, int(batch.trial_index[batch.valid.any(1)].max()))
            ends = torch.nn.functional.pad(batch.valid.to(torch.int8), (1, 1)).diff(dim=1)
            lengths.append((ends == -1).nonzero()[:, 1] - (ends == 1).nonzero()[:, 1])
        self.n_trials.fill_(last + 1)
        bins = torch.cat([length.cpu() for length in lengths])
        if self.sizes.horizon is None:
            most = max((h for h in HORIZONS if bins[bins >= 2 * h].sum() >= LONG_ENOUGH * bins.sum()), default=2)
            self.lags.fill_(2 * most)
        if int(bins.max()) < int(self.lags):
            raise UserError(
                f"The longest stretch of training data has {int(bins.max())} bins without a gap (session "
                f"'{self.system.session}').",
                f"psid compares {int(self.lags) // 2} bins of past with as many of future (model.horizon_bins).",
                f"Set model.horizon_bins={max(2, int(bins.max()) // 2)} or less, smaller bins (data.bin_width_s), or "
                "longer trials.",
            )
        self._check_variation()

    def _check_variation(self) -> None:
        columns = self.columns
        if not bool(columns.varies[: columns.units].any()):
            raise UserError(
                f"The activity of session '{self.system.session}' is the same in every bin of the training data.",
                "States are found by how the past of the activity predicts its future.",
                "Give units that vary, and leave silent recordings out.",
            )
        varies = columns.varies[columns.units : columns.units + columns.codes]
        if self.sizes.relevant and not bool(varies.any()):
            raise UserError(
                f"The behavior of the training data ({', '.join(self.system.codes)}) does not vary, or has no label.",
                "The relevant states are those that predict how behavior changes.",
                "Name variables that vary in model.behavior, or set model.relevant=0 (plain subspace identification).",
            )

    @property
    def _window(self) -> Window:
        return Window(self.columns.activity, self.columns.codes, self.system.input_channels, int(self.lags))

    def statistics(self, batch: Batch) -> HankelMoments | ReadoutSums:
        """Return moments of the windows in the first pass, and sums for what is read out from the states later."""
        return self._readout_sums(batch) if int(self.stage) else self.moments(batch, self.chooses)

    def moments(self, batch: Batch, by_fold: bool) -> HankelMoments:
        """Return the moments of the windows of a batch; those of a fold form a group, if folds are asked for."""
        folds = self.sizes.folds
        groups = folds + 1 if by_fold else 1
        moments = zero_moments(groups, int(self.lags), len(self.columns.kind), self.columns.kinds)
        moments = HankelMoments(*(leaf.to(self.system.dynamics.device) for leaf in moments))
        trials = int(self.n_trials)
        if not by_fold:
            fold = torch.zeros_like(batch.trial_index)
        elif trials < folds:
            fold = torch.full_like(batch.trial_index, -1)  # each trial is cut
        else:
            fold = batch.trial_index.clamp(0, trials - 1) * folds // trials
        fetch = self.columns.fetch(batch)
        for segment in segments(batch.valid, fold, folds, groups, int(self.lags)):
            add_windows(moments, segment, fetch)
        return moments

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the leaves of ``statistics`` in the coming pass."""
        if not int(self.stage):
            with torch.device("meta"):
                groups = self.sizes.folds + 1 if self.chooses else 1
                empty = zero_moments(groups, int(self.lags), len(self.columns.kind), self.columns.kinds)
            return [tuple(leaf.shape) for leaf in empty]
        n, m, q = int(self.system.size[0]), self.system.input_channels, self.columns.codes
        width, units = n + m + 1, self.columns.units
        found = [(), (), (len(self.system.codes), width, width), (width, q), (q, width), (q, width, q, width)]
        if m and int(self.stage) == 1:
            return [*found, (m * n, m * n), (m * n, n, m), (m, m), (m * n,), (units, m)]
        return [*found, (0, 0), (0, 0, 0), (0, 0), (0,), (0, 0)]

    def update(self, statistics: HankelMoments | ReadoutSums) -> Float[Tensor, ""]:
        """Solve for the parameters; return nats per bin, expected ones in the first pass."""
        objective = self._read_out(statistics) if isinstance(statistics, ReadoutSums) else self._identify(statistics)
        self.stage += 1
        return objective

    def _identify(self, moments: HankelMoments) -> Float[Tensor, ""]:
        window, kind = self._window, self.columns.kind.clamp(min=0)
        horizon, relevant, latents = self._chosen(moments, window, kind)
        everything = torch.ones_like(moments.windows, dtype=torch.bool)
        moment = covariance(moments, everything, kind)
        added = steadying_noise(moments, everything, kind, moment, window.units)
        moment.diagonal().add_(added.repeat(window.lags))
        spaces = Subspaces(moment, window, horizon)
        found = less_noise(spaces.solve(relevant, latents), added[: window.units])
        self.chosen_horizon.fill_(horizon)
        fitted, columns = self.system, self.columns
        fitted.size.copy_(torch.tensor([len(found.dynamics), spaces.first(relevant).states.shape[0]]))
        scale, offset = columns.scale[: columns.units], columns.mean[: columns.units]
        system = usable(found, scale, offset, columns.basis, columns.remaining)
        fitted.set(system)
        n, m = len(found.dynamics), fitted.input_channels
        of_codes = columns.scale[columns.units : columns.units + columns.codes, None]
        fitted.behavior_readout.zero_()
        fitted.behavior_readout[:, :n] = of_codes * found.behavior
        fitted.behavior_readout[:, n : n + m] = of_codes * found.behavior_feedthrough
        fitted.behavior_readout[:, n + m] = columns.mean[columns.units :][: columns.codes]
        errors = system.readout @ system.predicted @ system.readout.T + system.noise
        return -0.5 * (torch.linalg.slogdet(errors)[1] + len(errors) * (math.log(2 * math.pi) + 1))

    def _chosen(self, moments: HankelMoments, window: Window, kind: Tensor) -> tuple[int, int, int]:
        """Return horizon, relevant states and states, by cross-validation where they are not given."""
        latents, relevant, horizon, _ = self.sizes
        if latents is None or relevant is None or horizon is None:
            most = latents or len(self.system.dynamics)
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
        return horizon, relevant, latents

    def _readout_sums(self, batch: Batch) -> ReadoutSums:
        fitted = self.system
        observer, n, m = fitted.observer, int(fitted.size[0]), fitted.input_channels
        activity, valid, observed, known = fitted.data(batch)
        x, likelihood = fitted.infer(batch, fitted.states, True)
        regressors = torch.cat([x, *([] if known is None else [known]), torch.ones_like(x[..., :1])], -1)
        zeros, width = fitted.dynamics.new_zeros, n + m + 1
        gram, cross = zeros(len(fitted.codes), width, width), zeros(width, self.columns.codes)
        gradient = zeros(self.columns.codes, width)
        curvature = zeros(*gradient.shape, *gradient.shape)
        mean = self.columns.mean[self.columns.units :]
        for i, (name, code) in enumerate(fitted.codes.items()):
            values, at = coded(batch.behavior[name], code), code.columns
            labeled = valid & values.isfinite().all(-1)
            r, z = regressors[labeled], values[labeled]
            gram[i] = r.T @ r
            cross[:, at] = r.T @ (z - mean[at])
            if code.variable.kind is Kind.CATEGORICAL:
                _, gradient[at], curvature[at, :, at] = logistic_sums(r, z, self._logistic_start(at, width))
        inputs: list[Any] = [zeros(0, 0), zeros(0, 0, 0), zeros(0, 0), zeros(0), zeros(0, 0)]
        if known is not None and int(self.stage) == 1:
            inputs = list(input_sums(observer, activity, valid, observed, known))
        return ReadoutSums(likelihood, valid.sum().to(gram), gram, cross, gradient, curvature, *inputs)

    def _logistic_start(self, at: slice, width: int) -> Float[Tensor, "level regressor"]:
        """Return the weights that the coming step of Newton starts from."""
        weights = self.system.behavior_readout[at, :width]
        first = 2 if self.system.input_channels else 1
        return weights if int(self.stage) > first else torch.zeros_like(weights)

    def _read_out(self, sums: ReadoutSums) -> Float[Tensor, ""]:
        fitted = self.system
        n, m = int(fitted.size[0]), fitted.input_channels
        if len(sums.inputs):
            solved = input_parameters(fitted.observer, InputSums(*sums[-5:]))
            if solved is not None:
                fitted.drive[:n], fitted.feedthrough[:] = solved
        width = n + m + 1
        for i, code in enumerate(fitted.codes.values()):
            at, gram = code.columns, sums.gram[i]
            readout = fitted.behavior_readout[at, :width]
            if not float(gram[-1, -1]):
                continue  # no label: what the moments say, if anything, stays
            if code.variable.kind is Kind.CATEGORICAL:
                scale = (gram.diagonal() / gram[-1, -1]).sqrt()
                start = self._logistic_start(at, width)
                readout.copy_(logistic_step(start, sums.gradient[at], sums.curvature[at, :, at], scale))
            elif float(gram[-1, -1]) == float(sums.bins):
                readout[:, :-1] = least_squares(gram[:-1, :-1], sums.cross[:-1, at])
            else:  # where labels are missing need not be chance: states of the others may have another mean than all
                readout.copy_(least_squares(gram, sums.cross[:, at]))
                readout[:, -1] += self.columns.mean[self.columns.units :][at]
        return sums.log_likelihood / sums.bins.clamp(min=1)

    @property
    def curves(self) -> dict[str, dict[str, Any]]:
        """What cross-validation compared: "relevant", "latents" and "horizon", those that were not given."""
        size = self.system.size
        chosen = {"relevant": int(size[1]), "latents": int(size[0]), "horizon": int(self.chosen_horizon)}
        found = {}
        for name, value in chosen.items() if self.chooses else ():
            stored = getattr(self, f"_curve_{name}")
            candidates = stored.isfinite().any(0).nonzero().flatten()
            if len(candidates):
                explained = stored[stored.isfinite().any(1)][:, candidates]
                found[name] = summary(Curve(tuple(candidates.tolist()), explained, value))
        return found

    def compared(self, name: str) -> dict[int, Float[Tensor, " fold"]]:
        """Return what cross-validation found of "relevant", "latents" or "horizon", by candidate; NaN without data."""
        stored = getattr(self, f"_curve_{name}")
        return {int(value): stored[:, value] for value in stored.isfinite().any(0).nonzero().flatten()}

    def by_dimension(self, batches: Iterable[Batch]) -> dict[str, dict[str, Any]]:
        """Return how well behavior is predicted by numbers of states that behavior chose, and by "plain" ones."""
        total: HankelMoments | None = None
        for batch in batches:
            found = self.moments(batch, True)
            total = found if total is None else HankelMoments(*map(torch.add, total, found))
        n, n1 = self.system.size.tolist()
        horizon = int(self.chosen_horizon)
        if total is None or not n1:
            return {}
        sizes = sorted({*(size for size in DIMENSIONS if size <= max(n + 4, 8)), n1, n})
        kind = self.columns.kind.clamp(min=0)
        curves = by_dimension(total, kind, self._window, horizon, n1, sizes)
        return {name: summary(curve) for name, curve in curves.items()}


def summary(curve: Curve) -> dict[str, Any]:
    """Return means over folds, and standard errors of the differences from the best."""
    explained = curve.explained
    behind = explained[:, explained.mean(0).argmax(), None] - explained
    error = behind.std(0) / len(explained) ** 0.5 if len(explained) > 1 else torch.full_like(behind[0], torch.nan)
    return {
        "candidates": list(curve.candidates),
        "explained": explained.mean(0).tolist(),
        "standard_error": error.tolist(),
        "chosen": curve.chosen,
    }
