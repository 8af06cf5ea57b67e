"""Which column of the trial table sorts the trials into conditions, and the condition of each trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from lvmzoo.errors import UserError, unknown

__all__ = ["Conditions", "choose_conditions", "find_conditions", "match_conditions"]

_TELLING = ("condition", "target", "stimulus", "direction", "choice", "cue", "type", "go", "side")
_NEVER = ("id", "trial", "index", "block")
_MOST_CONDITIONS = 24


@dataclass(frozen=True)
class Conditions:
    """The trial column that sorts trials, and its levels in order."""

    column: str
    levels: tuple[str, ...]

    def codes(self, table: pd.DataFrame) -> Int[np.ndarray, " trial"]:
        """Return the index of each trial's level, -1 where it has none."""
        position = {level: code for code, level in enumerate(self.levels)}
        return np.array([position.get(_label(value), -1) for value in table[self.column]], dtype=np.int64)


def _label(value: Any) -> str:
    if isinstance(value, tuple | list | np.ndarray):
        return ", ".join(_label(item) for item in value)
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return ""
        return str(int(value)) if value == int(value) else f"{value:g}"  # :g merges numbers above a million
    return "" if pd.isna(value) else str(value)


def find_conditions(table: pd.DataFrame) -> Conditions | None:
    """Return the column of a trial table that best reads as the trials' condition, if there is one.

    It has 2 to 24 levels with, in the median, three trials or more; names such as "target" come first; times never.
    """
    for column in _candidates(table):
        counts = table[column].map(_label).value_counts()
        counts = counts[(counts.index != "") & (counts > 0)]  # of a categorical, levels that no trial has count, too
        if not 2 <= len(counts) <= _MOST_CONDITIONS or counts.median() < 3:
            continue
        numeric = pd.to_numeric(pd.Series(counts.index), errors="coerce")
        order_of = (lambda i, n=numeric: n[i]) if numeric.notna().all() else (lambda i, c=counts: c.index[i])
        levels = [counts.index[i] for i in sorted(range(len(counts)), key=order_of)]
        return Conditions(column, tuple(levels))
    return None


def match_conditions(table: pd.DataFrame, column: str | None, levels: tuple[str, ...]) -> Conditions | None:
    """Return the conditions of other trials by the levels known from training, however few of them occur.

    Without a column, it is the first, in the order of ``find_conditions``, that holds nothing but these levels; where
    all hold others, it is the one that ``find_conditions`` finds.
    """
    if not levels:
        return None
    if column in table.columns:
        return Conditions(str(column), levels)
    for candidate in _candidates(table):
        labels = {label for label in table[candidate].map(_label) if label}
        if labels and labels <= set(levels):
            return Conditions(candidate, levels)
    found = find_conditions(table)
    return None if found is None else Conditions(found.column, levels)


def _candidates(table: pd.DataFrame) -> list[str]:
    """Return the columns that may sort trials, those with telling names first."""
    columns = []
    for column in map(str, table.columns):
        lower = column.lower()
        if not lower.endswith(("_s", "_time", "_bins", "_id", "_index")) and lower not in _NEVER:
            columns.append(column)

    def rank(column: str) -> int:
        return next((place for place, word in enumerate(_TELLING) if word in column.lower()), len(_TELLING))

    return sorted(columns, key=rank)


def choose_conditions(table: pd.DataFrame, column: str | None) -> Conditions | None:
    """Return the conditions of a column, or those that ``find_conditions`` finds where none is named.

    Raises
    ------
    UserError
        If there is no such column, or it holds one level or a level a trial.
    """
    if column is None:
        return find_conditions(table)
    if column not in table.columns:
        raise unknown("trial column (data.condition)", column, map(str, table.columns))
    levels = sorted({label for label in table[column].map(_label) if label}, key=_as_number)
    if not 2 <= len(levels) < max(len(table), 2):
        raise UserError(
            f"data.condition={column} sorts {len(table)} trials into {len(levels)} conditions.",
            "There are at least two, and some hold more than one trial.",
            "Choose another column of the trial table, or null to leave the choice to lvmzoo.",
        )
    return Conditions(column, tuple(levels))


def _as_number(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return np.inf, label
