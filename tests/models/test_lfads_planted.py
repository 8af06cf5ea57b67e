"""What LFADS finds, and does not find, in planted data (issue: L1, L3, L4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lvmzoo import from_arrays
from lvmzoo.batch import Batch
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.data.load import prepare
from lvmzoo.models.single_region.lfads import LFADS, LFADSConfig
from lvmzoo.simulate.lorenz import lorenz
from lvmzoo.train import train


def batch_of(counts: np.ndarray) -> Batch:
    config = DataConfig(bin_width_s=0.02, split=SplitConfig(validation=0.0, test=0.0, gap_s=0.0))
    return prepare([from_arrays(counts, bin_width_s=0.02)], config)[0].train.batch()


def descend(model: LFADS, batch: Batch, steps: int, trials: int, learning_rate: float = 5e-3) -> None:
    model.prepare([batch])
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    model.train()
    for step in range(steps):
        rows = torch.randint(batch.n_trials, (trials,))
        part = batch.map(lambda tensor, rows=rows: tensor[rows])
        optimizer.zero_grad()
        model.loss(part, step).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def bits_per_spike(model: LFADS, batch: Batch) -> float:
    counts, rates = batch.activity.double(), model.rates(batch).double()
    mean = counts.mean((0, 1))
    gain = (counts * (rates.log() - mean.log()) - rates + mean).sum()
    return float(gain / counts.sum() / np.log(2))


@pytest.mark.parametrize(("coordinated_dropout", "leaks"), [(0.0, True), (0.4, False)])
def test_coordinated_dropout_leaves_nothing_to_copy(coordinated_dropout: float, leaks: bool) -> None:
    """L3: independent noise cannot be predicted; without coordinated dropout the same network copies it."""
    random = np.random.default_rng(0)
    batch = batch_of(random.poisson(0.5, (4200, 5, 10)))
    torch.manual_seed(0)
    config = LFADSConfig(
        latents=10,
        generator=48,
        encoder=32,
        initial_condition=32,
        coordinated_dropout=coordinated_dropout,
        dropout=0.0,
        kl_initial_condition=0.0,
        posterior_samples=0,
    )
    model = LFADS(config, [batch.layout])
    fresh = batch.map(lambda tensor: tensor[4000:])
    descend(model, batch.map(lambda tensor: tensor[:4000]), 300, 128)
    found = bits_per_spike(model, fresh)
    assert found >= 0.05 if leaks else found <= 0.01


@pytest.mark.slow
def test_a_pulse_is_inferred_when_it_came() -> None:
    """L4: the inferred input departs furthest from its mean within two bins of a pulse at a random time."""
    random = np.random.default_rng(0)
    trials, bins, units = 400, 40, 25
    when = random.integers(8, 32, trials)
    state = np.where(np.arange(bins) >= when[:, None], 0.85 ** (np.arange(bins) - when[:, None]), 0.0)
    weights = random.normal(0, 1.0, units)
    batch = batch_of(random.poisson(0.3 * np.exp(2 * state[..., None] * weights)))
    torch.manual_seed(0)
    config = LFADSConfig(
        latents=3,
        generator=24,
        encoder=24,
        initial_condition=4,
        inferred_inputs=1,
        controller=24,
        dropout=0.0,
        coordinated_dropout=0.2,
        ramp_steps=200,
    )
    model = LFADS(config, [batch.layout])
    descend(model, batch.map(lambda tensor: tensor[:320]), 700, 64)
    inputs = model.inferred_inputs(batch.map(lambda tensor: tensor[320:]))[..., 0].numpy()
    found = np.abs(inputs - np.median(inputs)).argmax(1)
    error = np.abs(found - when[320:])
    assert np.median(error) <= 2
    assert (error <= 2).mean() > 0.7


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rates_of_the_lorenz_system(seed: int) -> None:
    """L1: with the defaults, rate R2 on held-out trials is at least .85, far above Gaussian smoothing."""
    recording = lorenz(seed=seed, conditions=65, trials=20, units=30, bins=100)
    experiment = Experiment(
        model=LFADSConfig(),
        data=DataConfig(bin_width_s=0.01, split=SplitConfig(validation=0.1, test=0.2, gap_s=0.0)),
        trainer=TrainerConfig(threads=1, progress=False),
        seed=seed,
        report=False,
    )
    run = train(experiment, [recording], write=False)
    assert run.sessions is not None
    assert isinstance(run.model, LFADS)
    test = run.sessions[0].test
    batch = test.batch()
    truth = test.truth["rates"][torch.from_numpy(test.flat)].reshape(batch.activity.shape).double().numpy()
    found = r2(truth, run.model.rates(batch).numpy())
    smooth = batch.activity.double().numpy()
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / 5) ** 2)
    ones = np.convolve(np.ones(100), kernel, "same")
    smooth = np.apply_along_axis(lambda counts: np.convolve(counts, kernel, "same") / ones, 1, smooth)
    assert found >= 0.85
    assert found > r2(truth, smooth)


def r2(truth: Any, predicted: Any) -> float:
    rest = ((truth - predicted) ** 2).sum((0, 1))
    return float((1 - rest / ((truth - truth.mean((0, 1))) ** 2).sum((0, 1))).mean())
