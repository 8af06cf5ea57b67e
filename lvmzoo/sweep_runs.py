"""Runs of a sweep beside each other: their latents read back, and how consistent they are."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lvmzoo.batch import Layout, Variable
from lvmzoo.data.safety import check_npz
from lvmzoo.errors import UserError
from lvmzoo.metrics.consistency import Embedded, aligned_consistency, consistency
from lvmzoo.run_files import read_json

__all__ = ["SavedRun", "between", "read_runs", "with_consistency"]

PARTS = ("train", "test")
MOST_BINS = 20_000  # of a part that a map is fitted or scored on; longer recordings are thinned evenly


@dataclass(frozen=True)
class SavedRun:
    """Latents and labels of a finished run of a sweep, read from its folder when they are asked for."""

    job: int
    folder: Path
    fingerprint: str  # of the activity and its split; empty: unknown
    layouts: Mapping[str, Layout]
    shifted: bool  # its labels are a control

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        check_npz(self.folder / "latents.npz")
        with np.load(self.folder / "latents.npz", allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def latents(self, session: str) -> dict[str, np.ndarray]:
        """Return the latents of training and test bins; nothing for a part that a run lacks or that is not finite."""
        found = {part: self._arrays.get(f"{session}/{part}/latents") for part in PARTS}
        return {
            part: values[:: -(-len(values) // MOST_BINS) or 1].astype(np.float64)
            for part, values in found.items()
            if values is not None and len(values) and np.isfinite(values).all()
        }

    def trials(self, session: str, part: str = "test") -> list[np.ndarray]:
        """Return the latents of each trial of a part, every bin of them."""
        latents, trial = (self._arrays.get(f"{session}/{part}/{name}") for name in ("latents", "trial"))
        if latents is None or trial is None or not len(latents):
            return []
        return np.split(latents.astype(np.float64), np.flatnonzero(np.diff(trial)) + 1)

    def labels(self, session: str, name: str, part: str = "test") -> np.ndarray | None:
        """Return a behavior variable (bin, channel), or None where the run has none of that name."""
        return self._arrays.get(f"{session}/{part}/behavior/{name}")

    def embedded(self, session: str, name: str) -> Embedded:
        """Return latents with the labels that they are aligned on."""
        trials = {part: self._arrays[f"{session}/{part}/trial"] for part in PARTS}
        return Embedded(
            {part: self._arrays[f"{session}/{part}/latents"].astype(np.float64) for part in PARTS},
            {part: self._arrays[f"{session}/{part}/behavior/{name}"].astype(np.float64) for part in PARTS},
            {part: np.unique(trial, return_counts=True)[1] for part, trial in trials.items()},
        )


@dataclass
class Between:
    """Consistency of two runs, and the null where their labels aligned them."""

    value: float
    null: list[float] = field(default_factory=list)


def read_runs(outcomes: Sequence[Mapping[str, Any]]) -> dict[int, SavedRun]:
    """Return the finished runs of a sweep whose latents lie in their folders, by job."""
    found = {}
    for outcome in outcomes:
        folder = Path(outcome.get("folder", ""))
        if outcome["code"] or not (folder / "latents.npz").is_file() or not (folder / "run.json").is_file():
            continue
        described = read_json(folder / "run.json")
        try:
            layouts = [Layout.from_json(plain) for plain in described["layouts"]]
            fingerprint = str(described["facts"].get("fingerprint", ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{folder / 'run.json'} cannot be read: {type(error).__name__} {error}.",
                "It is damaged, or another release wrote it.",
                "Leave the run out, or train it again.",
            ) from error
        found[int(outcome["job"])] = SavedRun(
            int(outcome["job"]),
            folder,
            fingerprint,
            {layout.session: layout for layout in layouts},
            any(re.fullmatch(r"data\.shift_behavior=\d+", word) for word in outcome["overrides"]),
        )
    return found


def between(one: SavedRun, other: SavedRun, label: str | None = None) -> Between | None:
    """Return how well the latents of one run give those of another: the mean over sessions of both.

    Runs of the same bins are compared bin by bin, those of different recordings after aligning on a label; None where
    neither is possible.
    """
    if one.fingerprint and one.fingerprint == other.fingerprint:
        both = [(one.latents(session), other.latents(session)) for session in one.layouts if session in other.layouts]
        values = [consistency(a, b) for a, b in both if set(a) == set(b) == set(PARTS)]
        values = [value for value in values if np.isfinite(value)]
        return Between(float(np.mean(values))) if values else None
    if label is None:
        return None
    found = []
    for a, b in itertools.product(one.layouts, other.layouts):
        variable = _shared(one.layouts[a], other.layouts[b], label)
        tested = all(set(run.latents(session)) == set(PARTS) for run, session in ((one, a), (other, b)))
        if variable is not None and tested:
            found.append(aligned_consistency(one.embedded(a, label), other.embedded(b, label), variable))
    found = [each for each in found if np.isfinite(each.value)]
    if not found:
        return None
    return Between(float(np.mean([f.value for f in found])), list(np.nanmean([f.null for f in found], axis=0)))


def with_consistency(outcomes: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return outcomes with one more score each: the mean consistency of the seeds of the same setting.

    The mean over both directions of all pairs of runs on the same bins, its standard deviation over these ``n`` pairs.

    Parameters
    ----------
    outcomes : of the jobs of a sweep.
    groups : jobs that differ in their seed alone.
    """
    runs, found = read_runs(outcomes), [dict(outcome) for outcome in outcomes]
    by_job = {int(outcome["job"]): outcome for outcome in found}
    for group in groups:
        same_bins: dict[str, list[SavedRun]] = {}  # folds have others
        for run in (runs[job] for job in group if job in runs):
            same_bins.setdefault(run.fingerprint, []).append(run)
        for members in same_bins.values():
            pairs = [(between(a, b), between(b, a)) for a, b in itertools.combinations(members, 2)]
            values = [(one.value + other.value) / 2 for one, other in pairs if one is not None and other is not None]
            if not values:
                continue
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            score = {"metric": "consistency", "target": "", "value": float(np.mean(values)), "spread": spread}
            for run in members:
                scores = by_job[run.job]["scores"]
                by_job[run.job]["scores"] = [*scores, score | {"better": "higher", "unit": "", "n": len(values)}]
    return found


def _shared(one: Layout, other: Layout, label: str) -> Variable | None:
    a, b = one.behavior.get(label), other.behavior.get(label)
    return a if a is not None and a == b else None
