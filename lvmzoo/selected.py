"""Values of a setting with their scores fold by fold: which is the best, and which is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from lvmzoo.inference.gaussian_process_dimension import fewest_within_one_error
from lvmzoo.pooling import same
from lvmzoo.selection_metric import is_number

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """Values of a setting, what each scored on the folds left out, and which is chosen; higher scores are better."""

    key: str
    values: tuple[Any, ...]
    scores: Float[np.ndarray, "value fold"]  # NaN where there is none
    metric: str  # in words
    unit: str = ""
    failed: Mapping[int, str] = field(default_factory=dict)  # place of a value -> why it was left out
    one_pass: bool = False  # all values from the moments of one fit

    @property
    def compared(self) -> tuple[int, ...]:
        """Places of the values that have a score in every fold that is used."""
        used = np.isfinite(self.scores[:, self._folds]).all(1)
        return tuple(place for place in range(len(self.values)) if used[place] and place not in self.failed)

    @property
    def _folds(self) -> np.ndarray:
        """Folds in which any value has a score: one without a spike has none of any."""
        return np.flatnonzero(np.isfinite(self.scores).any(0))

    @property
    def folds(self) -> int:
        """Number of folds that values are compared in."""
        return len(self._folds)

    @property
    def means(self) -> Float[np.ndarray, " value"]:
        """Mean score over folds; NaN for a value that is not compared."""
        return self._of_compared(lambda scores: scores.mean(1))

    @property
    def errors(self) -> Float[np.ndarray, " value"]:
        """Standard error over folds of each value's difference from the best: 0 for the best; NaN with one fold."""

        def error(scores: np.ndarray) -> np.ndarray:
            behind = scores[scores.mean(1).argmax()] - scores
            return behind.std(1, ddof=1) / len(behind.T) ** 0.5 if self.folds > 1 else np.full(len(scores), np.nan)

        return self._of_compared(error)

    @property
    def best(self) -> Any:
        """The value with the highest mean score; the first of those that are equal."""
        return self.values[int(np.nanargmax(self.means))]

    @property
    def chosen(self) -> Any:
        """The smallest number that is worse than the best by at most one standard error of their difference.

        Breiman, Friedman, Olshen, Stone (1984), Classification and Regression Trees, section 3.4.3, with the standard
        error of the differences fold by fold: what makes one fold harder than another is the same for all values. Of
        values that are no numbers, and of a single fold, it is the best.
        """
        numbers = [self.values[place] for place in self.compared]
        if self.folds < 2 or not all(map(is_number, numbers)):
            return self.best
        return fewest_within_one_error(-self.scores[list(self.compared)][:, self._folds].T, numbers)

    @property
    def remark(self) -> str:
        """Say, after its name, that the chosen number is the largest or smallest that was compared; "" for others.

        And say it where all values have the same scores.
        One latent, or rank 0, is the smallest that there is; nothing is said of a choice among words.
        """
        numbers = [self.values[place] for place in self.compared]
        if len(numbers) > 1 and same([float(mean) for mean in self.means[list(self.compared)]]):
            return "is no better than the others: all values have the same score."
        if not all(map(is_number, numbers)) or len(numbers) < 2:
            return ""
        chosen = self.chosen
        if chosen == max(numbers):
            if larger := [value for value in self.values if is_number(value) and value > chosen]:
                return f"is the largest that could be fitted: {', '.join(map(str, larger))} were left out."
            return f"is the largest offered: larger ones may be better, offer some above {chosen}."
        if chosen == min(numbers) and chosen > (1 if isinstance(chosen, int) else 0):
            return f"is the smallest offered: smaller ones may do as well, offer some below {chosen}."
        return ""

    def shown(self, numbers: Iterable[float]) -> list[str]:
        """Return scores, their means or errors with as many decimals each as tell the values apart; "" for none.

        Four digits of the largest mean, and two of the usual standard error.
        """
        largest = float(np.nanmax(np.abs(self.means)))
        errors = self.errors[self.errors > 1e-9 * largest]  # less is rounding
        wanted = [3 - np.floor(np.log10(largest))] if largest else []
        wanted += [1 - np.floor(np.log10(np.median(errors)))] if len(errors) else []
        decimals = int(np.clip(max(wanted, default=0), 0, 8))
        return [f"{number:.{decimals}f}" if np.isfinite(number) else "" for number in numbers]

    def _of_compared(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        rows, found = list(self.compared), np.full(len(self.values), np.nan)
        found[rows] = function(self.scores[rows][:, self._folds])
        return found
