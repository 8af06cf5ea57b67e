"""Claims about delays, and about directions that follow from them, with the curves behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from lvmzoo.claims.delayed_communication import shared_strength
from lvmzoo.claims.delayed_study import Study, around
from lvmzoo.claims.nulls import band, holm
from lvmzoo.claims.support import LEVEL, Measured, corrected
from lvmzoo.findings import Claim, Profile, Question

__all__ = ["delay_claims", "direction_claims", "lag_profiles"]

CURVE_BINS = 81  # lags of a profile


def delay_claims(
    study: Study, communication: dict[tuple[int, int], Claim], useful: dict[tuple[int, int], int]
) -> dict[tuple[int, int, int], Claim]:
    """Return the delay of each latent, by the likelihood ratio of a refit without it.

    Without something shared, a delay is of nothing: where communication cannot be told, no delay can. Nor is a delay of
    anything that the regions exchange where they communicate by other latents alone.
    """
    cases = list(study.ratios)
    ps = dict(zip(cases, holm([_chi_square_tail(study.ratios[case]) for case in cases]), strict=True))
    own = _exchanged(study)
    how = f"{study.settings.resamples} refits to resampled trials"
    if not study.settings.resamples or study.trials < 2:
        how = "Fisher information, readouts taken as known"
    claims = {}
    for one, other, latent in cases:
        pair = (one, other)
        rank = shared_strength(study.model, *pair).argsort(descending=True).tolist().index(latent)
        value = float(study.model.delays[other, latent] - study.model.delays[one, latent]) * study.ms
        samples = (study.draws.delays[:, other, latent] - study.draws.delays[:, one, latent]) * study.ms
        p: float | None = ps[one, other, latent]
        note = "p: likelihood ratio against a refit without the delay"
        note += f", corrected for {len(cases)} delays by Holm" if len(cases) > 1 else ""
        shared = communication[pair].p
        if shared is None:
            p, note = None, study.unknown
        else:
            p = max(ps[one, other, latent], shared, own[one, other, latent])
            note += ", and never below the p of communication, nor that of this latent being shared trial by trial"
            if rank >= useful[pair]:
                p = 1.0
                note += "; predicts nothing in trials left out"
            note += f"; interval: {how}" + (f"; {study.unjudged}" if study.unjudged else "")
        claims[one, other, latent] = Claim(
            Question.DELAY,
            *study.called(pair),
            value,
            "delay",
            "ms",
            around(value, samples),
            p,
            evidence=None if p is None or study.unjudged else p <= LEVEL,
            item=f"latent {latent + 1}",
            note=note,
        )
    return claims


def _exchanged(study: Study) -> dict[tuple[int, int, int], float]:
    """Return p-values of each latent being shared trial by trial, corrected for all latents of all pairs."""
    if study.unknown:
        return {}
    found = study.latent_exchanges
    ps = corrected([Measured(one.observed, one.null.tolist()) for one in found.values()])
    return {case: p for case, p in zip(found, ps, strict=True) if p is not None}


def direction_claims(study: Study, delays: dict[tuple[int, int, int], Claim]) -> list[Claim]:
    """Return the share of what two regions share that is carried by latents which one sees before the other."""
    claims = []
    for number, (one, other) in enumerate(study.pairs):
        strengths = shared_strength(study.model, one, other)
        drawn = study.draws.strengths[:, number]
        for source, target, sign in ((one, other, 1.0), (other, one, -1.0)):

            def share(delay: Tensor, weight: Tensor, sign: float = sign) -> Tensor:
                leads = ((sign * delay) > 0).to(weight)
                return (leads * weight).sum(-1) / weight.sum(-1).clamp(min=1e-300)

            D = study.model.delays
            value = float(share(D[other] - D[one], strengths))
            samples = share(study.draws.delays[:, other] - study.draws.delays[:, one], drawn)
            own = [claim for (a, b, _), claim in delays.items() if (a, b) == (one, other)]
            leading = [claim for claim in own if sign * claim.value > 0]
            ps = [claim.p for claim in leading if claim.p is not None]
            claims.append(
                Claim(
                    Question.DIRECTION,
                    *study.called((source, target)),
                    value,
                    "share of the shared variance in latents that it leads",
                    "",
                    around(value, samples),
                    None if study.unknown else min(ps, default=1.0),
                    evidence=None if study.unjudged else any(claim.evidence for claim in leading),
                    note=study.unjudged or "p: the smallest of the delays of these latents",
                )
            )
    return claims


def lag_profiles(study: Study, delays: dict[tuple[int, int, int], Claim]) -> list[Profile]:
    """Return the correlation of what two regions see of each latent, by lag; a delay is marked where it is evident."""
    profiles = []
    for one, other in study.pairs:
        strengths = shared_strength(study.model, one, other)
        shares = strengths / strengths.sum().clamp(min=1e-300)
        for j in range(study.model.across):
            D, tau = float(study.model.delays[other, j] - study.model.delays[one, j]), float(study.model.timescales[j])
            reach = min(abs(D) + 3 * tau, float(study.data.valid.shape[1]))
            lags = torch.linspace(-reach, reach, CURVE_BINS, dtype=torch.float64)
            drawn = torch.exp(
                -0.5
                * (
                    (lags - (study.draws.delays[:, other, j] - study.draws.delays[:, one, j])[:, None].cpu())
                    / study.draws.timescales[:, j, None].cpu()
                ).square()
            )
            value = torch.exp(-0.5 * ((lags - D) / tau).square())
            low, high = band(drawn)
            profiles.append(
                Profile(
                    "lag",
                    *study.called((one, other)),
                    "correlation of the latent between regions",
                    {"lag (ms)": (lags * study.ms).numpy()},
                    value.numpy(),
                    torch.minimum(low, value).numpy(),
                    torch.maximum(high, value).numpy(),
                    marks={"delay": D * study.ms} if delays[one, other, j].evidence else {},
                    item=f"latent {j + 1}",
                    note=f"{float(shares[j]):.0%} of the shared variance",
                )
            )
    return profiles


def _chi_square_tail(ratio: float) -> float:
    """Return the probability that a chi-square variable of one degree of freedom is at least that large."""
    return max(float(torch.special.erfc(torch.tensor((ratio / 2) ** 0.5, dtype=torch.float64))), 1e-300)
