"""Common components of sessions that share latents but no units."""

from __future__ import annotations

import numpy as np
import torch

from lvmzoo import from_arrays
from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.load import prepare
from lvmzoo.parts.stitching import condition_averages, principal_component_regression


def test_every_session_predicts_the_same_components() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    averages = [latents @ torch.randn(3, n, generator=generator, dtype=torch.float64) + 2 for n in (20, 13)]
    held_in = [range(1, 20), range(13)]
    maps = principal_component_regression(averages, held_in, 5)
    found = [
        (values - values.mean(0))[:, list(units)] @ each.read_in.T
        for values, units, each in zip(averages, held_in, maps, strict=True)
    ]
    assert found[0].shape == (200, 3)  # the averages span no more
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0].T @ found[0] / 200, torch.eye(3, dtype=torch.float64))
    for values, each in zip(averages, maps, strict=True):
        torch.testing.assert_close(found[0] @ each.readout.T, values - values.mean(0))


def test_averages_are_those_of_bins_and_conditions_in_common() -> None:
    random = np.random.default_rng(0)

    def recording(name: str, trials: int, units: int) -> tuple[object, np.ndarray, np.ndarray]:
        side = np.arange(trials) % 2
        counts = random.poisson(2.0 + side[:, None, None], (trials, 8, units))
        made = from_arrays(counts, {"side": np.repeat(side[:, None, None], 8, 1) * 1.0}, bin_width_s=0.05, session=name)
        return made, counts, side

    made = [recording("one", 12, 5), recording("two", 16, 4)]
    config = DataConfig(
        bin_width_s=0.05, behavior_kinds={"side": "categorical"}, split=SplitConfig(validation=0.0, test=0.0, gap_s=0.0)
    )
    sessions = prepare([entry[0] for entry in made], config)
    found = condition_averages(
        [session.train.batch() for session in sessions], {s.layout.session: s.layout for s in sessions}
    )
    for (_, counts, side), session in zip(made, sessions, strict=True):
        kept = [int(i) for i in session.layout.unit_ids]
        expected = np.concatenate([counts[side == k][..., kept].mean(0) for k in (0, 1)])
        np.testing.assert_allclose(found[session.layout.session], expected)
