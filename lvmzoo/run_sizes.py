"""How many latents runs have, and of how many units they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lvmzoo import registry
from lvmzoo.errors import UserError
from lvmzoo.models.base import HasDynamics
from lvmzoo.sweep_runs import SavedRun, read_runs

__all__ = ["with_sizes"]


def with_sizes(outcomes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return outcomes with "size": the number of latents and of units, and whether latents have a law of motion.

    Those whose latents were not saved, and of models that are not there (of a plugin), have none.

    Parameters
    ----------
    outcomes : of the jobs of a sweep, or of runs.
    """
    runs = read_runs(outcomes)
    return [dict(o) | _size(str(o.get("model", "")), runs.get(int(o["job"]))) for o in outcomes]


def _size(model: str, run: SavedRun | None) -> dict[str, Any]:
    widths = [part.shape[1] for session in run.layouts for part in run.latents(session).values()] if run else []
    if run is None or not widths:
        return {}
    try:
        moves = issubclass(registry.get(model).model, HasDynamics)
    except UserError:
        return {}
    units = sum(len(layout.held_in) for layout in run.layouts.values())
    return {"size": {"latents": max(widths), "units": units, "moves": moves}}
