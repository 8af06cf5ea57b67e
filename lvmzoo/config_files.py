"""Files of configs, looked at before Hydra reads them: bombs by size, depth and aliases; what is more than names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra.plugins.config_source import ConfigSource

from lvmzoo.config_safety import check_key, check_target, check_text
from lvmzoo.errors import UserError, nearest
from lvmzoo.wrong_config import bad_yaml

__all__ = ["check_file", "check_folder"]

LARGEST_FILE_BYTES = 1_000_000
MOST_ENTRIES = 10_000  # of a folder of configs
MOST_VALUES = 20_000  # of a file, aliases written out
MOST_ALIASES = 50
DEEPEST = 20

_WITHIN = re.compile(r"^.*?\.(?=hydra\.)")  # what the list of defaults of another file may leave out
_HEADER_CHARACTERS = 512  # in which Hydra looks for ``# @package NAME``


def check_folder(folder: str | Path) -> None:
    """Check every YAML file in a folder of configs; raises UserError as ``check_file``, or where it is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        close = nearest(folder.name, [path.name for path in folder.parent.glob("*/")]) if folder.parent.is_dir() else ""
        raise UserError(
            f"The folder of configs '{folder}' does not exist.",
            "--config-dir takes a folder that holds experiment/NAME.yaml and the like.",
            f"Did you mean '{folder.parent / close}'?" if close else "Check the path.",
        )
    for path in _files(folder):
        if path.suffix in (".yaml", ".yml"):
            check_file(path, ".".join(path.relative_to(folder).parts[:-1]))


def check_file(path: Path, package: str = "") -> None:
    """Refuse a YAML file that is made to exhaust memory, or that names code, Hydra's settings or the environment.

    Parameters
    ----------
    path : of the file.
    package : where its contents go in an experiment, unless its first line says so; ``experiment`` holds whole ones.

    Raises
    ------
    UserError
        Naming the file and the line.
    """
    if not path.is_file():
        raise UserError(f"The config {path} is no regular file.", "Pipes and devices are not read.", "Remove it.")
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise UserError(
            f"The config {path} is {path.stat().st_size / 1e6:.0f} MB large.",
            f"A config may have at most {LARGEST_FILE_BYTES / 1e6:.0f} MB.",
            "Put data into data files and name them in the config.",
        )
    try:
        text = path.read_text("utf-8")
        _measure(path, text)
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise bad_yaml(error, path) from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(
            f"The config {path} cannot be read: {error}.", "It is text in UTF-8.", "Write it again, or remove it."
        ) from error
    if root is not None:
        _expanded(path, root)
        _names_only(path, root, _package(path, text) or package)


def _package(path: Path, text: str) -> str | None:
    """Return where the first lines of a file say that its contents go, as Hydra reads them."""
    if text.startswith("\ufeff"):
        raise UserError(
            f"The config {path} begins with a byte order mark.",
            "Its first line would not be seen, and its settings would go elsewhere.",
            "Save it as UTF-8 without a byte order mark.",
        )
    try:
        return ConfigSource._get_header_dict(text[:_HEADER_CHARACTERS])["package"]
    except ValueError as error:
        raise UserError(
            f"The config {path} begins with a line that cannot be read: {error}.",
            "Its first line says where its settings go.",
            "Write # @package _global_ there.",
        ) from error


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and, through links, too, in the folders in it."""
    count, seen = 0, set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        count += len(folders) + len(names)
        if count > MOST_ENTRIES:
            raise UserError(
                f"'{folder}' holds more than {MOST_ENTRIES} files.",
                "--config-dir takes a folder of configs, all of which are checked.",
                "Give the folder that holds experiment/NAME.yaml alone.",
            )
        if (place := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(parent) / name for name in sorted(names))


def _measure(path: Path, text: str) -> None:
    """Refuse depth, numbers of values and aliases that no config needs, before anything recurses over them."""
    depth = values = aliases = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = _line(event)
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            continue
        values += 1
        depth += isinstance(event, yaml.CollectionStartEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEEPEST:
            raise UserError(
                f"The config {path} is nested deeper than {DEEPEST} levels in line {line}.",
                "No setting lies so deep; such files are made to exhaust memory.",
                "Take the nesting out.",
            )
        if values > MOST_VALUES:
            raise _too_many(path, line)
    if aliases > MOST_ALIASES:
        raise UserError(
            f"The config {path} uses {aliases} YAML aliases (*name).",
            f"More than {MOST_ALIASES} are refused: nested aliases can fill the memory from a tiny file.",
            "Write the values out.",
        )


def _expanded(path: Path, root: yaml.Node) -> None:
    """Refuse aliases that contain themselves, or that stand for too many values when they are written out."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise UserError(
                f"The config {path} holds an alias of itself in line {_line(node)}.",
                "Such a value has no end.",
                "Write the values out.",
            )
        if known is None:
            sizes[id(node)] = 0
            known = sizes[id(node)] = 1 + sum(map(size, _children(node)))
            if known > MOST_VALUES:
                raise _too_many(path, _line(node))
        return known

    size(root)


def _names_only(path: Path, node: yaml.Node, package: str) -> None:
    """Look at every key and text of a file, those of aliases in each place where they stand."""
    top = "" if package == "experiment" else package.removeprefix("_global_").strip(".")
    waiting, seen, defaults = [(node, top, False)], set(), f"{top}.defaults".lstrip(".")
    while waiting:
        node, prefix, in_defaults = waiting.pop()
        where = f"{path}, line {_line(node)}"
        if (id(node), prefix) in seen:
            continue
        seen.add((id(node), prefix))
        check_key(prefix, where)
        if isinstance(node, yaml.ScalarNode):
            check_text(node.value, where)
            if in_defaults:
                check_key(node.value, where)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                leaf = getattr(key, "value", "")
                name = prefix if leaf == "<<" else f"{prefix}.{leaf}".lstrip(".")  # "<<" puts a mapping into this one
                place = f"{path}, line {_line(key)}"
                check_key(_WITHIN.sub("", name), place)
                if name.endswith("_target_"):
                    check_target(str(value.value), place)
                listed = in_defaults or name == defaults
                waiting.append((value, "" if name == defaults else name, listed))
        else:
            waiting += [(child, prefix, in_defaults) for child in _children(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(place: yaml.Node | yaml.Event) -> int:
    return place.start_mark.line + 1 if place.start_mark else 0


def _too_many(path: Path, line: int) -> UserError:
    return UserError(
        f"The config {path} stands for more than {MOST_VALUES} values in line {line}.",
        "Such files are made to exhaust memory.",
        "Put data into data files and name them in the config.",
    )
