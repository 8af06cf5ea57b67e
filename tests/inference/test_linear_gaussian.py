"""The filter and smoother against the joint normal distribution of all bins, for every way of missing data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.inference import sequences
from lvmzoo.inference.linear_gaussian import (
    LinearGaussian,
    expectations,
    filtered_means,
    log_likelihood,
    smoothed_covariance,
    smoothed_means,
)
from tests.inference.dense import Dense, draw_activity, random_model

TRIALS, BINS, UNITS = 7, 12, 5


def case(kind: str) -> tuple[LinearGaussian, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return a model, activity with garbage where it is not observed, valid, observed, and known inputs."""
    draw = np.random.default_rng(1)
    inputs = torch.from_numpy(draw.normal(size=(TRIALS, BINS, 2))) if "inputs" in kind else None
    model = random_model(units=UNITS, channels=0 if inputs is None else 2)
    y = draw_activity(model, TRIALS, BINS, inputs=inputs)
    valid = torch.ones(TRIALS, BINS, dtype=torch.bool)
    if "ragged" in kind:
        for i, length in enumerate([3, 12, 1, 0, 7, 12, 5]):
            valid[i, length:] = False
    if "gap" in kind:  # inside one trial, and at the beginning of another
        valid[1, 4:7] = False
        valid[5, :3] = False
    if "shared_gap" in kind:
        valid[:, 5:8] = False
    observed = valid[..., None].expand(TRIALS, BINS, UNITS)
    if "units" in kind:
        observed = observed.clone()
        observed[..., [1, 4]] = False
    if "scattered" in kind:
        observed = observed & torch.from_numpy(draw.random((TRIALS, BINS, UNITS)) > 0.3)
    if "blackout" in kind:  # valid bins at the end in which nothing is observed
        observed = observed.clone()
        observed[:, 9:] = False
    y[~observed] = torch.from_numpy(draw.choice([np.nan, 1e6, -1e6], size=int((~observed).sum())))
    if inputs is not None:
        for i, length in enumerate(lengths(valid)):
            inputs[i, length:] = torch.nan
    return model, y, valid, observed, inputs


KINDS = [
    "complete",
    "ragged",
    "gap",
    "ragged gap",
    "shared_gap",
    "units",
    "ragged units gap",
    "scattered",
    "ragged scattered gap",
    "blackout",
    "ragged blackout scattered",
    "inputs",
    "inputs ragged units gap",
    "inputs ragged scattered gap",
]


def dense(model: LinearGaussian, bins: int, inputs: torch.Tensor | None, trial: int) -> Dense:
    return Dense(model, bins, None if inputs is None else inputs[trial].numpy())


def lengths(valid: torch.Tensor) -> list[int]:
    return [int(row.nonzero().max()) + 1 if row.any() else 0 for row in valid]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_is_that_of_the_joint_normal(kind: str) -> None:
    model, y, valid, observed, inputs = case(kind)
    ours = log_likelihood(model, y, valid, observed, inputs)
    for i, bins in enumerate(lengths(valid)):
        if not bins:
            assert ours[i] == 0
            continue
        expected = dense(model, bins, inputs, i).likelihood(y[i, :bins].numpy(), observed[i, :bins].numpy())
        assert float(ours[i]) == pytest.approx(expected, rel=1e-11, abs=1e-11)
    assert float(expectations(model, y, valid, observed, inputs).log_likelihood) == pytest.approx(
        float(ours.sum()), rel=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_is_that_of_the_joint_normal(kind: str) -> None:
    model, y, valid, observed, inputs = case(kind)
    means = smoothed_means(model, y, valid, observed, inputs)
    covariance = smoothed_covariance(model, valid, observed)
    past = filtered_means(model, y, valid, observed, inputs)
    for i, bins in enumerate(lengths(valid)):
        assert not means[i, bins:].any()
        assert not covariance[i, bins:].any()
        if not bins:
            continue
        mean, joint = dense(model, bins, inputs, i).posterior(y[i, :bins].numpy(), observed[i, :bins].numpy())
        np.testing.assert_allclose(means[i, :bins], mean, atol=1e-10)
        np.testing.assert_allclose(covariance[i, :bins], np.einsum("titj->tij", joint), atol=1e-10)
        half = (bins + 1) // 2
        mean, _ = dense(model, half, inputs, i).posterior(y[i, :half].numpy(), observed[i, :half].numpy())
        np.testing.assert_allclose(past[i, half - 1], mean[-1], atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_the_joint_normal(kind: str) -> None:
    model, y, valid, observed, inputs = case(kind)
    ours = expectations(model, y, valid, observed, inputs)
    expected: dict[str, np.ndarray] = {}
    for i, bins in enumerate(lengths(valid)):
        if bins:
            shown = observed[i, :bins].numpy()
            for name, value in dense(model, bins, inputs, i).moments(np.where(shown, y[i, :bins], 0.0), shown).items():
                expected[name] = expected.get(name, 0) + value
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(ours, name), value, atol=1e-9, err_msg=name)
    assert float(ours.bins) == int(valid.sum())
    assert float(ours.trials) == sum(n > 0 for n in lengths(valid))
    assert float(ours.transitions) == sum(max(n - 1, 0) for n in lengths(valid))


def long_case(channels: int, bins: int = 3000) -> tuple[LinearGaussian, torch.Tensor, ...]:
    model = random_model(latents=3, units=6, seed=2, channels=channels)
    inputs = torch.randn(3, bins, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = draw_activity(model, 3, bins, inputs=inputs)
    valid = torch.ones(3, bins, dtype=torch.bool)
    valid[1, 2000:] = False
    valid[2, 700:900] = False
    return (model, y, valid, valid[..., None].expand(y.shape), *([inputs] if channels else []))


@pytest.mark.parametrize("channels", [0, 2])
def test_scan_equals_the_sequential_recursion(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """A6."""
    case = long_case(channels)
    fast = expectations(*case)
    latents = smoothed_means(*case)
    monkeypatch.setattr("lvmzoo.inference.means.SCAN_BINS", 10**9)
    slow = expectations(*case)
    np.testing.assert_allclose(latents, smoothed_means(*case), atol=1e-12 * float(latents.abs().max()))
    for name, a, b in zip(fast._fields, fast, slow, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * float(b.abs().max()), err_msg=name)


@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("kept", [0, 2**20])
def test_chunks_of_a_long_recording_equal_the_whole(monkeypatch: pytest.MonkeyPatch, kept: int, channels: int) -> None:
    case = long_case(channels)
    whole, latents = expectations(*case), smoothed_means(*case)
    likelihood, past = log_likelihood(*case), filtered_means(*case)
    monkeypatch.setattr(sequences, "CHUNK", 1000)
    monkeypatch.setattr(sequences, "KEPT", kept)
    monkeypatch.setattr("lvmzoo.inference.patterns.BLOCK_SAMPLES", 500)
    np.testing.assert_allclose(smoothed_means(*case), latents, atol=1e-11 * float(latents.abs().max()))
    np.testing.assert_allclose(filtered_means(*case), past, atol=1e-11 * float(latents.abs().max()))
    np.testing.assert_allclose(log_likelihood(*case), likelihood, rtol=1e-12)
    for name, a, b in zip(whole._fields, expectations(*case), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12 * float(b.abs().max()), err_msg=name)


def test_ragged_trials_equal_one_trial_at_a_time() -> None:
    """A5: one recursion for all lengths gives the sums of single trials."""
    model = random_model(latents=3, units=6)
    y = draw_activity(model, 12, 60)
    valid = torch.zeros(12, 60, dtype=torch.bool)
    for i, length in enumerate([60, 60, 1, 37, 37, 20, 5, 44, 60, 2, 33, 59]):
        valid[i, :length] = True
    observed = valid[..., None].expand(y.shape)
    together = expectations(model, y, valid, observed)
    single = [expectations(model, y[i : i + 1], valid[i : i + 1], observed[i : i + 1]) for i in range(12)]
    for name, ours, *parts in zip(together._fields, together, *single, strict=True):
        expected = torch.stack(parts).sum(0)
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11, err_msg=name)


def test_a_latent_without_information_is_exact() -> None:
    """More latents than units, a silent direction and duplicated units: J is singular, the answer is not."""
    model = random_model(latents=4, units=3)
    readout = model.readout.clone()
    readout[1] = readout[0]
    readout[:, 3] = 0
    model = model._replace(readout=readout)
    y = draw_activity(model, 2, 6)
    valid = torch.ones(2, 6, dtype=torch.bool)
    observed = valid[..., None].expand(y.shape)
    for i in range(2):
        expected = Dense(model, 6).likelihood(y[i].numpy(), observed[i].numpy())
        assert float(log_likelihood(model, y, valid, observed)[i]) == pytest.approx(expected, rel=1e-11)
