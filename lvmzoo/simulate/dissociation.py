"""Activity that behavior shares a small part of: two of four latents move the hand, the other two dominate the units.

The dissociation of Sani et al. (2021), doi:10.1038/s41593-020-00733-0: a model of two latents that looks at the
activity alone takes the two that behavior has nothing to do with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from lvmzoo.batch import Observation
from lvmzoo.data.recording import Recording, Signal, unit_table
from lvmzoo.simulate.modes import modes_of

__all__ = ["BehaviorSystem", "dissociation", "dissociation_system"]

RELEVANT, OTHER = complex(0.8935, 0.2394), complex(0.0, 0.94)  # eigenvalues, each with its conjugate


class BehaviorSystem(NamedTuple):
    """x[t+1] = A x[t] + w, y = C x + v, z = Cz x + e, with independent noise of unit variance in x and y."""

    dynamics: Float[np.ndarray, "latent latent"]
    readout: Float[np.ndarray, "unit latent"]
    behavior: Float[np.ndarray, "channel latent"]
    behavior_noise: float  # standard deviation of e


def dissociation_system(seed: int = 0, units: int = 2, channels: int = 2) -> BehaviorSystem:
    """Return the parameters, of two units at least; the last two latents have no part in behavior."""
    random = np.random.default_rng(seed)
    planes = [np.array([[value.real, -value.imag], [value.imag, value.real]]) for value in (RELEVANT, OTHER)]
    dynamics = np.zeros((4, 4))
    dynamics[:2, :2], dynamics[2:, 2:] = planes
    # Each pair is seen along its own direction of the activity, at right angles: neither hides the other.
    turn, _ = np.linalg.qr(random.normal(size=(units, units)))
    readout = turn[:, :2] @ np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 3.0]])
    behavior = np.zeros((channels, 4))
    behavior[:, :2] = random.normal(size=(channels, 2))
    return BehaviorSystem(dynamics, readout, behavior, 2.0)


def dissociation(
    seed: int = 0, trials: int = 20, bins: int = 1000, units: int = 2, channels: int = 2, bin_width_s: float = 0.05
) -> Recording:
    """Simulate trials of continuous activity with the behavior "hand".

    Trials follow each other without a pause, and so do the latents.

    Truth: ``latents``, those that behavior shares first, ``rates``, the activity without its noise, and ``modes``.

    Parameters
    ----------
    seed : of every draw.
    trials, bins : number of trials, and their length.
    units, channels : of activity and of behavior.
    bin_width_s : one step of the system.
    """
    system, random = dissociation_system(seed, units, channels), np.random.default_rng([seed, 1])
    x = random.normal(size=(trials * bins, 4))
    for t in range(1, len(x)):
        x[t] += system.dynamics @ x[t - 1]
    expected = x @ system.readout.T
    activity = expected + random.normal(size=expected.shape)
    hand = x @ system.behavior.T + system.behavior_noise * random.normal(size=(len(x), channels))

    start_s = bins * bin_width_s * np.arange(trials)

    def on_bins(values: Float[np.ndarray, "bin channel"], description: str) -> Signal:
        return Signal(
            values.astype(np.float32),
            start_s=bin_width_s / 2,
            rate_hz=1 / bin_width_s,
            unit="a.u.",
            description=description,
        )

    return Recording(
        session="dissociation",
        activity=on_bins(activity, "Noisy readout of four latents."),
        observation=Observation.CONTINUOUS,
        units=unit_table(units),
        start_s=0.0,
        stop_s=len(x) * bin_width_s,
        trials=pd.DataFrame({"start_s": start_s, "stop_s": start_s + bins * bin_width_s}),
        behavior={"hand": on_bins(hand, "Noisy readout of the first two latents.")},
        truth={
            "latents": on_bins(x, "relevant_1, relevant_2, other_1, other_2"),
            "rates": on_bins(expected, "Expected activity of each unit."),
        },
        modes=modes_of(system.dynamics, bin_width_s),
    )
