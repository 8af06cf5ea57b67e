"""Scoring counts under a Poisson likelihood.

A Gaussian model predicts negative rates. Clipping them makes the score a matter of the floor, so such a model is scored
through a generalized linear readout from its latents instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Num

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.poisson_readout import PoissonReadout, fit_readout, thinned
from lvmzoo.metrics.spread import Sums, ratio_sem
from lvmzoo.metrics.streamed import Piece

__all__ = ["Bits", "bits_of", "bits_per_spike", "log_rates", "score_counts", "scored", "true_bits"]

FLOOR = 1e-9  # nlb_tools' stand-in for a rate of zero


def information(
    rates: Float[np.ndarray, "bin unit"],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None = None,
) -> Float[np.ndarray, " bin"]:
    """Return the log-likelihood of each bin above that of the units' mean rates over these bins, in nats."""
    if recorded is None:
        mean = counts.mean(0, dtype=np.float64)
    else:
        mean = np.where(recorded, counts, 0).sum(0, dtype=np.float64) / np.maximum(recorded.sum(0), 1)
    return _above(rates, counts, recorded, mean)


def _above(
    rates: Float[np.ndarray, "bin unit"],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None,
    mean: Float[np.ndarray, " unit"],
) -> Float[np.ndarray, " bin"]:
    """Return the log-likelihood of each bin above that of given mean rates, in nats."""
    counts = counts.astype(np.float64) if recorded is None else np.where(recorded, counts, 0.0)
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


class Bits(NamedTuple):
    """Nats above mean rates, and spikes, of each group of bins."""

    nats: Float[np.ndarray, "group one"]
    spikes: Float[np.ndarray, "group one"]

    @property
    def value(self) -> float:
        """Bits a spike."""
        return float(self.nats.sum() / self.spikes.sum() / np.log(2))

    @property
    def spread(self) -> float | None:
        """Standard error of the value over trials or blocks."""
        found = ratio_sem(self.nats, self.spikes)
        return None if found is None else found / float(np.log(2))


def bits_of(
    evaluation: Evaluation,
    part: str,
    units: tuple[int, ...],
    rates: Piece,
    among: Bool[np.ndarray, " every_bin"] | None = None,
) -> Bits | None:
    """Return what ``bits_per_spike`` is made of; None without a spike.

    Parameters
    ----------
    evaluation, part : which valid bins, and the trials or blocks that they belong to.
    units : that are scored.
    rates : expected counts of these units in a stretch of the bins.
    among : bins that count; None: all.
    """
    spikes, bins = np.zeros(len(units)), np.zeros(len(units))
    for rows in evaluation.pieces(part):
        counts, recorded = _counts(evaluation, part, units, rows, among)
        spikes += (counts if recorded is None else np.where(recorded, counts, 0)).sum(0, dtype=np.float64)
        bins += len(counts) if recorded is None else recorded.sum(0)
    if not spikes.any():
        return None
    mean, sums = spikes / np.maximum(bins, 1), Sums()
    for rows in evaluation.pieces(part):
        counts, recorded = _counts(evaluation, part, units, rows, among)
        inside = slice(None) if among is None else among[rows]
        gain = _above(rates(rows)[inside], counts, recorded, mean)
        own = (counts if recorded is None else np.where(recorded, counts, 0)).sum(1, dtype=np.float64)
        sums.add(np.stack([gain, own], 1), evaluation.groups(part)[rows][inside])
    return Bits(sums.array[:, :1], sums.array[:, 1:])


def _counts(
    evaluation: Evaluation, part: str, units: tuple[int, ...], rows: slice, among: Bool[np.ndarray, " every_bin"] | None
) -> tuple[Num[np.ndarray, "bin unit"], Bool[np.ndarray, "bin unit"] | None]:
    """Return the counts of a stretch of bins, and which were recorded."""
    inside = slice(None) if among is None else among[rows]
    recorded = evaluation.recorded(part, units, rows)
    counts = evaluation.activity(part, units, rows).numpy()[inside]
    return counts, None if recorded is None else recorded.numpy()[inside]


def score_counts(evaluation: Evaluation, units: tuple[int, ...], metric: str, seen: bool = False) -> list[Score]:
    """Return bits/spike of some units on the test part: from the model's rates, or through a readout.

    Parameters
    ----------
    evaluation : of the model.
    units : that are scored; without them, or without spikes, there is no row. Nor is there where a readout has no
        training bins to be fitted to.
    metric : what the score is called.
    seen : whether the model saw these units in these bins.
    """
    if not units or (found := _bits(evaluation, units, "test")) is None:
        return []
    bits, note = found
    validation = _bits(evaluation, units, "validation")
    return [
        replace(
            scored(metric, evaluation.layout.session, bits, note),
            seen=seen,
            ceiling=true_bits(evaluation, units),
            validation=None if validation is None else validation[0].value,
        )
    ]


def _bits(evaluation: Evaluation, units: tuple[int, ...], part: str) -> tuple[Bits, str] | None:
    """Return what the score is made of, and what was chosen for the readout."""
    if not evaluation.positive_rates and not len(evaluation.bins("train")):
        return None
    rates, note = _rates(evaluation, units, part)
    found = bits_of(evaluation, part, units, rates)
    return None if found is None else (found, note)


def _rates(evaluation: Evaluation, units: tuple[int, ...], part: str) -> tuple[Piece, str]:
    if not len(evaluation.bins(part)):
        return lambda rows: np.zeros((0, len(units))), ""
    if evaluation.positive_rates:
        rates, columns = evaluation.rates(part), list(units)
        return lambda rows: rates[rows][:, columns], ""
    # One penalty does not suit units whose counts the latents have seen and units that are to be predicted.
    readout = evaluation.kept(("readout", units), lambda: _fit(evaluation, units))
    regressors = evaluation.regressors(part)
    return lambda rows: readout.rates(regressors[rows]), readout.settings


def scored(metric: str, session: str, bits: Bits, note: str = "") -> Score:
    """Return bits/spike with its spread over trials or blocks; ``n`` counts spikes."""
    n = int(bits.spikes.sum())
    return Score(metric, bits.value, session, unit="bits/spike", spread=bits.spread, n=n, note=note)


def true_bits(
    evaluation: Evaluation, units: tuple[int, ...], among: Bool[np.ndarray, " test_bin"] | None = None
) -> float | None:
    """Return what the true rates of a simulation reach on test bins, or on those ``among`` them; None without them."""
    if "rates" not in evaluation.trials("test").truth:
        return None
    columns = list(units)

    def true(rows: slice) -> Float[np.ndarray, "bin unit"]:
        return cast("np.ndarray", evaluation.truth("test", "rates", rows))[:, columns]

    found = bits_of(evaluation, "test", units, true, among)
    return None if found is None else found.value


def _fit(evaluation: Evaluation, units: tuple[int, ...]) -> PoissonReadout:
    thin = thinned(len(evaluation.bins("train")))
    activity, recorded = evaluation.activity("train", units, thin), evaluation.recorded("train", units, thin)
    return fit_readout(evaluation.regressors("train")[thin], activity, recorded)
