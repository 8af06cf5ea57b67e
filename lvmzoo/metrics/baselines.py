"""What a model should beat, and what bounds it: smoothed activity, its principal components, and the ground truth.

Each baseline is an :class:`Evaluation` whose latents or rates are known, so it runs through the same metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.data.trials import Session
from lvmzoo.metrics import score
from lvmzoo.metrics.base import PARTS, Evaluation, Score
from lvmzoo.metrics.behavior_knn import BehaviorKnn
from lvmzoo.metrics.behavior_r2 import BehaviorR2
from lvmzoo.metrics.latent_r2 import LatentR2

__all__ = ["baselines", "oracle", "principal_components", "smoothed_activity"]

WIDTHS_S = (0.02, 0.04, 0.08, 0.16, 0.32)  # standard deviations of the Gaussian to choose from
DEFAULT_WIDTH_S = 0.08
# Hundreds of units need more shrinkage than a few latents: a baseline is not to be beaten by its penalty.
PENALTIES = tuple(np.logspace(-4, 4, 17).tolist())
PIECE_BINS = 50_000
LARGEST = 40_000_000  # bins x units up to which smoothed activity itself is decoded


def baselines(session: Session, latents: int, seed: int = 0) -> dict[str, list[Score]]:
    """Return the scores of each baseline by its name, which says how it was smoothed.

    They are principal components of smoothed activity; decoding from the smoothed activity of all held-in units (left
    out above 40 million samples); and, for simulations, decoding from the true latents and bits/spike of the true
    rates.

    Parameters
    ----------
    session : split as for training.
    latents : number of principal components, as many as the model has.
    seed : of the bootstrap behind some spreads.
    """
    kind = "counts" if session.layout.observation is Observation.COUNTS else "activity"
    evaluation, width = principal_components(session, latents, seed)
    found = {f"PCA on {kind} smoothed by {width:g} s": score(evaluation)}
    if session.layout.behavior and sum(len(_bins(session, p)) for p in PARTS) * session.layout.n_units <= LARGEST:
        evaluation, width = smoothed_activity(session, seed)
        name = f"{kind} smoothed by {width:g} s"
        found[name] = BehaviorR2(PENALTIES, chance=False)(evaluation)
        found[name] += BehaviorKnn(chance=False)(evaluation)
    known = oracle(session, seed)
    if known is not None:
        found["oracle"] = [row for row in score(known) if row.metric not in ("latent_r2", "state_r2")]
    return found


def principal_components(session: Session, latents: int, seed: int = 0) -> tuple[Evaluation, float]:
    """Return principal components of the held-in units' smoothed activity, and the width of the Gaussian in s.

    The components are fitted on training bins, to the square root of smoothed counts. The Gaussian looks ahead within a
    trial. Its width is the one of ``WIDTHS_S`` with which the truth, or where there is none behavior, is read out best
    on the validation part: a choice in the baseline's favor.
    """
    return _best(session, seed, lambda width: _components(session, width, latents))


def smoothed_activity(session: Session, seed: int = 0) -> tuple[Evaluation, float]:
    """Return the held-in units' smoothed activity as latents, and the width in s, chosen in the same way."""
    return _best(
        session, seed, lambda width: {part: np.concatenate([*_smooth(session, part, width)]) for part in PARTS}
    )


def oracle(session: Session, seed: int = 0) -> Evaluation | None:
    """Return the true latents and rates of a simulation as views; None where there are none."""
    known: dict[str, dict[str, np.ndarray]] = {}
    for name in ("latents", "rates"):
        if all(name in getattr(session, part).truth for part in PARTS):
            known[name] = {part: _truth(session, part, name) for part in PARTS}
    return Evaluation(None, session, seed, known) if "latents" in known else None


def _best(session: Session, seed: int, views: Callable[[float], dict[str, np.ndarray]]) -> tuple[Evaluation, float]:
    judged = replace(session, test=session.validation)  # a score on "test" is then one on validation
    quality = dict.fromkeys(WIDTHS_S, -np.inf)
    for width in WIDTHS_S if len(_bins(session, "validation")) else ():
        latents = views(width)
        trial = Evaluation(None, judged, seed, {"latents": latents | {"test": latents["validation"]}})
        rows = [row for row in LatentR2()(trial) if row.metric == "latent_r2"]
        rows = rows or [row for row in BehaviorR2(PENALTIES, chance=False)(trial) if row.better == "higher"]
        if rows:
            quality[width] = float(np.mean([row.value for row in rows]))
    width = max(quality, key=lambda key: quality[key])
    width = DEFAULT_WIDTH_S if np.isneginf(quality[width]) else width
    return Evaluation(None, session, seed, {"latents": views(width)}), width


def _components(session: Session, width_s: float, latents: int) -> dict[str, np.ndarray]:
    counts = session.layout.observation is Observation.COUNTS

    def pieces(part: str) -> Iterator[np.ndarray]:
        # The square root makes the noise of counts alike in all units.
        return (np.sqrt(piece) if counts else piece for piece in _smooth(session, part, width_s))

    count, total, square = 0, 0.0, 0.0
    for piece in pieces("train"):
        count, total, square = count + len(piece), total + piece.sum(0), square + piece.T @ piece
    mean = total / max(count, 1)
    vectors = np.linalg.eigh(square / max(count, 1) - np.outer(mean, mean))[1][:, ::-1][:, :latents]
    return {part: np.concatenate([(piece - mean) @ vectors for piece in pieces(part)]) for part in PARTS}


def _smooth(session: Session, part: str, width_s: float) -> Iterator[np.ndarray]:
    """Give the smoothed activity of the held-in units in valid bins, trial by trial, long trials in pieces.

    What is missing counts for nothing: the kernel is normalized over what was recorded within the trial.
    """
    from scipy.ndimage import gaussian_filter1d

    trials = getattr(session, part)
    units = list(session.layout.held_in)
    width = width_s / session.layout.bin_width_s
    margin = int(4 * width + 1)
    yield np.zeros((0, len(units)))
    for start, stop in zip(trials.start, trials.stop, strict=True):
        for first in range(int(start), int(stop), PIECE_BINS):
            last = min(first + PIECE_BINS, int(stop))
            low, high = max(int(start), first - margin), min(int(stop), last + margin)
            there = trials.valid[low:high, None].expand(-1, len(units))
            if trials.missing is not None:
                there = there & ~trials.missing[low:high][:, units]
            weight = there.double().numpy()
            values = np.where(weight > 0, trials.activity[low:high][:, units].double().numpy(), 0.0)
            values, weight = (
                gaussian_filter1d(array, width, axis=0, mode="constant", truncate=4.0) for array in (values, weight)
            )
            inside = slice(first - low, last - low)
            valid = trials.valid[first:last].numpy()
            yield (values[inside] / np.maximum(weight[inside], 1e-12))[valid]


def _bins(session: Session, part: str) -> np.ndarray:
    return Evaluation(None, session).bins(part)


def _truth(session: Session, part: str, name: str) -> np.ndarray:
    truth = Evaluation(None, session).truth(part, name)
    assert truth is not None
    return truth
