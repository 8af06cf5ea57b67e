"""Whether what a model makes up looks like what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score, evaluating
from lvmzoo.metrics.counted import Counted, Limits, correlations, counted, ks, less, means, total
from lvmzoo.models.base import Samples

__all__ = ["Generation"]

LONGEST_BINS = 1000  # of what is sampled in one piece; longer trials are compared in pieces
SAMPLED_BINS = 20_000  # at least, if that takes no more than MOST_REPEATS times the test trials
MOST_REPEATS = 10
CHUNK_ENTRIES = 1_000_000  # bins x units that are sampled at once
MOST_PAIRED = 200  # units whose pairwise correlations are compared
LARGEST_COUNT, LONGEST_INTERVAL = 500, 200  # spikes; bins
GROUPS = 20  # of test trials, each left out once for the spreads


class Generation:
    """Statistics of the model's samples against those of test bins, of all units.

    As many trials are sampled as were tested, or a few times that, of the same lengths, and seen where the recording
    was. ``generated_rates`` is the R2 of the units' mean activity, ``generated_correlations`` that of the correlations
    of pairs of units over bins: 1 where samples have the values of the data, no line is fitted. Of counts,
    ``generated_counts`` is the Kolmogorov-Smirnov distance of the histograms of spikes in a bin,
    ``generated_intervals`` that of the intervals between spikes, in bins and within trials, each the mean over units,
    and ``generated_population`` that of spikes of all units in a bin: 0 where they are alike, 1 where they do not
    overlap, lower is better. The ceiling of an R2 is from two halves of the test trials (Spearman and Brown); of a
    distance, the note gives that between the halves. The mean of intervals is weighted by their number.

    An R2 has no row where units, or pairs, do not differ: the halves of the data do not agree on how they do.
    Samples lack what a model is told and does not generate: known inputs, and condition means that were subtracted, so
    that models of residuals have no rows. The spread is the jackknife over test trials; ``n`` counts bins.
    """

    name = "generation"
    needs: type | None = Samples

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return two rows, and three more of counts."""
        model = evaluation.model
        assert model is not None
        if getattr(model.config, "residuals", False) or not len(evaluation.bins("test")):
            return []
        frame = _frame(evaluation)
        groups = [_summary(evaluation, frame, rows) for rows in frame.groups]
        samples, data = total(list(_sampled(evaluation, frame))), total(groups)
        halves = [total(groups[side::2]) for side in (0, 1)] if len(groups) > 1 else None
        scores = []
        for name, compare in STATISTICS.items():
            if compare in (_counts, _population, _intervals) and frame.limits is None:
                continue
            value, is_r2 = compare(samples, data), compare in CEILINGS
            ceiling = _ceiling(CEILINGS[compare], *halves) if is_r2 and halves is not None else None
            if not np.isfinite(value) or (is_r2 and ceiling is None):
                continue
            without = [compare(samples, less(data, group)) for group in groups]
            spread = float(np.sqrt((len(groups) - 1) * np.var(without))) if len(groups) > 1 else None
            known = "known inputs at rest" if model.uses_inputs and evaluation.layout.inputs else ""
            between = "" if halves is None or is_r2 else f"halves of the data {compare(*halves):.2g}"
            scores.append(
                Score(
                    f"generated_{name}",
                    value,
                    evaluation.layout.session,
                    better="higher" if is_r2 else "lower",
                    spread=spread,
                    n=len(frame.piece),
                    note="; ".join(filter(None, (between, known))),
                    ceiling=ceiling,
                )
            )
        return scores


class _Frame(NamedTuple):
    """Where test bins lie: what samples must look like to be compared."""

    segment: Int[np.ndarray, " bin"]  # trial, or piece of a long one, of each valid bin; never decreases
    place: Int[np.ndarray, " bin"]  # bin of the segment
    piece: Int[np.ndarray, " bin"]  # within which intervals are counted
    groups: list[slice]  # of valid bins, for the jackknife
    pairs: Int[np.ndarray, " pair_unit"]
    limits: Limits | None


def _frame(evaluation: Evaluation) -> _Frame:
    trials, since = evaluation.trials("test"), evaluation.since_start("test")
    number = np.repeat(np.arange(len(trials)), trials.lengths)[trials.valid.numpy()[trials.flat]]
    segment = np.unique(np.stack([number, since // LONGEST_BINS]), axis=1, return_inverse=True)[1].ravel()
    rank = np.unique(evaluation.groups("test"), return_inverse=True)[1]
    group = rank * GROUPS // max(int(rank.max()) + 1, GROUPS)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    groups = [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], len(group)], strict=True)]
    piece = np.cumsum((np.diff(segment, prepend=-1) != 0) | (np.diff(group, prepend=-1) != 0))
    units = evaluation.layout.n_units
    pairs = np.unique(np.linspace(0, units - 1, min(units, MOST_PAIRED)).astype(np.int64))
    frame = _Frame(segment, since % LONGEST_BINS, piece, groups, pairs, None)
    if evaluation.layout.observation is not Observation.COUNTS:
        return frame
    largest = [(spikes.max(), spikes.sum(1).max()) for spikes in (_recorded(evaluation, rows)[0] for rows in groups)]
    count, population = (1 + int(max(values)) for values in zip(*largest, strict=True))
    return frame._replace(limits=Limits(min(count, LARGEST_COUNT), population, LONGEST_INTERVAL))


def _recorded(
    evaluation: Evaluation, rows: slice
) -> tuple[Float[np.ndarray, "bin unit"], Bool[np.ndarray, "bin unit"]]:
    """Return the activity of some valid test bins, zero where it is missing, and where it is not."""
    trials, bins = evaluation.trials("test"), evaluation.bins("test")[rows]
    activity = trials.activity[bins].numpy().astype(np.float64)
    there = np.ones(activity.shape, dtype=bool) if trials.missing is None else ~trials.missing[bins].numpy()
    return np.where(there, activity, 0.0), there


def _summary(evaluation: Evaluation, frame: _Frame, rows: slice) -> Counted:
    activity, there = _recorded(evaluation, rows)
    return counted(activity, there, frame.piece[rows], frame.place[rows], frame.pairs, frame.limits)


def _sampled(evaluation: Evaluation, frame: _Frame) -> Iterator[Counted]:
    """Give summaries of samples that have the lengths and the gaps of the test trials."""
    model, session = cast("Samples", evaluation.model), evaluation.layout.session
    bins, segments = len(frame.segment), int(frame.segment[-1]) + 1
    length = int(frame.place.max()) + 1
    each = max(1, CHUNK_ENTRIES // (length * evaluation.layout.n_units))
    assert evaluation.model is not None
    for repeat in range(min(MOST_REPEATS, -(-SAMPLED_BINS // bins))):
        for first in range(0, segments, each):
            rows = slice(*np.searchsorted(frame.segment, [first, first + each]))
            seed = int(np.random.default_rng([evaluation.seed, repeat, first]).integers(2**31))
            with evaluating(evaluation.model):
                drawn = model.sample(session, min(each, segments - first), length, seed)[1].cpu().numpy()
            there = _recorded(evaluation, rows)[1]
            activity = np.where(there, drawn[frame.segment[rows] - first, frame.place[rows]].astype(np.float64), 0.0)
            yield counted(activity, there, frame.piece[rows], frame.place[rows], frame.pairs, frame.limits)


def _r2(found: Float[np.ndarray, " item"], wanted: Float[np.ndarray, " item"]) -> float:
    """Return R2 without any fitted line, over the items that both know; NaN where those wanted do not vary."""
    known = np.isfinite(found) & np.isfinite(wanted)
    wanted = wanted[known]
    size = ((wanted - wanted.mean()) ** 2).sum() if known.any() else 0.0
    return float(1 - ((found[known] - wanted) ** 2).sum() / size) if size > 0 else float("nan")


def _rates(samples: Counted, data: Counted) -> float:
    return _r2(means(samples), means(data))


def _correlations(samples: Counted, data: Counted) -> float:
    return _r2(correlations(samples), correlations(data))


def _counts(samples: Counted, data: Counted) -> float:
    return ks(samples.counts, data.counts, np.ones(len(data.total)))


def _population(samples: Counted, data: Counted) -> float:
    return ks(samples.population, data.population, np.ones(1))


def _intervals(samples: Counted, data: Counted) -> float:
    assert data.intervals is not None
    return ks(samples.intervals, data.intervals, data.intervals.sum(1))


STATISTICS: Mapping[str, Callable[[Counted, Counted], float]] = {
    "rates": _rates,
    "correlations": _correlations,
    "counts": _counts,
    "population": _population,
    "intervals": _intervals,
}
CEILINGS: Mapping[Callable[[Counted, Counted], float], Callable[[Counted], Float[np.ndarray, " item"]]] = {
    _rates: means,
    _correlations: correlations,
}


def _ceiling(statistic: Callable[[Counted], Float[np.ndarray, " item"]], one: Counted, other: Counted) -> float | None:
    """Return the R2 that noise in the data leaves to the truth; None where the halves do not agree at all."""
    pair = np.stack([statistic(half) for half in (one, other)])
    pair = pair[:, np.isfinite(pair).all(0)]
    if pair.shape[1] < 3 or not pair.std(1).all() or (r := float(np.corrcoef(pair)[0, 1])) <= 0:
        return None
    return 2 * r / (1 + r)
