"""What the zoo holds: entries that models register themselves, found without a list of them.

Modules under ``lvmzoo.models`` are imported on the first look-up; third-party models come through the entry-point
group ``lvmzoo.models``, each entry point naming a module that calls :func:`register`. A plugin that cannot be imported,
or whose models are none, is remembered with its reason and harms nothing else; ``LVMZOO_PLUGINS=off`` leaves all out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lvmzoo.errors import UserError, unknown

if TYPE_CHECKING:
    from lvmzoo.batch import Layout
    from lvmzoo.models.base import Model

__all__ = ["Entry", "Family", "Reference", "Training", "broken_plugins", "entries", "get", "register", "withdraw"]


class Family(StrEnum):
    """Which question a model answers."""

    SINGLE_REGION = "single_region"
    MULTI_REGION = "multi_region"
    BEHAVIOR = "behavior"


@dataclass(frozen=True)
class Reference:
    """The paper behind a model."""

    citation: str
    doi: str
    key: str  # BibTeX key


@dataclass(frozen=True)
class Training:
    """How a model is best trained when the user does not say; None where it does not matter."""

    max_epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None  # trials, or references of a contrastive model; None: all
    learning_rate: float | None = None
    gradient_clip: float | None = None
    decay: float = 1.0
    decay_patience: int = 6
    patience: int = 10
    validate_every_steps: int = 100


@dataclass(frozen=True)
class Entry:
    """One line of the zoo. The way of fitting and the capabilities are read from the model's class."""

    model: type[Model]
    config: type  # frozen dataclass with a ``name`` field: the only home of this model's defaults
    family: Family
    reference: Reference
    tiny: Callable[[Layout], Any]  # smallest config worth testing; the contract tests use it
    training: Training = field(default_factory=Training)
    window_bins: Callable[[Any], int] = lambda config: (
        0
    )  # bins around one that a latent depends on, if fixed; for the gap
    working_bytes: float | None = None  # that a fit holds for each bin and unit, as measured; None: as its kind does

    @property
    def name(self) -> str:
        """The name by which users call it."""
        return str(self.config().name)

    @property
    def summary(self) -> str:
        """First line of the model's docstring."""
        return (inspect.getdoc(self.model) or "").partition("\n")[0]


SLOW_S = 10.0  # that the import of a plugin may take before it is named

_entries: dict[str, Entry] = {}
_broken: dict[str, str] = {}


def register(entry: Entry) -> None:
    """Add a model to the zoo; raises ValueError when the name is taken by another model."""
    taken = _entries.get(entry.name)
    if taken is not None and _place(taken.model) != _place(entry.model):
        raise ValueError(
            f"The model name '{entry.name}' of {entry.model.__module__} is taken by {taken.model.__module__}. "
            "Register it under another name."
        )
    _entries[entry.name] = entry


def _place(model: type[Model]) -> tuple[str, str]:
    return model.__module__, model.__qualname__


@functools.cache
def _discover() -> None:
    import lvmzoo.models as models

    wanted = os.environ.get("LVMZOO_PLUGINS", "on")
    if wanted not in ("on", "off"):
        raise UserError(
            f"The environment variable LVMZOO_PLUGINS is '{wanted}'.",
            "It is on or off.",
            "Set LVMZOO_PLUGINS=off, or unset it.",
        )
    for module in pkgutil.walk_packages(models.__path__, prefix="lvmzoo.models."):
        importlib.import_module(module.name)
    if wanted == "on":
        for point in importlib.metadata.entry_points(group="lvmzoo.models"):
            _load(point)


def _load(point: Any) -> None:
    """Import a plugin; if it fails, none of its models stays."""
    before, began = dict(_entries), time.monotonic()
    with _telling_if_slow(point.name):
        try:
            point.load()
            for name, entry in _entries.items():
                if before.get(name) is not entry:
                    _check(name, entry, replaces=name in before)
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            _entries.clear()
            _entries.update(before)
            withdraw(f"{point.name}" if point.name not in before else f"{point.name} ({point.value})", _said(error))
    if (seconds := time.monotonic() - began) > SLOW_S:
        warnings.warn(f"Plugin '{point.name}' took {seconds:.0f} s to import ({point.value}).", stacklevel=3)


@contextlib.contextmanager
def _telling_if_slow(name: str) -> Iterator[None]:
    said = f"Plugin '{name}' is being imported for {SLOW_S:g} s; LVMZOO_PLUGINS=off leaves plugins out."
    timer = threading.Timer(SLOW_S, lambda: print(f"Warning: {said}", file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check(name: str, entry: Entry, replaces: bool) -> None:
    """Raise TypeError or ValueError for what no command could list or fit."""
    from lvmzoo.models.base import Model

    if replaces:
        raise ValueError(f"it takes the place of the model '{name}'")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", entry.name):  # it goes into the names of folders and choices
        raise ValueError(f"the name '{entry.name}' is not lower case letters, digits and underscores")
    if not (inspect.isclass(entry.model) and issubclass(entry.model, Model)):
        raise TypeError(f"{entry.model!r} is no subclass of lvmzoo.models.base.Model")
    if not (isinstance(entry.family, Family) and isinstance(entry.reference, Reference)):
        raise TypeError(f"the family of '{entry.name}' is no Family, or its reference no Reference")
    if not entry.summary:
        raise ValueError(f"{entry.model.__name__} has no docstring")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def withdraw(name: str, reason: str) -> None:
    """Take a plugin, and the model of its name if it has one, out of the zoo, with a warning, and remember why."""
    _entries.pop(name, None)
    _broken[name] = reason
    warnings.warn(f"Plugin '{name}' could not be loaded ({reason}).", stacklevel=3)


def entries() -> Mapping[str, Entry]:
    """Return every model of the zoo by name, sorted by family and name."""
    _discover()
    order = list(Family)
    return MappingProxyType(dict(sorted(_entries.items(), key=lambda item: (order.index(item[1].family), item[0]))))


def broken_plugins() -> Mapping[str, str]:
    """Return the plugins that could not be loaded, each with its reason."""
    _discover()
    return MappingProxyType(_broken)


def get(name: str) -> Entry:
    """Return one model of the zoo; raises UserError, with the nearest name, when there is none."""
    found = entries()
    if name not in found:
        raise unknown("model", name, found, fix="`lvmzoo list` shows what there is.")
    return found[name]
