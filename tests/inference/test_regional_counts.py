"""Counts of regions whose past is remembered: what is known of a state is known of it in any order of its elements."""

from __future__ import annotations

import pytest
import torch

from lvmzoo.inference.count_expectations import count_expectations, count_posterior
from lvmzoo.inference.linear_gaussian import LinearGaussian
from tests.claims.influence_world import planted, structure


def in_order(model: LinearGaussian, order: torch.Tensor) -> LinearGaussian:
    return model._replace(
        dynamics=model.dynamics[order][:, order],
        dynamics_noise=model.dynamics_noise[order][:, order],
        initial_mean=model.initial_mean[order],
        initial_covariance=model.initial_covariance[order][:, order],
        readout=model.readout[:, order],
        drive=None if model.drive is None else model.drive[order],
    )


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize(("names", "max_lag"), [("AB", 3), ("ABC", 2)])
def test_registers_in_front_of_what_is_seen_change_nothing(names: str, max_lag: int, driven: bool) -> None:
    """The other way round no element is known to be that of the bin before, and the last that is seen comes last."""
    regions = structure(names, 2, max_lag)
    model = planted(regions, 4, [("A", "B", max_lag)], size=0.5)
    draw = torch.Generator().manual_seed(0)
    model = model._replace(readout=0.4 * model.readout, initial_mean=model.initial_mean + 0.1)
    inputs = torch.randn(9, 12, 1, generator=draw, dtype=torch.float64) if driven else None
    if driven:
        drive = torch.randn(regions.size, 1, generator=draw, dtype=torch.float64)
        drive[regions.present :] = 0.0
        model = model._replace(drive=drive, feedthrough=torch.zeros(len(model.offset), 1, dtype=torch.float64))
    counts = torch.poisson(torch.full((9, 12, 4 * len(names)), 0.8, dtype=torch.float64), generator=draw)
    valid = torch.arange(12) < torch.tensor([12, 9, 1, 2, 12, 12, 5, 7, 12])[:, None]
    data = counts, valid, valid[..., None].expand_as(counts), inputs
    order = torch.arange(regions.size).flip(0)
    other = in_order(model, order)
    ours, theirs = count_posterior(model, *data, poisson=True), count_posterior(other, *data, poisson=True)
    torch.testing.assert_close(ours[0], theirs[0][..., order], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours[1], theirs[1][..., order[:, None], order], rtol=1e-7, atol=1e-9)
    one, two = count_expectations(model, *data, poisson=True), count_expectations(other, *data, poisson=True)
    torch.testing.assert_close(one.log_likelihood, two.log_likelihood, rtol=1e-9, atol=0)
    size = regions.size
    for found, expected in ((one.cross, two.cross), (one.before, two.before), (one.after, two.after)):
        turned = expected[:size, :size][order][:, order]
        torch.testing.assert_close(found[:size, :size], turned, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(one.gradient[:, :size], two.gradient[:, :size][:, order], rtol=1e-6, atol=1e-7)
    assert float(one.gradient[:, regions.present : size].abs().max()) > 0.1  # of what is not shown, too
