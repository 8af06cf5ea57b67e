"""What Hydra, OmegaConf and PyYAML raise about a config, said in the three lines that a user can act on."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from lvmzoo.errors import UserError, nearest, unknown
from lvmzoo.fields import describe_fields

__all__ = ["bad_yaml", "explain", "missing", "not_a_field", "wrong_type"]

WORDS = {  # what a type is to a user, and how a value of it is written
    "int": ("a whole number", "10"),
    "float": ("a number", "0.5"),
    "bool": ("true or false", "true"),
    "str": ("a text", "NAME"),
    "list": ("a list", "[1,2]"),
    "tuple": ("a list", "[1,2]"),
    "dict": ("a mapping", "{NAME: VALUE}"),
    "None": ("null", "null"),
}
PLURALS = {"int": "whole numbers", "float": "numbers", "str": "texts"}


def explain(error: BaseException, overrides: Sequence[str]) -> UserError:
    """Return the user's error behind an exception that was raised while a config was composed."""
    if isinstance(error, UserError):
        return error
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, UserError):
            return link
        if isinstance(link, MissingConfigException):
            return _no_such_choice(link)
        if isinstance(link, OverrideParseException):
            return _unreadable(link)
        if isinstance(link, yaml.MarkedYAMLError):
            return bad_yaml(link)
        if isinstance(link, OmegaConfBaseException):
            return _omegaconf(link, error, overrides)
    text = str(error)
    if found := re.match(r"Ambiguous value for argument '(.*?)'", text):
        name, _, values = found[1].partition("=")
        return UserError(
            f"{found[1]} names several values.",
            "One run takes one value; several make a sweep.",
            f"Add -m to run one after the other, or write {name}=[{values}] if a list is meant.",
        )
    if found := re.search(r"Could not delete from config. '(.*?)' does not exist", text):
        return _not_deletable(found[1])
    if "Could not override" in text or "No match in the defaults list" in text:
        key = re.findall(r"'([^']+)'", text)[0]
        return unknown("config group", key.split("@")[0], ["data", "experiment", "logger", "model", "sweep", "trainer"])
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return UserError(
        f"The configuration cannot be composed: {first}",
        f"The overrides were: {' '.join(overrides) or 'none'}.",
        "Write overrides as name=value, such as model=lds model.latents=8; `lvmzoo train --help` lists them.",
    )


def not_a_field(full_key: str, parent: DictConfig) -> UserError:
    """Return the error for a key that the config does not have, with the nearest one that it has."""
    if full_key == "experiment":  # what a file of that folder says goes over all settings, if it says so
        return UserError(
            "The file of the experiment does not say where its settings go.",
            "Its first line is missing, or stands after another comment.",
            "Begin the file with the line: # @package _global_",
        )
    leaf = full_key.rpartition(".")[2]
    siblings = [key for key in map(str, parent) if key not in (leaf, "hydra") and key[0] != "_"]
    prefix = full_key.rpartition(".")[0]
    if not prefix:
        siblings.append("experiment")  # a folder of configs, though no field
    owner = f"model={parent.get('name')}" if prefix == "model" else prefix or "the experiment"
    root = parent._get_root()
    paths = list(_paths(root)) if isinstance(root, DictConfig) else []
    same_leaf = [path for path in paths if path.rpartition(".")[2] == leaf and path != full_key]
    close = nearest(leaf, siblings)
    suggestion = f"{prefix}.{close}" if close and prefix else close
    if suggestion is None or (same_leaf and difflib.SequenceMatcher(None, leaf, close or "").ratio() < 0.8):
        suggestion = same_leaf[0] if same_leaf else suggestion or nearest(full_key, paths)
    return UserError(
        f"There is no setting named '{full_key}'.",
        f"The settings of {owner} are: {', '.join(siblings)}.",
        f"Did you mean '{suggestion}'?" if suggestion else "`lvmzoo train --help` lists the settings.",
    )


def missing(key: str) -> UserError:
    """Return the error for a setting that has no default and was not given."""
    example = {"data.path": "data.path=FILE.nwb", "model": "model=lds"}.get(key, f"{key}=VALUE")
    return UserError(
        f"The setting {key} is missing.",
        "It has no default: only you can say it.",
        f"Add {example} to the command.",
    )


def bad_yaml(error: yaml.YAMLError, path: Path | None = None) -> UserError:
    """Return the error for a file that is no YAML, with its line where there is one."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return UserError(f"{path or 'A config'} is not valid YAML.", f"{error}".partition("\n")[0], "Write it as text.")
    mark = error.problem_mark
    where = f"{path or (mark.name if mark else 'a config')}" + (f", line {mark.line + 1}" if mark else "")
    return UserError(
        f"{where} is not valid YAML.",
        f"{error.problem or error.context or 'It cannot be parsed'}.",
        "Check the indentation (spaces, no tabs), colons and brackets of that line.",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_such_choice(error: MissingConfigException) -> UserError:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return UserError(
            f"There is no primary config named '{name}'.",
            "The primary config is 'train'.",
            "Leave out --config-name; choose with model=, data= and experiment= instead.",
        )
    options = [option for option in error.options or [] if option]
    fix = (
        "`lvmzoo list` shows the models."
        if group == "model"
        else f"Add --config-dir DIR to use a file {group}/{name}.yaml of your own."
    )
    return unknown(group, name, options, fix=fix)


def _unreadable(error: OverrideParseException) -> UserError:
    override = error.override
    if "=" not in override:
        return UserError(
            f"'{override}' is not an override.",
            "Overrides are written name=value, without spaces around the equals sign.",
            f"Write {override}=VALUE, or leave it out.",
        )
    name, _, value = override.partition("=")
    return UserError(
        f"'{override}' cannot be read.",
        "Brackets, braces and quotes must be closed; values with spaces, commas or signs need quotes.",
        f"Write {name}=[1,2] for a list, or '{name}=\"{value}\"' for a text.",
    )


def _not_deletable(key: str) -> UserError:
    return UserError(
        f"~{key} cannot be deleted.",
        "Every setting of a model and of the trainer has to have a value.",
        f"Write {key}=VALUE instead, or leave it at its default.",
    )


def _omegaconf(link: OmegaConfBaseException, error: BaseException, overrides: Sequence[str]) -> UserError:
    key = str(link.full_key or link.key or "")
    source = _source(key, error, overrides)
    parent = link.parent_node
    if isinstance(link, MissingMandatoryValue):
        return missing(key)
    if isinstance(link, InterpolationResolutionError):
        return UserError(
            f"{source} refers to something that is not there.",
            f"{str(link).splitlines()[0]}.",
            "Name an existing setting, such as ${data.bin_width_s}, or write the value out.",
        )
    if source.startswith("~"):
        return _not_deletable(key)
    if isinstance(link, ConfigAttributeError | ConfigKeyError) and isinstance(parent, DictConfig):
        return not_a_field(key, parent)
    if isinstance(link, ValidationError):
        return wrong_type(key, source, link)
    return UserError(f"{source} is not possible.", f"{str(link).splitlines()[0]}.", "`lvmzoo train --help` helps.")


def wrong_type(key: str, source: str, link: ValidationError) -> UserError:
    """Return the error for a value of another type than the field of a config has; ``source`` says where it stands."""
    name = re.sub(r"\[\d+\]$", "", key)
    owner: Any = link.object_type
    if not dataclasses.is_dataclass(owner) and link.parent_node is not None:  # an item of a list
        above = link.parent_node._get_parent()
        owner = OmegaConf.get_type(above) if above is not None else None
    leaf = name.rpartition(".")[2]
    known = {field.name: field for field in describe_fields(owner)} if dataclasses.is_dataclass(owner) else {}
    field = known.get(leaf)
    if field is None:
        return UserError(f"{source} has the wrong type.", f"{str(link).splitlines()[0]}.", "Correct the value.")
    if dataclasses.is_dataclass(field.default):
        inner = [f.name for f in describe_fields(type(field.default))]
        return UserError(
            f"{source} has the wrong type.",
            f"{name} is a group of settings: {', '.join(inner)}.",
            f"Write one of them, such as {name}.{inner[0]}={_yaml(describe_fields(type(field.default))[0].default)}.",
        )
    meaning = f" ({field.meaning})" if field.meaning else ""
    kinds = [part.strip().partition("[")[0] for part in field.type.split("|")]
    words = " or ".join(WORDS.get(kind, (kind, ""))[0] for kind in kinds)
    if "[" in field.type and (item := field.type.partition("[")[2].partition("]")[0].partition(",")[0]) in PLURALS:
        words = words.replace("a list", f"a list of {PLURALS[item]}")
    example = field.default if field.default not in (None, [], {}, ()) else None
    shown = _yaml(example) if example is not None else WORDS.get(kinds[0], ("", "VALUE"))[1]
    if kinds[0] in ("list", "tuple") and name == key:  # a single value where a list is wanted
        shown = f"[{link.value!s}]"
    return UserError(
        f"{source} has the wrong type.",
        f"{name} must be {words}{meaning}.",
        f"Write it like {name}={shown}; the default is {_yaml(field.default)}.",
    )


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    return text.replace(", ", ",")


def _source(key: str, error: BaseException, overrides: Sequence[str]) -> str:
    """Say where a wrong value stands: the override itself, or the file."""
    base = re.sub(r"\[\d+\]$", "", key)
    for override in overrides:
        name = override.lstrip("+~").partition("=")[0]
        if name == base or name.startswith(f"{base}."):
            return override
    found = re.match(r"In '([^']+)'", str(error))
    return f"{key} in {found[1]}.yaml" if found else key


def _paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        if not prefix and key == "hydra":
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(child)):
            yield from _paths(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
