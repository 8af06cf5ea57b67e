"""Sessions of a linear dynamical system share its dynamics, not the scale of their activity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lvmzoo.batch import Batch
from lvmzoo.models.single_region.lds import LDS, LDSConfig
from tests.models.gpfa_world import batch, simulate


def fitted(parts: Sequence[Batch]) -> LDS:
    model = LDS(LDSConfig(latents=2), [part.layout for part in parts])
    model.prepare(parts)
    for _ in range(10):
        sums = [model.statistics(part) for part in parts]
        model.update(type(sums[0])(*(sum(leaves) for leaves in zip(*sums, strict=True))))
    model.finish()
    return model


def test_continuous_sessions_may_differ_in_scale() -> None:
    activity = simulate([4.0, 14.0], 20, 30, 12)[2]
    one = batch(activity[:10], "a")
    plain, other = (fitted([one, batch(scale * activity[10:], "b")]) for scale in (1.0, 1e8))
    torch.testing.assert_close(other.rates(one), plain.rates(one), rtol=1e-5, atol=1e-5)


def test_few_spikes_beside_a_session_of_many() -> None:
    draw = np.random.default_rng(0)
    drive = 0.7 * simulate([4.0, 14.0], 40, 30, 1)[1] @ draw.normal(size=(2, 15))
    few = batch(draw.poisson(0.3 * np.exp(drive[:20])), "a", counts=True)
    many = batch(draw.poisson(10 * np.exp(drive[20:])), "b", counts=True)
    model = fitted([few, many])
    spread = few.activity.double().var((0, 1))
    assert bool((model.noise[:15] < spread).all())
