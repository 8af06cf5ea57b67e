"""The units of several sessions, one after the other, of which each has parameters of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lvmzoo.batch import Layout
from lvmzoo.errors import unknown_session

__all__ = ["SessionUnits"]


class SessionUnits:
    """Where the units of each session lie among those of all sessions."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.slices: dict[str, slice] = {}
        self.total = 0
        for layout in layouts:
            self.slices[layout.session] = slice(self.total, self.total + layout.n_units)
            self.total += layout.n_units

    def of(self, session: str) -> slice:
        """Return where they lie; raises UserError for a session that the model was not built for."""
        if session not in self.slices:
            raise unknown_session(session, self.slices)
        return self.slices[session]

    def place(self, session: str, values: Tensor) -> Tensor:
        """Return sums over the units of one session as sums over those of all: zeros elsewhere."""
        everywhere = values.new_zeros(self.total, *values.shape[1:])
        everywhere[self.of(session)] = values
        return everywhere
