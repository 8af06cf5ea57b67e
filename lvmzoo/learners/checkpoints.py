"""The state of a fit on disk: every so often, on a signal, at the end, and the last good one where it diverges."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lvmzoo.checkpoint import check_space, write_checkpoint
from lvmzoo.errors import DivergedError, UserError
from lvmzoo.learners.callbacks import Learner, Record
from lvmzoo.learners.gradient import GradientLearner
from lvmzoo.signals import Signals, Stopped

__all__ = ["Checkpoints"]


class Checkpoints(pl.Callback):
    """Saves what a resumed run needs to end in the same weights; all ranks stop together.

    A state is whole after each step, but for the last one of a round: what is learned from its validation comes later.
    A run that is stopped in between goes back to before that step.

    Parameters
    ----------
    path : of the last checkpoint; None writes nothing.
    every_s : seconds between checkpoints.
    record : history and best parameters, which are part of the state.
    signals : that stop the fit.
    origin : what the run began with; a resumed run compares it with its own.
    """

    def __init__(
        self, path: Path | None, every_s: float, record: Record, signals: Signals, origin: Mapping[str, Any]
    ) -> None:
        self.good: dict[str, Any] | None = None  # the last state known to be finite
        self._path = path
        self._every_s = every_s
        self._record = record
        self._signals = signals
        self._origin = dict(origin)
        self._round: dict[str, Any] | None = None  # the state before the last step of a round
        self._saved = time.monotonic()

    def resume(self, learner: Learner, state: Mapping[str, Any]) -> None:
        """Bring learner and record to where a checkpoint was taken; raises UserError where it is one of another run."""
        try:
            self._record.restore(state["record"])
            for parameters in (self._record.best, state["model"]):  # the best ones are taken in the end
                if parameters is not None:
                    learner.model.load_state_dict(parameters)
            learner.restore(state["progress"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"The checkpoint in {self._path and self._path.parent} does not fit the run: {reason}.",
                "It is of another model, or damaged before its checksum was taken.",
                "Put the checkpoint of this run back, or start the run anew, without resume.",
            ) from error

    def on_train_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Take the signals over; make sure that the disk has room. Raises UserError where it has not."""
        self._signals.handle()
        self._signals.waiting = trainer.world_size > 1  # a rank that leaves alone would leave the others waiting
        learner.held = self._signals.held
        self.good = _copied(self._state(trainer, learner))
        if self._path is not None and trainer.is_global_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            moments = 2 if isinstance(learner, GradientLearner) else 0  # of the optimizer, for each parameter
            check_space(self._path.parent, 3 * (2 + moments) * _size(self.good["model"]))

    def on_train_batch_start(self, trainer: pl.Trainer, learner: Any, batch: Any, batch_idx: int) -> None:
        """Keep the state before the last step of a round."""
        if trainer.is_last_batch or learner.at_last_step:
            self._round = _copied(self._state(trainer, learner))

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save after a step; what ends a round is saved after its validation."""
        if self._round is None:
            self._look(trainer, learner)

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Save at the end of a round, whose values are finite: `Record` has looked."""
        self.good, self._round = self._round, None
        self._look(trainer, learner)

    def on_train_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Save the end of training."""
        self._save(trainer, learner)
        self._signals.waiting = False

    def on_exception(self, trainer: pl.Trainer, learner: Any, exception: BaseException) -> None:
        """Save where the fit was stopped, or the last good state where it diverged."""
        self._signals.waiting = False
        if isinstance(exception, Stopped) and self.good is not None:
            try:
                learner.check()
            except DivergedError:
                self._write(trainer, self.good)
            else:
                self._save(trainer, learner)
        elif isinstance(exception, DivergedError):
            self._write(trainer, self.good)

    def _look(self, trainer: pl.Trainer, learner: Learner) -> None:
        if trainer.world_size > 1:
            stop = torch.tensor(self._signals.received or 0, device=learner.device)
            torch.distributed.all_reduce(stop, torch.distributed.ReduceOp.MAX)
            self._signals.received = int(stop) or None
        if self._signals.received is not None:
            raise Stopped
        if time.monotonic() - self._saved >= self._every_s:
            learner.check()
            self._save(trainer, learner)

    def _save(self, trainer: pl.Trainer, learner: Learner) -> None:
        self._write(trainer, self._state(trainer, learner) if self._round is None else self._round)

    def _write(self, trainer: pl.Trainer, state: dict[str, Any] | None) -> None:
        self._saved = time.monotonic()
        if self._path is not None and state is not None and trainer.is_global_zero:
            write_checkpoint(self._path, state)

    def _state(self, trainer: pl.Trainer, learner: Learner) -> dict[str, Any]:
        record = self._record.state()
        return {
            "model": learner.model.state_dict(),
            "progress": learner.progress(),
            "record": {**record, "finished": record["finished"] or trainer.should_stop},
            "origin": self._origin,
        }


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy, in the memory of the CPU, that later steps do not change."""
    changing = {name: _on_cpu(state[name]) for name in ("model", "progress")}
    return {**state, **changing}


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_on_cpu, value))
    return value


def _size(state: Mapping[str, Tensor]) -> int:
    """Return the bytes of all tensors."""
    return sum(value.numel() * value.element_size() for value in state.values())
