"""The section on rotation: what it averages, what it says, and what it says where it cannot tell."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_run, parts, reach_session, ring_session

from lvmzoo.batch import Layout, Observation
from lvmzoo.data.trials import Session, Trials
from lvmzoo.metrics.base import Evaluation
from lvmzoo.report.rotation import Averages, averages, rotation_figures
from lvmzoo.report.style import Picture
from lvmzoo.report.view import View

BIN_S = 0.02


def session_of(turns_hz: float, conditions: int = 8, trials: int = 96, bins: int = 40, noise: float = 1.0) -> Session:
    """Signals of ten units that follow two latents: they turn from a phase of the condition; 0 Hz: out and back."""
    rng = np.random.default_rng(0)
    target = np.arange(trials) % conditions
    time = np.arange(bins) * BIN_S
    angle = 2 * np.pi * (target[:, None] / conditions + turns_hz * time)
    size = np.ones(bins) if turns_hz else np.sin(np.pi * np.arange(bins) / bins)
    latents = size[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    activity = latents @ rng.normal(size=(2, 10)) + noise * rng.normal(size=(trials, bins, 10))
    layout = Layout("turning", {"M1": 10}, tuple(map(str, range(10))), Observation.CONTINUOUS, BIN_S)
    start = np.arange(trials) * bins
    whole = Trials(
        layout=layout,
        activity=torch.from_numpy(activity.reshape(-1, 10).astype(np.float32)),
        start=start,
        stop=start + bins,
        valid=torch.ones(trials * bins, dtype=torch.bool),
        table=pd.DataFrame({"start_s": start * BIN_S, "target": target}),
    )
    return Session(*parts(whole, trials // 2, trials // 6))


def view_of(session: Session) -> View:
    run = make_run([session])
    return View(run, session, Evaluation(run.model, session))


def said(session: Session) -> tuple[str, list[Picture]]:
    lead, *pictures = rotation_figures(view_of(session))
    assert isinstance(lead, str)
    return lead, [picture for picture in pictures if isinstance(picture, Picture)]


def test_latents_that_turn_are_found_with_their_frequency():
    lead, (plane, null) = said(session_of(1.8, noise=0.3))
    assert lead.startswith("Evidence of rotation (p = 0.0005): one rotation shared by all 8 levels of target")
    frequency = re.search(r"turns most: ([\d.]+) Hz", plane.title)
    assert frequency is not None
    assert float(frequency[1]) == pytest.approx(1.7, abs=0.15)  # the model's smoothing pulls both ends inward
    assert "1.3 turns in the 0.8 s shown" in plane.caption
    assert re.match(r"R² 0\.[5-9]\d, by chance 0\.\d\d to 0\.\d\d", null.title)
    assert "By chance" in plane.caption
    assert "that is what chance gives" in null.caption


def test_out_and_back_is_no_rotation():
    lead, pictures = said(session_of(0.0))
    assert lead.startswith("No evidence of rotation (p = 0.")
    assert len(pictures) == 2


def test_averages_are_plain_means_of_test_trials():
    session = session_of(1.8)
    view = view_of(session)
    found = averages(view)
    assert isinstance(found, Averages)
    latents = view.evaluation.latents("test").reshape(len(session.test), 40, -1)
    target = session.test.table["target"].to_numpy()
    expected = np.stack([latents[target == level].mean(0) for level in range(8)])
    np.testing.assert_allclose(found.means, expected, atol=1e-5)
    assert found.trials == "the test trials"
    assert found.seconds == pytest.approx(0.8)


def test_with_few_test_trials_all_are_averaged_and_that_is_said():
    session = session_of(1.8)
    few = dataclasses.replace(session, test=session.test.select(range(8)))
    view = view_of(few)
    found = averages(view)
    assert isinstance(found, Averages)
    assert found.trials.startswith("all trials")
    latents, target = [], []
    for part in ("train", "validation", "test"):
        latents.append(view.evaluation.latents(part).reshape(-1, 40, 3))
        target.append(view.part(part).table["target"].to_numpy())
    pooled, codes = np.concatenate(latents), np.concatenate(target)
    expected = np.stack([pooled[codes == level].mean(0) for level in range(8)])
    np.testing.assert_allclose(found.means, expected, atol=1e-5)


def test_conditions_with_too_few_trials_are_left_out_and_that_is_said():
    session = session_of(1.8)
    kept = np.flatnonzero((session.test.table["target"] > 2) | (np.arange(len(session.test)) < 8))
    lead, _ = said(dataclasses.replace(session, test=session.test.select(kept)))
    assert "shared by 5 of 8 levels of target" in lead


def test_ragged_trials_are_compared_while_all_conditions_last():
    session = reach_session()
    view = view_of(session)
    found = averages(view)
    assert isinstance(found, Averages)
    codes = session.test.table["target"].to_numpy()
    lasts = [np.sort(session.test.lengths[codes == level])[::-1] for level in range(5)]
    most = min(int(lengths[int(np.ceil(len(lengths) / 2)) - 1]) for lengths in lasts)
    assert found.means.shape == (5, most, 3)
    assert np.isfinite(found.means).all()


@pytest.mark.parametrize(
    ("session", "why"),
    [
        (ring_session(), "no column of the trial table sorts the trials into conditions"),
        (session_of(1.8, conditions=2), "3 levels of target or more need 2 trials each, and 2 have them"),
        (session_of(1.8, bins=4), "the trials share 4 bins of 20 ms, and 6 or more are needed"),
        (session_of(1.8, conditions=3, bins=8, noise=0.0), "independent courses"),
    ],
    ids=["no conditions", "two conditions", "short trials", "too smooth"],
)
def test_where_it_cannot_tell_it_says_why(session, why):
    lead, pictures = said(session)
    assert lead.startswith("Not tested: ")
    assert why in lead
    assert not pictures


def test_pages_have_the_section(report):
    page = report(make_run([session_of(1.8)]))
    assert "Evidence of rotation" in page
    assert 'aria-label="Colors by target"' in page


def test_pages_without_conditions_say_so(report):
    page = report(make_run([ring_session()]))
    assert "Not tested: rotation is looked for" in page


def test_recorded_activity_is_tested_as_well():
    turning, _ = said(session_of(1.8))
    assert re.search(r"In the recorded activity, averaged alike, it is \d+ %, and .* \(p = 0\.0\d+\)\.", turning)
    counts, _ = said(reach_session())
    assert "In the recorded activity, averaged alike, smoothed by a Gaussian of 40 ms, it is" in counts
    straight, _ = said(session_of(0.0))
    p = re.search(r"when shuffled \(p = ([\d.]+)\)\.", straight)
    assert p is not None
    assert float(p[1]) > 0.05


def test_units_that_were_not_recorded_are_left_out_of_the_activity():
    session = session_of(1.8)
    missing = torch.zeros(session.train.activity.shape, dtype=torch.bool)
    missing[:, 3] = True
    session = Session(
        *(dataclasses.replace(part, missing=missing) for part in (session.train, session.validation, session.test))
    )
    found = averages(view_of(session))
    assert isinstance(found, Averages)
    assert found.activity.shape == (8, 40, 9)
