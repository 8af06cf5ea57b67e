"""The values that a search tries: those that promise most, and none twice while there are others.

A run with the same settings ends in the same score, so trying it again tells nothing; in a small range, such as that
of a number of latents, Optuna's own sampler may spend half of its trials so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    DiscreteUniformDistribution,
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
    n_startup_trials : so many are drawn at random.
    """

    def __init__(self, seed: int | None = None, n_startup_trials: int = 10) -> None:
        super().__init__(seed=seed, n_startup_trials=n_startup_trials)
        self._random = np.random.default_rng(seed)
        self._own: set[int] = set()  # trials of this search; what another one left running may never end

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value that leaves something untried, given the values that the trial has so far."""
        alike = [other for other in study.get_trials(deepcopy=False) if self._counts(other, trial, param_name)]
        self._own.add(trial.number)
        used = _used_up(alike, [*trial.params, param_name])
        for _ in range(DRAWS):
            value = super().sample_independent(study, trial, param_name, param_distribution)
            if value not in used:
                return value
        left = [value for value in _values(param_distribution) if value not in used]
        return left[self._random.integers(len(left))] if left else value

    def _counts(self, other: FrozenTrial, trial: FrozenTrial, name: str) -> bool:
        """Return whether another trial has the values that this one has so far, and a score, now or soon."""
        running = other.state is TrialState.RUNNING and other.number in self._own
        known = name in other.params and all(other.params.get(key) == value for key, value in trial.params.items())
        return known and (running or other.state is TrialState.COMPLETE)


def _used_up(trials: Sequence[FrozenTrial], known: Sequence[str]) -> set[Any]:
    """Return the values of the last of the known names with which all values of the further ones were tried."""
    if not trials:
        return set()
    further = {key: values for key, values in trials[-1].distributions.items() if key not in known}
    room = math.prod(len(_values(values)) or math.inf for values in further.values())
    tried = defaultdict(set)
    for trial in trials:
        tried[trial.params[known[-1]]].add(tuple(trial.params.get(key) for key in further))
    return {value for value, completions in tried.items() if len(completions) >= room}


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntUniformDistribution | IntLogUniformDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, DiscreteUniformDistribution):
        steps = math.floor((distribution.high - distribution.low) / distribution.q + 1e-9)
        return [distribution.low + step * distribution.q for step in range(steps + 1)]
    return []  # of a real number there is always another one
