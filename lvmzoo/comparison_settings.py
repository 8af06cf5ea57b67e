"""What tells the runs of a comparison from each other: words such as ``model.latents=4``, a column for each key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FOLD", "INCIDENTAL", "SEED", "Settings", "flat", "number_of", "settings_of", "words_of"]

SEED, FOLD = "seed", "data.split.fold"  # runs that differ in these alone are one row
SHIFT = "data.shift_behavior"
SIMULATED = "data.simulator_options.seed"
MOST_SETTINGS = 3  # that get a column each; more are written in one
# Settings of the data that leave the activity that is scored, and its split, as they are.
SAME_DATA = (
    SHIFT,
    FOLD,
    "data.behavior",
    "data.behavior_kinds",
    "data.condition",
    "data.inputs",
    "data.split.gap_s",
    "data.split.validation",
)
# What a run is called, and on what it computes, rather than what it does.
INCIDENTAL = (
    "output", "name", "resume", "report", "logger", "adapt_steps", "time_limit_s", "prune",
    "trainer.progress", "trainer.threads", "trainer.accelerator", "trainer.devices", "trainer.checkpoint_every_s",
    "trainer.deterministic",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What runs set differently, seeds and folds aside: a key with its values, one for each run."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def headings(self) -> list[str]:
        """Name of each column."""
        if len(self.keys) > MOST_SETTINGS or not self.keys:
            return ["model"]
        return [_short(key) for key in self.keys]

    def cells(self, place: int) -> tuple[str, ...]:
        """Return the text of each column for one run."""
        pairs = zip(self.keys, self.values[place], strict=True)
        if len(self.keys) > MOST_SETTINGS:
            return (" ".join(f"{key}={value}" for key, value in pairs if value),)
        return tuple(value for _, value in pairs)

    def data(self, place: int) -> str:
        """Return which data a run is of; only runs of the same data are ranked together."""
        pairs = zip(self.keys, self.values[place], strict=True)
        return " ".join(f"{key}={value}" for key, value in pairs if value and _of_data(key))


def settings_of(outcomes: Sequence[Mapping[str, Any]]) -> Settings:
    """Return what tells runs from each other, from the words in their "overrides"."""
    ignored = tuple(f"{key}=" for key in (SEED, FOLD))
    words = [[w for w in outcome["overrides"] if not w.lstrip("+").startswith(ignored)] for outcome in outcomes]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    own = [dict(_pair(w) for w in line if w not in common) for line in words]
    keys = tuple(dict.fromkeys(key for line in own for key in line))
    return Settings(keys, tuple(tuple(line.get(key, "") for key in keys) for line in own))


def number_of(outcome: Mapping[str, Any], key: str) -> int | None:
    """Return the seed or the fold of a run; None where its words do not say."""
    for word in outcome["overrides"]:
        name, _, value = word.lstrip("+").partition("=")
        if name == key and value.isdigit():
            return int(value)
    return None


def words_of(configs: Sequence[Mapping[str, Any]], fingerprints: Sequence[str]) -> list[list[str]]:
    """Return for each run the words that tell it from the others, as if they had been given on the command line.

    Settings of a model, and of how it is fitted, are told where runs of the same model differ in them: other models
    have others. Settings of the data are told where any runs differ in them. Seed and fold are always there.

    Parameters
    ----------
    configs : the contents of each run's config.yaml.
    fingerprints : of the data of each run; the same data are the same wherever they lie. Empty where it is not known.
    """
    lines = [flat(config) for config in configs]
    paths: dict[str, Any] = {}
    for line, fingerprint in zip(lines, fingerprints, strict=True):
        if fingerprint:
            line["data.path"] = paths.setdefault(fingerprint, line.get("data.path"))
    if all(line.get(SIMULATED) in (None, line[SEED]) for line in lines):
        for line in lines:
            line.pop(SIMULATED, None)  # each seed has its own recording
    told = {"model", SEED, FOLD, SHIFT} | {key for key in _varied(lines) if key == "adapt" or _of_data(key)}
    for model in {line["model"] for line in lines}:
        told |= _varied([line for line in lines if line["model"] == model])
    names = {str(line["data.path"]): Path(str(line["data.path"])).name for line in lines if line.get("data.path")}
    short = len(set(names.values())) == len(names)
    found = []
    for line in lines:
        shown = {key: line[key] for key in ("model", *line) if key in told}
        shown = {key: value for key, value in shown.items() if value is not None or key not in (FOLD, SHIFT)}
        if short and shown.get("data.path"):
            shown["data.path"] = names[str(shown["data.path"])]
        found.append([f"{key}={_text(value)}" for key, value in shown.items()])
    return found


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a config.yaml that decide a run, a key each, such as ``model.latents``."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in INCIDENTAL:
            continue
        if isinstance(value, Mapping):
            found |= flat(value, f"{key}.")
        else:
            found["model" if key == "model.name" else key] = value
    return found


def _varied(flat: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the keys in which some of the runs differ."""
    keys = {key for line in flat for key in line}
    return {key for key in keys if len({_text(line.get(key)) for line in flat}) > 1}


def _of_data(key: str) -> bool:
    return key == "data" or (key.startswith("data.") and key not in SAME_DATA)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    if key == SHIFT:  # its seeds are one control
        return key, "" if value == "null" else "shifted"
    return key, value


def _short(key: str) -> str:
    if key == SHIFT:
        return "labels"
    return "model" if key.startswith("family") else key.removeprefix("data.simulator_options.")
