"""How far the eigenvalues of a model's dynamics are from the true ones of a simulation."""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from lvmzoo.inference.fixed_points import jacobians
from lvmzoo.metrics.base import Evaluation, Score, evaluating
from lvmzoo.metrics.spread import group_sums, ratio_sem
from lvmzoo.models.base import HasDynamics

__all__ = ["EigenvalueError", "matched"]


class EigenvalueError:
    """Distance of the model's eigenvalues from the true ones, over the size of those; 0: equal, lower is better.

    sqrt(sum |found - true|^2 / sum |true|^2), as in Sani et al. (2021), doi:10.1038/s41593-020-00733-0, of the map of
    one bin, after the assignment that makes it smallest. True eigenvalues that the model has too few latents for count
    as found at zero; eigenvalues that the model has beyond the truth do not count, and the note says how many. Those of
    a nonlinear model are taken at the mean of its latents in training bins. The spread is over modes; ``n`` counts true
    eigenvalues.
    """

    name = "eigenvalue_error"
    needs: type | None = HasDynamics

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row where the true dynamics are linear and known."""
        modes = evaluation.session.modes
        if modes is None or not len(modes) or not len(evaluation.bins("train")) or not len(evaluation.bins("test")):
            return []
        true, mode = eigenvalues_of(modes, evaluation.layout.bin_width_s)
        found = _eigenvalues(evaluation)
        off = group_sums(np.abs(matched(found, true) - true)[:, None] ** 2, mode)
        size = group_sums(np.abs(true)[:, None] ** 2, mode)
        value = float(np.sqrt(off.sum() / size.sum()))
        spread = ratio_sem(off, size)
        if spread is not None and value > 0:
            spread /= 2 * value  # of the root of the ratio
        extra = len(found) - len(true)
        note = f"{extra} more that are not in the truth" if extra > 0 else f"{-extra} too few" if extra else ""
        session = evaluation.layout.session
        return [Score(self.name, value, session, better="lower", spread=spread, n=len(true), note=note)]


def matched(found: Complex[np.ndarray, " found"], true: Complex[np.ndarray, " true"]) -> Complex[np.ndarray, " true"]:
    """Return for each true eigenvalue the one that was found for it, zero where there is none.

    Of all one-to-one assignments the one of the smallest sum of squared distances.
    """
    from scipy.optimize import linear_sum_assignment

    padded = np.concatenate([found, np.zeros(max(0, len(true) - len(found)))])
    _, chosen = linear_sum_assignment(np.abs(true[:, None] - padded) ** 2)
    return padded[chosen]


def eigenvalues_of(
    modes: pd.DataFrame, bin_width_s: float
) -> tuple[Complex[np.ndarray, " eigenvalue"], Int[np.ndarray, " eigenvalue"]]:
    """Return the eigenvalues of the map of one bin, and the mode that each belongs to."""
    timescale, frequency = (modes[name].to_numpy(float) for name in ("timescale_s", "frequency_hz"))
    mode = np.repeat(np.arange(len(modes)), 1 + (frequency > 0))
    with np.errstate(divide="ignore"):
        modulus = np.where(timescale == 0, 0.0, np.exp(-bin_width_s / timescale))
    side = 1 - 2 * np.r_[False, np.diff(mode) == 0]  # the second of a pair is the conjugate of the first
    return modulus[mode] * np.exp(2j * np.pi * side * frequency[mode] * bin_width_s), mode


def _eigenvalues(evaluation: Evaluation) -> Complex[np.ndarray, " latent"]:
    model, session = evaluation.model, evaluation.layout.session
    assert model is not None
    example = next(tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())
    place = torch.from_numpy(evaluation.latents("train").mean(0, keepdims=True)).to(example)

    def advance(latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        return cast("HasDynamics", model).advance_in(session, latents)

    with evaluating(model):
        slope = jacobians(advance, place)[0]
    return np.linalg.eigvals(slope.double().cpu().numpy()).astype(np.complex128)
