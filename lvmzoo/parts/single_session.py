"""The refusal of models whose parameters belong to one session."""

from __future__ import annotations

from collections.abc import Sequence

from lvmzoo.batch import Layout
from lvmzoo.errors import UserError

__all__ = ["single_session"]


def single_session(model: str, layouts: Sequence[Layout]) -> Layout:
    """Return the layout of the only session; raises UserError for several."""
    if len(layouts) != 1:
        raise UserError(
            f"{model} was given {len(layouts)} sessions.",
            "It fits one session at a time: its latents would differ between sessions.",
            "Run it once for each session, for instance in a sweep over data.path.",
        )
    return layouts[0]
