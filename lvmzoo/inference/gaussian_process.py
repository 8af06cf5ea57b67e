r"""Gaussian processes seen through a linear readout: likelihood, posterior, and the sums that EM needs.

    y_t = C x_t + d + v_t,   v_t ~ N(0, diag(r)),   x_i = s_i + n_i,   s_i ~ GP(0, (1 - e) k_i),   n_it ~ N(0, e)

Each trial is on its own. The nugget n is white and goes into the noise exactly; s is features times white weights w,
so that the posterior precision of the weights is I + a Gram matrix: it never needs the inverse of a kernel matrix, nor
a root of C' R^-1 C, which is singular where units are silent, twice there, or fewer than latents. It does not depend on
the activity: trials that show the same bins and units share it. Trials of any length, units, bins and single samples
that were not observed are handled exactly.

Yu et al. (2009) J. Neurophysiol. 102, 614, doi:10.1152/jn.90941.2008.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.gaussian_process_kernels import Part, fold, make_features, merge, unfold
from lvmzoo.inference.patterns import Pattern, patterns

__all__ = [
    "GaussianProcess",
    "Posterior",
    "Sums",
    "cavity_means",
    "expectations",
    "log_likelihood",
    "posterior_means",
    "posterior_moments",
    "residuals",
    "zero_sums",
]

TOGETHER = 2**19  # samples of activity that are converted to float64 at a time: 4 MB


class GaussianProcess(NamedTuple):
    """Parameters of one session, all float64."""

    timescales: Float[Tensor, " latent"]  # bins
    readout: Float[Tensor, "unit latent"]  # C
    offset: Float[Tensor, " unit"]  # d
    noise: Float[Tensor, " unit"]  # r, variances
    kernel: str = "squared_exponential"
    nugget: float = 1e-3  # e: share of a latent's variance that is independent from bin to bin
    square_root: bool = False  # the activity is counts, whose square roots are modeled
    engine: str = "auto"  # "dense" and "spectral" are for tests


class Sums(NamedTuple):
    """What the M-step needs: sums over trials and bins, additive over batches, sessions and ranks.

    Activity enters as its difference from the offsets d of the parameters, so that nothing cancels; latents carry a one
    as their last component where the shape says ``latent_and_one``.
    """

    log_likelihood: Float[Tensor, ""]
    bins: Float[Tensor, ""]  # valid ones
    squares: Float[Tensor, " unit"]  # (y - d)^2
    activity: Float[Tensor, "unit latent_and_one"]  # (y - d) E [x, 1]'
    readout: Float[Tensor, "unit latent_and_one latent_and_one"]  # E [x, 1] [x, 1]' of the bins that show the unit
    slope: Float[Tensor, " latent"]  # derivative of the log-likelihood by the log timescales
    information: Float[Tensor, "latent latent"]  # Fisher information of the log timescales


def zero_sums(units: int, like: Float[Tensor, " latent"]) -> Sums:
    """Return the sums over no data."""
    zeros, latents = like.new_zeros, len(like)
    return Sums(
        log_likelihood=zeros(()),
        bins=zeros(()),
        squares=zeros(units),
        activity=zeros(units, latents + 1),
        readout=zeros(units, latents + 1, latents + 1),
        slope=zeros(latents),
        information=zeros(latents, latents),
    )


class Posterior:
    """What the activity does not enter, of trials that show the same samples.

    A complete trial has one information matrix J = C' R^-1 C for all bins, and folded features (see ``fold``);
    otherwise ``J`` has one for each bin.
    """

    def __init__(self, model: GaussianProcess, pattern: Pattern) -> None:
        C = model.readout
        self.bins = pattern.bins
        self.parts = make_features(model.kernel, model.timescales, self.bins, 1 - model.nugget, model.engine)
        self.complete = pattern.mask is None and bool(pattern.seen[0].all())
        products = (C[:, :, None] * C[:, None, :] / model.noise[:, None, None]).flatten(1)
        if pattern.mask is None:
            shown = pattern.units if self.complete else pattern.seen[0][:, None] & pattern.units
        else:
            shown = pattern.mask[0]
        self.shown: Bool[Tensor, "*bin unit"] = shown
        self.J = (shown.to(products) @ products).unflatten(-1, (C.shape[1], C.shape[1]))
        identity = torch.eye(C.shape[1], dtype=C.dtype, device=C.device)
        loaded = identity + model.nugget * self.J
        self.shrink = torch.linalg.inv(loaded)  # x = shrink s + white h is the mean given s
        self.white = model.nugget * self.shrink
        information = self.shrink @ self.J
        self.information = (information + information.mT) / 2
        if not self.complete:
            self.parts = (merge(self.parts, self.bins),)
        self.grams: list[Tensor] = []
        self.roots: list[Tensor] = []
        self.log_determinant = torch.logdet(loaded).sum() * (self.bins if self.complete else 1)
        for part in self.parts:
            precision = self._precision(part)
            precision.diagonal().add_(1.0)
            root = torch.linalg.cholesky(precision)
            self.log_determinant = self.log_determinant + 2 * root.diagonal().log().sum()
            self.roots.append(root)

    def _precision(self, part: Part) -> Tensor:
        V = part.values
        precision = V.new_empty(V.shape[1], V.shape[1])
        if self.complete:
            gram = V.T @ V
            self.grams.append(gram)
            for latent, features in part.slices:
                precision[features] = gram[features] * self.information[latent][part.owner]
        else:
            for latent, features in part.slices:
                precision[features] = V[:, features].T @ (V * self.information[:, latent][:, part.owner])
        return precision

    def split(self, values: Float[Tensor, "*other bin latent"]) -> list[Tensor]:
        """Return values of bins as values of the rows of each part."""
        return fold(values) if self.complete else [values]

    def join(self, values: list[Tensor]) -> Tensor:
        """Undo ``split``."""
        return unfold(values) if self.complete else values[0]

    def solve(self, h: Float[Tensor, "trial bin latent"]) -> Solution:
        """Return the means of latents, given C' R^-1 (y - d)."""
        given = (h @ self.shrink) if self.complete else (self.shrink @ h[..., None])[..., 0]
        quadratic = (h * self._white(h)).sum((1, 2))
        weights, smooth = [], []
        for part, root, rows in zip(self.parts, self.roots, self.split(given), strict=True):
            columns = rows.permute(2, 1, 0).contiguous()  # latent, row, trial
            projected = h.new_zeros(len(part.owner), len(h))
            for latent, features in part.slices:
                projected[features] = part.values[:, features].T @ columns[latent]
            half = torch.linalg.solve_triangular(root, projected, upper=False)
            quadratic += half.square().sum(0)
            w = torch.linalg.solve_triangular(root.T, half, upper=True)
            s = torch.zeros_like(columns)
            for latent, features in part.slices:
                s[latent] += part.values[:, features] @ w[features]
            weights.append(w)
            smooth.append(s.permute(2, 1, 0))
        s = self.join(smooth)
        x = s @ self.shrink if self.complete else (self.shrink @ s[..., None])[..., 0]
        return Solution(x + self._white(h), weights, quadratic)

    def _white(self, h: Tensor) -> Tensor:
        return h @ self.white if self.complete else (self.white @ h[..., None])[..., 0]

    def covariance_sum(self, inverses: list[Tensor]) -> Float[Tensor, "latent latent"]:
        """Return the sum over the bins of a complete trial of the posterior covariance."""
        S = torch.zeros_like(self.shrink)
        for part, gram, inverse in zip(self.parts, self.grams, inverses, strict=True):
            S += _by_latent(gram * inverse, part, len(S))
        return self.bins * self.white + self.shrink @ S @ self.shrink

    def covariances(self, inverses: list[Tensor]) -> Float[Tensor, "bin latent latent"]:
        """Return the posterior covariance of each bin."""
        found = []
        for part, inverse in zip(self.parts, inverses, strict=True):
            V, latents = part.values, self.J.shape[-1]
            S = V.new_zeros(len(V), latents, latents)
            for latent, features in part.slices:
                product = (V[:, features] @ inverse[features]).mul_(V)
                for other, columns in part.slices:
                    S[:, latent, other] += product[:, columns].sum(1)
            found.append(S)
        if self.complete:  # mirrored bins have the same covariance, half that of their sum and of their difference
            even, odd = found
            middle = self.bins % 2
            half = (even[middle:] + odd) / 2
            S = torch.cat([half.flip(0), even[:middle], half])
        else:
            S = found[0]
        return self.white + self.shrink @ S @ self.shrink

    def inverses(self) -> list[Tensor]:
        """Return the posterior covariance of the weights of each part."""
        return [torch.cholesky_inverse(root) for root in self.roots]


@dataclass(frozen=True)
class Solution:
    """Posterior means of trials that share a posterior."""

    x: Float[Tensor, "trial bin latent"]
    weights: list[Tensor]  # of each part: (feature, trial)
    quadratic: Float[Tensor, " trial"]  # what the latents explain of (y - d)' R^-1 (y - d)


def _by_latent(values: Float[Tensor, "feature feature"], part: Part, latents: int) -> Float[Tensor, "latent latent"]:
    """Sum a matrix over the features of pairs of latents."""
    rows = values.new_zeros(latents, values.shape[1]).index_add_(0, part.owner, values)
    return values.new_zeros(latents, latents).index_add_(1, part.owner, rows)


def groups(valid: Bool[Tensor, "trial bin"], observed: Bool[Tensor, "trial bin unit"]) -> Iterator[Pattern]:
    """Yield the trials that show the same samples."""
    for pattern in patterns(valid, observed):
        lengths = pattern.lengths
        rows = pattern.rows
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=valid.device)
        first = 0
        while first < len(lengths):
            alike = pattern.mask is None and lengths == lengths[first]
            last = first + (1 if pattern.mask is not None else int(alike.sum()))
            who, bins = slice(first, last), int(lengths[first])
            mask = None if pattern.mask is None else pattern.mask[who, :bins]
            yield Pattern(rows[who], lengths[who], pattern.seen[who, :bins], pattern.units, mask)
            first = last


def residuals(
    model: GaussianProcess, activity: Num[Tensor, "trial bin unit"], pattern: Pattern
) -> Iterator[tuple[Tensor, Float[Tensor, "some bin unit"]]]:
    """Yield (rows of the batch, y - d) of some trials at a time; zero where nothing is observed."""
    bins, units = pattern.bins, activity.shape[-1]
    together = max(1, TOGETHER // max(1, bins * units))
    complete = pattern.mask is None and bool(pattern.seen[0].all()) and bool(pattern.units.all())
    if not complete:
        hidden = ~pattern.mask[0] if pattern.mask is not None else ~(pattern.seen[0][:, None] & pattern.units)
    for rows in pattern.rows.split(together):
        block = activity[rows, :bins].to(model.offset.dtype)
        if model.square_root:
            block.sqrt_()
        block.sub_(model.offset)
        if not complete:
            block.masked_fill_(hidden, 0.0)
        yield rows, block


def expectations(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Sums:
    """Return the posterior expectations of the sufficient statistics, and the log-likelihood (the E-step)."""
    total = zero_sums(len(model.offset), model.timescales)
    total.bins.add_(valid.sum())
    weights = model.readout / model.noise[:, None]
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern)
        trials = len(pattern.lengths)
        total.log_likelihood.add_(trials * _constant_terms(model, posterior))
        second = [torch.zeros_like(part.slope) for part in posterior.parts]  # sum over trials of squared mean weights
        moment = torch.zeros_like(total.readout[0])
        inverses = posterior.inverses()
        covariances = None if posterior.complete else posterior.covariances(inverses)
        for _, block in residuals(model, activity, pattern):
            solution = posterior.solve(block @ weights)
            total.log_likelihood.add_(0.5 * solution.quadratic.sum())
            for square, w in zip(second, solution.weights, strict=True):
                square += w.square().sum(1)
            flat = block.flatten(0, 1)
            regressors = torch.cat([solution.x, torch.ones_like(solution.x[..., :1])], -1)
            rows = regressors.flatten(0, 1)
            total.activity.addmm_(flat.T, rows)
            if covariances is None:
                moment.addmm_(rows.T, rows)
            else:
                products = regressors[..., :, None] * regressors[..., None, :]
                products[..., :-1, :-1] += covariances
                shown = posterior.shown.to(products)
                total.readout.add_((shown.T @ products.sum(0).flatten(1)).view_as(total.readout))
            total.squares.add_(flat.square_().sum(0))
        if covariances is None:
            moment[:-1, :-1] += trials * posterior.covariance_sum(inverses)
            total.readout[pattern.units] += moment
        for part, inverse, square in zip(posterior.parts, inverses, second, strict=True):
            _add_timescales(part, inverse, square, trials, total)
    total.log_likelihood.sub_(0.5 * (total.squares / model.noise).sum())
    return total


def _add_timescales(part: Part, inverse: Tensor, second: Tensor, trials: int, total: Sums) -> None:
    """Add the derivative of the log-likelihood by the log timescales (Fisher's identity), and their information.

    Overwrites ``inverse``.
    """
    learned = inverse.neg_()
    learned.diagonal().add_(1.0)
    total.slope.index_add_(0, part.owner, 0.5 * part.slope * (second - trials * learned.diagonal()))
    learned.square_().mul_(part.slope).mul_(part.slope[:, None])
    total.information.add_(_by_latent(learned, part, len(total.slope)), alpha=0.5 * trials)


def _constant_terms(model: GaussianProcess, posterior: Posterior) -> Float[Tensor, ""]:
    """Return the terms of a trial's log-likelihood that the activity does not enter."""
    per_sample = math.log(2 * math.pi) + model.noise.log()
    shown = posterior.shown.to(per_sample) @ per_sample
    samples = shown * posterior.bins if posterior.complete else shown.sum()
    return -0.5 * (samples + posterior.log_determinant)


def log_likelihood(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, " trial"]:
    """Return the log-likelihood of what is observed in each trial, in nats; 0 for trials without a valid bin."""
    result = model.offset.new_zeros(len(valid))
    weights = model.readout / model.noise[:, None]
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern)
        constant = _constant_terms(model, posterior)
        for rows, block in residuals(model, activity, pattern):
            explained = posterior.solve(block @ weights).quadratic
            result[rows] = constant + 0.5 * (explained - block.square_().sum(1) @ (1 / model.noise))
    return result


def posterior_means(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin latent"]:
    """Return E(x_t | all bins); zero after a trial's last valid bin."""
    result = model.offset.new_zeros((*valid.shape, len(model.timescales)))
    weights = model.readout / model.noise[:, None]
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern)
        for rows, block in residuals(model, activity, pattern):
            result[rows, : pattern.bins] = posterior.solve(block @ weights).x
    return result


def posterior_moments(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
    """Return E(x_t | all bins) and Cov(x_t | all bins); zero after a trial's last valid bin."""
    latents = len(model.timescales)
    means = model.offset.new_zeros((*valid.shape, latents))
    covariances = model.offset.new_zeros((*valid.shape, latents, latents))
    weights = model.readout / model.noise[:, None]
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern)
        covariances[pattern.rows, : pattern.bins] = posterior.covariances(posterior.inverses())
        for rows, block in residuals(model, activity, pattern):
            means[rows, : pattern.bins] = posterior.solve(block @ weights).x
    return means, covariances


def cavity_means(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin unit"]:
    """Return E(y_n | all units but n) of each unit: of the square root of counts, where that is modeled.

    From the posterior mean m and covariance S of C_n x over the bins, given all units, the unit's own samples are taken
    out again: (I - S / r)^-1 (m - S (y - d) / r).
    """
    result = model.offset.new_zeros((*valid.shape, len(model.offset)))
    weights = model.readout / model.noise[:, None]
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern)
        roots = [
            torch.linalg.solve_triangular(root, _spread(part), upper=False).unflatten(1, (-1, len(part.values)))
            for part, root in zip(posterior.parts, posterior.roots, strict=True)
        ]
        for rows, block in residuals(model, activity, pattern):
            x = posterior.solve(block @ weights).x
            for unit in range(len(model.offset)):
                c = model.readout[unit]
                loading = (posterior.shrink @ c).expand(posterior.bins, -1)
                white = (c @ posterior.white @ c).expand(posterior.bins)
                shown = posterior.shown[..., unit].expand(posterior.bins)
                means = posterior.split((x @ c)[..., None])
                own = posterior.split(block[..., unit, None])
                found = []
                for root, mean, y in zip(roots, means, own, strict=True):
                    tail = slice(posterior.bins - root.shape[2], None)  # any rows where all bins are alike
                    share = shown[tail] / model.noise[unit]
                    half = torch.einsum("kit,ti->kt", root, loading[tail])
                    S = half.T @ half
                    S.diagonal().add_(white[tail])
                    S *= share
                    left = mean[..., 0] - y[..., 0] @ S.T
                    S.neg_().diagonal().add_(1.0)
                    found.append(torch.linalg.solve(S, left.T).T[..., None])
                result[rows, : pattern.bins, unit] = posterior.join(found)[..., 0] + model.offset[unit]
    return result


def _spread(part: Part) -> Float[Tensor, "feature latent_row"]:
    """Return the features of one latent after the other, zero for the features of the others."""
    latents = int(part.owner.max()) + 1
    V = part.values.T[:, None, :] * torch.nn.functional.one_hot(part.owner, latents).to(part.values)[..., None]
    return V.flatten(1)
