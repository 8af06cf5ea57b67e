"""How much of a recording is computed with at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

__all__ = ["chunks", "in_stretches", "stretches"]

SHOWN = 2_000_000  # bins x units that a model is shown at once
ENTRIES = 1_000_000  # bins x channels that a metric computes with at once


def stretches(first: int, stop: int, width: int, most: int = ENTRIES) -> Iterator[slice]:
    """Cut bins into stretches.

    Parameters
    ----------
    first, stop : which bins.
    width : channels of each.
    most : bins of a stretch.
    """
    step = max(1, min(most, ENTRIES // max(1, width)))
    for begin in range(first, stop, step):
        yield slice(begin, min(begin + step, stop))


def in_stretches(
    function: Callable[[np.ndarray], np.ndarray], latents: Float[np.ndarray, "bin latent"], most: int = ENTRIES
) -> Float[np.ndarray, "bin code"]:
    """Return what a function gives for each bin, of many bins some at a time, ``most`` at most."""
    found = [function(latents[rows]) for rows in stretches(0, len(latents), latents.shape[1], most)]
    return np.concatenate(found) if found else function(latents)


def chunks(lengths: Int[np.ndarray, " trial"], width: int) -> Iterator[Int[np.ndarray, " some"]]:
    """Cut trials, in order, into runs that a model is shown at once, when padded to the longest, or that are one trial.

    Parameters
    ----------
    lengths : bins of each trial.
    width : units.
    """
    largest = max(1, SHOWN // max(1, width))
    first, longest = 0, 0
    for row, length in enumerate(lengths):
        longest = max(longest, int(length))
        if row > first and longest * (row + 1 - first) > largest:
            yield np.arange(first, row)
            first, longest = row, int(length)
    if len(lengths) > first:
        yield np.arange(first, len(lengths))
