"""The one path: an experiment in, a fitted run out. Nothing is fitted anywhere else."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch

from lvmzoo import registry
from lvmzoo.adapt import take_over
from lvmzoo.batch import Batch, Layout, TrialSampling
from lvmzoo.config import Experiment
from lvmzoo.context import log_file, quiet, telling, threads
from lvmzoo.data.load import load, prepare
from lvmzoo.data.module import TrainingData
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Session
from lvmzoo.errors import Interrupted, UserError
from lvmzoo.learners.callbacks import Checkpoints, Learner, Progress, Record, Signals
from lvmzoo.learners.gradient import Decay, GradientLearner
from lvmzoo.learners.loggers import make_logger
from lvmzoo.learners.statistics import StatisticsLearner
from lvmzoo.metrics import score_all
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.decode import Decoder
from lvmzoo.metrics.decoding import best_decoders
from lvmzoo.models.base import Communicates, Connects, GradientModel, Model, Reconstructs, Scores, StatisticsModel
from lvmzoo.run import (
    Run,
    experiment_to_plain,
    load_run,
    make_folder,
    read_experiment,
    save_latents,
    write_experiment,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["readouts", "train"]

logger = logging.getLogger("lvmzoo")

_STEPS, _LEARNING_RATE = 1000, 1e-3  # of a gradient model that recommends none


def train(
    experiment: Experiment,
    recordings: Sequence[Recording] | None = None,
    *,
    write: bool = True,
    trained: Model | None = None,
) -> Run:
    """Build the model for the data's layouts, fit it, evaluate it.

    Parameters
    ----------
    experiment : what to fit, on what, and how. With ``experiment.resume`` the configuration of that run is used.
    recordings : data that are in memory already; None reads ``experiment.data``.
    write : False writes nothing to disk and computes no scores.
    trained : a model that is adapted to these data; None reads that of ``experiment.adapt``, if it is set.

    Raises
    ------
    UserError
        For a mistake in the configuration or the data.
    DivergedError
        When the objective is no longer finite.
    Interrupted
        When a signal stopped training; it was saved before.
    """
    began = time.perf_counter()
    folder = Path(experiment.resume) if experiment.resume else None
    if folder is not None:
        experiment = dataclasses.replace(read_experiment(folder), resume=str(folder))
    entry = registry.get(experiment.model.name)
    experiment = _recommended(experiment, entry)
    main = int(os.environ.get("LOCAL_RANK", "0")) == 0
    write = write and main
    recordings = load(experiment.data) if recordings is None else recordings
    sessions = prepare(recordings, experiment.data, window_bins=entry.window_bins(experiment.model))
    if trained is None and experiment.adapt is not None:
        trained = load_run(experiment.adapt).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = entry.model(experiment.model, [session.layout for session in sessions])
        new = frozenset(model.layouts)  # sessions that the model knows nothing of yet
        if trained is not None:
            new = take_over(model, trained, experiment.adapt_everything)
        sessions = [
            dataclasses.replace(session, notes=(*session.notes, *_model_notes(experiment, model, session.layout)))
            for session in sessions
        ]
        if write and folder is None:
            folder = make_folder(experiment, [session.layout.session for session in sessions])
        with log_file(folder if write else None), threads(experiment.trainer, model):
            if write and folder is not None:
                write_experiment(experiment, folder)
            for session in sessions:
                for note in session.notes:
                    logger.info("%s: %s", session.layout.session, note)
            logger.info("Fitting %s to %s", entry.name, _size(sessions))
            loaded = time.perf_counter()
            history = _fit(experiment, model, sessions, new, folder)
            if trained is not None:
                model.requires_grad_(True)
            model.finish()
            model.eval()
            facts = {
                "versions": _versions(),
                "seed": experiment.seed,
                "fingerprint": _fingerprint(sessions) if write else "",
                "notes": {session.layout.session: list(session.notes) for session in sessions},
                "seconds": {"data": round(loaded - began, 3), "fit": round(time.perf_counter() - loaded, 3)},
                "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            }
            run = Run(model, entry, experiment, sessions, [], history, folder, facts)
            if write and folder is not None:
                try:
                    _finish(run, sessions, folder)
                except KeyboardInterrupt as error:
                    raise Interrupted(signal.SIGINT, str(folder)) from error
    return run


def _model_notes(experiment: Experiment, model: Model, layout: Layout) -> Iterator[str]:
    """Say what the model leaves out of the session, and where its size makes scores too good to be true."""
    if isinstance(model, Communicates):
        used = {region for target, sources in model.routes.items() for region in (target, *sources)}
        used.add(getattr(experiment.model, "control", None) or "")  # a region that others are only compared with
        if unused := set(layout.units) - used:
            said = "; ".join(f"{' and '.join(sources)} predicts {target}" for target, sources in model.routes.items())
            yield f"{said}; not used: {', '.join(sorted(unused))}."
    if layout.inputs and not model.uses_inputs:
        yield f"{experiment.model.name} has no known inputs: {', '.join(layout.inputs)} is not used."
    if not isinstance(model, Reconstructs):
        return
    units, where = layout.n_units, ""
    if isinstance(model, Communicates):
        region, units = min(layout.units.items(), key=lambda item: item[1])
        where = f" of {region}"
    for name in ("latents", "across"):
        latents = getattr(experiment.model, name, None)
        if isinstance(latents, int) and latents >= units:
            yield (
                f"{latents} latents for {units} units{where} can copy the activity, noise included: scores of units "
                f"that the model saw say little. Set model.{name} lower, or data.split.held_out_units=0.25 for "
                "co-smoothing."
            )


def _finish(run: Run, sessions: list[Session], folder: Path) -> None:
    """Evaluate, and write everything; the model is on disk before anything that may go wrong."""
    began = time.perf_counter()
    run.save(folder)
    logger.info("Scoring on held-out data")
    evaluations = [Evaluation(run.model, session, run.experiment.seed) for session in sessions]
    run.decoders = readouts(evaluations)
    if isinstance(run.model, Connects):
        logger.info("Asking what regions have to do with each other, with nulls and intervals")
        for evaluation in evaluations:
            with telling(run.experiment.trainer.progress) as progress:
                run.findings[evaluation.layout.session] = evaluation.findings(progress)
    run.scores = score_all(evaluations)
    run.facts["seconds"]["evaluate"] = round(time.perf_counter() - began, 3)
    run.save(folder)
    save_latents(folder / "latents.npz", _latents(evaluations))
    if run.experiment.report:
        from lvmzoo.report.page import write_report

        logger.info("Writing the report")
        write_report(run, folder / "report.html", evaluations)


def readouts(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], Decoder]:
    """Fit a readout of every behavior variable from the training latents: (session, variable) -> decoder."""
    return {
        (evaluation.layout.session, variable): decoder
        for evaluation in evaluations
        for variable, decoder in best_decoders(evaluation).items()
    }


def _recommended(experiment: Experiment, entry: registry.Entry) -> Experiment:
    """Fill in what the user left to the model."""
    chosen = {
        field.name: getattr(entry.training, field.name)
        for field in dataclasses.fields(entry.training)
        if getattr(experiment.trainer, field.name) is None
    }
    trainer = dataclasses.replace(experiment.trainer, **chosen)
    if trainer.precision not in ("32", "64", "bf16"):
        raise UserError(f"trainer.precision is '{trainer.precision}'.", "Allowed: 32, 64, bf16.", "The default is 32.")
    if issubclass(entry.model, StatisticsModel) and trainer.precision == "bf16":
        raise UserError(
            f"trainer.precision=bf16 does not fit {entry.name}.",
            "It sums and solves in float64; half precision would lose the solution.",
            "Leave trainer.precision at its default.",
        )
    return dataclasses.replace(experiment, trainer=trainer)


def _fit(
    experiment: Experiment, model: Model, sessions: list[Session], new: frozenset[str], folder: Path | None
) -> pd.DataFrame:
    """Run the Trainer; leave the best parameters in the model and return the history."""
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
    signals = Signals()
    assert config.patience is not None
    record = Record(config.patience, make_logger(experiment.logger, folder, experiment_to_plain(experiment)))
    path = folder / "checkpoints" / "last.ckpt" if folder else None
    fingerprint = _fingerprint(sessions) if path else ""
    checkpoints = Checkpoints(path, config.checkpoint_every_s, record, signals, fingerprint)
    if config.precision == "64":
        model.double()
    if experiment.resume:
        checkpoints.resume(learner)
    else:
        model.prepare(_Again(lambda: (batch for batch in data.everything() if batch.layout.session in new)))
    if not record.finished:
        accelerator = _accelerator(config.accelerator, model)
        _check_devices(accelerator, config.devices)
        with signals.listening(), quiet():
            trainer = pl.Trainer(
                accelerator=accelerator,
                devices=config.devices,
                strategy=_strategy(config.devices, config.accelerator, some=gradient and len(sessions) > 1),
                precision="bf16-mixed" if config.precision == "bf16" else "32-true",
                max_epochs=-1 if gradient else total - len(record.rows),
                callbacks=[record, checkpoints, *([Progress(record, total, unit)] if config.progress else [])],
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
            trainer.fit(learner, datamodule=data)
            _say_if_unfinished(learner, record, total)
    if record.best is not None:
        model.load_state_dict(record.best)
    model.to("cpu")
    return pd.DataFrame(record.rows)


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


def _latents(evaluations: Sequence[Evaluation]) -> dict[str, np.ndarray]:
    """Return the latents of each session and part, with trial, time in seconds and behavior of each bin."""
    arrays = {}
    for evaluation in evaluations:
        for part in ("train", "validation", "test"):
            trials = evaluation.trials(part)
            if not len(trials):
                continue
            number = np.repeat(np.arange(len(trials)), trials.lengths)
            bins = np.concatenate([np.arange(length) for length in trials.lengths])
            time_s = trials.table["start_s"].to_numpy()[number] + (bins + 0.5) * trials.layout.bin_width_s
            valid = trials.valid.numpy()[trials.flat]
            name = f"{trials.layout.session}/{part}"
            arrays[f"{name}/latents"] = evaluation.latents(part).astype(np.float32)
            arrays[f"{name}/trial"], arrays[f"{name}/time_s"] = number[valid], time_s[valid]
            for variable in trials.layout.behavior:
                arrays[f"{name}/behavior/{variable}"] = evaluation.behavior(part, variable).astype(np.float32)
    return arrays


def _size(sessions: Sequence[Session]) -> str:
    """Return in words what is fitted."""
    names = ", ".join(session.layout.session for session in sessions[:3]) + (", …" if len(sessions) > 3 else "")
    units = sum(session.layout.n_units for session in sessions)
    trials, bins = (sum(count) for count in zip(*((len(s.train), s.train.n_bins) for s in sessions), strict=True))
    return f"{names}: {units} units, {trials} training trials, {bins} bins"


def _versions() -> dict[str, str]:
    names = ("lvmzoo", "torch", "pytorch-lightning", "numpy", "pynwb")
    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in names}}


def _fingerprint(sessions: Sequence[Session]) -> str:
    """Return a hash of the binned activity of all parts."""
    digest = hashlib.blake2b(digest_size=16)
    for session in sessions:
        digest.update(np.ascontiguousarray(session.train.activity.numpy()).data)
        for part in (session.train, session.validation, session.test):
            digest.update(part.start.tobytes() + part.stop.tobytes())
    return digest.hexdigest()
