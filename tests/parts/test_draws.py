"""Draws are those of all trials of a step, whichever process holds them: sums over shares are sums over trials."""

from __future__ import annotations

import pytest
import torch

from lvmzoo import registry
from lvmzoo.batch import Batch
from lvmzoo.data.sampling import TrialSampler
from lvmzoo.models.base import GradientModel
from lvmzoo.parts.draws import across, dropout
from tests.contract import world

NOISY = {
    "lfads": {"dropout": 0.2, "coordinated_dropout": 0.3, "inferred_inputs": 1, "generator": 12, "encoder": 8},
    "neural_ode": {"dropout": 0.3, "latents": 2, "hidden": 8, "encoder_hidden": 8},
}


def shares(ranks: int) -> list[Batch]:
    """Return the first batch of 13 trials as each rank sees it."""
    trials = world.session().train
    return [TrialSampler([trials], 13, rank=rank, world=ranks).draw(0) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 3, 5, 16])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_shares_of_a_draw_are_the_draw(ranks: int, dim: int) -> None:
    def draw(trials: int) -> torch.Tensor:
        return torch.rand(*((trials, 4) if dim == 0 else (4, trials)))

    found = []
    for batch in shares(ranks):
        torch.manual_seed(3)
        found.append(across(batch, draw, dim))
        assert found[-1].shape[dim] == batch.n_trials
    torch.manual_seed(3)
    whole = draw(13)
    joined = torch.cat(found, dim)
    assert torch.equal(joined.narrow(dim, 0, 13), whole)
    assert not bool(joined.narrow(dim, 13, joined.shape[dim] - 13).any())


def test_dropout_keeps_the_mean_and_drops_the_fraction() -> None:
    batch = world.session().train.batch()
    kept = dropout(batch, torch.full((batch.n_trials, 200, 50), 3.0), 0.3)
    assert abs(float((kept == 0).double().mean()) - 0.3) < 0.01
    assert abs(float(kept.mean()) - 3.0) < 0.03
    same = torch.ones(batch.n_trials, 2)
    assert dropout(batch, same, 0.0) is same


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_mean_loss_of_the_shares_is_the_loss_of_the_whole(name: str, ranks: int) -> None:
    entry, session = registry.get(name), world.session()
    torch.manual_seed(0)
    model = entry.model(entry.config(**NOISY[name]), [session.layout])
    model.prepare([session.train.batch()])
    model.double().train()
    assert isinstance(model, GradientModel)

    def loss(batch: Batch) -> tuple[float, float]:
        torch.manual_seed(7)
        found = model.loss(batch, 500)
        return float(found.total), float(found.weight)

    [whole], parts = shares(1), [loss(batch) for batch in shares(ranks)]
    expected, weight = loss(whole)
    assert sum(w for _, w in parts) == weight
    assert sum(value * w for value, w in parts) / weight == pytest.approx(expected, rel=1e-12)
