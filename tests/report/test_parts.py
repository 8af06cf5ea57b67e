"""Pieces of the report against values worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_run, reach_session, ring_session
from sklearn.decomposition import PCA

from lvmzoo.batch import Kind, Variable
from lvmzoo.config import DataConfig, Experiment, SplitConfig
from lvmzoo.data.conditions import find_conditions
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.report import curves, text
from lvmzoo.report.decoding import _against, _quality
from lvmzoo.report.drift import drift_figures
from lvmzoo.report.rates import broken, stretch
from lvmzoo.report.style import hue_circle, palette
from lvmzoo.report.trajectories import condition_means
from lvmzoo.report.view import Axes, View


def view_of(session) -> View:
    run = make_run([session])
    return View(run, session, Evaluation(run.model, session))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"target": np.arange(40) % 8}, "target"),
        ({"correct": np.arange(40) % 2 == 0, "stimulus_type": np.tile(["a", "b"], 20)}, "stimulus_type"),
        ({"go_time": np.arange(40) % 4 + 0.5, "start_s": np.arange(40) % 4}, None),
        ({"target": np.arange(40)}, None),  # a level a trial
        ({"target": np.zeros(40)}, None),  # one level
        ({"target": np.where(np.arange(40) < 3, 1, 0)}, "target"),
    ],
)
def test_conditions_are_found(columns, expected):
    found = find_conditions(pd.DataFrame(columns))
    assert (found and found.column) == expected


def test_levels_are_in_order_of_their_numbers_and_unknown_trials_have_none():
    table = pd.DataFrame({"target": np.tile([10.0, 2.0, 1.0, np.nan], 5)})
    found = find_conditions(table)
    assert found is not None
    assert found.levels == ("1", "2", "10")
    assert found.codes(table)[:4].tolist() == [2, 1, 0, -1]


def test_means_by_condition_equal_plain_averages():
    session = reach_session()
    view = view_of(session)
    activity = view.activity("test")
    means, errors = condition_means(view, activity)
    targets = session.test.table["target"].to_numpy()
    shortest = session.test.lengths.min()
    whole = session.test.activity.numpy().astype(float)
    for level in range(5):
        trials = np.stack([whole[session.test.start[t] :][:shortest] for t in np.flatnonzero(targets == level)])
        np.testing.assert_allclose(means[level, :shortest], trials.mean(0), atol=1e-5)
        sem = trials.std(0, ddof=1) / np.sqrt(len(trials))
        np.testing.assert_allclose(errors[level, :shortest], sem, atol=1e-5)


def test_gaps_are_never_shown_as_data():
    session = ring_session()
    gap = slice(2500, 2520)
    session.train.activity[gap] = 255
    view = view_of(session)
    assert view.activity("test").max() < 255
    times = view.times("test")
    assert len(times) == 750 - 20
    assert not ((times > 250.01) & (times < 251.99)).any()
    assert list(drift_figures(view))


def test_missing_samples_are_nan_not_zero():
    session = ring_session()
    missing = torch.zeros(session.test.activity.shape, dtype=torch.bool)
    missing[2300, 4] = True
    session = dataclasses.replace(session, test=dataclasses.replace(session.test, missing=missing))
    activity = view_of(session).activity("test")
    assert np.argwhere(np.isnan(activity)).tolist() == [[50, 4]]


def test_lines_break_where_time_jumps():
    clock, values = broken(np.array([0.0, 1, 2, 10, 11]), np.arange(5), step=1.0)
    np.testing.assert_array_equal(clock, [0, 1, 2, np.nan, 10, 11])
    np.testing.assert_array_equal(values, [0, 1, 2, np.nan, 3, 4])


def test_a_stretch_holds_about_the_seconds_asked_for_and_whole_time_only_moves_forward():
    rows, times = stretch(view_of(reach_session()), 5.0)
    assert (np.diff(times) > 0).all()
    assert (np.diff(rows) == 1).all()
    assert 4 < times[-1] < 8
    rows, times = stretch(view_of(ring_session()), 5.0)
    assert len(rows) == pytest.approx(50, abs=1)


def test_axes_are_those_of_the_predicted_activity():
    view = view_of(ring_session())
    rates = view.evaluation.rates("test").astype(float)
    np.testing.assert_allclose(
        np.linalg.norm(rates[:50, None] - rates[None, :50], axis=-1),
        np.linalg.norm(view.projected[:50, None] - view.projected[None, :50], axis=-1),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        view.axes.share, PCA(3).fit(view.evaluation.rates("train")).explained_variance_ratio_, atol=1e-6
    )
    assert (np.diff(view.axes.share) <= 0).all()
    back = view.projected @ view.axes.back + view.axes.mean
    np.testing.assert_allclose(back, view.evaluation.latents("test"), atol=1e-6)


def test_axes_do_not_depend_on_how_latents_are_scaled_and_mixed():
    rng = np.random.default_rng(0)
    latents, readout = rng.normal(size=(200, 3)) * [3, 2, 1], rng.normal(size=(3, 12))
    mix = rng.normal(size=(3, 3))
    plain = Axes.of_readout(latents.mean(0), np.cov(latents.T), readout)
    mixed = Axes.of_readout(latents.mean(0) @ mix, np.cov((latents @ mix).T), np.linalg.inv(mix) @ readout)
    np.testing.assert_allclose(plain.share, mixed.share, rtol=1e-9)
    np.testing.assert_allclose(
        np.abs(plain.project(latents)), np.abs(mixed.project(latents @ mix)), atol=1e-8 * np.abs(latents).max()
    )


def test_without_a_readout_axes_are_a_rotation():
    latents = np.random.default_rng(0).normal(size=(200, 4)) * [1, 2, 3, 4]
    axes = Axes.principal(latents.mean(0), np.cov(latents.T))
    np.testing.assert_allclose(axes.forward.T @ axes.forward, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(axes.share, PCA(4).fit(latents).explained_variance_ratio_, rtol=1e-9)


def test_quality_of_angles_is_measured_on_the_circle():
    true, decoded = np.array([[359.0], [10.0], [180.0]]), np.array([[1.0], [5.0], [np.nan]])
    train = np.radians([[350.0], [0.0], [10.0], [np.nan]])
    said = _quality(true, decoded, Variable(Kind.CIRCULAR), train)
    assert said == "median error 3.5° (always guessing the mean: 6°)"
    assert _quality(true, true, Variable(Kind.CONTINUOUS), train) == "R² 1.000"
    levels = np.array([[0.0], [1.0], [1.0], [0.0]])
    assert _quality(levels, 0 * levels, Variable(Kind.CATEGORICAL, 1, ("a", "b")), levels).startswith("50 %")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.12345, "0.123"),
        (-12.345, "-12.3"),
        (0.0, "0"),
        (1234.5, "1234"),
        (1.5e-7, "1.50e-07"),
        (np.nan, "not finite"),
    ],
)
def test_numbers(value, expected):
    assert text.number(value) == expected.replace("-", "\N{MINUS SIGN}")


def test_highlights_prefer_what_says_most():
    names = ["log_likelihood", "bits_per_spike", "co_bps", "latent_r2", "behavior_r2", "state_r2"]
    chosen = text.highlights([Score(name, 0.5, "s") for name in names])
    assert [row.metric for row in chosen] == [
        "Recovery R² of the true latents",
        "Co-smoothing, held-out units",
        "Behavior R², linear",
    ]
    few = text.highlights([Score(name, 0.5, "s") for name in names[:2]])
    assert [row.metric for row in few] == ["Bits per spike, units that the model saw", "Log-likelihood"]


def test_smallest_gap_is_between_parts():
    assert text.smallest_gap_s(ring_session()) == pytest.approx(5.0)
    session = reach_session()
    interleaved = dataclasses.replace(session, test=session.train.select([1]), train=session.train.select([0, 2]))
    assert text.smallest_gap_s(interleaved) == pytest.approx(0.5)


def test_colors_differ_and_are_readable_on_white():
    rgb = hue_circle(24)
    assert rgb.shape == (24, 3)
    assert ((rgb >= 0) & (rgb <= 1)).all()
    assert (np.linalg.norm(np.diff(rgb, axis=0), axis=1) > 0.02).all()
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    assert luminance.max() < 0.75
    assert len({str(color) for color in palette(16)}) == 16


def test_long_noisy_histories_are_smoothed_and_bounded_in_size():
    run = make_run([reach_session()])
    steps = np.arange(20_000)
    noisy = np.exp(-steps / 4000) + np.random.default_rng(0).normal(0, 0.2, len(steps))
    run.history = pd.DataFrame({"epoch": 0, "step": steps, "train/loss": noisy})
    (figure,) = curves.learning_curves(run)
    assert sum(map(len, figure.svgs)) < 400_000


def test_split_that_shares_drift_and_smoothing_that_looks_ahead_are_said():
    session = reach_session()
    split = SplitConfig(by="every")
    assert text.session_notes(session, Experiment(None)) == ["2 silent units were dropped."]
    said = " ".join(text.session_notes(session, Experiment(None, DataConfig(split=split, smoothing_s=0.05))))
    assert "shares slow drift" in said
    assert "looks ahead" in said
    causal = text.session_notes(session, Experiment(None, DataConfig(smoothing_s=0.05, causal_smoothing=True)))
    assert "looks ahead" not in " ".join(causal)


def test_highlights_prefer_behavior_that_the_model_was_trained_with():
    scores = [Score("behavior_r2", value, "s", name) for name, value in (("speed", 0.2), ("place", 0.9), ("lick", 0.1))]
    assert text.highlights(scores)[0].target == "place"
    assert text.highlights(scores, ("lick",))[0].target == "lick"


def test_highlights_choose_the_angle_that_is_decoded_not_the_one_that_hardly_varies():
    scores = [
        Score("behavior_error_knn", 9.4, "s", "pitch", "deg", "lower"),
        Score("behavior_r2_knn", -0.2, "s", "pitch"),
    ]
    scores += [Score("behavior_error_knn", 9.6, "s", "yaw", "deg", "lower"), Score("behavior_r2_knn", 0.9, "s", "yaw")]
    assert text.highlights(scores)[0].target == "yaw"


@pytest.mark.parametrize(
    ("value", "spread", "expected"),
    [
        (0.91912, 0.0031, ("0.919", "0.003")),
        (-0.00706, 0.0663, ("-0.007", "0.066")),
        (-67.501, 0.42, ("-67.5", "0.4")),
        (12.3, 4e-4, ("12.3", "0.0004")),
        (0.5, None, ("0.500", "")),
    ],
)
def test_value_and_spread_have_the_digits_that_mean_something(value, spread, expected):
    (row,) = text.rows([Score("co_bps", value, "s", spread=spread)])
    assert (row.value.replace("\N{MINUS SIGN}", "-"), row.spread) == expected


def test_times_are_said_to_be_within_a_second():
    true = np.linspace(0, 30, 200)
    decoded = true + np.where(np.arange(200) % 4 == 0, 3.0, 0.1)
    drawn = _against("movie_s", Variable(Kind.CONTINUOUS), 0, true, decoded)
    assert "Median absolute error 0.1 s; 75 % are within one second." in drawn.caption
    assert drawn.caption.startswith("Decoded against")
    many = _against("speed", Variable(Kind.CONTINUOUS), 0, np.tile(true, 20), np.tile(decoded, 20))
    assert many.caption.startswith("Density of decoded")
    assert "second" not in many.caption
