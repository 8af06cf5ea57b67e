"""From YAML and overrides to a typed experiment: Hydra's store is filled from the dataclasses and the registry.

Names only: no config builds an object or runs code. ``compose`` gives the same experiment to the command line and to
Python.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lvmzoo import registry
from lvmzoo.config import Experiment
from lvmzoo.config_files import check_folder
from lvmzoo.config_safety import check_composed, check_hydra, check_overrides
from lvmzoo.errors import UserError
from lvmzoo.wrong_config import explain, missing, not_a_field

__all__ = ["compose", "config_folder", "fill_store", "group_options", "load", "parse", "to_experiment"]


def config_folder() -> Path:
    """Return the folder of the shipped configs: inside the installed package, else beside it in a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "configs"


def group_options(group: str) -> list[str]:
    """Return the names that ``group=NAME`` accepts, plugins included."""
    names = {path.stem for path in (config_folder() / group).glob("*.yaml")}
    return sorted(names | set(registry.entries()) if group == "model" else names)


def fill_store() -> None:
    """Store the experiment's and every model's dataclass, so that YAML and overrides are checked against types."""
    _fill(tuple(registry.entries().items()))


@functools.lru_cache(maxsize=1)  # Hydra copies what is stored
def _fill(entries: tuple[tuple[str, registry.Entry], ...]) -> None:
    store = ConfigStore.instance()
    store.store(group="schema", name="experiment", node=_open(Experiment))
    for name, entry in entries:
        try:
            node = _open(entry.config)
        except OmegaConfBaseException as error:
            if entry.model.__module__.startswith("lvmzoo."):
                raise
            registry.withdraw(name, f"its config cannot be typed: {str(error).splitlines()[0]}")
            continue
        store.store(group="schema/model", name=name, node=node)
        if not (config_folder() / "model" / f"{name}.yaml").exists():  # a plugin
            store.store(group="model", name=name, node=node)


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Experiment:
    """Compose an experiment from the shipped configs as ``lvmzoo train`` does.

    Parameters
    ----------
    overrides : what would stand on the command line, such as ``["model=lds", "model.latents=4"]``.
    config_dir : a folder with more configs (``experiment/mine.yaml``), searched before the shipped ones.

    Raises
    ------
    UserError
        For a name, key, value or type that is wrong.
    """
    composed = load(overrides, config_dir)
    try:
        return to_experiment(composed)
    except Exception as error:
        raise explain(error, overrides) from error


def parse(overrides: Sequence[str]) -> list[Override]:
    """Return what overrides say, sweeps included; raises UserError for one that cannot be read, or runs code."""
    check_overrides(overrides)
    try:
        found: list[Override] = OverridesParser.create().parse_overrides(list(overrides))
    except Exception as error:
        raise explain(error, overrides) from error
    return found


def load(overrides: Sequence[str] = (), config_dir: str | Path | None = None, *, hydra: bool = False) -> DictConfig:
    """Compose as ``compose`` does, and return what Hydra gives; ``hydra``: with Hydra's own settings."""
    check_overrides(overrides)
    fill_store()
    extra = []
    if config_dir is not None:
        check_folder(config_dir)
        extra = [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = hydra_compose("train", [*overrides, *extra], return_hydra_config=True)
    except Exception as error:  # Hydra, OmegaConf and PyYAML each raise several unrelated types here
        raise explain(error, overrides) from error
    check_hydra(composed.hydra, _named(overrides))
    check_composed(composed)
    if not hydra:
        with open_dict(composed):
            del composed["hydra"]
    return composed


def _named(overrides: Sequence[str]) -> set[str]:
    """Return the full names of the settings that overrides set, those in mappings one by one."""

    def names(key: str, value: Any) -> Iterator[str]:
        if not isinstance(value, dict):
            yield key
            return
        for name, item in value.items():
            yield from names(f"{key}.{name}", item)

    return {name for word in parse(overrides) for name in names(word.get_key_element().lstrip("+~"), word.value())}


def to_experiment(composed: DictConfig) -> Experiment:
    """Turn a composed config into dataclasses; raises UserError for fields that these do not have."""
    check_composed(composed)
    _check_keys(composed, "")
    name = composed.model.name
    entry = registry.get(name)
    if OmegaConf.get_type(composed.model) is not entry.config:
        raise UserError(
            f"model.name='{name}' does not match the chosen model.",
            "The fields of a model come with its choice; its name is not to be set by itself.",
            f"Write model={name} instead.",
        )
    experiment = OmegaConf.to_object(composed)
    assert isinstance(experiment, Experiment)
    if experiment.data.path is None and experiment.data.simulator is None and experiment.resume is None:
        raise missing("data.path")
    return _tuples(experiment)


def _open(config: type) -> DictConfig:
    """Return a structured node that further YAML may be merged into.

    A frozen dataclass makes its node, and with it the whole group, read-only; and Hydra closes dictionaries that
    are meant for names of the user's own.
    """
    node = OmegaConf.structured(config)
    _unlock(node)
    return node


def _unlock(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, None)
    if not dataclasses.is_dataclass(OmegaConf.get_type(node)):
        OmegaConf.set_struct(node, False)
        return
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _unlock(child)


def _check_keys(node: DictConfig, prefix: str) -> None:
    """Refuse fields that the dataclass does not have: ``+model.x=1`` adds one behind the type's back."""
    cls = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(cls):
        return
    known = {field.name for field in dataclasses.fields(cls)}
    for key in map(str, node):
        if key not in known:
            raise not_a_field(f"{prefix}{key}", node)
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _check_keys(child, f"{prefix}{key}.")


def _tuples(config: Any) -> Any:
    """Turn the lists that YAML gives into tuples where the dataclass says tuple."""
    hints = typing.get_type_hints(type(config))
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = _tuples(value)
        elif isinstance(value, list) and "tuple" in str(hints[field.name]):
            changed[field.name] = tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return dataclasses.replace(config, **changed)
