"""What is refused of configs before Hydra reads or builds anything: code, other places, secrets, and bombs.

Hydra builds whatever a ``_target_`` names, imports what its search path names, sets environment variables, and reads
them with ``${oc.env:…}``; a nested alias or reference of some bytes can fill the memory. Configs are passed on between
people, so here they hold names and numbers only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lvmzoo.errors import UserError

__all__ = ["check_composed", "check_hydra", "check_key", "check_overrides", "check_target", "check_text"]

LONGEST_OVERRIDE = 10_000  # characters; Hydra takes minutes for 60 000
MOST_REFERENCES = 20  # ${…}, of a whole experiment: nested ones multiply

_OPEN = ("launcher", "sweeper")  # of Hydra's own settings; the others belong to lvmzoo
_HYDRA = re.compile(r"(?:override\s+)?/?hydra[./]")
_OPEN_HYDRA = re.compile(rf"{_HYDRA.pattern}(?:{'|'.join(_OPEN)})(?:[./@].*)?$")
_REFERENCE = re.compile(r"\$\{\s*(?:(?:hydra|now)\s*:[^${}]*|[^${}:]*)\}")  # to a setting, or of Hydra's own
_SAMPLERS = ("TPESampler", "RandomSampler", "CmaEsSampler", "NSGAIISampler", "MOTPESampler", "GridSampler")
_ENGINES = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    *(f"optuna.samplers.{name}" for name in _SAMPLERS),
    "lvmzoo.sweep_values.UntriedTPESampler",
}
# Settings of launchers and sweepers that import what they name.
_RUNNING = ("_args_", "custom_search_space", "constraints_func")
# Those that run commands, reach other machines or write elsewhere: a user's own words alone may set them.
_OWN = ("setup", "additional_parameters", "submitit_folder", "python", "runtime_env", "init", "temp_folder")
_DEFAULTS = ("${hydra.sweep.dir}/.submitit/%j",)
_FIXED: dict[str, Any] = {  # what else of Hydra's settings reads the environment, or writes elsewhere
    "output_subdir": None,
    "run.dir": ".",
    "sweep.subdir": ".",
    "job.chdir": False,
    "job.env_copy": [],
}


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse overrides of Hydra's settings other than launcher and sweeper, and references to the environment.

    Raises
    ------
    UserError
        Naming the override.
    """
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if len(word) > LONGEST_OVERRIDE:
            raise UserError(
                f"The override {key[:100]}=… is {len(word)} characters long.",
                f"An override may have {LONGEST_OVERRIDE} characters.",
                "Write the value into a file of configs: --config-dir DIR experiment=NAME, or use a glob for paths.",
            )
        check_key(f"{key}." if key == "hydra" else key, f"The override {word}")
        check_text(word, f"The override {word}")


def check_key(key: str, where: str) -> None:
    """Raise UserError for the full name of a setting of Hydra's, or a choice, that is not for configs to change."""
    target = key.rpartition("@")[2].removeprefix("_global_.") if "@" in key else ""  # the package it goes to
    for name in (key, f"{target}." if target == "hydra" else target):
        if _HYDRA.match(name) and not _OPEN_HYDRA.match(name):
            raise _not_open(name.rstrip("."), where)


def check_text(value: str, where: str) -> None:
    """Raise UserError for a text that refers to anything but settings: the environment, or a resolver of code."""
    if any(not _REFERENCE.match(value, found.start()) for found in re.finditer(r"\$\{", value)):
        raise UserError(
            f"{where} refers to something that is no setting (${{…:…}}).",
            "References name settings, such as ${data.bin_width_s}. The environment is not read: what is secret there "
            "would be written to run folders and logs.",
            "Write the value out, or let your shell put it into an override.",
        )


def check_target(value: Any, where: str) -> None:
    """Raise UserError for a ``_target_`` that is none of the launchers and sweepers which Hydra and lvmzoo bring."""
    if value not in _ENGINES:
        raise _code(where, value)


def check_composed(composed: DictConfig) -> None:
    """Refuse what no file and no override may bring into an experiment; raises UserError naming the setting."""
    count = 0
    for key, value in _plain(composed):
        if key.partition(".")[0] == "hydra":
            continue
        if key.rpartition(".")[2] == "_target_":
            raise _code(f"The setting {key}", value)
        if isinstance(value, str):
            count += value.count("${")
            check_text(value, f"The setting {key}")
    if count > MOST_REFERENCES:
        raise UserError(
            f"The experiment holds {count} references (${{…}}).",
            f"More than {MOST_REFERENCES} are refused: nested references can fill the memory.",
            "Write the values out.",
        )


def check_hydra(settings: DictConfig, own: Collection[str] = ()) -> None:
    """Refuse settings of Hydra by which a config would run code; raises UserError naming the setting.

    Parameters
    ----------
    settings : the node ``hydra`` of what was composed.
    own : full names of the settings that the user gave as overrides, rather than in a file.
    """
    for name, usual in _FIXED.items():
        if OmegaConf.select(settings, name) != usual:
            raise _not_open(f"hydra.{name}", "The experiment")
    for name in ("callbacks", "job.env_set"):
        if OmegaConf.select(settings, name):
            raise _not_open(f"hydra.{name}", "The experiment")
    for name in ("job_logging", "hydra_logging"):  # formatters and handlers are built from what they name
        if added := {*(settings[name] or ())} - {"version", "root", "disable_existing_loggers"}:
            raise _not_open(f"hydra.{name}.{min(added)}", "The experiment")
    for owner in _OPEN:
        for key, value in _plain(settings[owner]):
            where, leaf = f"The setting hydra.{owner}.{key}", key.rpartition(".")[2]
            if key.partition(".")[0] in ("params", "search_space"):  # what a sweeper gives its jobs as overrides
                check_overrides([f"{key.partition('.')[2]}={value}"])
                continue
            if value in (None, *_DEFAULTS):
                continue
            mine = any(f"hydra.{owner}.{key}.".startswith(f"{name}.") for name in own)
            if not mine and any(part in _OWN for part in key.split(".")):
                raise UserError(
                    f"{where} is {str(value)[:100]!r}, in a config.",
                    "It runs commands, reaches other machines or writes elsewhere, so no file of configs may set it.",
                    f"Remove it there. If you mean it, give it as an override: 'hydra.{owner}.{key.split('.')[0]}…=…'.",
                )
            running = any(part in _RUNNING for part in key.split("."))
            if leaf == "_target_":
                check_target(value, where)
            if isinstance(value, str):
                check_text(value, where)
            if (value and running) or (not mine and "\n" in f"{key}{value}"):  # a line more in the script of a job
                raise _code(where, value)
            if leaf == "storage" and value and not str(value).startswith("sqlite:///"):
                raise UserError(
                    f"{where} is {value}.",
                    "A study is kept in memory or in a file: other storages read what somebody else's program wrote.",
                    f"Write hydra.{owner}.storage=sqlite:///FILE.db, or leave it out.",
                )


def _plain(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the raw value of every leaf; nothing is resolved."""
    if OmegaConf.is_config(node):
        if node._is_none() or node._is_missing() or node._is_interpolation():
            yield prefix, node._value()
            return
        names = node if OmegaConf.is_dict(node) else range(len(node))
        for name in names:
            yield from _plain(node._get_node(name), f"{prefix}.{name}".lstrip("."))
    else:
        yield prefix, node._value()


def _code(where: str, value: Any) -> UserError:
    return UserError(
        f"{where} names code to run: {str(value)[:100]!r}.",
        "Configs hold names and numbers; only Hydra's own launchers and sweepers are built from them.",
        "Remove it. Models come by model=NAME; new ones are plugins (docs: adding a model).",
    )


def _not_open(key: str, where: str) -> UserError:
    return UserError(
        f"{where} sets {key}.",
        "Of Hydra's settings a launcher and a sweeper may be chosen (hydra/launcher, hydra.launcher.*, hydra/sweeper, "
        "hydra.sweeper.*); the others run code, or write elsewhere.",
        "Remove it. For folders of configs there is --config-dir, for the output output=DIR.",
    )
