"""Settings that are given in Python, or that stand in a file of a run, as the typed dataclasses of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from lvmzoo.config_safety import check_text
from lvmzoo.errors import UserError, unknown
from lvmzoo.wrong_config import wrong_type

__all__ = ["built"]


def built(config: type, where: str, given: Mapping[str, Any]) -> Any:
    """Build a config dataclass from settings that were given in Python, or that stand in a file of a run.

    Raises
    ------
    UserError
        For a field that there is not, and a value of another type.
    """
    known = {field.name for field in dataclasses.fields(config)}
    for name in given:
        if name not in known:
            raise unknown(f"field of {where}", name, known)
    return config(**_typed(config, given, where))


def _typed(config: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings that were given in Python as the types that the fields of a config have.

    NumPy's numbers and arrays become plain ones.

    Raises
    ------
    UserError
        For a value of another type.
    """
    node = OmegaConf.structured(config)
    OmegaConf.set_readonly(node, False)
    plain: dict[str, Any] = {name: _without_numpy(value) for name, value in given.items()}
    for name, value in plain.items():
        if dataclasses.is_dataclass(value):
            continue
        for text in _texts(value):
            if "${" in text:  # OmegaConf would put another value in its place
                check_text(text, f"{where}.{name}")
                raise UserError(
                    f"{where}.{name} is {text!r}.",
                    "References are resolved in files of configs alone.",
                    "Give its value.",
                )
        try:
            node[name] = value
        except ValidationError as error:
            raise wrong_type(f"{where}.{name}", f"{where}.{name}={value}", error) from error
        plain[name] = OmegaConf.to_container(node[name]) if OmegaConf.is_config(node[name]) else node[name]
    return plain


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _without_numpy(value: Any) -> Any:
    """Return plain numbers and lists for NumPy's, within mappings and lists, too."""
    if isinstance(value, Mapping):
        return {key: _without_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_numpy(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
