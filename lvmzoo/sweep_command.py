"""``lvmzoo train -m``: every combination of values, and every fold, each a run; then what they come to."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lvmzoo.cli import failure
from lvmzoo.compare_command import job_number, present
from lvmzoo.comparison_settings import FOLD
from lvmzoo.config import SplitConfig
from lvmzoo.errors import Interrupted, UserError
from lvmzoo.run import new_folder
from lvmzoo.store import load, parse, to_experiment
from lvmzoo.train_command import call_hydra

__all__ = ["run"]

GRID = "BasicSweeper"  # of Hydra: every combination; others draw values to search


def run(arguments: Sequence[str], options: argparse.Namespace) -> int:
    """Run every combination and return the exit code.

    Each job leaves its outcome in a file, so that none is lost whatever launches it. Where the split has folds and none
    is chosen, every fold is run.

    Parameters
    ----------
    arguments : of ``lvmzoo train``.
    options : these arguments as Hydra's parser reads them.
    """
    composed = load(_first_values(options.overrides), options.config_dir, hydra=True)
    folds = _all_folds(composed)
    folder = new_folder(Path(composed.output), time.strftime("sweep-%Y%m%d-%H%M%S"))
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    try:
        call_hydra([*arguments, *folds, f"hydra.sweep.dir='{quoted}'"], _job)
    finally:
        outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("job-*.json"), key=job_number)]
        if not outcomes and not any(path.is_dir() for path in folder.iterdir()):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()  # nothing was started
        else:
            present(folder, outcomes)
            failed = [outcome for outcome in outcomes if outcome["code"]]
            print(f"Sweep: {folder}, {len(outcomes) - len(failed)} of {len(outcomes)} runs done")
    return next((outcome["code"] for outcome in outcomes if outcome["code"] != 0), 0)


def _all_folds(composed: DictConfig) -> list[str]:
    """Return the override that runs every fold, where there are folds and none is chosen; UserError for a search."""
    split, sweeper = OmegaConf.to_object(composed.data.split), composed.hydra.sweeper
    assert isinstance(split, SplitConfig)
    if split.by != "folds" or split.fold is not None or FOLD in (sweeper.get("params") or ()):
        return []
    assert split.folds is not None
    if not sweeper._target_.endswith(GRID):
        raise UserError(
            f"data.split.folds={split.folds} does not go with a search.",
            "A search chooses all values of a run, and would choose the fold that is the easiest.",
            f"Search with {FOLD}=0, then run all folds with the values that it finds.",
        )
    return [f"{FOLD}={','.join(map(str, range(split.folds)))}"]


def _job(composed: DictConfig) -> float:
    """Run one job of a sweep, in whatever process the launcher puts it; return what a search minimizes.

    That is the lowest validation loss, or minus the highest held-out log-likelihood; NaN without either.
    """
    settings = HydraConfig.get()
    folder = Path(settings.sweep.dir)
    outcome: dict[str, Any] = {
        "job": int(settings.job.num),
        "overrides": [str(override) for override in settings.overrides.task],
        "code": 1,
        "error": ["did not finish"],
    }
    objective = math.nan
    path = folder / f"job-{outcome['job']}.json"
    path.write_text(json.dumps(outcome))
    try:
        experiment = to_experiment(composed)
        if experiment.trainer.devices > 1:
            raise UserError(
                f"trainer.devices={experiment.trainer.devices} does not work in a sweep.",
                "Every process of a job would start the whole sweep again.",
                "Sweep with trainer.devices=1, or start the runs one by one.",
            )
        from lvmzoo.train import train

        name = experiment.name or f"job-{outcome['job']}-{experiment.model.name}"
        outcome["model"] = experiment.model.name
        began = time.perf_counter()
        finished = train(replace(experiment, output=str(folder), name=name))
    except Exception as error:
        code, lines = failure(error)
        outcome |= {"code": code, "error": lines}
        print("\n".join(lines), file=sys.stderr)
        if isinstance(error, Interrupted):
            path.write_text(json.dumps(outcome, indent=2))
            raise SystemExit(code) from error  # ends the sweep: Hydra would go on after an Exception
    else:
        scores = [asdict(score) for score in finished.scores]
        seconds = round(time.perf_counter() - began, 3)
        for column, sign in (("validation/loss", 1.0), ("validation/log_likelihood_per_bin", -1.0)):
            if column in finished.history:
                objective = float((sign * finished.history[column]).min())
        outcome |= {"code": 0, "error": [], "folder": str(finished.folder), "scores": scores, "seconds": seconds}
    path.write_text(json.dumps(outcome, indent=2))
    return objective


def _first_values(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the first job of a sweep; ranges that a sweeper draws from are left out."""
    first = []
    for override in parse(overrides):
        if not override.is_sweep_override():
            first.append(str(override.input_line))
        elif override.is_discrete_sweep():
            first.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
    return first
