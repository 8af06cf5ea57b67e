"""Forward prediction: bits per spike of the ends of trials, which the model does not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.forward import AHEAD_S, Forward
from lvmzoo.metrics.poisson import bits_of, scored, true_bits
from lvmzoo.metrics.poisson_readout import fit_readout, thinned

__all__ = ["FpBps"]


class FpBps:
    """Poisson log-likelihood of all units' counts in the last 200 ms of test trials above mean rates, in bits a spike.

    The model infers trials in which these bins are not observed, and held-out units nowhere (Pei et al. 2021,
    doi:10.48550/arXiv.2109.04463). Of trials shorter than 0.8 s it is their last quarter; a few long trials are cut
    into pieces of two to ten seconds. A model without positive rates is scored through a Poisson readout from the
    latents that it expects at the ends of training trials. Models whose latents there do not depend on what they saw
    have no row. ``n`` counts spikes.
    """

    name = "fp_bps"
    needs: type | None = None

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return one row for counts."""
        layout = evaluation.layout
        if layout.observation is not Observation.COUNTS or evaluation.model is None:
            return []
        forward = evaluation.kept("forward", lambda: Forward(evaluation))
        if not len(evaluation.bins("test")) or not forward.predicts():
            return []
        of, units, ends = forward.of, tuple(range(layout.n_units)), forward.ends("test")
        if evaluation.positive_rates:
            rates, settings = forward.rates("test"), ""
            bits = bits_of(of, "test", units, lambda rows: rates[rows], ends)
        else:
            fitted = np.flatnonzero(forward.ends("train"))
            fitted = fitted[thinned(len(fitted))]
            if not len(fitted):
                return []
            train, test = forward.regressors("train"), forward.regressors("test")
            seen = of.recorded("train", rows=fitted)
            readout = fit_readout(train[fitted], of.activity("train", rows=fitted), seen)
            settings = readout.settings
            bits = bits_of(of, "test", units, lambda rows: readout.rates(test[rows]), ends)
        if bits is None or not np.isfinite(bits.value):
            return []
        note = "; ".join(filter(None, (f"last {1000 * AHEAD_S:.0f} ms of trials", settings)))
        return [replace(scored(self.name, layout.session, bits, note), ceiling=true_bits(of, units, ends))]
