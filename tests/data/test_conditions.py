"""Levels of trial columns of unusual types."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lvmzoo.data.conditions import find_conditions, match_conditions


def test_a_category_without_a_trial_is_no_level() -> None:
    column = pd.Categorical(["a", "b"] * 6, categories=["a", "b", "c", "d", "e"])
    found = find_conditions(pd.DataFrame({"stimulus": column}))
    assert found is not None
    assert found.levels == ("a", "b")


def test_large_numbers_are_told_apart() -> None:
    """Identifiers become floats where some trial has none."""
    table = pd.DataFrame({"image": [1000001.0, 1000002.0, np.nan] * 6})
    found = find_conditions(table)
    assert found is not None
    assert found.levels == ("1000001", "1000002")
    assert found.codes(table)[:3].tolist() == [0, 1, -1]


def test_a_missing_time_is_no_level() -> None:
    day = pd.Timestamp("2020-01-01")
    assert find_conditions(pd.DataFrame({"cue": [day, pd.NaT] * 6})) is None


def test_other_trials_are_sorted_by_the_levels_of_training_however_few_occur() -> None:
    """Chosen anew, a single trial would have no condition, or one of another column."""
    columns = {"contrast": np.tile([1, 2], 20), "target": np.tile(["left", "right", "up", "up"], 10)}
    training = find_conditions(pd.DataFrame(columns))
    assert training is not None
    assert training.column == "target"
    one = pd.DataFrame({"contrast": [1, 2] * 4, "target": ["right"] * 8})
    for column in (None, "target"):
        found = match_conditions(one, column, training.levels)
        assert found is not None
        assert found.codes(one).tolist() == [1] * 8
    strange = match_conditions(one.assign(target="back"), "target", training.levels)
    assert strange is not None
    assert strange.codes(one.assign(target="back")).tolist() == [-1] * 8
    more = pd.DataFrame({"target": ["right", "back"] * 4})
    wider = match_conditions(more, None, training.levels)
    assert wider is not None
    assert wider.codes(more).tolist() == [1, -1] * 4
    assert match_conditions(one.drop(columns=["target", "contrast"]), None, training.levels) is None
    assert match_conditions(one, None, ()) is None
