"""Flags rise on planted score tables, and stay down on sound ones."""

from __future__ import annotations

import pytest

from lvmzoo.flags import flags


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
        "Of its co-bps, 0.154, a readout learned from 16 trials keeps 57%, where lds keeps 90%: "
        "its latents hold more than the activity needs."
    )


def test_a_model_whose_rates_do_not_tell_its_latents_invents_dynamics():
    hidden = outcome("lfads", co_bps=0.154, few_shot_co_bps_16=0.135, cycle_consistency=0.2)
    assert kinds(SOUND, hidden) == [[], ["invents dynamics"]]


def test_only_models_near_the_best_are_asked_whether_they_invent():
    poor = outcome("factor_analysis", co_bps=0.06, few_shot_co_bps_16=0.02, cycle_consistency=0.2)
    assert kinds(SOUND, poor) == [[], []]


def test_a_model_that_says_little_is_no_measure_of_what_few_trials_keep():
    small = outcome("pca", co_bps=0.03, few_shot_co_bps_4=0.03, few_shot_co_bps_16=0.03)
    middling = outcome("lds", co_bps=0.15, few_shot_co_bps_16=0.09, cycle_consistency=1.0)
    assert kinds(small, middling) == [[], []]


def test_noise_of_few_draws_is_no_evidence():
    noisy = outcome("lds", co_bps=0.15, few_shot_co_bps_16=(0.088, 0.02))
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


def test_a_failed_run_has_no_flags():
    assert flags([{"model": "lds", "code": 1, "error": ["Error: none"], "overrides": []}]) == [[]]
    assert flags([]) == []
