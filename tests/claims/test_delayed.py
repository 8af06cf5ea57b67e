"""Intervals of processes with delays hold what they say, from few samples, too."""

from __future__ import annotations

import pytest
import torch

from lvmzoo.claims.delayed_study import around


@pytest.mark.parametrize(("samples", "coverage"), [(10, 9 / 11), (38, 37 / 39), (39, 0.95), (200, 0.95)])
def test_another_sample_lies_in_the_interval_that_often(samples: int, coverage: float) -> None:
    """95 %, or what so few samples span at most; doi:10.1080/00031305.1996.10473566."""
    generator = torch.Generator().manual_seed(0)
    hits = []
    for _ in range(4000):
        *drawn, new = torch.randn(samples + 1, generator=generator, dtype=torch.float64).tolist()
        low, high = around(drawn[0], drawn)
        hits.append(low <= new <= high)
    assert sum(hits) / len(hits) == pytest.approx(coverage, abs=0.012)


def test_the_interval_holds_the_value() -> None:
    assert around(3.0, [1.0, 2.0]) == (1.0, 3.0)
    assert around(0.0, torch.tensor([1.0, 2.0])) == (0.0, 2.0)
    assert around(1.0, [2.0]) == (1.0, 2.0)
