"""Which trials a step of training sees: a pure function of (seed, step), so that ranks and resumed runs agree."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from lvmzoo.batch import Batch, Share
from lvmzoo.data.trials import Trials

__all__ = ["Feed", "TrialSampler"]


class TrialSampler:
    """Draws whole trials: each once an epoch, a batch from one session at a time.

    With several ranks each takes an equal share of every batch; a share is filled up with trials that have no valid
    bin, never by repeating one, so that sums over ranks count each trial once.

    Parameters
    ----------
    sessions : trials of each session.
    batch_size : trials a batch over all ranks; None: all trials of a session.
    seed : of the order.
    shuffle : False keeps the order of the trials; then batches are views where trials lie end to end.
    """

    def __init__(
        self,
        sessions: Sequence[Trials],
        batch_size: int | None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._sessions = sessions
        self._batch_size = batch_size
        self._seed, self._shuffle = seed, shuffle
        self._rank, self._world = rank, world
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return sum(-(-len(trials) // self._size(trials)) for trials in self._sessions if len(trials))

    def draw(self, step: int) -> Batch:
        """Return this rank's share of the batch of a step, counted from the start of training."""
        epoch, position = divmod(step, len(self))
        session, trials = self._plan(epoch if self._shuffle else 0)[position]
        if self._world == 1:
            return self._sessions[session].batch(trials)
        # The grid of the whole batch on every rank: draws for its bins are then the same on all of them.
        size, bins = -(-len(trials) // self._world), int(self._sessions[session].lengths[trials].max())
        mine = trials[self._rank * size : (self._rank + 1) * size]
        rows = np.concatenate([mine, np.full(size - len(mine), -1)])
        share = Share(len(trials), self._rank * size)
        return replace(self._sessions[session].batch(rows, bins), share=share)

    def epoch(self) -> Iterator[Batch]:
        """Yield every batch of the first epoch."""
        return (self.draw(step) for step in range(len(self)))

    def _size(self, trials: Trials) -> int:
        return self._batch_size or max(len(trials), 1)

    def _make_plan(self, epoch: int) -> list[tuple[int, Int[np.ndarray, " trial"]]]:
        random = np.random.default_rng((self._seed, epoch))
        batches = []
        for index, trials in enumerate(self._sessions):
            order = random.permutation(len(trials)) if self._shuffle else np.arange(len(trials))
            batches += [
                (index, order[first : first + self._size(trials)]) for first in range(0, len(order), self._size(trials))
            ]
        return [batches[i] for i in random.permutation(len(batches))] if self._shuffle else batches


class Feed:
    """What the Trainer iterates over: rounds of steps, beginning in the middle of one when a run is resumed."""

    def __init__(self, draw: Callable[[int], Batch], steps_a_round: int, position: int = 0) -> None:
        self._draw = draw
        self._round = steps_a_round
        self._position = position

    def __len__(self) -> int:
        """Return how many steps are left of the round."""
        return self._round - self._position % self._round

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self._position, self._position + len(self)):
            self._position = step + 1
            yield self._draw(step)
