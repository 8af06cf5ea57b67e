"""Levels of trial columns of unusual types."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lvmzoo.data.conditions import find_conditions


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
