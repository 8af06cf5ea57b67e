"""Simulated recordings with their ground truth, one generator a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lvmzoo.data.recording import Recording
from lvmzoo.errors import unknown
from lvmzoo.simulate.dissociation import dissociation
from lvmzoo.simulate.lds import lds
from lvmzoo.simulate.lorenz import lorenz
from lvmzoo.simulate.manifolds import manifolds
from lvmzoo.simulate.movie import movie
from lvmzoo.simulate.planar import spiral, van_der_pol
from lvmzoo.simulate.reach import reach
from lvmzoo.simulate.regions import regions
from lvmzoo.simulate.two_regions import two_regions

__all__ = ["Simulator", "get", "simulators"]


# Of seed and sizes, each with a default; equal arguments, equal recordings. One by default, some make several sessions.
Simulator = Callable[..., Recording | list[Recording]]


def simulators() -> Mapping[str, Simulator]:
    """Return every generator by its name."""
    return MappingProxyType(
        {
            "lds": lds,
            "two_regions": two_regions,
            "regions": regions,
            "lorenz": lorenz,
            "reach": reach,
            "spiral": spiral,
            "van_der_pol": van_der_pol,
            "manifolds": manifolds,
            "movie": movie,
            "dissociation": dissociation,
        }
    )


def get(name: str) -> Simulator:
    """Return one generator; raises UserError, with the nearest name, when there is none."""
    known = simulators()
    if name not in known:
        raise unknown("simulator", name, known)
    return known[name]
