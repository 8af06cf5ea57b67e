"""What is true of the multi-region linear dynamical system: the experiments M1 to M4, and its capabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lvmzoo.models.single_region.lds import LDS, LDSConfig
from tests.models.lds_world import rises
from tests.models.multi_region_lds_world import (
    batch,
    build,
    draw,
    eigenvalues_off,
    fit,
    influence,
    layout,
    world,
)

UNITS = {"A": 15, "B": 15, "C": 15}
CHAIN = (("A", "B"), ("B", "C"))
TRUE = torch.zeros(3, 3, dtype=torch.bool)
TRUE[1, 0] = TRUE[2, 1] = True
FALSE = ~TRUE & ~torch.eye(3, dtype=torch.bool)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"connections": ["A->B", "B -> C"]},
        {"connections": []},
        {"max_lag": 3},
        {"max_lag": 3, "connections": ["A->B", "C->B"], "rank": 1},
        {"rank": 1},
        {"rank": 0},
        {"emissions": "poisson", "max_lag": 2, "connections": ["A->B", "B->C", "C->B"]},
    ],
    ids=str,
)
def test_zeros_stay_zero_and_the_objective_never_falls(config: dict[str, Any]) -> None:
    """M1, from starting values to the canonical form."""
    counts = "emissions" in config
    units = {"A": 6, "B": 5, "C": 4}
    planted = world(0, units, CHAIN, lag=2)
    data = batch(draw(planted, 1, 12, 40, counts), layout(units, counts), [40, 30, 35] * 4)
    model = build(data.layout, **config)
    structure = model.structure
    trace = fit(model, [data], 6 if counts else 25)
    assert rises(trace)
    assert trace[-1] > trace[0]
    parameters = model.parameters_of("s")
    fixed = ~structure.allowed
    assert torch.equal(parameters.dynamics[fixed], structure.shift[fixed])
    assert bool((parameters.dynamics_noise[~structure.noisy] == 0).all())
    for name, rows in model.regions.items():
        others = [u for u in range(15) if u not in range(*data.layout.region(name).indices(15))]
        assert bool((parameters.readout[others, rows] == 0).all())
    assert bool((parameters.readout[:, structure.present :] == 0).all())
    for lag in range(1, structure.max_lag + 1):
        for (source, target), block in model.blocks(lag).items():
            assert source == target or (source, target) in structure.connections
            assert block.shape == (2, 2)
    if structure.rank is not None:
        for source, target in structure.connections:
            stacked = torch.cat([model.blocks(lag)[source, target] for lag in range(1, structure.max_lag + 1)], 1)
            assert int((torch.linalg.svdvals(stacked) > 1e-9).sum()) <= structure.rank


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_finds_who_drives_whom(seed: int) -> None:
    """M2: two planted edges of three regions, and influence as the true system has it."""
    planted = world(seed, UNITS, CHAIN)
    data = batch(draw(planted, seed + 100, 200, 100), layout(UNITS))
    model = build(data.layout)
    assert rises(fit(model, [data], 20))
    found, truth = influence(model.parameters_of("s"), data.layout), influence(planted.truth, data.layout)
    assert float(found[TRUE].min()) >= 10 * float(found[FALSE].max())
    assert float((found - truth).abs().max()) <= 0.01
    assert eigenvalues_off(model, planted) <= 0.02


def test_independent_regions_hardly_influence_each_other() -> None:
    """M3."""
    off = ~torch.eye(3, dtype=torch.bool)
    found = []
    for seed in range(8):
        data = batch(draw(world(seed, UNITS), seed + 200, 100, 80), layout(UNITS))
        model = build(data.layout)
        fit(model, [data], 10)
        found.append(influence(model.parameters_of("s"), data.layout)[off])
    assert float(torch.cat(found).quantile(0.95)) < 0.003


@pytest.mark.parametrize("seeds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_finds_how_late_regions_follow(seeds: int) -> None:
    """M4: the lag of both edges is three bins, in at least four of five seeds exactly."""
    right = 0
    for seed in range(seeds):
        planted = world(seed, UNITS, CHAIN, lag=3)
        data = batch(draw(planted, seed + 300, 100, 80), layout(UNITS))
        model = build(data.layout, max_lag=4)
        assert rises(fit(model, [data], 15))
        strongest = [max(range(1, 5), key=lambda lag: float(model.blocks(lag)[edge].norm())) for edge in CHAIN]
        right += strongest == [3, 3]
    assert right >= 0.8 * seeds


def test_counts() -> None:
    """Poisson emissions find the edges, too, and score counts better than Gaussian ones predict them."""
    units = {"A": 20, "B": 20}
    planted = world(1, units, (("A", "B"),))
    activity = draw(planted, 4, 50, 60, counts=True)
    data, test = (batch(part, layout(units, counts=True)) for part in (activity[:40], activity[40:]))
    model = build(data.layout, emissions="poisson")
    assert model.is_bound
    assert model.positive_rates
    assert rises(fit(model, [data], 10))
    drives = model.structure.block(model.dynamics, "A", "B", 1).norm()
    assert float(drives) > 3 * float(model.structure.block(model.dynamics, "B", "A", 1).norm())
    rates = model.rates(test)
    mean = data.activity.mean((0, 1))
    scores = [float((test.activity * rate.log() - rate).sum()) for rate in (rates, mean.expand_as(rates))]
    assert scores[0] > scores[1] + 100
    seen = model.predict_target(test, "B")
    assert float((test.activity[..., 20:] - seen).square().sum()) < float(
        (test.activity[..., 20:] - mean[20:]).square().sum()
    )


def test_uncoupled_regions_are_as_many_plain_systems() -> None:
    """Without connections, and with trials that begin alike, the likelihood is the sum of those of two `lds`."""
    units = {"A": 8, "B": 7}
    data = batch(draw(world(0, units), 1, 30, 50), layout(units))
    model = build(data.layout, connections=[])
    fit(model, [data], 30)
    model.initial_covariance.mul_(model.structure.noisy)
    total = 0.0
    for name, rows in model.regions.items():
        region = data.layout.region(name)
        alone = LDS(LDSConfig(latents=2), [layout({name: units[name]})])
        parameters = model.parameters_of("s")
        for field in ("dynamics", "dynamics_noise", "initial_covariance"):
            getattr(alone, field).copy_(getattr(parameters, field)[rows, rows])
        alone.initial_mean.copy_(parameters.initial_mean[rows])
        alone.readout.copy_(parameters.readout[region, rows])
        alone.offset.copy_(parameters.offset[region])
        alone.noise.copy_(parameters.noise[region])
        part = batch(data.activity[..., region].numpy(), alone.layouts["s"])
        total += float(alone.log_likelihood(part).sum())
        torch.testing.assert_close(model.latents(data)[..., rows], alone.latents(part), rtol=1e-9, atol=1e-9)
    assert float(model.log_likelihood(data).sum()) == pytest.approx(total, rel=1e-11)


def test_sessions_share_dynamics_with_readouts_of_their_own() -> None:
    """Sessions see other units of the same regions, in another order: their latents are made to agree."""
    first, second = {"A": 12, "B": 10, "C": 11}, {"C": 9, "A": 14, "B": 10}
    planted = world(3, first, CHAIN)
    other = world(7, {name: second[name] for name in first})._replace(A=planted.A, Q=planted.Q)
    activity = draw(other, 5, 60, 80)
    edges = np.cumsum([0, *(second[name] for name in first)])
    where = {name: np.arange(a, b) for name, a, b in zip(first, edges, edges[1:], strict=False)}
    activity = activity[..., np.concatenate([where[name] for name in second])]
    one = batch(draw(planted, 4, 60, 80), layout(first, session="one"))
    two = batch(activity, layout(second, session="two"))
    together = build([one.layout, two.layout])
    trace = fit(together, [one, two], 30)
    assert rises(trace)
    single = [fit(build(data.layout), [data], 30)[-1] for data in (one, two)]
    assert trace[-1] == pytest.approx(sum(single) / 2, abs=0.05)  # nats a bin of 33: they agree on the dynamics
    for data in (one, two):
        found = influence(together.parameters_of(data.layout.session), data.layout)
        at = {name: i for i, name in enumerate(data.layout.units)}
        rest = found.clone()
        rest[at["B"], at["A"]] = rest[at["C"], at["B"]] = 0.0
        assert min(float(found[at["B"], at["A"]]), float(found[at["C"], at["B"]])) > 10 * float(rest.max())
    assert together.predict_target(two, "A").shape == (60, 80, 14)
