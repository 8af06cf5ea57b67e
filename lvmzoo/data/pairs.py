"""Draws of references, positives and negatives for contrastive models: pure functions of (seed, step).

References and negatives are uniform over the bins whose whole window lies in one trial and holds valid bins only, and
that have a label where labels matter. Bins nearer to a trial's end than the window reaches are never drawn: padding
them would teach the encoder what padding looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from lvmzoo.batch import Batch, PairSampling
from lvmzoo.data.labels import Labels, NearestLabel
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError

__all__ = ["PairSampler"]

_DRAWS_AHEAD = 32_768  # references drawn at once: 64 steps of 512, so that drawing costs little per step


class PairSampler:
    """Draws windows from one session a step, the sessions in turn.

    Parameters
    ----------
    sessions : trials of each session.
    sampling : what a positive is and how long a window is.
    batch_size : references a step, over all processes; may exceed the number of bins.
    seed : of all draws.
    like : the sampler of the training data, for held-out trials: labels are then scaled as there.

    Raises
    ------
    UserError : a session without a complete window, without a pair, without a label or with a constant one.
    """

    def __init__(
        self,
        sessions: Sequence[Trials],
        sampling: PairSampling,
        batch_size: int,
        seed: int,
        like: PairSampler | None = None,
    ) -> None:
        self._batch_size, self._seed = batch_size, seed
        self._block_steps = max(1, min(64, _DRAWS_AHEAD // batch_size))
        known: list[Labels | None] = [None] * len(sessions) if like is None else [s.labels for s in like._sessions]
        self._sessions: list[_Session] = [
            _Session(trials, sampling, labels) for trials, labels in zip(sessions, known, strict=True)
        ]
        self._blocks: dict[int, tuple[int, np.ndarray]] = {}

    def draw(self, step: int) -> Batch:
        """Return the windows of one step: groups of ``batch_size``, as :class:`PairSampling` says."""
        return self.shard(step, 0, 1)

    def shard(self, step: int, rank: int, world: int) -> Batch:
        """Return the share of one process in a step: of each group an equal part.

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
        share = self._batch_size // world
        session, positions = self._positions(step)
        return self._sessions[session].windows(positions[:, rank * share : (rank + 1) * share])

    def _positions(self, step: int) -> tuple[int, Int[np.ndarray, "group reference"]]:
        turn, session = divmod(step, len(self._sessions))
        block, row = divmod(turn, self._block_steps)
        if session not in self._blocks or self._blocks[session][0] != block:
            generator = np.random.default_rng((self._seed, session, block))
            drawn = self._sessions[session].draw(generator, self._block_steps * self._batch_size)
            self._blocks[session] = (block, drawn.reshape(len(drawn), self._block_steps, self._batch_size))
        return session, self._blocks[session][1][:, row]


class _Pool:
    """Bins to draw from: all alike, or every category equally often."""

    def __init__(self, bins: np.ndarray, codes: np.ndarray | None) -> None:
        self._count = np.array([len(bins)])
        self._bins = bins
        if codes is not None:
            order = np.argsort(codes[bins], kind="stable")
            self._bins, self._count = bins[order], np.unique(codes[bins], return_counts=True)[1]
        self._first = np.cumsum(self._count) - self._count

    def draw(self, generator: np.random.Generator, size: int) -> np.ndarray:
        group = generator.integers(len(self._count), size=size)
        return self._bins[self._first[group] + generator.integers(self._count[group])]


class _Candidates(NamedTuple):
    """Bins of one category that can be a behavior positive."""

    bins: np.ndarray
    nearest: NearestLabel | None


class _Session:
    """Where the windows of one session lie. A position counts the bins of its trials, laid end to end."""

    def __init__(self, trials: Trials, sampling: PairSampling, like: Labels | None) -> None:
        self._trials, self._sampling = trials, sampling
        self._name = trials.layout.session
        self._stored = trials.flat
        self._trial = np.repeat(np.arange(len(trials)), trials.lengths)
        self._bin = np.arange(len(self._trial)) - np.repeat(np.cumsum(trials.lengths) - trials.lengths, trials.lengths)
        eligible = self._whole_windows()
        self.labels = self._read_labels(like) if "behavior" in sampling.kinds else None
        if self.labels is not None:
            eligible &= self.labels.labeled
        anchors = eligible
        if "time" in sampling.kinds:
            anchors = eligible & self._has_later(eligible)
        if not anchors.any():
            raise self._nothing_to_draw(bool(eligible.any()))
        codes = self.labels.codes if self.labels is not None and sampling.balanced else None
        self._references = _Pool(np.flatnonzero(anchors), codes)
        self._negatives = _Pool(np.flatnonzero(eligible), codes)
        if self.labels is not None:
            self._index_labels(self.labels, eligible)

    def draw(self, generator: np.random.Generator, size: int) -> Int[np.ndarray, "group draw"]:
        """Return positions of references, their positives and negatives."""
        references = self._references.draw(generator, size)
        groups = [references]
        if "time" in self._sampling.kinds:
            groups.append(references + self._sampling.time_offset_bins)
        if self.labels is not None:
            groups.append(self._similar(generator, self.labels, references))
        return np.stack([*groups, self._negatives.draw(generator, size)])

    def windows(self, positions: Int[np.ndarray, "group reference"]) -> Batch:
        """Return the windows around positions, group after group; their behavior is left out, no loss reads it.

        The bins lie first in memory: encoders convolve over them without a copy.
        """
        trials, sampling = self._trials, self._sampling
        flat = positions.reshape(-1)
        rows = torch.from_numpy(self._stored[flat] + np.arange(-sampling.before, sampling.after)[:, None])
        shape = tuple(rows.shape)
        activity = trials.activity.index_select(0, rows.view(-1)).unflatten(0, shape).transpose(0, 1)
        observed = torch.ones((1, 1, 1), dtype=torch.bool).expand(activity.shape)
        if trials.missing is not None:
            observed = ~trials.missing.index_select(0, rows.view(-1)).unflatten(0, shape).transpose(0, 1)
        return Batch(
            activity=activity,
            valid=torch.ones(activity.shape[:2], dtype=torch.bool),
            observed=observed,
            behavior={},
            inputs={},
            trial_index=torch.from_numpy(self._trial[flat]),
            start_bin=torch.from_numpy(self._bin[flat] - sampling.before),
            layout=trials.layout,
        )

    def _whole_windows(self) -> Bool[np.ndarray, " position"]:
        sampling, length = self._sampling, self._trials.lengths
        inside = (self._bin >= sampling.before) & (self._bin + sampling.after <= length[self._trial])
        usable = np.concatenate([[0], np.cumsum(self._trials.valid.numpy()[self._stored])])
        positions = np.flatnonzero(inside)
        inside[positions] = (
            usable[positions + sampling.after] - usable[positions - sampling.before] == sampling.window_bins
        )
        if not inside.any():
            raise UserError(
                f"Session '{self._name}' has no window of {sampling.window_bins} bins: "
                f"its longest trial has {int(length.max(initial=0))}.",
                "Windows lie in one trial, between gaps of the recording.",
                "Set a smaller model.receptive_field_bins or data.bin_width_s, or use longer trials.",
            )
        return inside

    def _has_later(self, eligible: Bool[np.ndarray, " position"]) -> Bool[np.ndarray, " position"]:
        """Return whether the bin ``time_offset_bins`` later is in the same trial and eligible as well."""
        offset, found = self._sampling.time_offset_bins, np.zeros_like(eligible)
        found[: max(len(found) - offset, 0)] = eligible[offset:] & (self._trial[offset:] == self._trial[:-offset])
        return found

    def _read_labels(self, like: Labels | None) -> Labels:
        layout = self._trials.layout
        variables = {name: layout.behavior[name] for name in self._sampling.behavior}
        values = {name: self._trials.behavior[name].numpy()[self._stored] for name in variables}
        return Labels(variables, values, self._name, None if like is None else like.scales)

    def _index_labels(self, labels: Labels, eligible: Bool[np.ndarray, " position"]) -> None:
        offset = self._sampling.time_offset_bins
        self._changes: np.ndarray | None = None
        if labels.continuous and self._sampling.delta is None:
            earlier = np.flatnonzero(labels.labeled & self._has_later(labels.labeled))
            if not len(earlier):
                raise self._nothing_to_draw(True)
            self._changes = labels.changes(earlier, earlier + offset)
        self._candidates: dict[int, _Candidates] = {}
        for code in np.unique(labels.codes[eligible]):
            bins = np.flatnonzero(eligible & (labels.codes == code))
            nearest = NearestLabel(labels.points(bins), bins) if labels.continuous else None
            self._candidates[int(code)] = _Candidates(bins, nearest)

    def _similar(self, generator: np.random.Generator, labels: Labels, references: np.ndarray) -> np.ndarray:
        """Return a behavior positive of each reference."""
        uniform = generator.random(len(references))
        if labels.continuous:
            queries = labels.points(references, self._change(generator, labels, references))
        positives = np.empty_like(references)
        codes = labels.codes[references]
        for code, (bins, nearest) in self._candidates.items():
            chosen = slice(None) if len(self._candidates) == 1 else np.flatnonzero(codes == code)
            if nearest is None:
                positives[chosen] = bins[(uniform[chosen] * len(bins)).astype(np.int64)]
            else:
                positives[chosen] = nearest(queries[chosen], uniform[chosen])
        return positives

    def _change(self, generator: np.random.Generator, labels: Labels, references: np.ndarray) -> np.ndarray:
        if self._changes is not None:
            return self._changes[generator.integers(len(self._changes), size=len(references))]
        channels = labels.changes(references[:1], references[:1]).shape[1]
        assert self._sampling.delta is not None
        return generator.normal(0, self._sampling.delta, (len(references), channels))

    def _nothing_to_draw(self, windows: bool) -> UserError:
        offset = self._sampling.time_offset_bins
        if windows:
            return UserError(
                f"Session '{self._name}' has no two bins {offset} bins apart in one trial.",
                f"model.time_offset_bins={offset} is the distance of a positive in time, and of changes of a label.",
                f"Set model.time_offset_bins below {int(self._trials.lengths.max(initial=0))}, the longest trial.",
            )
        names = ", ".join(f"'{name}'" for name in self._sampling.behavior)
        return UserError(
            f"Session '{self._name}' has no whole window around a bin with a label for {names}.",
            "References and positives need a label, and all bins of their windows in one trial.",
            "Set a smaller model.receptive_field_bins, leave variables out of model.behavior, "
            "or set model.positives=time.",
        )
