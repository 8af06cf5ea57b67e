"""The values that a search tries: those that promise most, and none twice while there are others.

A run with the same settings ends in the same score, so trying it again tells nothing; in a small range, such as that
of a number of latents, Optuna's own sampler may spend half of its trials so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntLogUniformDistribution,
    IntUniformDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

__all__ = ["UntriedTPESampler"]

DRAWS = 10  # of Optuna's sampler, before a value is taken from all that are left


class UntriedTPESampler(TPESampler):
    """Optuna's tree-structured Parzen estimator, without values that a run had before.

    Bergstra, Bardenet, Bengio & Kégl (2011), Algorithms for hyper-parameter optimization, Advances in Neural
    Information Processing Systems 24.

    Parameters
    ----------
    seed : of the draws; None: another one each time.
    **settings : of ``optuna.samplers.TPESampler``.
    """

    def __init__(self, seed: int | None = None, **settings: Any) -> None:
        super().__init__(seed=seed, **settings)
        self._random = np.random.default_rng(seed)
        self._own: set[int] = set()  # trials of this search; what another one left running may never end

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value with which the values that the trial has so far were not tried, where there is one left."""
        self._own.add(trial.number)
        tried = {
            other.params[param_name]
            for other in study.get_trials(deepcopy=False)
            if self._counts(other) and _without(other.params, param_name) == trial.params
        }
        for _ in range(DRAWS):
            value = super().sample_independent(study, trial, param_name, param_distribution)
            if value not in tried:
                return value
        left = [value for value in _values(param_distribution) if value not in tried]
        return left[self._random.integers(len(left))] if left else value

    def _counts(self, trial: FrozenTrial) -> bool:
        running = trial.state is TrialState.RUNNING and trial.number in self._own
        return running or trial.state is TrialState.COMPLETE


def _without(values: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the values but one; None where that one is not among them."""
    return {key: value for key, value in values.items() if key != name} if name in values else None


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntUniformDistribution | IntLogUniformDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    return []  # of a real number there is always another one
