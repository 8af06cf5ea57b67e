"""Which trials share a pattern of observation, and blocks of their activity that fit into the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

__all__ = ["BLOCK_SAMPLES", "Known", "Pattern", "patterns", "residual_blocks"]

BLOCK_SAMPLES = 2**17  # samples converted to float64 at a time: 1 MB


@dataclass(frozen=True)
class Pattern:
    """Trials of a batch, longest first, that are filtered together.

    In a shared pattern, what is observed is (bins) x (units), the same for all trials up to their lengths.
    Otherwise each trial has its own, and ``mask`` holds it.
    """

    rows: Int[Tensor, " trial"] | slice  # of the batch
    lengths: Int[np.ndarray, " trial"]  # bins up to the last valid one, never rising
    seen: Bool[Tensor, "trial bin"]  # something is observed
    units: Bool[Tensor, " unit"]  # observed in any bin
    mask: Bool[Tensor, "trial bin unit"] | None = None

    @property
    def bins(self) -> int:
        """Length of the longest trial."""
        return int(self.lengths[0])

    @cached_property
    def counts(self) -> Int[np.ndarray, " bin"]:
        """Number of trials that reach each bin."""
        counts = np.zeros(self.bins, np.int32)
        for length, trials in zip(*np.unique(self.lengths, return_counts=True), strict=True):
            counts[:length] += trials
        return counts

    def parts(self, trials: int) -> list[Pattern]:
        """Cut into sets of at most that many trials, in this order."""
        return [
            self._part(first, min(first + trials, len(self.lengths))) for first in range(0, len(self.lengths), trials)
        ]

    def _part(self, first: int, last: int) -> Pattern:
        if last - first == len(self.lengths):
            return self
        bins = int(self.lengths[first])
        if isinstance(self.rows, slice):
            rows: Tensor | slice = slice(self.rows.start + first, self.rows.start + last)
        else:
            rows = self.rows[first:last]
        mask = None if self.mask is None else self.mask[first:last, :bins]
        return Pattern(rows, self.lengths[first:last], self.seen[first:last, :bins], self.units, mask)


def patterns(valid: Bool[Tensor, "trial bin"], observed: Bool[Tensor, "trial bin unit"]) -> list[Pattern]:
    """Group the trials of a batch by their pattern of observation; trials without a valid bin are left out."""
    everything = bool(valid.all())
    lengths = torch.full((len(valid),), valid.shape[1], device=valid.device)
    if not everything:
        lengths = (lengths - valid.flip(1).to(torch.uint8).argmax(1)) * valid.any(1)
    if observed.stride(-1) == 0 and observed.shape[-1]:
        seen = observed[..., 0]
        units = torch.ones(observed.shape[-1], dtype=torch.bool, device=valid.device)
        factored = True
    else:
        seen, units = observed.any(-1), observed.flatten(0, 1).any(0)
        # What is observed lies within (bins) x (units): it is all of that if there are as many samples.
        factored = int(observed.count_nonzero()) == int(seen.count_nonzero()) * int(units.count_nonzero())
    if not everything:
        seen = seen & valid
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[: int((lengths > 0).sum())]
    if not len(order):
        return []
    whole = seen.shape[0] == len(order) and bool((lengths[1:] <= lengths[:-1]).all())
    rows: Tensor | slice = slice(0, len(order)) if whole else order
    pattern = Pattern(rows, lengths[rows].cpu().numpy(), seen[rows, : int(lengths.max())], units)
    if not factored:
        inside = observed & valid[..., None] if not everything else observed
        return [Pattern(rows, pattern.lengths, pattern.seen, units, inside[rows, : pattern.bins])]
    if len(order) == 1 or bool(pattern.seen.all()):
        return [pattern]
    reached = torch.arange(pattern.bins, device=valid.device) < lengths[rows][:, None]
    if bool((pattern.seen == reached).all()):
        return [pattern]
    return _by_bins(pattern, reached)


def _by_bins(pattern: Pattern, reached: Tensor) -> list[Pattern]:
    """Split a factored pattern into shared ones; where there would be too many, give each trial its own."""
    plain = (pattern.seen == reached).all(1).cpu().numpy()
    packed = np.packbits(pattern.seen.cpu().numpy(), axis=1)
    groups: dict[bytes, list[int]] = {}
    for i, (length, bits) in enumerate(zip(pattern.lengths, packed, strict=True)):
        groups.setdefault(b"" if plain[i] else bytes(bits) + int(length).to_bytes(8, "little"), []).append(i)
    if len(groups) > max(4, len(packed) // 8):
        mask = pattern.seen[..., None] & pattern.units
        return [Pattern(pattern.rows, pattern.lengths, pattern.seen, pattern.units, mask)]
    rows = pattern.rows
    if isinstance(rows, slice):
        rows = torch.arange(rows.start, rows.stop, device=pattern.seen.device)
    split = []
    for members in groups.values():
        lengths = pattern.lengths[members]
        split.append(Pattern(rows[members], lengths, pattern.seen[members, : lengths[0]], pattern.units))
    return split


class Known(NamedTuple):
    """Known inputs to the activity of all trials of a batch, and how they enter it."""

    inputs: Float[Tensor, "all_trials all_bins channel"]
    feedthrough: Float[Tensor, "unit channel"]


def residual_blocks(
    activity: Num[Tensor, "all_trials all_bins unit"],
    offset: Float[Tensor, " unit"],
    pattern: Pattern,
    start: int,
    stop: int,
    known: Known | None = None,
) -> Iterator[tuple[slice, slice, Float[Tensor, "row unit"]]]:
    """Yield (trials, bins, activity - offset) of the bins [start, stop) in blocks, zero where nothing is observed.

    A row of a block is a bin of a trial, trials outermost. The memory of a block is used again for the next. What
    ``known`` inputs do to the activity is subtracted, too.
    """
    trials, units = len(pattern.lengths), activity.shape[-1]
    together = max(1, BLOCK_SAMPLES // max(1, (stop - start) * units))
    step = stop - start if together > 1 else max(1, BLOCK_SAMPLES // max(1, units))
    store = offset.new_empty(min(together, trials) * min(step, stop - start) * units)
    complete = bool(pattern.seen[:, start:stop].all())
    hidden = ~pattern.units if pattern.mask is None and not bool(pattern.units.all()) else None
    for i in range(0, trials, together):
        who = slice(i, min(i + together, trials))
        if isinstance(pattern.rows, slice):
            rows: Tensor | slice = slice(pattern.rows.start + who.start, pattern.rows.start + who.stop)
        else:
            rows = pattern.rows[who]
        for u in range(start, stop, step):
            when = slice(u, min(u + step, stop))
            shape = (who.stop - who.start, when.stop - when.start, units)
            block = store[: shape[0] * shape[1] * units].view(shape)
            block.copy_(activity[rows, when])
            block.sub_(offset)
            if known is not None:
                inputs = known.inputs[rows, when].to(block).flatten(0, 1)
                block.view(-1, units).addmm_(inputs, known.feedthrough.T, alpha=-1)
            if pattern.mask is not None:
                block.masked_fill_(~pattern.mask[who, when], 0.0)
            elif not complete:
                block[~pattern.seen[who, when]] = 0.0
            if hidden is not None:
                block[..., hidden] = 0.0
            yield who, when, block.flatten(0, 1)
