"""Streamed moments of Hankel matrices are those of the matrices themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.inference import hankel
from lvmzoo.inference.hankel import (
    HankelMoments,
    add_windows,
    column_means,
    covariance,
    segments,
    steadying_noise,
    zero_moments,
)
from lvmzoo.inference.preferential import whiten

LAGS, COLUMNS = 6, 3


def direct(v: torch.Tensor) -> torch.Tensor:
    return torch.cat([v[k : len(v) - LAGS + 1 + k] for k in range(LAGS)], 1)


def data() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return trials with a gap, a short one and one that is too short, and their stretches."""
    values = torch.randn(4, 100, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2
    valid = torch.ones(4, 100, dtype=torch.bool)
    valid[1, 40:45], valid[2, 7:], valid[3, LAGS - 1 :] = False, False, False
    return values, valid, [values[0], values[1, :40], values[1, 45:], values[2, :7]]


def moments(values: torch.Tensor, valid: torch.Tensor, fold: int, there: torch.Tensor | None = None) -> HankelMoments:
    groups = 4
    kinds = 0 if there is None else COLUMNS
    total = zero_moments(groups, LAGS, COLUMNS, kinds)
    mask = torch.ones(*values.shape[:2], 0) if there is None else there
    for segment in segments(valid, torch.full((len(valid),), fold), 3, groups, LAGS):
        add_windows(total, segment, lambda rows, a, b: (values[rows, a:b], mask[rows, a:b].double()))
    return total


@pytest.mark.parametrize("chunk", [2**18, 30])
@pytest.mark.parametrize("fold", [0, -1])
def test_the_sums_are_those_of_the_matrix(chunk: int, fold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hankel, "CHUNK_SAMPLES", chunk)
    values, valid, stretches = data()
    total = moments(values, valid, fold)
    H = torch.cat([direct(v) for v in stretches])
    everything, kind = torch.ones(4, dtype=torch.bool), torch.zeros(COLUMNS, dtype=torch.int64)
    assert float(total.windows.sum()) == len(H)
    torch.testing.assert_close(covariance(total, everything, kind), H.T @ H / len(H), rtol=1e-12, atol=1e-12)
    mean = column_means(total, everything, kind)
    torch.testing.assert_close(mean, H.view(len(H), LAGS, COLUMNS).mean((0, 1)))
    centered = H - mean.repeat(LAGS)
    expected = centered.T @ centered / len(H)
    torch.testing.assert_close(covariance(total, everything, kind, mean), expected, rtol=1e-11, atol=1e-11)


def test_folds_of_a_cut_trial_share_no_bin_and_miss_no_window() -> None:
    values, valid, _ = data()
    total = moments(values[:1], valid[:1], -1)
    assert total.windows.tolist() == [33 - LAGS + 1, 33 - LAGS + 1, 34 - LAGS + 1, 2 * (LAGS - 1)]
    H = direct(values[0, 33:66])
    one = torch.tensor([False, True, False, False])
    torch.testing.assert_close(covariance(total, one, torch.zeros(COLUMNS, dtype=torch.int64)), H.T @ H / len(H))


def test_a_long_session_loses_no_digits() -> None:
    """Displacement adds the edges one after the other: the error does not grow with the session."""
    values = torch.randn(1, 20_000, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total = moments(values, torch.ones(1, 20_000, dtype=torch.bool), 0)
    H = direct(values[0])
    found = covariance(total, torch.ones(4, dtype=torch.bool), torch.zeros(COLUMNS, dtype=torch.int64))
    assert float((found - H.T @ H / len(H)).abs().max()) < 1e-13


def test_missing_samples_leave_the_pairs_that_there_are() -> None:
    values, valid, _ = data()
    there = torch.rand(values.shape, generator=torch.Generator().manual_seed(2)) > 0.2
    there[..., 1] = True
    total = moments(torch.where(there, values, 0.0), valid, 0, there)
    stretches = ((0, 0, 100), (1, 0, 40), (1, 45, 100), (2, 0, 7))
    H = np.concatenate([direct(torch.where(there, values, torch.nan)[r, a:b]).numpy() for r, a, b in stretches])
    products = H[:, :, None] * H[:, None, :]
    found = covariance(total, torch.ones(4, dtype=torch.bool), torch.arange(COLUMNS))
    np.testing.assert_allclose(found, np.nanmean(products, 0), rtol=1e-11, atol=1e-11)


def test_noise_that_steadies_moments_is_white_and_vanishes_with_more_windows() -> None:
    generator = torch.Generator().manual_seed(4)
    found = []
    for bins in (500, 50_000):
        values = torch.randn(1, bins, COLUMNS, dtype=torch.float64, generator=generator)
        values[..., 2] = values[..., 0] + 1e-3 * values[..., 2]  # a direction with hardly any variance
        there = torch.rand(values.shape, generator=generator) > 0.2
        everything, valid, kind = (
            torch.ones(4, dtype=torch.bool),
            torch.ones(1, bins, dtype=torch.bool),
            torch.arange(3),
        )
        total = moments(torch.where(there, values, 0.0), valid, 0, there)
        G = covariance(total, everything, kind)
        added = steadying_noise(total, everything, kind, G, COLUMNS)
        places = LAGS * COLUMNS
        assert float(torch.linalg.eigvalsh(G)[0]) < 0
        errors = 2 * (places * (1 - 0.8**2) / bins) ** 0.5  # most pairs lack one of both
        least = float(torch.linalg.eigvalsh(G + torch.diag(added.repeat(LAGS)))[0])
        assert least == pytest.approx(errors, rel=0.3)
        found.append(float(added.max()))
        whole = moments(values, valid, 0)
        assert not steadying_noise(whole, everything, torch.zeros(3, dtype=torch.int64), G, COLUMNS).any()
    assert found[1] < 0.15 * found[0]


def test_whitening_nests_and_finds_the_rank() -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(200, 6, generator=random, dtype=torch.float64) * torch.tensor([1, 1e-6, 1e6, 1, 1, 1])
    S = x.T @ x
    W = whiten(S)
    torch.testing.assert_close(W.T @ S @ W, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(W[:3, :3], whiten(S[:3, :3]))
    assert float(W[3:, :3].abs().max()) == 0
    twice = torch.cat([x, x[:, :1], torch.zeros(200, 1)], 1)  # a duplicated and a silent column
    S = twice.T @ twice
    W = whiten(S)
    assert W.shape == (8, 6)
    torch.testing.assert_close(W.T @ S @ W, torch.eye(6, dtype=torch.float64), rtol=1e-9, atol=1e-9)
