"""Forward prediction of counts, for every model: trials cut off one at a time, and the formula written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from lvmzoo import registry
from lvmzoo.batch import Batch
from lvmzoo.config import Experiment, TrainerConfig
from lvmzoo.data.trials import Session
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.fp_bps import FpBps
from lvmzoo.metrics.poisson_readout import fit_readout
from lvmzoo.models.base import HasDynamics, Model, Reconstructs, StatisticsModel
from lvmzoo.train import train
from tests.contract import world

TRIALS, AHEAD = 60, 4  # bins of 50 ms: the last 200 ms


@pytest.fixture(scope="module")
def session() -> Session:
    return world.session(trials=TRIALS)


def ends(session: Session, part: str, model: Model, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model says of the last bins of each trial that it does not see, and the counts there."""
    found, counts = [], []
    trials = getattr(session, part)
    for place in range(len(trials)):
        batch: Batch = trials.batch([place])
        last = int(batch.valid[0].nonzero().max()) + 1
        hidden = slice(last - min(AHEAD, last // 4), last)
        observed, activity = batch.observed.clone(), batch.activity.clone()
        counts.append(activity[0, hidden].double().numpy())
        observed[:, hidden], activity[:, hidden] = False, 77
        with torch.no_grad():
            said = getattr(model.eval(), method)(replace(batch, observed=observed, activity=activity))
        found.append(said[0, hidden].double().numpy())
    return np.concatenate(found), np.concatenate(counts)


def bits(rates: np.ndarray, counts: np.ndarray) -> float:
    """Log-likelihood above that of the mean rates in the same bins, in bits a spike (Pei et al. 2021)."""
    even = np.broadcast_to(counts.mean(0), counts.shape)
    gain = poisson.logpmf(counts, rates).sum() - poisson.logpmf(counts, even).sum()
    return float(gain / counts.sum() / np.log(2))


@pytest.mark.parametrize("name", registry.entries())
def test_forward_prediction_is_its_formula(name: str, session: Session) -> None:
    entry = registry.get(name)
    short = {"max_epochs": 3} if issubclass(entry.model, StatisticsModel) else {"max_steps": 20, "batch_size": 64}
    trainer = TrainerConfig(progress=False, tolerance=0.0, **short)
    model = train(
        Experiment(entry.tiny(session.layout), world.DATA, trainer), [world.recording(trials=TRIALS)], write=False
    ).model
    found = FpBps()(Evaluation(model, session))
    latents, counts = ends(session, "test", model, "latents")
    assert bool(found) == bool(latents.std(0).max(initial=0) > 1e-6)
    assert found or not issubclass(entry.model, HasDynamics)
    if not found:
        return
    if isinstance(model, Reconstructs) and model.positive_rates:
        rates, _ = ends(session, "test", model, "rates")
    else:
        seen, known = ends(session, "train", model, "latents")
        rates = fit_readout(seen, torch.from_numpy(known)).rates(latents)
    [row] = found
    assert row.value == pytest.approx(bits(rates, counts), abs=1e-6)
    assert row.n == counts.sum()
