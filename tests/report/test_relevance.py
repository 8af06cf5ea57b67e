"""The sections on what behavior shares and on forecasts, of a planted dissociation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.metrics.base import Evaluation
from lvmzoo.models.behavior.psid import PSID, PSIDConfig
from lvmzoo.report.forecasts import _own_past, forecast_figures
from lvmzoo.report.page import write_report
from lvmzoo.report.relevance import PrefersBehavior, relevance_figures
from lvmzoo.report.style import Picture
from lvmzoo.report.view import View
from lvmzoo.simulate import get
from lvmzoo.train import train


@pytest.fixture(scope="module")
def view() -> View:
    options = {"trials": 12, "bins": 400}
    data = DataConfig(simulator="dissociation", bin_width_s=0.05, split=SplitConfig(validation=0.0, test=0.3))
    config = PSIDConfig(latents=4, relevant=2, horizon_bins=6)
    experiment = Experiment(model=config, data=data, trainer=TrainerConfig(progress=False))
    run = train(experiment, [get("dissociation")(**options)], write=False)
    assert run.sessions is not None
    return View(run, run.sessions[0], Evaluation(run.model, run.sessions[0]))


def test_behavior_first_needs_half_the_states(view: View) -> None:
    model = view.run.model
    assert isinstance(model, PSID)
    assert isinstance(model, PrefersBehavior)
    curves = model.by_dimension("dissociation", [view.part("train").batch()])
    explained = {
        name: dict(zip(curve["candidates"], curve["explained"], strict=True)) for name, curve in curves.items()
    }
    assert explained["preferential"][2] > 0.3
    assert explained["plain"][2] < 0.1
    assert explained["plain"][4] == pytest.approx(explained["preferential"][2], abs=0.02)
    # What the moments of held-out windows say is what the filter finds in the same trials.
    forecast = model.forecast_behavior(view.part("train").batch(), 1)["hand"].numpy()
    truth = view.part("train").batch().behavior["hand"].numpy()
    found = r2_score(truth[:, 10:].reshape(-1, 2), forecast[:, 10:].reshape(-1, 2))
    assert explained["preferential"][4] == pytest.approx(found, abs=0.02)


def test_figures_of_relevance_and_of_forecasts(view: View) -> None:
    lead, *pictures = relevance_figures(view)
    assert isinstance(lead, str)
    assert lead.startswith("Of 4 states 2 were chosen")
    pictures += list(forecast_figures(view))
    assert all(isinstance(picture, Picture) for picture in pictures)
    assert [picture.title for picture in pictures] == [
        "Modes that behavior shares, and others",
        "Behavior, by number of states",
        "Activity, by time ahead",
        "Behavior, by time ahead",
    ]
    assert "2 shared with behavior, 2 others" in pictures[0].alt


def test_the_baseline_of_forecasts_is_a_regression_on_the_own_past(view: View) -> None:
    parts = [view.part(part).batch().activity.numpy().astype(float) for part in ("train", "test")]
    scores = []
    for unit in range(2):
        past, now = (
            [part[:, shift, unit].reshape(-1, 1) for part in parts] for shift in (slice(0, -3), slice(3, None))
        )
        fitted = LinearRegression().fit(past[0], now[0])
        scores.append(r2_score(now[1], fitted.predict(past[1])))
    assert _own_past(view, 3) == pytest.approx(np.mean(scores), abs=1e-9)


def test_the_page_has_both_sections(view: View, tmp_path: Path) -> None:
    write_report(view.run, tmp_path / "report.html", [view.evaluation])
    page = (tmp_path / "report.html").read_text()
    for words in ("What behavior shares", "Forecasts", "decoded by the model itself"):
        assert words in page
    assert "could not be drawn" not in page
