"""What no sweep can be run with, said before the first job: it would be the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from lvmzoo import registry
from lvmzoo.data.files import files_of
from lvmzoo.errors import UserError
from lvmzoo.models.base import GradientModel, Scores
from lvmzoo.store import compose, parse
from lvmzoo.wrong_config import missing

__all__ = ["check_processes", "check_sweep", "tasks_of"]


def check_sweep(composed: DictConfig, jobs: Sequence[Sequence[str]] | None, config_dir: str | None) -> None:
    """Refuse a sweep of which no job could run, or in which files are missing.

    Parameters
    ----------
    composed : the first of its jobs.
    jobs : the overrides of each; None for a search, which draws them.
    config_dir : a folder with more configs.

    Raises
    ------
    UserError
        For a value that is wrong in every job, files that are not there, and what does not go with a sweep.
    """
    if absent := [key for key in OmegaConf.missing_keys(composed) if not key.startswith("hydra.")]:
        raise missing(min(absent))
    if composed.resume is not None:
        raise UserError(
            f"resume={composed.resume} does not go with -m.",
            "A sweep that was stopped goes on when it is started again with the same words.",
            f"Continue the run alone: lvmzoo train resume={composed.resume}",
        )
    check_processes(composed.trainer.devices, tasks_of(composed.hydra.launcher))
    if jobs is None:
        _refuse_search_for_nothing(composed)
        if (direction := str(composed.hydra.sweeper.get("direction"))) != "minimize":
            raise UserError(
                f"hydra.sweeper.direction={direction} is not possible.",
                "A search minimizes the validation loss, or minus the log-likelihood of validation data.",
                "Leave hydra.sweeper.direction out.",
            )
        for name in ("n_trials", "n_jobs"):
            if (number := composed.hydra.sweeper.get(name)) is not None and number < 1:
                raise UserError(
                    f"hydra.sweeper.{name}={number} is not possible.",
                    "A search runs at least one job, and one at a time.",
                    f"Set hydra.sweeper.{name} to 1 or more.",
                )
    _refuse_absent_files(composed, jobs or ())
    _refuse_what_no_job_can_be(jobs or (), config_dir)


def tasks_of(launcher: DictConfig) -> int:
    """Return how many processes a launcher starts for each job."""
    return int(launcher.get("tasks_per_node", 1))


def check_processes(devices: int, tasks: int) -> None:
    """Raise UserError where a job's processes are not those of its devices: each would start the sweep, or a run."""
    if devices == tasks:
        return
    if devices > 1:
        raise UserError(
            f"trainer.devices={devices} does not work in a sweep with this launcher.",
            "Every process of a job would start the whole sweep again.",
            "Sweep with trainer.devices=1, start the runs one by one, or use hydra/launcher=slurm_gpus.",
        )
    raise UserError(
        f"hydra.launcher.tasks_per_node={tasks} does not go with trainer.devices={devices}.",
        "Each task is a process of the same run, for a device of its own.",
        f"Set trainer.devices={tasks}, or leave hydra.launcher.tasks_per_node at 1.",
    )


def _refuse_absent_files(composed: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    """Raise UserError once for files that no job, or that one of them, would not find."""
    words = {word for job in jobs for word in job if word.startswith("data.path=")}
    paths = [word.value() for word in parse(sorted(words))]
    if not words and composed.data.path is not None:
        paths = [OmegaConf.to_container(composed.data, resolve=True)["path"]]  # type: ignore[call-overload, index] # a mapping
    for path in paths:
        if path is not None and "${" not in str(path):
            files_of(path)


def _refuse_what_no_job_can_be(jobs: Sequence[Sequence[str]], config_dir: str | None) -> None:
    """Raise UserError once where no job of a sweep has settings that a run can have."""
    first: UserError | None = None
    for job in jobs:
        try:
            compose(job, config_dir)
        except UserError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def _refuse_search_for_nothing(composed: DictConfig) -> None:
    """Raise UserError where no run of a search would have anything to minimize."""
    model = registry.get(composed.model.name).model
    if composed.data.split.held_out_units or issubclass(model, Scores | GradientModel):
        return
    raise UserError(
        f"A search has nothing to judge {composed.model.name} by.",
        "It minimizes the validation loss, or minus the log-likelihood of validation data: this model has neither.",
        "Add data.split.held_out_units=0.25, whose co-smoothing is then maximized, or use `lvmzoo select`.",
    )
