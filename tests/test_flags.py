"""Flags rise on planted score tables, and stay down on sound ones."""

from __future__ import annotations

import dataclasses

import pytest

from lvmzoo.config import DataConfig, Experiment, SplitConfig
from lvmzoo.flags import flags, not_compared
from lvmzoo.metrics import METRICS, Evaluation
from lvmzoo.models.single_region.gpfa import GPFAConfig
from lvmzoo.models.single_region.pca import PCAConfig
from lvmzoo.simulate.lds import lds
from lvmzoo.train import train


def outcome(model, **values):
    """Return a finished run; each value is a number or a number with its spread."""
    pairs = {name: value if isinstance(value, tuple) else (value, 0.002) for name, value in values.items()}
    scores = [{"metric": name, "value": v, "spread": s, "target": "", "session": "a"} for name, (v, s) in pairs.items()]
    return {"model": model, "scores": scores, "overrides": [], "code": 0}


def kinds(*outcomes):
    return [[flag.kind for flag in found] for found in flags(outcomes)]


SOUND = outcome("lds", co_bps=0.15, few_shot_co_bps_4=0.075, few_shot_co_bps_16=0.135, cycle_consistency=1.0)


def test_the_best_model_whose_readout_needs_many_trials_invents_dynamics():
    large = outcome("lds", co_bps=0.154, few_shot_co_bps_4=0.012, few_shot_co_bps_16=0.088, cycle_consistency=1.0)
    assert kinds(SOUND, large) == [[], ["invents dynamics"]]
    [flag] = flags([SOUND, large])[1]
    assert flag.reason == (
        "Readouts learned from 4 and 16 trials keep 32% of its co_bps, 0.154, where they keep 70% of the 0.150 of lds: "
        "its latents hold more than the activity needs."
    )


def test_one_number_of_trials_is_no_evidence():
    few = outcome("pca", co_bps=0.15, few_shot_co_bps_4=0.1)
    assert kinds(few, outcome("lds", co_bps=0.15, few_shot_co_bps_4=0.02)) == [[], []]


def test_smoothed_units_are_not_called_invented():
    units = outcome("smoothing", co_bps=0.15, few_shot_co_bps_4=0.012, few_shot_co_bps_16=0.088)
    assert kinds(SOUND, units) == [[], []]


def test_a_model_whose_rates_do_not_tell_its_latents_invents_dynamics():
    hidden = outcome("lfads", co_bps=0.154, few_shot_co_bps_16=0.135, cycle_consistency=0.2)
    assert kinds(SOUND, hidden) == [[], ["invents dynamics"]]


def test_only_models_near_the_best_are_asked_whether_they_invent():
    poor = outcome("factor_analysis", co_bps=0.06, few_shot_co_bps_16=0.02, cycle_consistency=0.2)
    assert kinds(SOUND, poor) == [[], []]


def test_a_model_that_says_little_is_no_measure_of_what_few_trials_keep():
    small = outcome("pca", co_bps=0.03, few_shot_co_bps_4=0.03, few_shot_co_bps_16=0.03)
    middling = outcome("lds", co_bps=0.15, few_shot_co_bps_4=0.06, few_shot_co_bps_16=0.09)
    assert kinds(small, middling) == [[], []]


def test_noise_of_few_draws_is_no_evidence():
    noisy = outcome("lds", co_bps=0.15, few_shot_co_bps_4=0.05, few_shot_co_bps_16=(0.088, 0.02))
    assert kinds(SOUND, noisy) == [[], []]


@pytest.mark.parametrize("baseline", ["smoothing", "pca", "factor_analysis"])
def test_a_model_below_a_baseline_is_flagged_and_the_baseline_is_not(baseline):
    best = outcome(baseline, co_bps=(0.12, 0.01))
    assert kinds(best, outcome("lds", co_bps=(0.07, 0.01))) == [[], ["below baseline"]]
    assert kinds(best, outcome("lds", co_bps=(0.11, 0.01))) == [[], []]
    assert kinds(best, outcome("pca", co_bps=(0.02, 0.01))) == [[], []]


def test_what_a_model_saw_is_not_compared_with_baselines():
    assert kinds(outcome("smoothing", bits_per_spike=0.5), outcome("lds", bits_per_spike=0.1)) == [[], []]


def test_sessions_are_averaged():
    two = outcome("lds", co_bps=(0.14, 0.01))
    two["scores"] = [*two["scores"], dict(two["scores"][0], value=0.02, session="b")]
    assert kinds(outcome("pca", co_bps=(0.12, 0.01)), two) == [[], ["below baseline"]]


@pytest.mark.parametrize(("share", "raised"), [((0.94, 0.03), True), ((0.3, 0.03), False), ((0.55, 0.04), False)])
def test_inputs_that_do_the_work_are_told(share, raised):
    [found] = flags([outcome("lfads", input_share=share)])
    assert [flag.kind for flag in found] == ["inputs do the work"] * raised
    assert not raised or "lose 94% of the variance" in found[0].reason


@pytest.mark.parametrize(("canary", "raised"), [(0.7, True), (-0.01, False), (-4.0, False)])
def test_a_split_that_decodes_what_is_not_there_is_leaky(canary, raised):
    assert kinds(outcome("pca", split_canary=canary)) == [["leaky split"] * raised]


SIZES = {  # model, latents, units, whether latents move: whether it is told
    "components": ("pca", 79, 80, False, False),
    "as many components as units": ("pca", 80, 80, False, True),
    "factors of LFADS": ("lfads", 200, 80, False, True),
    "a state that holds places and some speeds": ("lds", 159, 80, True, False),
    "a state that holds places and speeds of all units": ("lds", 160, 80, True, True),
    "smoothed units": ("smoothing", 80, 80, False, False),
}


@pytest.mark.parametrize(("model", "latents", "units", "moves", "raised"), SIZES.values(), ids=SIZES)
def test_more_latents_than_units_can_tell_are_too_many(model, latents, units, moves, raised):
    run = outcome(model, co_bps=0.1) | {"size": {"latents": latents, "units": units, "moves": moves}}
    [found] = flags([run])
    assert [flag.kind for flag in found] == ["too many latents"] * raised
    assert not raised or f"{latents} latents of the {units} units" in found[0].reason


def test_a_score_that_is_not_finite_is_left_out():
    run = outcome("pca", split_canary=0.7)
    run["scores"][0]["value"] = None  # as it is read back from a file
    assert kinds(run) == [[]]


def fitted(model, **split):
    """Fit a model to a simulation of three latents, three of ten units held out; return its outcome."""
    config = DataConfig(bin_width_s=0.02, split=SplitConfig(held_out_units=0.3, **split))
    experiment = Experiment(model, config)
    run = train(experiment, [lds(seed=1, trials=90, bins=40, units=30, latents=3)], write=False)
    names = ("co_bps", "few_shot_co_bps", "cycle_consistency", "split_canary")
    evaluation = Evaluation(run.model, run.sessions[0])
    scores = [dataclasses.asdict(score) for name in names for score in METRICS[name](evaluation)]
    return {"model": model.name, "scores": scores, "overrides": [], "code": 0}


def test_fitted_models_are_told_by_what_they_are():
    """Three principal components fit three latents and fifteen are too many; one latent is below the baseline."""
    right, many = fitted(PCAConfig(latents=3)), fitted(PCAConfig(latents=15))
    few = fitted(GPFAConfig(latents=1))
    assert kinds(right, many, few) == [[], ["invents dynamics"], ["below baseline"]]


def test_interleaved_trials_are_told():
    assert kinds(fitted(PCAConfig(latents=3), by="every")) == [["leaky split"]]


def test_a_failed_run_has_no_flags():
    assert flags([{"model": "lds", "code": 1, "error": ["Error: none"], "overrides": []}]) == [[]]
    assert flags([]) == []


def test_it_is_said_where_no_model_could_be_found_below_a_baseline():
    assert "None of them is a baseline" in not_compared([SOUND, SOUND])
    assert "held_out_units" in not_compared([outcome("lds", bits_per_spike=0.2), outcome("pca", bits_per_spike=0.1)])
    assert not_compared([SOUND, outcome("pca", co_bps=0.1)]) == ""
    assert not_compared([outcome("reduced_rank_regression", variance_explained=0.1)]) == ""  # not of activity
    assert not_compared([outcome("pca", co_bps=0.1), {"model": "lds"}]) == ""  # failed
