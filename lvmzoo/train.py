"""The one path: an experiment in, a fitted run out. Nothing is fitted anywhere else."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from lvmzoo import registry
from lvmzoo.adapt import take_over
from lvmzoo.batch import Layout
from lvmzoo.checkpoint import remove_partial
from lvmzoo.config import Experiment
from lvmzoo.context import full_disk, log_file, telling, threads
from lvmzoo.data.load import load, prepare
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Session
from lvmzoo.errors import DivergedError, UserError
from lvmzoo.fit import fit
from lvmzoo.memory import check_memory
from lvmzoo.metrics import score_all
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.decode import Decoder
from lvmzoo.metrics.decoding import best_decoders
from lvmzoo.models.base import Communicates, Connects, Model, Reconstructs, StatisticsModel
from lvmzoo.origin import begun, fingerprint, origin
from lvmzoo.processes import process_number
from lvmzoo.run import Run, load_run, make_folder, read_experiment, save_latents, write_experiment
from lvmzoo.run_files import check_links
from lvmzoo.signals import Signals
from lvmzoo.slurm import continued, remembered

__all__ = ["readouts", "train"]

logger = logging.getLogger("lvmzoo")

LAST_GOOD = "last_good"  # folder in that of a run that diverged


def train(
    experiment: Experiment,
    recordings: Sequence[Recording] | None = None,
    *,
    write: bool = True,
    trained: Model | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> Run:
    """Build the model for the data's layouts, fit it, evaluate it.

    Parameters
    ----------
    experiment : what to fit, on what, and how. With ``experiment.resume`` the configuration of that run is used.
    recordings : data that are in memory already; None reads ``experiment.data``.
    write : False writes nothing to disk and computes no scores.
    trained : a model that is adapted to these data; None reads that of ``experiment.adapt``, if it is set.
    callbacks : of Lightning, called after ours.

    Raises
    ------
    UserError
        For a mistake in the configuration or the data.
    DivergedError
        When the objective is no longer finite. The last good parameters are a run of their own in ``last_good/``.
    Interrupted
        When a signal stopped it; what was trained is saved before.
    """
    signals = Signals()
    with signals.listening():
        return _train(experiment, recordings, write, trained, callbacks, signals)


def _train(
    experiment: Experiment,
    recordings: Sequence[Recording] | None,
    write: bool,
    trained: Model | None,
    callbacks: Sequence[pl.Callback],
    signals: Signals,
) -> Run:
    began = time.perf_counter()
    write = _main(experiment.trainer.devices) and write
    asked = experiment
    if write:
        experiment = continued(experiment)
    folder, saved = Path(experiment.resume) if experiment.resume else None, None
    entry = registry.get(experiment.model.name)
    if folder is not None:
        experiment = dataclasses.replace(read_experiment(folder), resume=str(folder))
        if write:
            check_links(folder)
            remove_partial(folder)
        entry = registry.get(experiment.model.name)
        saved = begun(folder, _recommended(experiment, entry))
    experiment = _recommended(experiment, entry)
    recordings = load(experiment.data) if recordings is None else recordings
    check_memory(experiment, recordings, entry.model)
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
        kept = folder if write else None
        with full_disk(kept), log_file(kept), threads(experiment.trainer, model), remembered(asked, kept):
            if kept is not None:
                write_experiment(experiment, kept)
                signals.folder = str(kept)
            for session in sessions:
                for note in session.notes:
                    logger.info("%s: %s", session.layout.session, note)
            logger.info("Fitting %s to %s", entry.name, _size(sessions))
            loaded = time.perf_counter()
            history, diverged = fit(
                experiment,
                model,
                sessions,
                new,
                folder,
                signals=signals,
                origin=origin(experiment, sessions, [recording.source for recording in recordings]) if folder else {},
                saved=saved,
                callbacks=callbacks,
            )
            if trained is not None:
                model.requires_grad_(True)
            model.finish()
            model.eval()
            facts = {
                "versions": _versions(),
                "seed": experiment.seed,
                "fingerprint": fingerprint(sessions) if write else "",
                "notes": {session.layout.session: list(session.notes) for session in sessions},
                "seconds": {"data": round(loaded - began, 3), "fit": round(time.perf_counter() - loaded, 3)},
                "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            }
            run = Run(model, entry, experiment, sessions, [], history, folder, facts)
            if diverged is not None:
                raise _left_of(run, diverged) if kept is not None else diverged
            if kept is not None:
                _finish(run, sessions, kept)
    return run


def _main(devices: int) -> bool:
    """Return whether this process is the one that writes; SLURM numbers processes that it starts together."""
    return process_number("LOCAL_RANK", str(process_number("SLURM_PROCID")) if devices > 1 else "0") == 0


def _left_of(run: Run, diverged: DivergedError) -> DivergedError:
    """Save the parameters before the fit diverged; return the error that says where."""
    assert run.folder is not None
    run.facts["diverged"] = str(diverged)
    left = run.save(run.folder / LAST_GOOD)
    return DivergedError(f"{diverged} The last good parameters are in {left}.")


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
