"""What each connection does, in numbers: of trials and of one long session; regions that show nothing have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.claims.influence_channels import region_channels
from lvmzoo.claims.influence_findings import influence
from lvmzoo.claims.influence_profiles import LOST, SHARE, WORSE
from lvmzoo.claims.influence_surrogates import stretched
from lvmzoo.findings import Findings, Profile
from lvmzoo.inference.messages import ablation
from tests.claims.influence_world import batch_of, fitted, simulated, structure

pytestmark = pytest.mark.filterwarnings("error")


def blocks(found: Findings) -> dict[tuple[str, str, str], Profile]:
    every = [profile for profile in found.profiles if profile.kind == "block"]
    assert all(profile.value.shape == (1,) for profile in every)
    return {(profile.source, profile.target, profile.statistic): profile for profile in every}


@pytest.mark.parametrize(("trials", "bins"), [(40, 16), (1, 2400)], ids=["trials", "one long trial"])
def test_connections_have_numbers_with_intervals(trials: int, bins: int) -> None:
    """What A does to B is far from nothing, and what B does to A is not."""
    regions = structure("AB", 2)
    _, batch = simulated("AB", [("A", "B", 1)], trials=trials, bins=bins, seed=1)
    model, emissions = fitted(batch, regions)
    found = blocks(influence(model, regions, emissions, batch, permutations=19, resamples=20, seed=0))
    for what in (SHARE, LOST, WORSE):
        there, back = found["A", "B", what], found["B", "A", what]
        for profile in (there, back):
            assert profile.low is not None
            assert profile.high is not None
            assert profile.low[0] <= profile.value[0] <= profile.high[0]
        assert there.low is not None
        assert there.low[0] > max(0.0, float(back.value[0])), what
        assert back.value[0] < 0.2 * there.value[0], what
    share = found["A", "B", SHARE]
    assert share.null is not None
    assert share.value[0] > share.null[0]
    channels = region_channels(model, regions, emissions, batch)
    data = channels.activity, channels.valid, channels.observed
    exact = ablation(channels.model, regions, data, channels.regions["B"], "A", "B")
    assert found["A", "B", LOST].value[0] == pytest.approx(exact.log_likelihood())
    assert found["A", "B", WORSE].value[0] == pytest.approx(np.subtract(*exact.explained()))


def test_without_resamples_there_are_no_intervals() -> None:
    regions = structure("AB", 2)
    _, batch = simulated("AB", [("A", "B", 1)], trials=24)
    model, emissions = fitted(batch, regions)
    found = blocks(influence(model, regions, emissions, batch, permutations=0, resamples=0, seed=0))
    assert len(found) == 6
    assert all(profile.low is None and profile.null is None for profile in found.values())
    assert found["A", "B", LOST].value[0] > 0.05


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 7])
def test_a_constant_region_has_no_part_in_others(constant: float) -> None:
    """Its latents may serve a fit as more latents of another region: that is not what it does to it."""
    regions = structure("AB", 2)
    _, batch = simulated("AB", [], trials=24)
    batch.activity[..., 6:] = constant
    model, emissions = fitted(batch, regions, 0)
    model = model._replace(readout=torch.where(torch.arange(12)[:, None] < 6, model.readout, 0.0))
    model.dynamics[:2, 2:] = 0.5
    found = influence(model, regions, emissions, batch, permutations=19, resamples=2, seed=0)
    assert not any(claim.evidence for claim in found.claims)
    assert {profile.kind for profile in found.profiles} == {"frequency", "rank"}


def test_stretches_hold_every_bin_once() -> None:
    values = torch.arange(70.0, dtype=torch.float64).reshape(2, 35, 1).expand(2, 35, 4).clone()
    batch = batch_of(values, "AB", [35, 22])
    regions = structure("AB", 2)
    model, _ = simulated("AB", [], units=2)
    emissions = fitted(batch_of(torch.randn(4, 9, 4).double(), "AB"), regions, 0)[1]
    channels = region_channels(model, regions, emissions, batch)._replace(activity=values)
    cut = stretched(channels, 10)
    assert cut.valid.sum(1).tolist() == [10, 10, 10, 5, 10, 10, 2]
    assert cut.activity[cut.valid][:, 0].tolist() == [*range(35), *range(35, 57)]
