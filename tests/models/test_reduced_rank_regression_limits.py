"""What reduced-rank regression says where little can be told: constant units, few permutations, missing regions."""

from __future__ import annotations

import numpy as np
import pytest

from lvmzoo.findings import Claim, Findings
from tests.models.regression_world import batch_of, fit

FEW = {"permutations": 19, "resamples": 19, "history": 2, "folds": 5}


def noise(seed: int, *units: int, trials: int = 40, bins: int = 9) -> dict[str, np.ndarray]:
    """Return regions of which the second and third follow the first, one bin later."""
    random = np.random.default_rng(seed)
    regions = [random.normal(size=(trials, bins, n)) for n in units]
    for other in regions[1:]:
        other[:, 1:] += 1.5 * regions[0][:, :-1, :1]
    return dict(zip("ABC", regions, strict=False))


def claims(found: Findings, question: str, *regions: str) -> list[Claim]:
    return [c for c in found.claims if c.question == question and {c.source, c.target} == set(regions) and not c.item]


@pytest.mark.parametrize("residuals", [False, True])
@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 7])
def test_what_does_not_vary_is_not_predicted(constant: float, residuals: bool) -> None:
    """A sum over many bins rounds, so that a constant less its mean is not zero."""
    regions = noise(0, 3, 3)
    for still, other in (("B", "A"), ("A", "B")):
        batch = batch_of({**regions, still: np.full((40, 9, 3), constant)})
        model = fit(batch, source=other, target=still, residuals=residuals, **FEW)
        assert float(model.of().explained.abs().max()) == 0
        np.testing.assert_allclose(model.predict_target(batch, still).numpy(), constant)
        found = model.findings(batch, 0)
        assert all(claim.value == 0 for claim in found.claims)
        assert not any(claim.evidence for claim in found.claims)
        assert all(abs(profile.value).max() < 1 for profile in found.profiles if profile.item != "")
        one = fit(batch, source=still, target=other, residuals=residuals, **FEW)
        assert float(one.of().explained.abs().max()) == 0
