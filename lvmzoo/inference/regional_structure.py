"""Which latents of a linear dynamical system belong to which region, and which of them may act on which.

    x^i_{t+1} = A_ii x^i_t + sum over j and l of A_ij^(l) x^j_{t+1-l} + w^i,   w^i ~ N(0, Q_i)

The state holds the present latents of all regions, one region after the other. Where communication takes longer than
one bin, it holds the past latents of the regions that send, too: shift registers, which take over what is one bin
younger without any noise. The elements of the dynamics that are not free are zeros, and the ones of the registers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.batch import Layout

__all__ = ["Structure", "shown_latents"]


@dataclass(frozen=True)
class Structure:
    """The regions of a state, each with as many latents."""

    names: tuple[str, ...]
    latents: int  # of each region
    connections: tuple[tuple[str, str], ...]  # (source, target)
    max_lag: int = 1  # bins
    rank: int | None = None  # of the communication from one region to another, over all its lags; None: full

    @cached_property
    def regions(self) -> dict[str, slice]:
        """Rows of the state that are the present latents of each region."""
        return {name: slice(i * self.latents, (i + 1) * self.latents) for i, name in enumerate(self.names)}

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Regions whose past is remembered."""
        sources = {source for source, _ in self.connections}
        return tuple(name for name in self.names if name in sources and self.max_lag > 1)

    @property
    def present(self) -> int:
        """Number of present latents of all regions, which come first."""
        return len(self.names) * self.latents

    @property
    def size(self) -> int:
        """Number of elements of the state."""
        return self.present + (self.max_lag - 1) * len(self.senders) * self.latents

    def place(self, region: str, lag: int) -> slice:
        """Return where the state of bin t holds the latents of a region of bin t + 1 - lag, lag >= 1."""
        if lag == 1:
            return self.regions[region]
        start = self.present + ((lag - 2) * len(self.senders) + self.senders.index(region)) * self.latents
        return slice(start, start + self.latents)

    @cached_property
    def columns(self) -> dict[str, Int[Tensor, " _column"]]:
        """Elements of the state through which each region acts on others, by lag."""
        reach = {name: self.max_lag if name in self.senders else 1 for name in self.names}
        return {
            name: torch.cat([_range(self.place(name, lag)) for lag in range(1, reach[name] + 1)]) for name in self.names
        }

    @cached_property
    def allowed(self) -> Bool[Tensor, "state state"]:
        """Elements of the dynamics that are free."""
        return self.among(self.names)

    def among(self, names: Collection[str]) -> Bool[Tensor, "state state"]:
        """Return the elements of the dynamics that are free if only the named regions act on each other."""
        free = torch.zeros(self.size, self.size, dtype=torch.bool)
        for target, rows in self.regions.items():
            free[rows, rows] = True
            for source in names:
                if (source, target) in self.connections and target in names:
                    free[rows, self.columns[source]] = True
        return free

    @cached_property
    def shift(self) -> Float[Tensor, "state state"]:
        """The ones of the registers among zeros."""
        ones = torch.zeros(self.size, self.size, dtype=torch.float64)
        for name in self.senders:
            for lag in range(2, self.max_lag + 1):
                ones[_range(self.place(name, lag)), _range(self.place(name, lag - 1))] = 1.0
        return ones

    @cached_property
    def noisy(self) -> Bool[Tensor, "state state"]:
        """Elements of the covariance of the noise that are free: those within a region."""
        free = torch.zeros(self.size, self.size, dtype=torch.bool)
        for rows in self.regions.values():
            free[rows, rows] = True
        return free

    def block(self, dynamics: Float[Tensor, "state state"], source: str, target: str, lag: int) -> Tensor:
        """Return A^(lag) of a region on another, or on itself (lag 1)."""
        return dynamics[self.regions[target], self.place(source, lag)]


def shown_latents(regions: Mapping[str, slice], layouts: Sequence[Layout], size: int) -> Bool[Tensor, "unit state"]:
    """Return which elements of the state the units of all sessions show: the present latents of their own region."""
    shown = torch.zeros(sum(layout.n_units for layout in layouts), size, dtype=torch.bool)
    start = 0
    for layout in layouts:
        for name, rows in regions.items():
            if name in layout.units:
                units = layout.region(name)
                shown[start + units.start : start + units.stop, rows] = True
        start += layout.n_units
    return shown


def _range(where: slice) -> Int[Tensor, " state"]:
    return torch.arange(where.start, where.stop)
