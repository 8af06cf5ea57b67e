"""What the training of one job of a sweep tells the sweep, and how the others may end it early."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from filelock import FileLock

from lvmzoo.config import Experiment
from lvmzoo.errors import UserError
from lvmzoo.learners.callbacks import Progress, Record

__all__ = ["Pruned", "Pruning", "Told"]

EARLIEST = 2  # validations before which no run is ended
STARTED = 4  # runs that the median is of, at least


class Told(pl.Callback):
    """Tells how far the training is, after every step.

    Parameters
    ----------
    say : takes the text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tell it."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set by Lightning at run time
            if isinstance(callback, Progress):
                self._say(callback.status(learner))


class Pruned(Exception):  # noqa: N818 - it is no error: the search asked for it
    """A run fell behind the others of its sweep and was ended.

    Parameters
    ----------
    objective : the last value that a search minimizes.
    step : of the optimizer.
    kind : of pruning.
    """

    def __init__(self, objective: float, step: int, kind: str) -> None:
        super().__init__(objective, step, kind)
        self.objective, self.step, self.kind = objective, step, kind

    def __str__(self) -> str:
        rule = "worse than the median of" if self.kind == "median" else "not among the best third of"
        return f"Ended after {self.step} steps: its validation loss {self.objective:.4g} was {rule} the other runs."


class Pruning(pl.Callback):
    """Ends a run whose validation loss falls behind that of other runs of the sweep after as many validations.

    Optuna's median rule, or its asynchronous successive halving (Li et al. 2020, arXiv:1810.05934, reduction by three),
    on a study of its own in the folder of the sweep: it works with every launcher and sweeper. Runs are compared with
    runs of the same model and the same data.

    Parameters
    ----------
    experiment : of the run; its ``prune`` says how.
    folder : of the sweep.

    Raises
    ------
    UserError
        When Optuna is not installed.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        try:
            import optuna
            from sqlalchemy.pool import NullPool
        except ImportError as error:
            raise UserError(
                f"prune={experiment.prune} needs the package optuna.",
                "It is not installed here.",
                "pip install 'lvmzoo[sweeps]', or leave prune at null.",
            ) from error
        optuna.logging.set_verbosity(logging.WARNING)
        assert experiment.prune is not None
        self._kind = experiment.prune
        pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=STARTED, n_warmup_steps=EARLIEST)
            if self._kind == "median"
            else optuna.pruners.SuccessiveHalvingPruner(min_resource=EARLIEST, reduction_factor=3)
        )
        compared = [experiment.model.name, asdict(experiment.data)]
        name = hashlib.sha256(json.dumps(compared, default=str).encode()).hexdigest()[:16]
        file = folder.absolute() / "pruning.db"  # whose name need not fit into an address
        open_file = functools.partial(sqlite3.connect, file, timeout=60, check_same_thread=False)
        options = {"creator": open_file, "poolclass": NullPool}
        with FileLock(folder / ".pruning.lock"):  # jobs that begin together would make the same tables
            storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=options)
            self._study = optuna.create_study(storage=storage, study_name=name, pruner=pruner, load_if_exists=True)
        self._trial = self._study.ask()
        self._best = math.inf

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Report the last validation, and end the run where it fell behind."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning at run time
        (record,) = (callback for callback in callbacks if isinstance(callback, Record))
        row = record.rows[-1]
        if "validation/loss" not in row:
            return
        self._best = min(self._best, row["validation/loss"])
        self._trial.report(self._best, len(record.rows))
        if self._trial.should_prune():
            self._study.tell(self._trial, self._best)
            raise Pruned(self._best, int(row["step"]), self._kind)

    def on_train_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Leave the outcome for the runs to come."""
        if math.isfinite(self._best):
            self._study.tell(self._trial, self._best)
