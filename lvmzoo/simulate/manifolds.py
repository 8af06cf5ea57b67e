"""Latents in the plane that lie around a manifold of labels, seen through Poisson counts of many units.

The synthetic data of Zhou & Wei (2020), arXiv:2011.04798, on which Schneider, Lee & Mathis (2023),
doi:10.1038/s41586-023-06031-6, compared contrastive embeddings with others: each bin has a label of its own, the
latents are Gaussian around a point that the label sets, and smooth random bumps over the plane give log rates.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Kind
from lvmzoo.data.recording import Recording, Signal
from lvmzoo.errors import unknown
from lvmzoo.simulate.spikes import spikes_in_bins

__all__ = ["LABELS", "manifolds"]

LABELS = ("continuous", "discrete", "mixed")
LEVELS = 5  # of the discrete label
WAVES = 200  # of which the log rate of a unit is made
WIDTH = 0.8  # of the bumps of log rates over the plane, in standard deviations of the latents
DEPTH = 0.8  # standard deviation of a unit's log rate


def manifolds(
    seed: int = 0,
    labels: str = "continuous",
    bins: int = 5000,
    units: int = 100,
    bin_width_s: float = 0.1,
    mean_hz: float = 2.0,
) -> Recording:
    """Simulate one recording without trials, whose bins are independent of each other.

    Behavior: ``label``, a number from 0 to 2 pi (continuous and mixed), and ``context``, a category (five of them,
    or two in the mixed case). Truth: ``latents``, two of them, and ``rates`` in Hz.

    continuous : around (u, 2 sin u), with variances .6 - .3 |sin u| and .3 |sin u|.
    discrete : around five points on a circle of radius 5, with variances between .5 and 3.
    mixed : around two such sines, the second one mirrored and above the first.

    Parameters
    ----------
    seed : of every draw.
    labels : "continuous", "discrete" or "mixed".
    bins, units : sizes.
    bin_width_s : a bin's width in seconds.
    mean_hz : mean rate of the units.

    Raises
    ------
    UserError : for another kind of labels.
    """
    if labels not in LABELS:
        raise unknown("kind of labels", labels, LABELS)
    random = np.random.default_rng(seed)
    position = random.uniform(0, 2 * np.pi, bins)
    context = random.integers(LEVELS if labels == "discrete" else 2, size=bins)
    if labels == "discrete":
        angle = 2 * np.pi * context / LEVELS
        center = 5 * np.stack([np.sin(angle), np.cos(angle)], 1)
        variance = random.uniform(0.5, 3.0, (LEVELS, 2))[context]
    else:
        context = context if labels == "mixed" else np.zeros_like(context)
        sine, above = np.sin(position), 5.0 * context
        center = np.stack([position, 2 * sine * (1 - 2 * context) + above], 1)
        variance = np.stack([0.6 - 0.3 * np.abs(sine), 0.3 * np.abs(sine)], 1)
    latents = center + np.sqrt(variance) * random.normal(size=(bins, 2))
    rates_hz = _rates_hz(latents, units, mean_hz, random)

    def on_bins(
        values: np.ndarray, unit: str, description: str, kind: Kind = Kind.CONTINUOUS, levels: tuple[str, ...] = ()
    ) -> Signal:
        return Signal(
            values.astype(np.float32),
            start_s=bin_width_s / 2,
            rate_hz=1 / bin_width_s,
            kind=kind,
            unit=unit,
            levels=levels,
            description=description,
        )

    behavior = {}
    if labels != "discrete":
        behavior["label"] = on_bins(position, "a.u.", "the continuous label")
    if labels != "continuous":
        levels = tuple(str(level) for level in range(int(context.max()) + 1))
        behavior["context"] = on_bins(context, "", "the discrete label", Kind.CATEGORICAL, levels)
    return Recording.from_spike_times(
        f"manifolds_{labels}",
        spikes_in_bins(random.poisson(rates_hz * bin_width_s), bin_width_s, random),
        stop_s=bins * bin_width_s,
        behavior=behavior,
        truth={
            "latents": on_bins(latents, "a.u.", "latent_1, latent_2"),
            "rates": on_bins(rates_hz, "Hz", "Rate of each unit."),
        },
        observed=np.array([[0.0, bins * bin_width_s]]),
    )


def _rates_hz(
    latents: Float[np.ndarray, "bin latent"], units: int, mean_hz: float, random: np.random.Generator
) -> Float[np.ndarray, "bin unit"]:
    scaled = (latents - latents.mean(0)) / latents.std(0)
    # Waves of random direction and phase: log rates are Gaussian processes over the plane (Rahimi & Recht 2007).
    waves = np.cos(
        scaled @ random.normal(0, 1 / WIDTH, (latents.shape[1], WAVES)) + random.uniform(0, 2 * np.pi, WAVES)
    )
    drive = waves @ random.normal(size=(WAVES, units))
    drive = DEPTH * (drive - drive.mean(0)) / drive.std(0)
    rates = np.exp(drive)
    return mean_hz * rates / rates.mean(0)
