"""What the multi-region linear dynamical system says of planted regions."""

from __future__ import annotations

import math

import pytest

from tests.models.multi_region_lds_world import batch, build, draw, fit, influence, layout, world


def test_says_who_drives_whom_and_how_late() -> None:
    """Claims find the planted edge and its delay in a session that names the target first: the target follows."""
    units = {"B": 8, "A": 8}
    planted = world(1, units, (("A", "B"),), lag=3)
    data = batch(draw(planted, 2, 50, 50), layout(units))
    model = build(data.layout, max_lag=3, permutations=19, resamples=8)
    fit(model, [data], 15)
    found = model.findings(data, 0)
    claims = {(claim.question.value, claim.source, claim.target): claim for claim in found.claims}
    assert claims["communication", "B", "A"].evidence
    assert claims["direction", "A", "B"].evidence
    assert claims["direction", "B", "A"].evidence is False
    assert claims["delay", "B", "A"].evidence
    assert claims["delay", "B", "A"].value == pytest.approx(-3 * 20)
    assert claims["dimensions", "A", "B"].value in (1, 2)
    assert claims["dimensions", "B", "A"].value == 0
    assert {profile.kind for profile in found.profiles} == {"block", "frequency", "lag", "rank", "trace"}


@pytest.mark.parametrize("max_lag", [1, 3])
@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 7])
def test_a_constant_region_is_not_found_to_do_anything(constant: float, max_lag: int) -> None:
    """Constants of which sums are not exact; trials of unequal length."""
    units = {"A": 6, "B": 5}
    activity = draw(world(0, units), 1, 41, 17)
    activity[..., 6:] = constant
    data = batch(activity, layout(units), [17, 16, 9, 13] * 10 + [5])
    model = build(data.layout, max_lag=max_lag, permutations=19, resamples=3)
    fit(model, [data], 10)
    assert float(model.readout[6:].abs().max()) < 1e-9
    found = model.findings(data, 0)
    for claim in found.claims:
        assert not claim.evidence
        assert claim.value == pytest.approx(0, abs=1e-9) or math.isnan(claim.value)
    for profile in found.profiles:
        assert profile.kind in ("frequency", "rank", "lag")
        assert abs(profile.value).max() < 1e-9


@pytest.mark.parametrize("lag", [1, 3])
def test_claims_are_as_large_as_in_the_fitted_model_and_in_truth(lag: int) -> None:
    """They come from refits with what the units show as it is, from regions apart: these reach what a fit reaches."""
    units = {"A": 15, "B": 15, "C": 15}
    planted = world(0, units, (("A", "B"), ("B", "C")), lag=lag)
    data = batch(draw(planted, 100, 100, 60), layout(units))
    model = build(data.layout, max_lag=lag, permutations=19, resamples=4)
    fit(model, [data], 15)
    fitted, truth = influence(model.parameters_of("s"), data.layout), influence(planted.truth, data.layout)
    place = list(units)
    claims = [claim for claim in model.findings(data, 0).claims if claim.question.value == "direction"]
    assert len(claims) == 6
    for claim in claims:
        i, j = place.index(claim.target), place.index(claim.source)
        assert claim.evidence == ((claim.source, claim.target) in (("A", "B"), ("B", "C")))
        assert claim.value == pytest.approx(float(fitted[i, j]), abs=0.002)
        assert claim.value == pytest.approx(float(truth[i, j]), abs=0.01)
