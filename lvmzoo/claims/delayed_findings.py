"""What processes with delays say about pairs of regions: claims with nulls and intervals, and their curves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.batch import Batch, Observation
from lvmzoo.claims.delayed_claims import Draws, fisher_draws, resampled, test_delays
from lvmzoo.claims.delayed_communication import Exchange, Predictions, cross_validated, exchange, shared_strength
from lvmzoo.claims.nulls import bootstrap, holm, interval, null_summary, p_value
from lvmzoo.findings import Claim, Findings, Profile, Progress, Question
from lvmzoo.inference.delayed_dimension import fold_of_trials
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings
from lvmzoo.inference.gaussian_process_dimension import fewest_within_one_error
from lvmzoo.parts.residuals import Residuals

__all__ = ["Settings", "delayed_findings"]

FEWEST_TRIALS = 8  # whose exchange can tell chance from communication
LEVEL = 0.05
CURVE_BINS = 81  # lags of a profile


@dataclass(frozen=True)
class Settings:
    """Of tests and intervals; see the model's config."""

    residuals: bool
    folds: int
    permutations: int
    resamples: int


@torch.no_grad()
def delayed_findings(
    model: DelayedProcesses,
    batch: Batch,
    names: Sequence[str],
    settings: Settings,
    activity: Float[Tensor, "trial bin unit"],
    seed: int,
    progress: Progress,
) -> Findings:
    """Return claims about every pair of regions that the session shows.

    Parameters
    ----------
    model : fitted, of this session.
    batch : all training trials.
    names : of the model's regions.
    settings : of tests and intervals.
    activity : of the batch, as it is modeled.
    seed : of permutations and resamples.
    progress : is told how far the work is.
    """
    return _Session(model, batch, names, settings, activity, seed, progress).findings()


class _Session:
    """The trials of one session, and what was found in them."""

    def __init__(
        self,
        model: DelayedProcesses,
        batch: Batch,
        names: Sequence[str],
        settings: Settings,
        activity: Tensor,
        seed: int,
        progress: Progress,
    ) -> None:
        used = batch.valid.any(1)
        self.batch = batch if bool(used.all()) else batch.map(lambda tensor: tensor[used])
        self.data = Recordings(activity[used], batch.valid[used], batch.observed[used])
        self.names, self.settings, self.progress = names, settings, progress
        self.generator = torch.Generator().manual_seed(seed)
        self.counts = batch.layout.observation is Observation.COUNTS
        self.ms = 1e3 * batch.layout.bin_width_s
        present = [m for m, name in enumerate(names) if name in batch.layout.units]
        place = {name: k for k, name in enumerate(batch.layout.units)}
        present.sort(key=lambda m: place[names[m]])
        self.pairs = list(itertools.combinations(present, 2))
        self.fold = fold_of_trials(len(self.data.valid), settings.folds).to(self.data.valid.device)
        tested = test_delays(
            model, self.data, self.counts, self.pairs, lambda done: progress("Delays against zero", done)
        )
        self.model, self.ratios = tested
        self.draws = self._draws()
        self.predictions = self._predictions()
        self.exchanges = self._exchanges()

    def _draws(self) -> Draws:
        resamples = self.settings.resamples
        if resamples and len(self.data.valid) > 1:
            return resampled(
                self.model,
                self.data,
                self.counts,
                self.pairs,
                resamples,
                self.generator,
                lambda done: self.progress("Refits to resampled trials", done),
            )
        return fisher_draws(self.model, self.data, self.pairs, self.generator)

    def _predictions(self) -> dict[tuple[int, int], Predictions]:
        if int(self.fold.max()) < 1:
            return {}
        ordered = [pair for one, other in self.pairs for pair in ((one, other), (other, one))]
        return cross_validated(
            self._activity,
            self.data.valid,
            self.data.observed,
            self.fold,
            self.model,
            self.counts,
            ordered,
            lambda done: self.progress("Predictions of trials left out", done),
        )

    def _activity(self, train: Bool[Tensor, " trial"]) -> Float[Tensor, "trial bin unit"]:
        """Return the activity less condition means of the training trials, where they are wanted."""
        residuals = Residuals([self.batch.layout], self.settings.residuals).to(train.device)
        residuals.prepare([self.batch.map(lambda tensor: tensor[train])])
        activity: Tensor = residuals(self.batch)
        return activity

    def _exchanges(self) -> dict[tuple[int, int], Exchange]:
        if not self.predictions:
            return {}
        condition = self.batch.condition
        return {
            (a, b): exchange(
                self.predictions[a, b],
                self.predictions[b, a],
                self.fold,
                condition,
                self.settings.permutations,
                self.generator,
            )
            for a, b in self.pairs
        }

    def findings(self) -> Findings:
        communication = self._communication()
        shared = {pair: claim.p for pair, claim in communication.items()}
        dimensions, useful, curves = self._dimensions()
        delays = self._delays(shared, useful)
        claims = [*communication.values(), *self._directions(delays), *delays.values(), *dimensions]
        return Findings(tuple(claims), (*self._lags(), *curves))

    def _names(self, pair: tuple[int, int]) -> tuple[str, str]:
        return self.names[pair[0]], self.names[pair[1]]

    def _communication(self) -> dict[tuple[int, int], Claim]:
        """Ask whether each region predicts the other in trials left out, better than after trials were exchanged."""
        trials, settings = len(self.data.valid), self.settings
        enough = trials >= FEWEST_TRIALS and bool(self.exchanges)
        ps = [p_value(found.observed, found.null) for found in self.exchanges.values()]
        corrected = dict(zip(self.exchanges, holm(ps), strict=True))
        claims = {}
        for pair in self.pairs:
            found = self.exchanges.get(pair)
            value = found.observed if found is not None else float("nan")
            claim = Claim(
                Question.COMMUNICATION,
                *self._names(pair),
                value,
                "correlation of each region, predicted from the other by latents across them, with its activity",
            )
            if not enough or found is None:
                claims[pair] = replace(claim, note=f"too short to tell: {trials} trials")
                continue
            tested, resamples = settings.permutations > 0, settings.resamples
            p = corrected[pair] if tested else None
            samples = [found.resampled(bootstrap(found.powers.shape[1], self.generator)) for _ in range(resamples)]
            note = f"{int(self.fold.max()) + 1} folds, each but the first predicted by the trials before it"
            if tested:
                note += "; null: trials of one region exchanged within condition and among neighbors" + _pairs(
                    corrected
                )
            claims[pair] = replace(
                claim,
                p=p,
                null=null_summary(found.null) if tested else None,
                interval=_around(value, interval(samples)) if resamples else None,
                evidence=p <= LEVEL if p is not None and resamples else None,
                note=note,
            )
        return claims

    def _dimensions(self) -> tuple[list[Claim], dict[tuple[int, int], int], list[Profile]]:
        """Return the fewest latents within one standard error of the best, the number of the best, and curves."""
        claims, useful, curves = [], {}, []
        for pair in self.pairs:
            if not self.predictions:
                useful[pair] = self.model.across
                continue
            folds = torch.stack([self.predictions[way].explained for way in (pair, pair[::-1])]).mean(0).cpu().numpy()
            numbers = list(range(folds.shape[1]))
            useful[pair] = int(folds.mean(0).argmax())
            chosen = fewest_within_one_error(-folds, numbers) if len(folds) > 1 else useful[pair]
            note = "latents across regions, each region predicted from the other in trials left out, one-SE rule"
            if chosen == self.model.across:
                note += f"; all {chosen} that were fitted: there may be more"
            claims.append(
                Claim(Question.DIMENSIONS, *self._names(pair), float(chosen), "by cross-validation", note=note)
            )
            mean = folds.mean(0)
            error = folds.std(0, ddof=1) / len(folds) ** 0.5 if len(folds) > 1 else np.zeros_like(mean)
            curves.append(
                Profile(
                    "rank",
                    *self._names(pair),
                    "variance of trials left out that is predicted",
                    {"latents across regions": np.array(numbers, float)},
                    mean,
                    mean - error,
                    mean + error,
                    marks={"1-SE number": float(chosen)},
                    note="mean of both ways; standard error over folds",
                )
            )
        return claims, useful, curves

    def _delays(
        self, shared: dict[tuple[int, int], float | None], useful: dict[tuple[int, int], int]
    ) -> dict[tuple[int, int, int], Claim]:
        """Return the delay of each latent, by the likelihood ratio of a refit without it."""
        cases = list(self.ratios)
        ps = dict(zip(cases, holm([_chi_square_tail(self.ratios[case]) for case in cases]), strict=True))
        trials = len(self.data.valid)
        how = f"{self.settings.resamples} refits to resampled trials"
        if not self.settings.resamples or trials < 2:
            how = "Fisher information, readouts taken as known"
        claims = {}
        for one, other, latent in cases:
            pair = (one, other)
            rank = shared_strength(self.model, *pair).argsort(descending=True).tolist().index(latent)
            value = float(self.model.delays[other, latent] - self.model.delays[one, latent]) * self.ms
            samples = (self.draws.delays[:, other, latent] - self.draws.delays[:, one, latent]) * self.ms
            p, evidence, note = ps[one, other, latent], None, "likelihood ratio of a refit without the delay"
            note += f", corrected for {len(cases)} by Holm" if len(cases) > 1 else ""
            communicates = shared[pair]
            if communicates is not None:  # without something shared, a delay is of nothing
                p = max(p, communicates)
                note += ", and not below the p of communication"
            if rank >= useful[pair]:
                p = 1.0
                note += "; predicts nothing in trials left out"
            note += f"; interval: {how}"
            if trials < FEWEST_TRIALS:
                note = f"too short to tell: {trials} trials"
            else:
                evidence = p <= LEVEL
            claims[one, other, latent] = Claim(
                Question.DELAY,
                *self._names(pair),
                value,
                "delay",
                "ms",
                _around(value, interval(samples)),
                p,
                evidence=evidence,
                item=f"latent {latent + 1}",
                note=note,
            )
        return claims

    def _directions(self, delays: dict[tuple[int, int, int], Claim]) -> list[Claim]:
        """Return the share of what two regions share that is carried by latents which one sees before the other."""
        claims = []
        for number, (one, other) in enumerate(self.pairs):
            strengths = shared_strength(self.model, one, other)
            drawn = self.draws.strengths[:, number]
            for source, target, sign in ((one, other, 1.0), (other, one, -1.0)):

                def share(delay: Tensor, weight: Tensor, sign: float = sign) -> Tensor:
                    leads = ((sign * delay) > 0).to(weight)
                    return (leads * weight).sum(-1) / weight.sum(-1).clamp(min=1e-300)

                D = self.model.delays
                value = float(share(D[other] - D[one], strengths))
                samples = share(self.draws.delays[:, other] - self.draws.delays[:, one], drawn)
                own = [claim for (a, b, _), claim in delays.items() if (a, b) == (one, other)]
                leading = [claim for claim in own if sign * claim.value > 0]
                ps = [claim.p for claim in leading if claim.p is not None]
                unknown = all(claim.evidence is None for claim in own)
                claims.append(
                    Claim(
                        Question.DIRECTION,
                        *self._names((source, target)),
                        value,
                        "share of the shared variance in latents that it leads",
                        "",
                        _around(value, interval(samples)),
                        min(ps, default=1.0),
                        evidence=None if unknown else any(claim.evidence for claim in leading),
                        note="p: the smallest of the delays of these latents" if not unknown else own[0].note,
                    )
                )
        return claims

    def _lags(self) -> list[Profile]:
        """Return the correlation of what two regions see of each latent, by lag."""
        profiles = []
        for one, other in self.pairs:
            strengths = shared_strength(self.model, one, other)
            shares = strengths / strengths.sum().clamp(min=1e-300)
            for j in range(self.model.across):
                D, tau = float(self.model.delays[other, j] - self.model.delays[one, j]), float(self.model.timescales[j])
                reach = min(abs(D) + 3 * tau, float(self.data.valid.shape[1]))
                lags = torch.linspace(-reach, reach, CURVE_BINS, dtype=torch.float64)
                drawn = torch.exp(
                    -0.5
                    * (
                        (lags - (self.draws.delays[:, other, j] - self.draws.delays[:, one, j])[:, None].cpu())
                        / self.draws.timescales[:, j, None].cpu()
                    ).square()
                )
                value = torch.exp(-0.5 * ((lags - D) / tau).square())
                low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
                profiles.append(
                    Profile(
                        "lag",
                        *self._names((one, other)),
                        "correlation of the latent between regions",
                        {"lag (ms)": (lags * self.ms).numpy()},
                        value.numpy(),
                        torch.minimum(low, value).numpy(),
                        torch.maximum(high, value).numpy(),
                        marks={"delay": D * self.ms},
                        item=f"latent {j + 1}",
                        note=f"{float(shares[j]):.0%} of the shared variance",
                    )
                )
        return profiles


def _around(value: float, samples: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of the samples, widened to hold the value where they lie to one side of it."""
    return min(value, samples[0]), max(value, samples[1])


def _pairs(corrected: dict[tuple[int, int], float]) -> str:
    return f", corrected for {len(corrected)} pairs by Holm" if len(corrected) > 1 else ""


def _chi_square_tail(ratio: float) -> float:
    """Return the probability that a chi-square variable of one degree of freedom is at least that large."""
    return max(float(torch.special.erfc(torch.tensor((ratio / 2) ** 0.5, dtype=torch.float64))), 1e-300)
