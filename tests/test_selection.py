"""A setting chosen by cross-validation: the rule, the folds, the metric, and the choice from one pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lvmzoo import selection
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.data.arrays import from_arrays
from lvmzoo.data.recording import Recording
from lvmzoo.errors import DivergedError, UserError
from lvmzoo.metrics import METRICS
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.forecast_behavior import ForecastBehavior
from lvmzoo.metrics.forecast_r2 import ForecastR2
from lvmzoo.models.behavior.psid import PSIDConfig
from lvmzoo.models.multi_region.reduced_rank_regression import ReducedRankRegressionConfig
from lvmzoo.models.single_region.factor_analysis import FactorAnalysisConfig
from lvmzoo.models.single_region.lds import LDSConfig
from lvmzoo.models.single_region.pca import PCAConfig
from lvmzoo.report.selection import _figures
from lvmzoo.selection import Selection, select
from lvmzoo.simulate.dissociation import dissociation
from lvmzoo.train import train

QUIET = TrainerConfig(progress=False, max_epochs=5)


def chosen(scores: Any, values: tuple[Any, ...] = (1, 2, 3), **other: Any) -> Selection:
    return Selection("model.latents", values, np.array(scores, dtype=float), "score", **other)


def experiment(model: Any, **split: Any) -> Experiment:
    return Experiment(model, DataConfig(bin_width_s=0.05, split=SplitConfig(**split)), QUIET)


def planted(rank: int = 2, trials: int = 50, bins: int = 20) -> Recording:
    """Two regions, the second driven by some directions of the first."""
    random = np.random.default_rng(0)
    x = random.normal(size=(trials, bins, 8))
    weights = random.normal(size=(8, rank)) @ random.normal(size=(rank, 7))
    y = x @ weights + 3 * random.normal(size=(trials, bins, 7))
    return from_arrays(np.concatenate([x, y], 2), bin_width_s=0.05, regions=["A"] * 8 + ["B"] * 7)


def test_the_smallest_within_one_standard_error_of_the_differences_is_chosen() -> None:
    # Folds differ by 10, which the differences do not see: 0.1 +- 0.2 / sqrt(2) behind the best, and 1 +- 0.
    found = chosen([[9.0, 19.0], [9.7, 20.1], [10.0, 20.0]])
    assert (found.best, found.chosen) == (3, 2)
    np.testing.assert_allclose(found.means, [14.0, 14.9, 15.0])
    np.testing.assert_allclose(found.errors, [0.0, 0.2, 0.0], atol=1e-12)


def test_of_a_tie_the_smaller_is_best_and_chosen() -> None:
    found = chosen([[0.0, 0.1], [1.0, 2.0], [1.0, 2.0]])
    assert (found.best, found.chosen) == (2, 2)


def test_of_words_the_best_is_chosen() -> None:
    found = chosen([[0.9, 2.1], [1.0, 2.1], [0.0, 0.0]], ("full", "diagonal", "none"))
    assert found.chosen == found.best == "diagonal"


def test_a_value_without_a_score_in_one_fold_is_left_out_and_a_fold_without_any_too() -> None:
    found = chosen([[1.0, 2.0, np.nan], [5.0, np.nan, np.nan], [2.0, 3.0, np.nan]])
    assert found.compared == (0, 2)
    assert found.folds == 2
    assert found.chosen == 3
    assert np.isnan(found.means[1])


def test_of_one_fold_the_best_is_chosen() -> None:
    found = chosen([[1.0], [3.0], [2.0]])
    assert found.chosen == 2
    assert np.isnan(found.errors).all()


EDGES = {  # values, chosen, what is said
    "largest": ((1, 2, 3), [[0.0, 0.1], [1.0, 1.1], [2.0, 2.1]], "is the largest offered: larger ones may be better"),
    "smallest": ((4, 6), [[1.0, 1.1], [0.0, 0.1]], "is the smallest offered: smaller ones may do as well"),
    "one latent": ((1, 2), [[1.0, 1.1], [0.0, 0.1]], ""),
    "all alike": ((4, 6), [[1.0, 1.1], [1.0, 1.1]], "all values have the same score"),
    "within": ((1, 2, 3), [[0.0, 0.1], [2.0, 2.1], [1.0, 1.1]], ""),
    "words": (("a", "b"), [[1.0, 1.1], [0.0, 0.1]], ""),
    "the others failed": (
        (1, 2, 9),
        [[0.0, 0.1], [1.0, 1.1], [np.nan] * 2],
        "the largest that could be fitted: 9 were",
    ),
}


@pytest.mark.parametrize(("values", "scores", "said"), EDGES.values(), ids=EDGES)
def test_a_choice_at_the_edge_of_what_was_offered_is_told(values: Any, scores: Any, said: str) -> None:
    found = chosen(scores, values)
    assert said in found.remark
    assert bool(said) == bool(found.remark)


def test_numbers_of_a_table_have_the_same_decimals() -> None:
    found = chosen([[0.0068, 0.0069], [0.0963, 0.0965], [0.09, 0.091]])
    assert found.shown(found.means) == ["0.00685", "0.09640", "0.09050"]
    assert found.shown([0.1, np.nan]) == ["0.10000", ""]
    large = chosen([[-61.2, -62.5], [-60.1, -61.4], [-60.9, -62.2]])
    assert large.shown(large.means) == ["-61.85", "-60.75", "-61.55"]
    assert chosen([[0.0, 0.0]] * 3).shown([0.0]) == ["0"]


@pytest.mark.parametrize(("means", "figures"), [([0.0, 5.0, 9.0, 14.0], 1), ([0.0, 9.0, 9.01, 9.02], 2)])
def test_the_second_figure_is_drawn_where_several_values_are_near_the_best(means: list[float], figures: int) -> None:
    noise = 0.05 * np.random.default_rng(0).normal(size=(4, 5))
    found = chosen(np.array(means)[:, None] + noise, (1, 2, 3, 4))
    assert len(list(_figures(found))) == figures


def test_no_fold_sees_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    tested: list[set[int]] = []
    original = selection.train

    def spy(one: Experiment, *arguments: Any, **named: Any) -> Any:
        run = original(one, *arguments, **named)
        (session,) = run.sessions or []
        parts = [set(part.table["trial"]) for part in (session.train, session.validation, session.test)]
        seen.append(set.union(*parts))
        tested.append(parts[2])
        assert not parts[0] & parts[2]
        return run

    monkeypatch.setattr(selection, "train", spy)
    counts = from_arrays(np.random.default_rng(0).poisson(2.0, (20, 10, 6)), bin_width_s=0.05)
    for split, folds, size in (({"test": 0.25}, 5, 3), ({"folds": 3, "untouched": 0.25}, 3, 5)):
        seen.clear(), tested.clear()
        found = select(experiment(FactorAnalysisConfig(), gap_s=0.0, **split), "model.latents", [2, 1], [counts])
        assert found.values == (1, 2)
        assert found.scores.shape == (2, folds)
        assert set.union(*seen) == set(range(15))
        each = [set(range(size * fold, size * fold + size)) for fold in range(folds)]
        assert tested == each + each


@pytest.mark.parametrize("rank", [1, 3])
def test_ranks_from_one_pass_score_as_refits_do(rank: int) -> None:
    """Without a gap the folds are the same, and so is every number."""
    recording, values = planted(rank), [0, 1, 2, 3, 4]
    base = experiment(ReducedRankRegressionConfig(), gap_s=0.0)
    found = select(base, "model.rank", values, [recording])
    assert found.one_pass
    refits = np.full_like(found.scores, np.nan)
    for place, value in enumerate(values):
        for fold in range(5):
            split = SplitConfig(folds=5, fold=fold, untouched=0.2, validation=0.0, gap_s=0.0)
            one = replace(base, model=replace(base.model, rank=value), data=replace(base.data, split=split))
            run = train(one, [recording], write=False)
            (session,) = run.sessions or []
            (score,) = METRICS["variance_explained"](Evaluation(run.model, session))
            refits[place, fold] = score.value
    np.testing.assert_allclose(found.scores, refits, atol=1e-9)
    assert found.chosen == replace(found, scores=refits).chosen == rank


@pytest.mark.parametrize(("setting", "planted"), [("relevant", 2), ("latents", 4)])
def test_dimensions_of_psid_from_one_pass_are_those_that_refits_choose(setting: str, planted: int) -> None:
    """By forecasts of 1, 2 and 4 bins ahead, which weigh bins and units another way: the choice is the same."""
    model = PSIDConfig(latents=4, relevant=2, horizon_bins=4)
    base = experiment(model, gap_s=0.0, folds=2, untouched=0.25)
    values, recording = (
        {"relevant": [1, 2, 3], "latents": [3, 4, 5]}[setting],
        dissociation(trials=16, bins=200),
    )
    found = select(base, f"model.{setting}", values, [recording])
    assert found.one_pass
    ahead = (1, 2, 4)
    metric = ForecastBehavior(ahead) if setting == "relevant" else ForecastR2(ahead)
    refits = np.full_like(found.scores, np.nan)
    for place, value in enumerate(values):
        sizes = {"relevant": value, "latents": value} if setting == "relevant" else {"latents": value}
        for fold in range(2):
            split = replace(base.data.split, fold=fold, validation=0.0)
            one = replace(base, model=replace(model, **sizes), data=replace(base.data, split=split))
            run = train(one, [recording], write=False)
            (session,) = run.sessions or []
            refits[place, fold] = np.mean([score.value for score in metric(Evaluation(run.model, session))])
    assert found.chosen == replace(found, scores=refits).chosen == planted


def test_what_is_not_whole_or_too_large_for_one_pass_is_left_out() -> None:
    found = select(experiment(ReducedRankRegressionConfig()), "model.rank", [1, 2, 50], [planted()])
    assert found.chosen == 2
    assert list(found.failed) == [2]
    assert "compares 0, 1, 2, 3, 4, 5, 6, 7" in found.failed[2]


def test_a_value_that_cannot_be_fitted_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = selection.train

    def diverges(one: Experiment, *arguments: Any, **named: Any) -> Any:
        if one.model.latents == 2:
            raise DivergedError("loss is nan")
        return original(one, *arguments, **named)

    monkeypatch.setattr(selection, "train", diverges)
    counts = from_arrays(np.random.default_rng(0).poisson(2.0, (20, 10, 6)), bin_width_s=0.05)
    kept: list[Selection] = []
    found = select(experiment(LDSConfig()), "model.latents", [1, 2, 3], [counts], keep=kept.append)
    assert found.failed == {1: "training diverged: loss is nan"}
    assert found.compared == (0, 2)
    assert len(kept) == 11  # ten fits, and the whole
    assert np.isfinite(kept[3].scores).sum() == 4


def test_a_value_that_no_model_can_be_built_with_is_left_out() -> None:
    counts = from_arrays(np.random.default_rng(0).poisson(2.0, (20, 10, 6)), bin_width_s=0.05)
    found = select(experiment(FactorAnalysisConfig(), folds=2), "model.latents", [0, 1, 2], [counts])
    assert found.failed == {0: "model.latents is 0."}
    with pytest.raises(UserError, match=r"model\.latents is -1"):
        select(experiment(FactorAnalysisConfig()), "model.latents", [-1, -2], [counts])


def test_where_nothing_can_be_fitted_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*_: Any, **__: Any) -> Any:
        raise DivergedError("loss is nan")

    monkeypatch.setattr(selection, "train", diverges)
    with pytest.raises(UserError, match=r"No value of model\.latents could be compared") as raised:
        select(experiment(LDSConfig()), "model.latents", [1, 2], [planted()])
    assert "loss is nan" in str(raised.value)


def test_counts_are_co_smoothed_where_there_is_no_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    latent = np.repeat(random.normal(size=(30, 5, 1)), 4, 1)
    counts = from_arrays(random.poisson(np.exp(latent @ random.normal(size=(1, 12)))), bin_width_s=0.05)
    held_out = []
    original = selection.train

    def spy(one: Experiment, *arguments: Any, **named: Any) -> Any:
        held_out.append(one.data.split.held_out_units)
        return original(one, *arguments, **named)

    monkeypatch.setattr(selection, "train", spy)
    found = select(experiment(PCAConfig(), folds=3), "model.latents", [1, 4], [counts])
    assert found.unit == "bits/spike"
    assert set(held_out) == {0.25}
    assert found.scores.min() > 0.1


def test_with_few_units_it_is_the_likelihood_unless_words_change_what_it_is_of() -> None:
    counts = from_arrays(np.random.default_rng(0).poisson(2.0, (20, 10, 6)), bin_width_s=0.05)
    numbers = select(experiment(FactorAnalysisConfig(), folds=2), "model.latents", [1, 2], [counts])
    assert (numbers.unit, numbers.chosen) == ("nats/bin", 1)
    words = select(experiment(LDSConfig(latents=1), folds=2), "model.emissions", ["gaussian", "poisson"], [counts])
    assert words.unit == "bits/spike"


@pytest.mark.parametrize("key", ["data.bin_width_s", "data.smoothing_s", "seed", "model", "data.split.test"])
def test_what_changes_the_question_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=key):
        select(experiment(LDSConfig()), key, [1, 2], [planted()])


@pytest.mark.parametrize("split", [{"by": "every"}, {"by": "list", "test_trials": [1]}, {"folds": 3, "fold": 1}])
def test_folds_are_contiguous_or_refused(split: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"does not go with a choice"):
        select(experiment(LDSConfig(), **split), "model.latents", [1, 2], [planted()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=rf"model\.latents={value} is no value"):
        select(experiment(LDSConfig()), "model.latents", [1, value], [planted()])


def test_a_single_value_and_an_unknown_setting_are_refused() -> None:
    with pytest.raises(UserError, match="1 value to choose from"):
        select(experiment(LDSConfig()), "model.latents", [2, 2], [planted()])
    with pytest.raises(UserError, match=r"no setting named 'model\.latent'"):
        select(experiment(LDSConfig()), "model.latent", [1, 2], [planted()])
