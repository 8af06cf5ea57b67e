"""A small planted world that every model can be fitted to: two regions, ragged trials, behavior of each kind."""

from __future__ import annotations

import numpy as np

from lvmzoo import from_arrays
from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Session

UNITS = {"V1": 9, "V2": 7}
DATA = DataConfig(bin_width_s=0.05, split=SplitConfig(validation=0.2, test=0.2, gap_s=0.0))


def recording(seed: int = 0, trials: int = 40, counts: bool = True) -> Recording:
    """Return a rotating two-dimensional latent seen by both regions, in counts or continuous activity."""
    random = np.random.default_rng(seed)
    lengths = random.integers(30, 45, trials)
    loadings = np.concatenate([random.normal(0, 0.7, (2, n)) for n in UNITS.values()], 1)
    activity, hand, heading, side = [], [], [], []
    for length in lengths:
        phase = random.uniform(0, 2 * np.pi) + 0.25 * np.arange(length)
        latents = np.stack([np.cos(phase), np.sin(phase)], 1) * random.uniform(0.8, 1.2)
        drive = latents @ loadings
        activity.append(
            random.poisson(np.exp(drive)) if counts else drive + random.normal(0, 0.5, drive.shape).astype(np.float32)
        )
        hand.append(latents)
        heading.append(np.angle(np.exp(1j * phase)))
        side.append((latents[:, 0] > 0).astype(float))
    return from_arrays(
        activity,
        {"hand": hand, "heading": heading, "side": side},
        bin_width_s=0.05,
        regions=[name for name, n in UNITS.items() for _ in range(n)],
        conditions=random.integers(0, 2, trials),
    )


def session(seed: int = 0, trials: int = 40, counts: bool = True) -> Session:
    """Return the world split in blocks."""
    return prepare([recording(seed, trials, counts)], DATA)[0]
