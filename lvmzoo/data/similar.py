"""Behavior positives: bins of a session whose label is similar to that of a reference, in this or another session.

A reference's label is moved: by a change of the label that was seen over ``time_offset_bins`` bins somewhere in the
reference's session ("time_delta"), or by Gaussian noise ("delta"). The positive is a bin whose label is nearest to
that, among those of exactly the same categories; where all variables are categories, it is any of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import PairSampling
from lvmzoo.data.labels import Labels, label_scales, match_categories
from lvmzoo.data.nearest import NearestLabel
from lvmzoo.data.windows import Windows
from lvmzoo.errors import UserError

__all__ = ["Query", "Similar", "read_labels", "shared_categories"]


class Query(NamedTuple):
    """What positives are looked for: the category of each, and the label where there is more than a category."""

    codes: Int[np.ndarray, " query"]
    points: Float[np.ndarray, "query coordinate"]


class Similar:
    """Labels of one session, to ask for and to look up.

    Parameters
    ----------
    windows : where the windows lie.
    labels : of each position.
    categories : codes that positives are drawn from.
    sampling : what a positive is.

    Attributes
    ----------
    eligible : positions with a whole window and a label of those categories.
    serves_all : whether all positions with a whole window are.

    Raises
    ------
    UserError : no label changes over ``time_offset_bins``, where it should.
    """

    def __init__(
        self, windows: Windows, labels: Labels, categories: Int[np.ndarray, " code"], sampling: PairSampling
    ) -> None:
        self._labels, self._delta = labels, sampling.delta
        self.eligible: Bool[np.ndarray, " position"] = (
            windows.whole & labels.labeled & np.isin(labels.codes, categories)
        )
        self.serves_all = bool(np.array_equal(self.eligible, windows.whole))
        self._changes: np.ndarray | None = None
        if labels.continuous and sampling.delta is None:
            earlier = np.flatnonzero(windows.have_later(labels.labeled))
            if not len(earlier):
                raise windows.none_later()
            self._changes = labels.changes(earlier, earlier + sampling.time_offset_bins)
        self._candidates: dict[int, tuple[np.ndarray, NearestLabel | None]] = {}
        for code in categories:
            bins = np.flatnonzero(self.eligible & (labels.codes == code))
            nearest = NearestLabel(labels.points(bins), bins) if labels.continuous else None
            self._candidates[int(code)] = (bins, nearest)

    @property
    def codes(self) -> Int[np.ndarray, " position"]:
        """The category of each position."""
        return self._labels.codes

    def ask(self, generator: np.random.Generator, references: Int[np.ndarray, " query"]) -> Query:
        """Return what the positives of references should be like."""
        codes, labels = self._labels.codes[references], self._labels
        if not labels.continuous:
            return Query(codes, np.zeros((len(references), 0)))
        if self._changes is not None:
            change = self._changes[generator.integers(len(self._changes), size=len(references))]
        else:
            assert self._delta is not None
            change = generator.normal(0, self._delta, (len(references), labels.channels))
        return Query(codes, labels.points(references, change))

    def find(self, query: Query, uniform: Float[np.ndarray, " query"]) -> Int[np.ndarray, " query"]:
        """Return a position for each query; ``uniform`` in [0, 1) chooses among those that are equally near."""
        positives = np.empty(len(uniform), np.int64)
        for code, (bins, nearest) in self._candidates.items():
            chosen = slice(None) if len(self._candidates) == 1 else np.flatnonzero(query.codes == code)
            if nearest is None:
                positives[chosen] = bins[(uniform[chosen] * len(bins)).astype(np.int64)]
            else:
                positives[chosen] = nearest(query.points[chosen], uniform[chosen])
        return positives


def read_labels(
    windows: Sequence[Windows], sampling: PairSampling, scales: Mapping[str, float] | None
) -> tuple[list[Labels], Mapping[str, float]]:
    """Return the labels of all sessions on scales that they share, and these; ``scales`` are those of training data.

    Raises
    ------
    UserError : a session without a label, or (in training) with the same label everywhere.
    """
    sessions = {}
    for each in windows:
        behavior = each.trials.behavior
        sessions[each.session] = {name: behavior[name].numpy()[each.stored] for name in sampling.behavior}
    kinds = {each.session: {name: each.trials.layout.behavior[name] for name in sampling.behavior} for each in windows}
    if scales is None:
        scales = label_scales(kinds[windows[0].session], sessions)
    weights = dict(sampling.weights)
    labels = [Labels(kinds[name], values, name, scales, weights) for name, values in sessions.items()]
    match_categories(labels)
    return labels, scales


def shared_categories(
    windows: Sequence[Windows], labels: Sequence[Labels], behavior: Sequence[str]
) -> Int[np.ndarray, " code"]:
    """Return the categories that every session has a window of.

    Raises
    ------
    UserError : there is none, or a session has no window around a bin with a label.
    """
    names = ", ".join(f"'{name}'" for name in behavior)
    shared: np.ndarray | None = None
    for each, own in zip(windows, labels, strict=True):
        found = np.unique(own.codes[each.whole & own.labeled])
        if not len(found):
            raise UserError(
                f"Session '{each.session}' has no whole window around a bin with a label for {names}.",
                "References and positives need a label, and all bins of their windows in one trial.",
                "Set a smaller model.receptive_field_bins, leave variables out of model.behavior, "
                "or set model.positives=time.",
            )
        shared = found if shared is None else np.intersect1d(shared, found)
    assert shared is not None
    if not len(shared):
        listed = "; ".join(f"'{each.session}' has {_some(own)}" for each, own in zip(windows, labels, strict=True))
        raise UserError(
            f"The sessions have no category of {names} in common: {listed}.",
            "A positive has exactly the categories of its reference, and may lie in another session.",
            "Leave variables out of model.behavior, or fit sessions that share their categories.",
        )
    return shared


def _some(labels: Labels) -> str:
    present = [labels.combinations[code] for code in np.unique(labels.codes[labels.labeled])]
    return ", ".join("/".join(map(str, names)) for names in present[:4]) + (", …" if len(present) > 4 else "")
