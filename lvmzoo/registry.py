"""What the zoo holds: entries that models register themselves, found without a list of them.

Modules under ``lvmzoo.models`` are imported on the first look-up; third-party models come through the entry-point
group ``lvmzoo.models``, each entry point naming a module that calls :func:`register`. A plugin that fails to import is
remembered with its reason and harms nothing else.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lvmzoo.errors import unknown

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

    @property
    def name(self) -> str:
        """The name by which users call it."""
        return str(self.config().name)

    @property
    def summary(self) -> str:
        """First line of the model's docstring."""
        return (inspect.getdoc(self.model) or "").splitlines()[0]


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

    for module in pkgutil.walk_packages(models.__path__, prefix="lvmzoo.models."):
        importlib.import_module(module.name)
    for point in importlib.metadata.entry_points(group="lvmzoo.models"):
        try:
            point.load()
        except Exception as error:  # a plugin may raise anything; it is reported and must harm nothing else
            withdraw(point.name, f"{type(error).__name__}: {error}")


def withdraw(name: str, reason: str) -> None:
    """Take a plugin out of the zoo, with a warning, and remember why."""
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
