"""Distances between behavior labels: each variable on a common scale, angles on the circle, categories exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Kind, Variable
from lvmzoo.errors import UserError

__all__ = ["Labels", "label_scales", "match_categories"]

Values = Mapping[str, Float[np.ndarray, "bin _"]]


class Labels:
    """Labels of the bins of one session.

    Parameters
    ----------
    variables : the variables that define a positive, and their kinds.
    values : labels of each bin; NaN where there is none.
    session : for messages.
    scales : divide the continuous variables; None takes their standard deviations here.
    weights : multiply the distances of variables; 1 for those that are not named.

    Attributes
    ----------
    labeled : bins in which every variable is known.
    codes : number of the combination of categories in each bin.
    combinations : what the numbers stand for.

    Raises
    ------
    UserError : no bin has a label; without ``scales``, as in :func:`label_scales`.
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        values: Values,
        session: str,
        scales: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.labeled: Bool[np.ndarray, " bin"] = _labeled(values, variables)
        if not self.labeled.any():
            raise _no_label(values, variables, session)
        if scales is None:
            scales = label_scales(variables, {session: values})
        smooth = [name for name, variable in variables.items() if variable.kind is not Kind.CATEGORICAL]
        columns = [values[name].astype(np.float64) / scales.get(name, 1.0) for name in smooth]
        widths = [values[name].shape[1] for name in smooth]
        self._smooth = np.concatenate(columns, 1) if columns else None
        self._circular = np.repeat([variables[name].kind is Kind.CIRCULAR for name in smooth], widths).astype(bool)
        self._weight = np.repeat([(weights or {}).get(name, 1.0) for name in smooth], widths)
        self.codes = np.zeros(len(self.labeled), np.int64)
        self.combinations: list[tuple[object, ...]] = [()]
        categorical = {name: v for name, v in variables.items() if v.kind is Kind.CATEGORICAL}
        if categorical:
            rows = np.concatenate([values[name][self.labeled] for name in categorical], 1)
            found, codes = np.unique(rows, axis=0, return_inverse=True)
            self.codes[self.labeled] = codes.reshape(-1)
            levels = [v.levels for v in categorical.values() for _ in range(v.channels)]
            self.combinations = [tuple(_names(row, levels)) for row in found]

    @property
    def continuous(self) -> bool:
        """Whether any variable is more than a category."""
        return self._smooth is not None

    @property
    def channels(self) -> int:
        """Number of channels of the variables that are more than a category."""
        return 0 if self._smooth is None else self._smooth.shape[1]

    def changes(
        self, earlier: Int[np.ndarray, " pair"], later: Int[np.ndarray, " pair"]
    ) -> Float[np.ndarray, "pair channel"]:
        """Return the differences of continuous and circular labels between two lists of bins."""
        assert self._smooth is not None
        return self._smooth[later] - self._smooth[earlier]

    def points(
        self, bins: Int[np.ndarray, " bin"], change: Float[np.ndarray, "bin channel"] | float = 0.0
    ) -> Float[np.ndarray, "bin coordinate"]:
        """Return where labels, moved by ``change``, lie: Euclidean distances there are distances of labels."""
        assert self._smooth is not None
        moved = self._smooth[bins] + change
        straight, round_ = ~self._circular, self._circular
        angles, weight = moved[:, round_], self._weight[round_]
        return np.concatenate(
            [moved[:, straight] * self._weight[straight], np.cos(angles) * weight, np.sin(angles) * weight], axis=1
        )


def label_scales(variables: Mapping[str, Variable], sessions: Mapping[str, Values]) -> dict[str, float]:
    """Return the standard deviation of each continuous variable over the labeled bins of all sessions.

    Raises
    ------
    UserError : a session without a label, or with the same label of a variable everywhere.
    """
    known: dict[str, list[np.ndarray]] = {name: [] for name in variables}
    for session, values in sessions.items():
        labeled = _labeled(values, variables)
        if not labeled.any():
            raise _no_label(values, variables, session)
        for name, variable in variables.items():
            known[name].append(values[name][labeled].astype(np.float64))
            _refuse_constant(name, variable, known[name][-1], session)
    return {
        name: float(np.sqrt(np.concatenate(known[name]).var(0).mean()))
        for name, variable in variables.items()
        if variable.kind is Kind.CONTINUOUS
    }


def match_categories(sessions: Sequence[Labels]) -> None:
    """Give equal combinations of categories equal numbers in all sessions; levels are matched by their names."""
    everywhere = sorted({combination for labels in sessions for combination in labels.combinations}, key=str)
    number = {combination: code for code, combination in enumerate(everywhere)}
    for labels in sessions:
        labels.codes = np.array([number[combination] for combination in labels.combinations])[labels.codes]
        labels.combinations = everywhere


def _labeled(values: Values, variables: Mapping[str, Variable]) -> Bool[np.ndarray, " bin"]:
    return np.logical_and.reduce([np.isfinite(values[name]).all(1) for name in variables])


def _names(row: Float[np.ndarray, " variable"], levels: Sequence[Sequence[str]]) -> list[object]:
    """Return the names of levels; the numbers themselves of a variable without names."""
    return [names[int(value)] if names else float(value) for value, names in zip(row, levels, strict=True)]


def _no_label(values: Values, variables: Mapping[str, Variable], session: str) -> UserError:
    known = ", ".join(f"'{name}' in {_labeled(values, {name: variables[name]}).mean():.0%}" for name in variables)
    return UserError(
        f"No bin of session '{session}' has a label for {_listed(variables)}.",
        "A behavior positive is a bin with a similar label; every variable must be known in the same bin. "
        f"Known of training bins: {known}.",
        "Set model.behavior to variables that were tracked, or model.positives=time.",
    )


def _refuse_constant(name: str, variable: Variable, values: np.ndarray, session: str) -> None:
    if variable.kind is Kind.CIRCULAR:
        constant = bool((np.abs(np.exp(1j * values).mean(0)) > 1 - 1e-12).all())
    else:
        constant = bool((np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max()).all())
    if constant:
        raise UserError(
            f"The behavior variable '{name}' of session '{session}' has the same label in every bin.",
            "A contrastive model learns what changes with the label; a constant label says nothing.",
            f"Leave '{name}' out of model.behavior, or set model.positives=time.",
        )


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in names)
