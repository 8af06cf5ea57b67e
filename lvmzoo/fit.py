"""One fit: the Trainer around a model and its data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from lvmzoo.batch import Batch, TrialSampling
from lvmzoo.config import Experiment
from lvmzoo.context import quiet
from lvmzoo.data.module import TrainingData
from lvmzoo.data.trials import Session
from lvmzoo.errors import DivergedError, UserError
from lvmzoo.learners.callbacks import Learner, Progress, Record
from lvmzoo.learners.checkpoints import Checkpoints
from lvmzoo.learners.gradient import Decay, GradientLearner
from lvmzoo.learners.loggers import make_logger
from lvmzoo.learners.statistics import StatisticsLearner
from lvmzoo.models.base import GradientModel, Model, Scores, StatisticsModel
from lvmzoo.origin import check_data, checkpoint_of
from lvmzoo.run import experiment_to_plain
from lvmzoo.signals import Signals

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fit"]

logger = logging.getLogger("lvmzoo")

_STEPS, _LEARNING_RATE = 1000, 1e-3  # of a gradient model that recommends none


def fit(
    experiment: Experiment,
    model: Model,
    sessions: list[Session],
    new: frozenset[str],
    folder: Path | None,
    *,
    signals: Signals,
    origin: Mapping[str, Any],
    saved: Mapping[str, Any] | None,
    callbacks: Sequence[pl.Callback],
) -> tuple[pd.DataFrame, DivergedError | None]:
    """Run the Trainer; leave the best parameters in the model, and return the history and how it diverged, if it did.

    Parameters
    ----------
    experiment : with what the model recommends filled in.
    model, sessions : what is fitted to what.
    new : sessions that the model knows nothing of yet.
    folder : of the run; None writes nothing.
    signals : that stop the fit.
    origin : what the run begins with, for its checkpoints.
    saved : the checkpoint to go on from; None begins anew.
    callbacks : of Lightning, called after ours.
    """
    import pandas as pd

    config = experiment.trainer
    held_out = [session.validation for session in sessions if len(session.validation)]
    gradient = isinstance(model, GradientModel)
    data = TrainingData(
        [session.train for session in sessions],
        held_out if isinstance(model, GradientModel | Scores) else [],
        model.sampling if isinstance(model, GradientModel) else TrialSampling(),
        config.batch_size,
        experiment.seed,
        shuffle=gradient,
    )
    learner, total, unit = _learner(experiment, model, data)
    assert config.patience is not None
    diverged: DivergedError | None = None
    if saved is not None and folder is not None:
        check_data(folder, saved["origin"], origin)
    with make_logger(experiment.logger, folder, experiment_to_plain(experiment)) as history:
        record = Record(config.patience, history)
        path = checkpoint_of(folder) if folder else None
        checkpoints = Checkpoints(path, config.checkpoint_every_s, record, signals, origin)
        if config.precision == "64":
            model.double()
        if saved is not None:
            checkpoints.resume(learner, saved)
        else:
            model.prepare(_Again(lambda: (batch for batch in data.everything() if batch.layout.session in new)))
        if not record.finished:
            accelerator = _accelerator(config.accelerator, model)
            _check_devices(accelerator, config.devices)
            progress = [Progress(record, total, unit)] if config.progress else []
            with quiet():
                trainer = pl.Trainer(
                    accelerator=accelerator,
                    devices=config.devices,
                    strategy=_strategy(config.devices, config.accelerator, some=gradient and len(sessions) > 1),
                    plugins=_environment(config.devices),
                    precision="bf16-mixed" if config.precision == "bf16" else "32-true",
                    max_epochs=-1 if gradient else total - len(record.rows),
                    callbacks=[record, checkpoints, *progress, *callbacks],
                    gradient_clip_val=config.gradient_clip if gradient else None,
                    deterministic=config.deterministic,
                    reload_dataloaders_every_n_epochs=int(learner.step % data.steps_a_round > 0),
                    use_distributed_sampler=False,
                    num_sanity_val_steps=0,
                    limit_val_batches=1.0 if data.validates() else 0,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                )
                try:
                    trainer.fit(learner, datamodule=data)
                except DivergedError as error:
                    diverged = error
            if diverged is None:
                _say_if_unfinished(learner, record, total)
    best = record.best
    if best is None and diverged is not None and checkpoints.good is not None:
        best = checkpoints.good["model"]
    if best is not None:
        model.load_state_dict(best)
    model.to("cpu")
    return pd.DataFrame(record.rows), diverged


def _environment(devices: int) -> list[Any]:
    """Return who starts the processes: with one device nobody, whatever SLURM says; else SLURM, which requeues nothing.

    Signals and requeueing are ours: Lightning would write checkpoints of its own.
    """
    if devices == 1:
        return [LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _say_if_unfinished(learner: Learner, record: Record, total: int) -> None:
    """Say so where a fit ended at its limit while it still improved."""
    if isinstance(learner, StatisticsLearner):
        if learner.converged or len(record.rows) < total:
            return
        what = f"after {total} passes, its limit, before it had converged: trainer.max_epochs={2 * total} goes on"
    elif learner.step >= total and record.improving:
        what = f"after {total} steps, its limit, while validation still improved: trainer.max_steps={2 * total} goes on"
    else:
        return
    logger.info("The fit ended %s.", what)


def _learner(experiment: Experiment, model: Model, data: TrainingData) -> tuple[Learner, int, str]:
    """Return the learner of the model's way of fitting, how long it goes on, and in what unit."""
    config = experiment.trainer
    learner: Learner
    if isinstance(model, StatisticsModel):
        learner = StatisticsLearner(model, config.tolerance)
        data.steps_a_round = data.steps_an_epoch or 1
        total, unit = min(config.max_epochs or 1, model.passes or sys.maxsize), "passes"
    else:
        assert isinstance(model, GradientModel)
        if config.max_epochs and data.steps_an_epoch is None:
            logger.warning(
                "trainer.max_epochs=%d does not limit %s, which draws pairs without end: set trainer.max_steps.",
                config.max_epochs,
                model.config.name,
            )
        limits = [
            config.max_steps,
            config.max_epochs and data.steps_an_epoch and config.max_epochs * data.steps_an_epoch,
        ]
        total, unit = min((limit for limit in limits if limit), default=_STEPS), "steps"
        rate = _LEARNING_RATE if config.learning_rate is None else config.learning_rate
        assert config.decay is not None
        assert config.decay_patience is not None
        decay = Decay(config.decay, config.decay_patience)
        learner = GradientLearner(model, rate, config.weight_decay, total, experiment.seed, decay)
        data.steps_a_round = min(config.validate_every_steps or total, total)
    data.position = lambda: learner.step
    return learner, total, unit


class _Again:
    """Batches that can be iterated more than once."""

    def __init__(self, make: Callable[[], Iterator[Batch]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Batch]:
        return self._make()


def _accelerator(name: str, model: Model) -> str:
    """Return the device to train on; models in float64 stay off those that have none.

    Statistics models run on the CPU unless another device is asked for.
    """
    solves = isinstance(model, StatisticsModel)
    double = solves or any(parameter.dtype == torch.float64 for parameter in model.parameters())
    if name == "mps" and double:
        logger.warning("trainer.accelerator=mps has no float64, which %s needs: it runs on the CPU.", model.config.name)
        return "cpu"
    return "cpu" if name == "auto" and (solves or (double and torch.backends.mps.is_available())) else name


def _check_devices(accelerator: str, devices: int) -> None:
    """Raise UserError for a device that is not there."""
    mps = int(torch.backends.mps.is_available())
    there = {"gpu": torch.cuda.device_count() or mps, "cuda": torch.cuda.device_count(), "mps": mps}.get(accelerator)
    if there is not None and there < devices:
        raise UserError(
            f"trainer.accelerator={accelerator} with trainer.devices={devices} is not possible here.",
            f"This machine has {there} such devices that PyTorch can use.",
            f"Set trainer.devices={there}."
            if there
            else "Set trainer.accelerator=cpu, or install PyTorch for your GPU.",
        )


def _strategy(devices: int, accelerator: str, some: bool) -> Any:
    """Return how processes work together; ``some``: a step may leave parameters, those of other sessions, untouched."""
    if devices == 1:
        return "auto"
    gloo = accelerator == "cpu" or not torch.cuda.is_available()
    return pl.strategies.DDPStrategy(process_group_backend="gloo" if gloo else None, find_unused_parameters=some)
