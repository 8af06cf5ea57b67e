"""Sums of several sessions as one: models that fit each session by itself still have additive statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["apart", "together"]

Sums = TypeVar("Sums", bound=tuple)  # a NamedTuple of tensors

Shapes = Sequence[Sequence[int]]  # of each leaf


def together(sums: Sums, shapes: Sequence[Shapes], place: int) -> Sums:
    """Return each leaf flat, and zeros around it for the other sessions; as they are of a single session.

    Parameters
    ----------
    sums : of one session.
    shapes : of the leaves of each session.
    place : which session.
    """
    if len(shapes) == 1:
        return sums
    kind: Any = type(sums)
    leaves = []
    for leaf, values in enumerate(sums):
        sizes = [math.prod(session[leaf]) for session in shapes]
        total = values.new_zeros(sum(sizes))
        total[sum(sizes[:place]) :][: sizes[place]] = values.flatten()
        leaves.append(total)
    return kind(*leaves)


def apart(sums: Sums, shapes: Sequence[Shapes]) -> list[Sums]:
    """Return the sums of each session; the inverse of ``together``, after adding."""
    if len(shapes) == 1:
        return [sums]
    kind: Any = type(sums)
    found: list[list[Tensor]] = [[] for _ in shapes]
    for leaf, values in enumerate(sums):
        parts = values.split([math.prod(session[leaf]) for session in shapes])
        for own, part, session in zip(found, parts, shapes, strict=True):
            own.append(part.view(tuple(session[leaf])))
    return [kind(*leaves) for leaves in found]
