"""Time-resolved maps of canonical correlations against scikit-learn, and loops over folds and pairs of times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from lvmzoo.inference.canonical_correlation import Regularization
from lvmzoo.inference.lag_map import LaggedProducts, Sums, correlations, fold_of_trials, widened
from lvmzoo.inference.leading import largest_singular_values
from lvmzoo.inference.time_map import cross_validated_time_map, time_map
from tests.models import regions_world


def test_time_map_equals_one_fit_a_pair() -> None:
    batch = regions_world.coupled(1, 2, trials=70, bins=5, units=(4, 3))
    x, y = batch.activity[..., :4], batch.activity[..., 4:]
    found = time_map(x, y, Regularization())
    for s in range(5):
        for t in range(5):
            theirs = CCA(1, scale=False, max_iter=10_000, tol=1e-14).fit(x[:, s], y[:, t])
            u, v = theirs.transform(x[:, s], y[:, t])
            assert float(found[s, t]) == pytest.approx(np.corrcoef(u[:, 0], v[:, 0])[0, 1], abs=1e-6)


@pytest.mark.parametrize("case", ["shared", "noise", "few samples", "wide", "constant", "identical", "pca"])
def test_time_map_equals_the_singular_values_of_whitened_products(case: str) -> None:
    """Large regions go another way, by block power iteration: to the same values."""
    generator = torch.Generator().manual_seed(3)
    units, trials = (20, 14) if case == "wide" else (14, 16), 10 if case == "few samples" else 90
    x, y = (torch.randn(trials, 6, n, generator=generator, dtype=torch.float64) for n in units)
    if case in ("shared", "constant", "pca"):
        y[..., :3] += 3 * x[..., :3]
    if case == "constant":
        y[:, 2] = 3.0
    if case == "identical":
        y = torch.cat([x, x[..., :2]], -1)
    regularization = Regularization("pca", 0.9) if case == "pca" else Regularization("shrinkage", 0.0)
    found = time_map(x, y, regularization)
    for s in range(6):
        for t in range(6):
            bases = []
            for part in (x[:, s], y[:, t]):
                u, size, _ = torch.linalg.svd(part - part.mean(0), full_matrices=False)
                share = size.square().cumsum(0) - size.square() < 0.9 * size.square().sum()
                kept = share if case == "pca" else size > 1e-6 * size[0]
                bases.append(u[:, kept & (size > 0)])
            both = torch.linalg.svdvals(bases[0].mT @ bases[1])
            expected = float(both[0]) if len(both) else 0.0
            assert float(found[s, t]) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 7])
def test_what_rounding_leaves_of_a_constant_is_not_whitened(constant: float) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(90, 3, 5, generator=generator, dtype=torch.float64) + constant
    y = torch.full((90, 3, 4), constant, dtype=torch.float64)
    fold, one = fold_of_trials(90, 3), torch.ones(90, 3, 1, dtype=torch.float64)
    wide = [torch.cat([part, one], -1) for part in (x, y)]
    lagged = LaggedProducts(wide[1], fold, 3, 1)
    sums = Sums(lagged.cross(wide[0]), lagged.within(wide[0]), lagged.within(wide[1]))
    for regularization in (Regularization(*kind) for kind in (("shrinkage", 0.0), ("shrinkage", 0.1), ("pca", 0.9))):
        assert not correlations(sums, 1, regularization, 2).correlation.any()
        assert not time_map(x, y, regularization).any()
        assert not cross_validated_time_map(wide[0], wide[1], 1, 0, fold, regularization).any()


@pytest.mark.parametrize("ratio", [0.0, 0.9, 0.999, 1.0 - 1e-7, 1.0])
def test_largest_singular_values_of_close_ones(ratio: float) -> None:
    generator = torch.Generator().manual_seed(0)
    size = 16
    axes = torch.linalg.qr(torch.randn(2, 7, 60, size, generator=generator, dtype=torch.float64)).Q
    values = torch.cat([torch.ones(1), ratio * torch.ones(size - 1)]).double()
    x = axes[0].mT
    y = (values * axes[0][:1]).mT.expand(7, -1, -1)  # the product of a pair of the same place is diagonal
    found = largest_singular_values(x, y)
    expected = torch.linalg.svdvals(torch.einsum("sun,tvn->stuv", x, y))[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_cross_validated_time_map_equals_loops_over_folds_and_pairs() -> None:
    batch = regions_world.coupled(1, 2, trials=60, bins=4, units=(4, 3))
    x, y = batch.activity[..., :4], batch.activity[..., 4:]
    there = torch.ones(60, 4, dtype=torch.bool)
    there[:9, 3] = False
    fold = fold_of_trials(60, 3)
    wide = [widened(part, there, torch.ones(60, 4, 1, dtype=torch.float64)) for part in (x, y)]
    found = cross_validated_time_map(wide[0], wide[1], 1, 0, fold, Regularization())
    for s in range(4):
        for t in range(3):
            both = (there[:, s] & there[:, t]).numpy()
            total = np.zeros(3)
            for k in range(3):
                # Whitened with all trials of its time, correlated in those of both times.
                parts = []
                for part, when in ((x, s), (y, t)):
                    keep = there[:, when].numpy() & (fold != k).numpy()
                    z = part[:, when].numpy() - part[:, when].numpy()[keep].mean(0)
                    values, axes = np.linalg.eigh(z[keep].T @ z[keep] / keep.sum())
                    parts.append(z @ (axes / np.sqrt(values)))
                train, test = both & (fold != k).numpy(), both & (fold == k).numpy()
                u, _, vh = np.linalg.svd(parts[0][train].T @ parts[1][train])
                left, right = parts[0][test] @ u[:, 0], parts[1][test] @ vh[0]
                total += np.array([np.cov(left, right, bias=True)[0, 1], left.var(), right.var()]) * test.sum()
            assert float(found[s, t]) == pytest.approx(total[0] / math.sqrt(total[1] * total[2]), abs=1e-9)
