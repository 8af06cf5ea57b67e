"""What the Trainer is fed: training steps and held-out batches, from the way of sampling that the model names."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence

import pytorch_lightning as pl

from lvmzoo.batch import Batch, PairSampling, Sampling
from lvmzoo.data.pairs import PairSampler
from lvmzoo.data.sampling import Feed, TrialSampler
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError

__all__ = ["TrainingData"]

logger = logging.getLogger("lvmzoo")

_HELD_OUT_DRAWS = 8  # batches of pairs that a held-out contrastive loss is the mean of


class TrainingData(pl.LightningDataModule):
    """Training and held-out batches of one fit.

    Parameters
    ----------
    train, held_out : trials of each session; ``held_out`` is empty for a fit without validation.
    sampling : how the model wants to be fed.
    batch_size : trials, or references of pairs, a step over all ranks; None: all trials of a session.
    seed : of every draw.
    shuffle : False keeps the order of the trials.
    """

    def __init__(
        self,
        train: Sequence[Trials],
        held_out: Sequence[Trials],
        sampling: Sampling,
        batch_size: int | None,
        seed: int,
        shuffle: bool,
    ) -> None:
        super().__init__()
        self._train, self._held_out = train, held_out
        self._sampling, self._batch_size = sampling, batch_size
        self._seed, self._shuffle = seed, shuffle
        self.steps_a_round = 1
        self.position: Callable[[], int] = lambda: 0

    @property
    def steps_an_epoch(self) -> int | None:
        """Steps until every trial was seen once; None where pairs are drawn without end."""
        return None if isinstance(self._sampling, PairSampling) else len(self._trials(self._train, self._shuffle))

    def validates(self) -> bool:
        """Return whether there are held-out batches; held-out data without a pair are said, and no reason to stop."""
        if not self._held_out or not isinstance(self._sampling, PairSampling):
            return bool(self._held_out)
        assert self._pairs
        try:
            assert self._held_out_pairs
        except UserError as error:
            logger.warning("The validation data cannot be used, training goes on without them: %s", error.what)
            return False
        return True

    def everything(self) -> Iterator[Batch]:
        """Yield the training trials, all on every rank."""
        whole = isinstance(self._sampling, PairSampling)
        return TrialSampler(self._train, None if whole else self._batch_size, shuffle=False).epoch()

    def train_dataloader(self) -> Feed:
        """Return the steps that are left of the round, this rank's share of each."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if isinstance(self._sampling, PairSampling):
            draw = self._pairs.draw if world == 1 else lambda step: self._pairs.shard(step, rank, world)
        else:
            draw = self._trials(self._train, self._shuffle, rank, world).draw
        return Feed(draw, self.steps_a_round, self.position())

    def val_dataloader(self) -> Feed:
        """Return the held-out batches, all on every rank."""
        if isinstance(self._sampling, PairSampling):
            pairs = self._held_out_pairs
            return Feed(lambda step: pairs.draw(step % _HELD_OUT_DRAWS), _HELD_OUT_DRAWS)
        trials = self._trials(self._held_out, shuffle=False)
        return Feed(trials.draw, len(trials))

    @functools.cached_property
    def _pairs(self) -> PairSampler:
        assert isinstance(self._sampling, PairSampling)
        return PairSampler(self._train, self._sampling, self._batch_size or 512, self._seed)

    @functools.cached_property
    def _held_out_pairs(self) -> PairSampler:
        usable = self._held_out
        if len(usable) > 1:
            usable = [trials for trials in self._held_out if self._has_pairs(trials)] or self._held_out
        return self._held_out_sampler(usable)

    def _has_pairs(self, trials: Trials) -> bool:
        try:
            self._held_out_sampler([trials])
        except UserError as error:
            logger.warning("The validation data of a session are left out: %s", error.what)
            return False
        return True

    def _held_out_sampler(self, sessions: Sequence[Trials]) -> PairSampler:
        assert isinstance(self._sampling, PairSampling)
        size, seed = self._batch_size or 512, self._seed + 1
        return PairSampler(sessions, self._sampling, size, seed, like=self._pairs)

    def _trials(self, sessions: Sequence[Trials], shuffle: bool, rank: int = 0, world: int = 1) -> TrialSampler:
        return TrialSampler(sessions, self._batch_size, self._seed, shuffle, rank, world)
