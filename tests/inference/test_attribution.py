"""Jacobians, their penalty and their pseudo-inverses against dense autograd and numpy; units that carry a label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lvmzoo import Estimator
from lvmzoo.data.pairs import PairSampler
from lvmzoo.inference.attribution import attribute, jacobian_penalty, jacobians, phased_in, pseudo_inverses
from lvmzoo.models.behavior.contrastive import Contrastive, ContrastiveConfig
from lvmzoo.parts.encoders import OffsetEncoder
from tests.models.test_contrastive import built, recording

WINDOWS, UNITS, LATENTS, FIELD = 6, 5, 3, 5


@pytest.fixture
def network() -> tuple[OffsetEncoder, torch.Tensor]:
    torch.manual_seed(0)
    return OffsetEncoder(UNITS, 4, LATENTS, FIELD).double(), torch.randn(FIELD, WINDOWS, UNITS, dtype=torch.float64)


def dense(encoder: OffsetEncoder, inputs: torch.Tensor) -> torch.Tensor:
    """The Jacobian of all outputs by all inputs at once; each window's own part of it."""
    whole = torch.autograd.functional.jacobian(lambda values: encoder(values)[0], inputs)
    return torch.stack([whole[window, :, :, window] for window in range(inputs.shape[1])])


def test_jacobians_are_those_of_autograd(network: tuple[OffsetEncoder, torch.Tensor]) -> None:
    encoder, inputs = network
    found = jacobians(lambda values: encoder(values)[0], inputs)
    torch.testing.assert_close(found, dense(encoder, inputs), rtol=1e-12, atol=1e-12)


def test_the_penalty_is_half_the_squared_jacobian(network: tuple[OffsetEncoder, torch.Tensor]) -> None:
    encoder, inputs = network
    inputs.requires_grad_()
    outputs = encoder(inputs)[0]
    expected = 0.5 * dense(encoder, inputs.detach()).square().sum((1, 2, 3)).mean()
    exact = jacobian_penalty(inputs, outputs, projected=False)
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)
    draws = torch.stack([jacobian_penalty(inputs, outputs, projected=True).detach() for _ in range(2000)])
    assert abs(draws.mean() - expected) < 4 * draws.std() / 2000**0.5
    assert draws.std() > 0


def test_the_penalty_can_be_descended(network: tuple[OffsetEncoder, torch.Tensor]) -> None:
    encoder, inputs = network
    inputs.requires_grad_()
    weight = encoder.first.weight
    (slope,) = torch.autograd.grad(jacobian_penalty(inputs, encoder(inputs)[0], projected=False), weight)
    nudge = 1e-6 * torch.randn_like(weight)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * nudge
        values.append(jacobian_penalty(inputs, encoder(inputs)[0], projected=False).detach())
        with torch.no_grad():
            weight -= sign * nudge
    torch.testing.assert_close(values[0] - values[1], 2 * (slope * nudge).sum(), rtol=1e-5, atol=1e-16)


@pytest.mark.parametrize("rank", [3, 2])
def test_pseudo_inverses_are_numpys(rank: int) -> None:
    random = np.random.default_rng(0)
    matrices = random.normal(size=(20, 3, rank)) @ random.normal(size=(20, rank, 40))
    found = pseudo_inverses(torch.from_numpy(matrices)).numpy()
    for one, matrix in zip(found, matrices, strict=True):
        np.testing.assert_allclose(one, np.linalg.pinv(matrix, rcond=1e-5), atol=1e-10)


def test_attribution_is_the_mean_over_windows_whatever_the_chunks() -> None:
    matrices = torch.randn(9, 3, FIELD, UNITS, dtype=torch.float64)
    found = attribute(matrices.split(4))
    inverses = np.stack([np.linalg.pinv(one.flatten(1).numpy()) for one in matrices]).reshape(9, FIELD, UNITS, 3)
    np.testing.assert_allclose(found.inverse, np.abs(inverses).sum(1).mean(0), atol=1e-10)
    np.testing.assert_allclose(found.jacobian, matrices.abs().sum(2).mean(0).T, atol=1e-12)
    with pytest.raises(ValueError, match="no window"):
        attribute([])


def test_a_penalty_is_phased_in() -> None:
    assert [phased_in(step, 100) for step in (0, 99, 100, 150, 200, 900)] == [0, 0, 0, 0.5, 1, 1]
    assert phased_in(0, 0) == 1


# --- the model


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"receptive_field_bins": 8, "resample": True}])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_attribution_of_a_model_is_how_its_latents_change(options: dict[str, Any], similarity: str) -> None:
    trials = recording(lengths=(14,), held_out=(2,))
    model = built(trials, similarity=similarity, **{"receptive_field_bins": 5, **options})
    batch, before = trials.batch(), model.sampling.before
    held_in = [0, 1, 3, 4, 5]
    rows = np.clip(np.arange(14)[:, None] + np.arange(-before, model.sampling.after), 0, 13)
    windows = batch.activity[0].double()[rows]  # each bin's window as a trial of its own
    whole = replace(
        batch,
        activity=windows,
        valid=torch.ones(rows.shape, dtype=torch.bool),
        observed=torch.ones(windows.shape, dtype=torch.bool),
        behavior={},
        trial_index=torch.arange(14),
        start_bin=torch.zeros(14, dtype=torch.int64),
    )
    slopes = np.zeros((14, 3, rows.shape[1], 5))
    for bin in range(rows.shape[1]):
        for place, unit in enumerate(held_in):
            nudge = torch.zeros_like(windows)
            nudge[:, bin, unit] = 1e-5 * model.inputs.of("made").scale[place]
            ahead, behind = (model.latents(replace(whole, activity=windows + s * nudge))[:, before] for s in (1, -1))
            slopes[:, :, bin, place] = (ahead - behind) / 2e-5
    found = model.attribution(batch)
    assert (found.jacobian[2] == 0).all()
    np.testing.assert_allclose(found.jacobian[held_in], np.abs(slopes).sum(2).mean(0).T, rtol=1e-5, atol=1e-9)
    inverses = np.linalg.pinv(slopes.reshape(14, 3, -1), rcond=1e-5).reshape(14, -1, 5, 3)
    np.testing.assert_allclose(found.inverse[held_in], np.abs(inverses).sum(1).mean(0), rtol=1e-4)
    readout = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    read = np.einsum("nlbu,lc->ncbu", slopes, readout.numpy())
    np.testing.assert_allclose(
        model.attribution(batch, readout).jacobian[held_in], np.abs(read).sum(2).mean(0).T, rtol=1e-4, atol=1e-8
    )


def test_the_penalty_enters_the_loss_after_the_warm_up_and_when_validated() -> None:
    trials = recording()
    model = built(trials, receptive_field_bins=5, jacobian_penalty=0.5, jacobian_warmup_steps=10)
    plain = built(trials, receptive_field_bins=5)
    batch = PairSampler([trials], model.sampling, 32, 0).draw(0)
    assert "jacobian" not in plain.loss(batch, 20).terms
    assert model.loss(batch, 10).terms["jacobian"] == 0
    model.eval()
    with torch.inference_mode():
        terms = model.loss(batch, 20).terms
        rest = plain.loss(batch, 20)
    own = model.inputs.of("made")
    windows = own.standardize(batch.activity.transpose(0, 1), batch.observed.transpose(0, 1))
    step = -(-batch.n_trials // 256)
    exact = jacobians(lambda values: model._embed_windows(own, values), windows[:, ::step])
    torch.testing.assert_close(terms["jacobian"], 0.25 * exact.square().sum((1, 2, 3)).mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sum(terms.values()) - terms["jacobian"], rest.total, rtol=1e-9, atol=1e-9)
    model.train().loss(batch, 20).terms["jacobian"].backward()
    assert all(bool(p.grad.abs().sum() > 0) for name, p in model.named_parameters() if not name.endswith("last.bias"))


@pytest.mark.slow
def test_relevant_units_are_told_from_irrelevant_ones() -> None:
    """50 units follow a labeled position, 50 others a hidden one that moves as much (E7)."""
    areas = []
    for seed in range(5):
        random = np.random.default_rng(seed)
        walks = np.cumsum(0.3 * random.normal(size=(4000, 4)), 0)
        places = 1.5 * (np.abs((walks + 1) % 4 - 2) - 1)  # reflected at the walls
        rates = [
            np.exp(0.7 * place @ (w := random.normal(size=(2, 50))) / np.linalg.norm(w, axis=0))
            for place in (places[:, :2], places[:, 2:])
        ]
        counts = random.poisson(np.concatenate(rates, 1))
        estimator = Estimator(
            "contrastive", seed=seed, positives="behavior", delta=0.2, receptive_field_bins=1, jacobian_penalty=0.1,
            jacobian_warmup_steps=100,
            trainer={"max_steps": 300, "batch_size": 256, "learning_rate": 3e-3, "progress": False},
        ).fit(counts, {"place": places[:, :2]})  # fmt: skip
        run = estimator.run_
        assert isinstance(run.model, Contrastive)
        assert run.sessions is not None
        found = run.model.attribution(run.sessions[0].train.batch().without_behavior())
        relevant = np.repeat([1, 0], 50)
        areas.append([roc_auc_score(relevant, values.sum(1)) for values in found])
    print("AUROC of the pseudo-inverse and the Jacobian", np.round(areas, 3).tolist())
    assert min(area for area, _ in areas) >= 0.95


def test_settings_of_the_penalty_are_checked() -> None:
    with pytest.raises(ValueError, match="jacobian_penalty=-1"):
        Contrastive(ContrastiveConfig(jacobian_penalty=-1.0), [recording().layout])
