"""InfoNCE against written-out sums, cebra's own numbers, and its value where nothing is learned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lvmzoo.parts.info_nce import InfoNCE, gather, goodness_of_fit
from tests.parts.frozen.make_info_nce import FORMS, TEMPERATURES, vectors

FROZEN = json.loads((Path(__file__).parent / "frozen" / "info_nce.json").read_text())


def written_out(similarity: str, temperature: float) -> tuple[float, float]:
    """Return alignment and uniformity by the definition, one pair at a time."""
    reference, positive, negative = vectors()

    def phi(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) if similarity == "cosine" else -float(((a - b) ** 2).sum())) / temperature

    align = -np.mean([phi(r, p) for r, p in zip(reference, positive, strict=True)])
    uniform = np.mean([math.log(sum(math.exp(phi(r, n)) for n in negative)) for r in reference])
    return float(align), float(uniform)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_definition_and_cebra(form: str, temperature: float) -> None:
    similarity, floor = FORMS[form]
    criterion = InfoNCE(similarity, temperature, floor).double()
    align, uniform = (term.item() for term in criterion(*map(torch.from_numpy, vectors())))
    # the temperature is stored in float32 before .double()
    assert (align, uniform) == pytest.approx(written_out(similarity, max(temperature, floor or 0)), rel=1e-6)
    loss, cebra_align, cebra_uniform = FROZEN[f"{form} {temperature}"]
    assert (align + uniform, align, uniform) == pytest.approx((loss, cebra_align, cebra_uniform), rel=1e-6)


def test_positive_is_not_among_the_negatives() -> None:
    reference, positive, negative = map(torch.from_numpy, vectors())
    criterion = InfoNCE("cosine", 1.0).double()
    before, after = criterion(reference, positive, negative), criterion(reference, -positive, negative)
    assert before[1] == after[1]
    assert before[0] == -after[0]


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_random_vectors_give_log_n_plus_log_mean_exp(temperature: float) -> None:
    n = 4096
    drawn = torch.nn.functional.normalize(
        torch.randn(3, n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    align, uniform = (float(term) for term in InfoNCE("cosine", temperature).double()(*drawn))
    pairs = math.log(np.exp((drawn[0] @ drawn[2].T).numpy() / temperature).mean())
    assert abs(uniform - math.log(n) - pairs) < 0.02
    assert abs(align) < 5 / temperature / math.sqrt(3 * n)  # a mean of n random cosines
    sphere = math.log(temperature * math.sinh(1 / temperature))  # of exp(cos / temperature): .16 and 7.0
    assert abs(pairs - sphere) < 0.02


def test_small_temperatures_do_not_overflow() -> None:
    reference, positive, negative = (torch.from_numpy(v).float().requires_grad_() for v in vectors())
    loss = sum(InfoNCE("euclidean", 1e-3)(reference, positive, negative))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(reference.grad).all()


def test_temperature_is_learned_down_to_its_floor() -> None:
    inputs = [torch.from_numpy(v).float() for v in vectors()]
    free, clamped = InfoNCE("cosine", 1.0, 0.1), InfoNCE("cosine", 0.09, 0.1)
    for criterion in (free, clamped):
        sum(criterion(*inputs)).backward()
    assert abs(float(free.log_inverse_temperature.grad)) > 1e-3
    assert float(clamped.log_inverse_temperature.grad) == 0.0
    assert clamped.inverse_temperature.item() == pytest.approx(10.0)
    assert not list(InfoNCE("cosine", 1.0).parameters())


def test_goodness_of_fit_is_zero_for_a_constant_embedding() -> None:
    same = torch.nn.functional.normalize(torch.ones(64, 3), dim=-1)
    loss = sum(float(term) for term in InfoNCE("cosine", 0.5)(same, same, same))
    assert goodness_of_fit(loss, 64) == pytest.approx(0, abs=1e-5)
    assert goodness_of_fit(loss - math.log(2), 64) == pytest.approx(1, abs=1e-5)


def test_one_process_gathers_its_own_rows() -> None:
    rows = torch.randn(4, 2)
    assert gather(rows) is rows
