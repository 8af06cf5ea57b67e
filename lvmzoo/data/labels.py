"""Distances between behavior labels: each variable on a common scale, angles on the circle, categories exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from lvmzoo.batch import Kind, Variable
from lvmzoo.errors import UserError

__all__ = ["Labels", "NearestLabel"]


class NearestLabel:
    """Looks up the members whose label is nearest to a query, at a cost that hardly grows with their number.

    Members with equal labels are one point, drawn from uniformly: a label that holds still must not make one bin the
    positive of all others.

    Parameters
    ----------
    points : label of each member.
    members : what is returned, one a point.
    """

    def __init__(self, points: Float[np.ndarray, "point channel"], members: Int[np.ndarray, " point"]) -> None:
        self._points, group = np.unique(points, axis=0, return_inverse=True)
        self._members = members[np.argsort(group, kind="stable")]
        self._count = np.bincount(group, minlength=len(self._points))
        self._first = np.cumsum(self._count) - self._count
        self._tree = None if points.shape[1] == 1 else cKDTree(self._points)

    def __call__(
        self, queries: Float[np.ndarray, "query channel"], uniform: Float[np.ndarray, " query"]
    ) -> Int[np.ndarray, " query"]:
        """Return one nearest member of each query; ``uniform`` in [0, 1) chooses among equals."""
        nearest = self._nearest_on_line(queries[:, 0]) if self._tree is None else self._tree.query(queries)[1]
        return self._members[self._first[nearest] + (uniform * self._count[nearest]).astype(np.int64)]

    def _nearest_on_line(self, queries: Float[np.ndarray, " query"]) -> Int[np.ndarray, " query"]:
        line = self._points[:, 0]
        right = np.searchsorted(line, queries).clip(1, max(len(line) - 1, 1))
        left = right - 1
        right = np.minimum(right, len(line) - 1)
        return np.where(queries - line[left] <= line[right] - queries, left, right)


class Labels:
    """Labels of the bins of one session.

    Parameters
    ----------
    variables : the variables that define a positive, and their kinds.
    values : labels of each bin; NaN where there is none.
    session : for messages.
    scales : divide the continuous variables; None takes their standard deviations here.

    Raises
    ------
    UserError : a variable without a label, or with the same label everywhere (not where ``scales`` are given: a short
        stretch of held-out data may well hold one category only).
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        values: Mapping[str, Float[np.ndarray, "bin _"]],
        session: str,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.labeled: Bool[np.ndarray, " bin"] = np.logical_and.reduce(
            [np.isfinite(values[name]).all(1) for name in variables]
        )
        if not self.labeled.any():
            raise UserError(
                f"No bin of session '{session}' has a label for {_listed(variables)}.",
                "A behavior positive is a bin with a similar label; every variable must be known in the same bin.",
                "Set model.behavior to variables that were tracked, or model.positives=time.",
            )
        known = {name: values[name][self.labeled].astype(np.float64) for name in variables}
        if scales is None:
            for name, variable in variables.items():
                _refuse_constant(name, variable, known[name], session)
            scales = {
                name: float(np.sqrt(known[name].var(0).mean()))
                for name, variable in variables.items()
                if variable.kind is Kind.CONTINUOUS
            }
        self.scales = dict(scales)
        smooth = {name: v for name, v in variables.items() if v.kind is not Kind.CATEGORICAL}
        columns = [values[name].astype(np.float64) / self.scales.get(name, 1.0) for name in smooth]
        self._smooth = np.concatenate(columns, 1) if columns else None
        self._circular = np.repeat(
            [v.kind is Kind.CIRCULAR for v in smooth.values()], [values[name].shape[1] for name in smooth]
        ).astype(bool)
        self.codes = np.zeros(len(self.labeled), np.int64)
        categories = [known[name] for name, v in variables.items() if v.kind is Kind.CATEGORICAL]
        if categories:
            self.codes[self.labeled] = np.unique(np.concatenate(categories, 1), axis=0, return_inverse=True)[1]

    @property
    def continuous(self) -> bool:
        """Whether any variable is more than a category."""
        return self._smooth is not None

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
        angles = moved[:, self._circular]
        return np.concatenate([moved[:, ~self._circular], np.cos(angles), np.sin(angles)], axis=1)


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
