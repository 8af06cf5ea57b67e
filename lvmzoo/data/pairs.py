"""Draws of references, positives and negatives for contrastive models: pure functions of (seed, step).

References and negatives are uniform over the bins whose whole window lies in one trial and holds valid bins only. Bins
nearer to a trial's end than the window reaches are never drawn: padding them would teach the encoder what padding looks
like. Where labels matter, bins without a label are left out; time needs none, so that in the hybrid of both it has
references and negatives of its own wherever a label is missing.

A step takes as many references from each of several sessions. Positives in time lie in the session of their reference;
those of behavior in a session that a random permutation chooses, so that equal labels have equal embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from lvmzoo.batch import Batch, PairSampling
from lvmzoo.data.ahead import Ahead
from lvmzoo.data.similar import Similar, read_labels, shared_categories
from lvmzoo.data.trials import Trials
from lvmzoo.data.windows import Windows
from lvmzoo.errors import UserError

__all__ = ["PairSampler"]

_DRAWS_AHEAD = 32_768  # references drawn at once: 64 steps of 512, so that drawing costs little per step


class PairSampler:
    """Draws windows of pairs, of all sessions together.

    Parameters
    ----------
    sessions : trials of each session.
    sampling : what a positive is and how long a window is.
    batch_size : references a step from each session, over all processes; may exceed the number of bins.
    seed : of all draws.
    like : the sampler of the training data, for held-out trials: labels are then scaled as there.

    Raises
    ------
    UserError : a session without a complete window, without a pair, without a label or with a constant one; sessions
        without a category in common.
    """

    def __init__(
        self,
        sessions: Sequence[Trials],
        sampling: PairSampling,
        batch_size: int,
        seed: int,
        like: PairSampler | None = None,
    ) -> None:
        self._batch_size, self._seed, self._sampling = batch_size, seed, sampling
        self._steps = max(1, min(64, _DRAWS_AHEAD // (batch_size * len(sessions))))
        self._windows = [Windows(trials, sampling) for trials in sessions]
        self._similar: list[Similar] = []
        self._scales: Mapping[str, float] = {}
        if "behavior" in sampling.kinds:
            labels, self._scales = read_labels(self._windows, sampling, None if like is None else like._scales)
            categories = shared_categories(self._windows, labels, sampling.behavior)
            self._similar = [
                Similar(windows, own, categories, sampling) for windows, own in zip(self._windows, labels, strict=True)
            ]
        kinds = sampling.kinds
        together = all(similar.serves_all for similar in self._similar)
        self._parts = [self._part(some) for some in ([kinds] if together else [(kind,) for kind in kinds])]
        self._block = Ahead(self._draw_block)

    def draw(self, step: int) -> Batch:
        """Return the windows of one step and their pairs, as :class:`PairSampling` says."""
        return self.shard(step, 0, 1)

    def shard(self, step: int, rank: int, world: int) -> Batch:
        """Return the share of one process in a step: an equal part of the references, with all that belongs to them.

        Raises
        ------
        UserError : the batch cannot be shared evenly.
        """
        if self._batch_size % world:
            fair = max(self._batch_size // world, 1) * world
            raise UserError(
                f"trainer.batch_size={self._batch_size} cannot be shared evenly by {world} processes.",
                "Negatives are gathered over processes, so each holds as many references as any other.",
                f"Set trainer.batch_size={fair}.",
            )
        number, row = divmod(step, self._steps)
        block = self._block(number)
        if 2 * (row + 1) >= self._steps:
            self._block.prepare(number + 1)
        share = self._batch_size // world
        columns = slice(rank * share, (rank + 1) * share)
        positions, partner = block.positions[:, :, row, columns], block.partner[:, row, columns]
        first, *others = (windows.batch(own.reshape(-1)) for windows, own in zip(self._windows, positions, strict=True))
        return replace(first, others=tuple(others), pairs=self._pairs(positions.shape, partner))

    def _pairs(
        self, shape: tuple[int, ...], partner: Int[np.ndarray, "session reference"]
    ) -> dict[str, Int[torch.Tensor, "role pair"]]:
        window = np.arange(np.prod(shape)).reshape(shape)
        pairs, group = {}, 0
        for part in self._parts:
            last = group + len(part.kinds) + 1
            for offset, kind in enumerate(part.kinds, start=1):
                positive = window[:, group + offset]
                if kind == "behavior":
                    positive = window[partner, group + offset, np.arange(shape[-1])]
                roles = np.stack([window[:, group], positive, window[:, last]])
                pairs[kind] = torch.from_numpy(roles.reshape(3, -1))
            group = last + 1
        return pairs

    def _part(self, kinds: tuple[str, ...]) -> _Part:
        """Return what draws references and negatives that several kinds of positives share."""
        part = _Part(kinds, [], [])
        for session, windows in enumerate(self._windows):
            bins, codes = windows.whole, None
            if "behavior" in kinds:
                similar = self._similar[session]
                bins, codes = similar.eligible, similar.codes if self._sampling.balanced else None
            anchors = windows.have_later(bins) if "time" in kinds else bins
            if not anchors.any():
                raise windows.none_later()
            part.references.append(_Pool(anchors, codes))
            part.negatives.append(_Pool(bins, codes))
        return part

    def _draw_block(self, number: int) -> _Block:
        generator = np.random.default_rng((self._seed, 0, number))
        size, sessions = self._steps * self._batch_size, len(self._windows)
        partner = np.repeat(np.arange(sessions)[:, None], size, axis=1)
        groups = []
        for part in self._parts:
            references = np.stack([pool.draw(generator, size) for pool in part.references])
            groups.append(references)
            if "time" in part.kinds:
                groups.append(references + self._sampling.time_offset_bins)
            if "behavior" in part.kinds:
                if sessions > 1:
                    partner = generator.permuted(partner, axis=0)
                groups.append(self._find_similar(generator, references, partner))
            groups.append(np.stack([pool.draw(generator, size) for pool in part.negatives]))
        shape = (self._steps, self._batch_size)
        return _Block(np.stack(groups, 1).reshape(sessions, -1, *shape), partner.reshape(sessions, *shape))

    def _find_similar(
        self,
        generator: np.random.Generator,
        references: Int[np.ndarray, "session draw"],
        partner: Int[np.ndarray, "session draw"],
    ) -> Int[np.ndarray, "session draw"]:
        """Return positions by the session that they lie in; that of a reference lies in the session of its partner."""
        uniform = generator.random(references.shape)
        asked = [similar.ask(generator, own) for similar, own in zip(self._similar, references, strict=True)]
        if len(asked) == 1:
            return self._similar[0].find(asked[0], uniform[0])[None]
        source = np.argsort(partner, axis=0)  # of each draw: which session asks which
        draws = np.arange(references.shape[1])
        codes, points = (np.stack(leaf) for leaf in zip(*asked, strict=True))
        return np.stack(
            [
                similar.find(type(asked[0])(codes[asks, draws], points[asks, draws]), own)
                for similar, asks, own in zip(self._similar, source, uniform, strict=True)
            ]
        )


class _Part(NamedTuple):
    """References and negatives of some kinds of positives, a pool for each session."""

    kinds: tuple[str, ...]
    references: list[_Pool]
    negatives: list[_Pool]


class _Block(NamedTuple):
    """The draws of some steps."""

    positions: Int[np.ndarray, "session group step reference"]
    partner: Int[np.ndarray, "session step reference"]  # session in which the behavior positive of a reference lies


class _Pool:
    """Bins to draw from: all alike, or every category equally often."""

    def __init__(self, chosen: Bool[np.ndarray, " position"], codes: Int[np.ndarray, " position"] | None) -> None:
        bins = np.flatnonzero(chosen)
        self._count = np.array([len(bins)])
        self._bins = bins
        if codes is not None:
            order = np.argsort(codes[bins], kind="stable")
            self._bins, self._count = bins[order], np.unique(codes[bins], return_counts=True)[1]
        self._first = np.cumsum(self._count) - self._count

    def draw(self, generator: np.random.Generator, size: int) -> Int[np.ndarray, " draw"]:
        """Return positions."""
        group = generator.integers(len(self._count), size=size)
        return self._bins[self._first[group] + generator.integers(self._count[group])]
