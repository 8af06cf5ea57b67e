"""Units that carry a label are ranked first, and a report says so where the model was trained for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lvmzoo import from_arrays
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.metrics.attribution import unit_attribution
from lvmzoo.metrics.base import Evaluation
from lvmzoo.models.behavior.contrastive import ContrastiveConfig
from lvmzoo.report.page import write_report
from lvmzoo.run import Run
from lvmzoo.train import train


def made(penalty: float) -> Run:
    """Ten units follow a labeled position, ten others a hidden one; two of the first are held out."""
    random = np.random.default_rng(0)
    places = 1.5 * np.sin(np.cumsum(0.3 * random.normal(size=(1500, 2)), 0))
    rates = np.exp(np.repeat(places, 10, 1) * random.choice([-1, 1], 20))
    recording = from_arrays(random.poisson(rates), {"place": places[:, :1]}, bin_width_s=0.05)
    model = ContrastiveConfig(
        positives="behavior", delta=0.2, latents=2, hidden=16, receptive_field_bins=1, jacobian_penalty=penalty,
        jacobian_warmup_steps=50,
    )  # fmt: skip
    split = SplitConfig(validation=0.15, test=0.2, gap_s=0.0, held_out_units=[0, 1])
    trainer = TrainerConfig(max_steps=200, batch_size=128, progress=False, learning_rate=3e-3)
    return train(Experiment(model, DataConfig(bin_width_s=0.05, split=split), trainer), [recording], write=False)


def test_units_are_ranked_in_the_report_of_a_model_trained_for_it(tmp_path: Path) -> None:
    run = made(0.1)
    assert run.sessions is not None
    shares = unit_attribution(Evaluation(run.model, run.sessions[0], 0), windows=200)["place"]
    np.testing.assert_allclose(shares.sum(), 1)
    assert (shares[:2] == 0).all()
    assert shares[2:10].min() > shares[10:].max()
    write_report(run, tmp_path / "with.html")
    page = (tmp_path / "with.html").read_text()
    assert "Units that carry place" in page
    assert "could not be drawn" not in page
    write_report(made(0.0), tmp_path / "without.html")
    assert "Units that carry" not in (tmp_path / "without.html").read_text()
