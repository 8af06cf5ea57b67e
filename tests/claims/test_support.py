"""How many permutations a test needs, and the correction by the largest of all against one written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.claims.nulls import holm, p_value
from lvmzoo.claims.support import LEVEL, Measured, corrected, largest_of_all, too_few


@pytest.mark.parametrize("corrections", [1, 2, 3, 15])
def test_too_few_permutations_are_those_whose_smallest_p_is_too_large(corrections: int) -> None:
    for permutations in range(0, 310):
        null = [0.0] * permutations
        smallest = min(holm([p_value(1.0, null)] * corrections))
        assert (too_few(permutations, corrections) == "") == (smallest <= LEVEL + 1e-12), permutations
    assert too_few(20 * corrections - 1, corrections) == ""
    assert f"set model.permutations={20 * corrections - 1} or more" in too_few(10, corrections)
    assert "10 give p of 0.091 at least" in too_few(10)


def test_the_largest_of_all_counts_in_standard_deviations() -> None:
    random = np.random.default_rng(0)
    observed = random.normal([0.0, 2.0, 0.0, 40.0])
    null = random.normal(size=(30, 4)) * [1, 2, 1e-3, 20] + [5, 0, 0, 0]
    ps = largest_of_all(torch.from_numpy(observed), torch.from_numpy(null))
    every = np.vstack([observed, null])
    scaled = (every - every.mean(0)) / every.std(0, ddof=1)
    expected = [(1 + (scaled[1:].max(1) >= value).sum()) / 31 for value in scaled[0]]
    assert ps == pytest.approx(expected)
    assert corrected([Measured(v, list(n)) for v, n in zip(observed, null.T, strict=True)]) == pytest.approx(expected)
