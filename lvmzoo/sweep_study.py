"""A study that a search keeps in a file: a later search goes on with it, for the same settings and data only.

Scores of other data, or of other settings than those that are searched, do not compare; the search would take the best
of them for good values.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from lvmzoo.comparison_settings import flat
from lvmzoo.data.files import files_of
from lvmzoo.errors import UserError
from lvmzoo.origin import changes
from lvmzoo.run import experiment_to_plain
from lvmzoo.store import parse, to_experiment

__all__ = ["begin_study", "unreadable"]

SQLITE = "sqlite:///"
SETTINGS = "settings"  # attribute of a study: what all its runs share
FREE = "searched"  # what stands there for a setting that is drawn from a range


def begin_study(composed: DictConfig, overrides: Sequence[str]) -> str:
    """Begin the study of a search, or find it; return what to say of what it holds, empty for a new one.

    Parameters
    ----------
    composed : the configuration of the first job, with Hydra's settings.
    overrides : of the search.

    Raises
    ------
    UserError
        Where the file holds no studies, or the study's runs had other settings or data.
    """
    sweeper = composed.hydra.sweeper
    if not (sweeper.storage and sweeper.study_name):
        return ""
    file = sweeper.storage.removeprefix(SQLITE)
    directions = [sweeper.direction] if isinstance(sweeper.direction, str) else list(sweeper.direction)
    from optuna import create_study
    from optuna.trial import TrialState

    settings = _shared(composed, overrides)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        study = create_study(
            storage=sweeper.storage, study_name=sweeper.study_name, directions=directions, load_if_exists=True
        )
        done = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
        if not done:
            study.set_user_attr(SETTINGS, json.dumps(settings))
            return ""
    except Exception as error:
        raise unreadable(sweeper.storage, error) from error
    before = json.loads(study.user_attrs.get(SETTINGS, "null"))
    if before is not None and (changed := changes(before, settings)):
        raise UserError(
            f"The study '{sweeper.study_name}' in {file} is one of other runs: {'; '.join(changed)}.",
            "Scores compare only where all but the searched settings, and the data, are the same.",
            "Undo the change, or begin another study beside it: hydra.sweeper.study_name=NAME.",
        )
    best = " ".join(f"{name}={value}" for name, value in study.best_params.items())
    return (
        f"Going on with the study '{sweeper.study_name}' of {len(done)} run{'s' * (len(done) != 1)} in "
        f"{file}; the best so far: {best} (objective {study.best_value:.5g})."
    )


def unreadable(storage: str, cause: BaseException) -> UserError:
    """Return the error of a file that holds no studies."""
    return UserError(
        f"The study of the search cannot be read: {str(cause).partition(chr(10))[0]}.",
        f"It is kept in {storage}, which is damaged, or another kind of file.",
        "Move that file away to begin a new study, or search with hydra/sweeper=search, which keeps none.",
    )


def _shared(composed: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings of all runs of a search, the sizes of their files, and the choices that are offered.

    A range may be another one in the next search; of a choice, Optuna keeps to the one that the study began with.
    """
    settings = copy.deepcopy(composed)
    with open_dict(settings):
        settings.pop("hydra")
    experiment = to_experiment(settings)
    found = flat(experiment_to_plain(experiment))
    if experiment.data.path is not None:
        found["data.path"] = {path.name: path.stat().st_size for path in files_of(experiment.data.path)}
    params = [f"{key}={value}" for key, value in (composed.hydra.sweeper.params or {}).items()]
    for override in parse([*params, *overrides]):
        if override.is_sweep_override() and not override.is_hydra_override():
            key = override.get_key_element().lstrip("+")
            found = {name: value for name, value in found.items() if not f"{name}.".startswith(f"{key}.")}
            found[key] = str(override.input_line).partition("=")[2] if override.is_choice_sweep() else FREE
    return found
