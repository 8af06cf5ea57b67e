"""Scoring counts under a Poisson likelihood.

A Gaussian model predicts negative rates. Clipping them makes the score a matter of the floor, so such a model is scored
through a generalized linear readout from its latents instead.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.poisson_readout import PoissonReadout, fit_readout
from lvmzoo.metrics.spread import group_sums, ratio_sem

__all__ = ["bits_per_spike", "log_rates", "rates_score", "score_counts", "true_bits"]

FLOOR = 1e-9  # nlb_tools' stand-in for a rate of zero


def information(
    rates: Float[np.ndarray, "bin unit"],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None = None,
) -> Float[np.ndarray, " bin"]:
    """Return the log-likelihood of each bin above that of the units' mean rates over these bins, in nats."""
    counts = counts.astype(np.float64)
    if recorded is None:
        mean = counts.mean(0)
    else:
        counts = np.where(recorded, counts, 0.0)
        mean = counts.sum(0) / np.maximum(recorded.sum(0), 1)
    mean, rates = np.where(mean == 0, FLOOR, mean), np.where(rates == 0, FLOOR, rates).astype(np.float64)
    gain = counts * np.log(rates / mean) - (rates - mean)
    return (gain if recorded is None else np.where(recorded, gain, 0.0)).sum(1)


def bits_per_spike(
    rates: Float[np.ndarray, "bin unit"],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None = None,
) -> float:
    """Return how much better than mean rates the rates predict the counts, in bits a spike.

    (NLL of the mean rates - NLL of the rates) / spikes / ln 2 with Poisson likelihoods, the mean of each unit taken
    over the bins given, and a rate of zero replaced by 1e-9, as in nlb_tools (Pei et al. 2021,
    doi:10.48550/arXiv.2109.04463).

    Parameters
    ----------
    rates : expected counts per bin.
    counts : spikes per bin.
    recorded : samples that count; None: all.
    """
    spikes = counts.sum() if recorded is None else counts[recorded].sum()
    return float(information(rates, counts, recorded).sum() / spikes / np.log(2))


def log_rates(evaluation: Evaluation, rates: Float[np.ndarray, "bin unit"]) -> Float[np.ndarray, "bin unit"]:
    """Return the logarithms of a model's rates; rates that can be negative stand for their own."""
    rates = rates.astype(np.float64)
    return np.log(np.maximum(rates, FLOOR)) if evaluation.positive_rates else rates


def score_counts(evaluation: Evaluation, units: tuple[int, ...], metric: str, seen: bool = False) -> list[Score]:
    """Return bits/spike of some units on the test part: from the model's rates, or through a readout.

    Parameters
    ----------
    evaluation : of the model.
    units : that are scored; without them, or without spikes, there is no row.
    metric : what the score is called.
    seen : whether the model saw these units in these bins.
    """
    if (score := _score_part(evaluation, units, metric, "test")) is None:
        return []
    validation = _score_part(evaluation, units, metric, "validation")
    counts, recorded = evaluation.activity("test", units).numpy(), evaluation.recorded("test", units)
    ceiling = true_bits(evaluation, units, counts, None if recorded is None else recorded.numpy())
    return [replace(score, seen=seen, ceiling=ceiling, validation=None if validation is None else validation.value)]


def _score_part(evaluation: Evaluation, units: tuple[int, ...], metric: str, part: str) -> Score | None:
    counts = evaluation.activity(part, units).numpy()
    recorded = evaluation.recorded(part, units)
    there = None if recorded is None else recorded.numpy()
    if not len(units) or not (counts if there is None else counts[there]).any():
        return None
    if evaluation.positive_rates:
        rates, note = evaluation.rates(part)[:, list(units)], ""
    else:
        # One penalty does not suit units whose counts the latents have seen and units that are to be predicted.
        readout = evaluation.kept(("readout", units), lambda: _fit(evaluation, units))
        rates = readout.rates(evaluation.regressors(part))
        note = readout.settings
    return rates_score(metric, evaluation.layout.session, rates, counts, there, evaluation.groups(part), note)


def rates_score(
    metric: str,
    session: str,
    rates: Float[np.ndarray, "bin unit"],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None,
    groups: Int[np.ndarray, " bin"],
    note: str = "",
) -> Score:
    """Return bits/spike of rates; there are spikes. The spread is over trials or blocks; ``n`` counts spikes."""
    gain = information(rates, counts, recorded)
    spikes = counts.sum(1, dtype=np.float64)
    if recorded is not None:
        spikes = np.where(recorded, counts, 0).sum(1, dtype=np.float64)
    nats, total = group_sums(gain[:, None], groups), group_sums(spikes[:, None], groups)
    spread = ratio_sem(nats, total)
    return Score(
        metric,
        float(nats.sum() / total.sum() / np.log(2)),
        session,
        unit="bits/spike",
        spread=None if spread is None else spread / float(np.log(2)),
        n=int(spikes.sum()),
        note=note,
    )


def true_bits(
    evaluation: Evaluation,
    units: tuple[int, ...],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None,
    among: Bool[np.ndarray, " test_bin"] | None = None,
) -> float | None:
    """Return what the true rates of a simulation reach on test bins, or on those ``among`` them; None without them."""
    rates = evaluation.truth("test", "rates")
    if rates is None:
        return None
    return bits_per_spike((rates if among is None else rates[among])[:, list(units)], counts, recorded)


def _fit(evaluation: Evaluation, units: tuple[int, ...]) -> PoissonReadout:
    activity, recorded = evaluation.activity("train", units), evaluation.recorded("train", units)
    return fit_readout(evaluation.regressors("train"), activity, recorded)
