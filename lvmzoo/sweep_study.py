"""A study that a search keeps in a file: a later search goes on with it, for the same settings and data only.

Scores of other data, or of other settings than those that are searched, do not compare; the search would take the best
of them for good values.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lvmzoo.comparison_settings import flat
from lvmzoo.data.files import files_of
from lvmzoo.errors import UserError, printable
from lvmzoo.origin import changes
from lvmzoo.store import parse
from lvmzoo.wrong_config import explain

__all__ = ["begin_study", "unreadable"]

SQLITE = "sqlite:///"
SETTINGS = "settings"  # attribute of a study: what all its runs share
MOST_NAMED = 3  # settings that changed


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
    try:
        sweeper: Any = OmegaConf.to_container(composed.hydra.sweeper, resolve=True)
        name, storage = sweeper.get("study_name"), sweeper.get("storage")
        if not (name and storage):
            return ""
        settings = _shared(composed, sweeper.get("params") or {}, overrides)
    except Exception as error:
        raise explain(error, overrides) from error
    from optuna import create_study
    from optuna.trial import TrialState

    file = storage.removeprefix(SQLITE)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        study = create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
        states = [trial.state for trial in study.trials]
        if not {TrialState.COMPLETE, TrialState.RUNNING} & set(states):
            study.set_user_attr(SETTINGS, settings)
        before, done = study.user_attrs.get(SETTINGS), states.count(TrialState.COMPLETE)
        best = study.best_trial if done else None
    except Exception as error:
        raise unreadable(storage, error) from error
    shown = printable(f"'{name}'")
    if isinstance(before, dict) and (changed := changes(before, settings)):
        more = f"; and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        raise UserError(
            f"The study {shown} in {file} is one of other runs: {'; '.join(changed[:MOST_NAMED])}{more}.",
            "Scores compare only where all but the searched settings, and the data, are the same.",
            "Undo the change, or begin another study beside it: hydra.sweeper.study_name=NAME.",
        )
    if best is None:
        return ""
    values = " ".join(f"{key}={value}" for key, value in best.params.items()) or "without a searched setting"
    unknown = "" if isinstance(before, dict) else " It does not say which settings and data its runs had."
    return (
        f"Going on with the study {shown} of {done} run{'s' * (done != 1)} in {file}; the best so far: "
        f"{values} (objective {best.value:.5g}).{unknown}"
    )


def unreadable(storage: str, cause: BaseException) -> UserError:
    """Return the error of a file of studies that cannot be read or written."""
    file, said = storage.removeprefix(SQLITE), str(cause).partition("\n")[0].rstrip(".")
    if "locked" in said:
        return UserError(
            f"The study of the search is in use: {said}.",
            f"Another search writes to {file}.",
            "Give the same command again when that one has ended.",
        )
    if isinstance(cause, OSError) or "unable to open" in said or "readonly" in said:
        return UserError(
            f"The study of the search cannot be kept: {said}.",
            f"It would lie in {file}.",
            "Name another file, hydra.sweeper.storage=sqlite:///FILE.db, or search with hydra/sweeper=search.",
        )
    return UserError(
        f"The study of the search cannot be read: {said}.",
        f"It is kept in {storage}, which is damaged, or another kind of file.",
        "Move that file away to begin a new study, or search with hydra/sweeper=search, which keeps none.",
    )


def _shared(composed: DictConfig, params: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings of all runs of a search, what their files are, and how the searched settings are drawn.

    The ends of a range may be others in the next search; of a choice, Optuna keeps to the one that a study began with.
    """
    # Private to Hydra's plugin, and the only place that says how Optuna will draw what an override offers.
    from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
    from optuna.distributions import CategoricalDistribution

    settings = copy.deepcopy(composed)
    with open_dict(settings):
        del settings["hydra"]
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)
    found = flat({str(key): value for key, value in plain.items()})
    if path := plain["data"]["path"]:
        found["data.path"] = [_identity(file) for file in files_of(path)]
    words = parse([*(f"{key}={value}" for key, value in params.items()), *overrides])
    last = {word.get_key_element().lstrip("+"): word for word in words if not word.is_hydra_override()}
    for key, word in last.items():
        if word.is_sweep_override():
            found = {name: value for name, value in found.items() if not f"{name}.".startswith(f"{key}.")}
            drawn = create_optuna_distribution_from_override(word)
            one_of = isinstance(drawn, CategoricalDistribution)
            found[key] = f"one of {list(drawn.choices)}" if one_of else f"searched ({type(drawn).__name__})"
    return found


def _identity(file: Path) -> str:
    stat = file.stat()
    changed = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(stat.st_mtime))
    return f"{file.resolve()} ({stat.st_size} bytes, of {changed} UTC)"
