"""Starting values that give the latents of several sessions the same meaning, though their units differ.

Principal components of the condition averages of all sessions' units together are predicted from each session's own
units: principal-component regression, as in Pandarinath et al. (2018), doi:10.1038/s41592-018-0109-9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Kind, Layout

__all__ = ["Maps", "condition_averages", "principal_component_regression"]

Condition = tuple[str, ...]


class Maps(NamedTuple):
    """From the standardized activity of one session to common components of unit variance, and back."""

    read_in: Float[Tensor, "component unit"]
    readout: Float[Tensor, "unit component"]


def condition_averages(
    batches: Iterable[Batch], layouts: Mapping[str, Layout]
) -> dict[str, Float[Tensor, "sample unit"]]:
    """Return the mean activity of each session in the bins of each condition that all sessions have.

    Conditions are the combinations of the categorical variables that all sessions know, where they do not change
    within a trial; without any, all trials are of one condition. Bins are counted from the beginning of a trial.
    """
    shared = sorted(
        name
        for name in set.intersection(*(set(layout.behavior) for layout in layouts.values()))
        if all(layout.behavior[name].kind is Kind.CATEGORICAL for layout in layouts.values())
    )
    sums: dict[str, dict[tuple[Condition, int], tuple[Tensor, Tensor]]] = {session: {} for session in layouts}
    for batch in batches:
        seen = batch.observed & batch.valid.unsqueeze(-1)
        activity = torch.where(seen, batch.activity.double(), 0.0)
        found = sums[batch.layout.session]
        for trial in range(batch.n_trials):
            condition = tuple(_label(batch, name, trial) for name in shared)
            first = int(batch.start_bin[trial])
            for t in torch.nonzero(batch.valid[trial])[:, 0].tolist():
                total, count = found.get((condition, first + t), (0.0, 0.0))
                found[condition, first + t] = (total + activity[trial, t], count + seen[trial, t].double())
    common = sorted(set.intersection(*(set(found) for found in sums.values())))
    return {
        session: torch.stack([found[key][0] / found[key][1].clamp(min=1) for key in common])
        if common
        else torch.zeros(0, layouts[session].n_units, dtype=torch.float64)
        for session, found in sums.items()
    }


def _label(batch: Batch, name: str, trial: int) -> str:
    values = batch.behavior[name][trial, batch.valid[trial], 0]
    values = values[~values.isnan()]
    if not len(values) or bool((values != values[0]).any()):
        return ""
    return batch.layout.behavior[name].levels[int(values[0])]


def principal_component_regression(
    averages: Sequence[Float[Tensor, "sample _unit"]], held_in: Sequence[Sequence[int]], components: int
) -> list[Maps]:
    """Return the maps of each session: in from its held-in units, out to all of them.

    There are at most ``components`` components, and fewer where the averages span less. Each session's regression is
    on as many of its own principal components.
    """
    centered = [values - values.mean(0) for values in averages]
    seen = [values[:, list(units)] for values, units in zip(centered, held_in, strict=True)]
    left, sizes, _ = torch.linalg.svd(torch.cat(seen, 1), full_matrices=False)
    found = min(components, _rank(sizes))
    scores = left[:, :found] * len(left) ** 0.5
    maps = []
    for values, own in zip(centered, seen, strict=True):
        own_left, own_sizes, own_right = torch.linalg.svd(own, full_matrices=False)
        kept = min(found, _rank(own_sizes))
        inverse = own_right[:kept].T / own_sizes[:kept] @ own_left[:, :kept].T
        maps.append(Maps((inverse @ scores).T, values.T @ scores / len(scores)))
    return maps


def _rank(sizes: Float[Tensor, " component"]) -> int:
    return int((sizes > 1e-8 * sizes.max()).sum()) if len(sizes) else 0
