"""What tells the runs of a comparison from each other: words such as ``model.latents=4``, a column for each key."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["FOLD", "INCIDENTAL", "SEED", "Settings", "flat", "number_of", "settings_of", "words_of"]

SEED, FOLD = "seed", "data.split.fold"  # runs that differ in these alone are one row
SHIFT = "data.shift_behavior"
SIMULATED = "data.simulator_options.seed"
MOST_SETTINGS = 3  # that get a column each; more are written in one
PATH, SIMULATOR = "data.path", "data.simulator"
DATA = "data"  # heading of all settings of the data, and what recordings are called where files and simulations mix
NAMES = ("model", "run", DATA, PATH, SIMULATOR)  # whose values say by themselves what they are
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
        columns = self._columns
        if len(columns) > MOST_SETTINGS or not columns:
            return ["model"]
        return [_short(keys[0]) if len(keys) == 1 else DATA for keys in columns]

    @property
    def data_column(self) -> int | None:
        """Place of the column of the data, which says no more than the title of the rows of these data."""
        columns = self._columns
        found = [place for place, keys in enumerate(columns) if _of_data(keys[0])]
        return found[0] if found and 1 < len(columns) <= MOST_SETTINGS else None

    def cells(self, place: int) -> tuple[str, ...]:
        """Return the text of each column for one run."""
        given, columns = dict(zip(self.keys, self.values[place], strict=True)), self._columns
        if len(columns) > MOST_SETTINGS:
            return (" ".join(f"{key}={value}" for key, value in given.items() if value),)
        return tuple(
            given[keys[0]] if len(keys) == 1 else " ".join(_named(key, given[key]) for key in keys if given[key])
            for keys in columns
        )

    def data(self, place: int) -> str:
        """Return which data a run is of; only runs of the same data are ranked together."""
        pairs = zip(self.keys, self.values[place], strict=True)
        return " ".join(f"{key}={value}" for key, value in pairs if value and _of_data(key))

    def label(self, place: int, of_data: bool = False) -> str:
        """Return what tells a run from others of the same data in few words, or which data it is of.

        Such as "lds latents=4", and "monday.nwb bin_width_s=0.02".
        """
        pairs = zip(self.keys, self.values[place], strict=True)
        words = [(key, self._files.get(value, value) if key == PATH else value) for key, value in pairs if value]
        return " ".join(_named(key, value) for key, value in words if _of_data(key) == of_data)

    @functools.cached_property
    def _files(self) -> dict[str, str]:
        """Names of the files by their paths, where they tell the paths apart."""
        column = self.keys.index(PATH) if PATH in self.keys else None
        paths = set() if column is None else {line[column] for line in self.values}
        names = {path: Path(path).name for path in paths if not path.startswith("[")}
        return names if len(set(names.values())) == len(names) else {}

    @property
    def _columns(self) -> list[tuple[str, ...]]:
        """Keys that share a column: those of the data do, where the first of them stands."""
        of_data = tuple(key for key in self.keys if _of_data(key))
        return list(dict.fromkeys(of_data if key in of_data else (key,) for key in self.keys))


def settings_of(outcomes: Sequence[Mapping[str, Any]]) -> Settings:
    """Return what tells runs from each other, from the words in their "overrides"."""
    ignored = tuple(f"{key}=" for key in (SEED, FOLD))
    words = [[w for w in outcome["overrides"] if not w.lstrip("+").startswith(ignored)] for outcome in outcomes]
    common = set.intersection(*map(set, words)) if words else set()
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


class _Recording(NamedTuple):
    key: str  # the setting that names it
    value: str

    @property
    def name(self) -> str:
        if self.key != PATH:
            return self.value
        first, *others = (Path(path).name for path in self.value.split(","))
        return f"{first} and {len(others)} more" if others else first


def words_of(configs: Sequence[Mapping[str, Any]], fingerprints: Sequence[str]) -> list[list[str]]:
    """Return for each run the words that tell it from the others, as if they had been given on the command line.

    Recordings are told by name. Other settings of the data are told where runs of one recording differ in them;
    settings of a model, and of how it is fitted, where runs of the same model on the same data do: other models have
    others. What is not set (null) is not told. Seed and fold are always there.

    Parameters
    ----------
    configs : the contents of each run's config.yaml.
    fingerprints : of the data of each run; the same data are the same wherever they lie. Empty where it is not known.
    """
    lines = [flat(config) for config in configs]
    paths: dict[str, Any] = {}
    for line, fingerprint in zip(lines, fingerprints, strict=True):
        if fingerprint and line.get(PATH):
            line[PATH] = paths.setdefault(fingerprint, line[PATH])
    if all(line.get(SIMULATED) in (None, line[SEED]) for line in lines):
        for line in lines:
            line.pop(SIMULATED, None)  # each seed has its own recording
    recordings = [_recording(line) for line in lines]
    names, everywhere = _names(recordings), {"model", SEED, FOLD, SHIFT} | ({"adapt"} & _varied(lines))
    words: list[list[str]] = [[] for _ in lines]
    for of_recording in _alike(recordings):
        of_data = [key for key in _varied([lines[place] for place in of_recording]) if _of_data(key)]
        signatures = [_text([lines[place].get(key) for key in of_data]) for place in of_recording]
        for same in _alike(signatures):
            places = [of_recording[place] for place in same]
            told = everywhere | {*of_data}
            for of_model in _alike([lines[place]["model"] for place in places]):
                told |= _varied([lines[places[place]] for place in of_model])
            for place in places:
                words[place] = _words(lines[place], told - {PATH, SIMULATOR}, names.get(recordings[place]))
    return words


def _words(line: Mapping[str, Any], told: set[str], recording: str | None) -> list[str]:
    """Return the settings of a run that are told, the model first, and what its recording is called."""
    found = []
    for key in ("model", *(key for key in line if key != "model")):
        if key == PATH and recording is not None:
            found.append(recording)
        elif key in told and line.get(key) is not None:
            found.append(f"{key}={_text(line[key])}")
    return found


def _alike(items: Sequence[Any]) -> list[list[int]]:
    """Return the places of items that are equal, together."""
    found: dict[Any, list[int]] = {}
    for place, item in enumerate(items):
        found.setdefault(item, []).append(place)
    return list(found.values())


def _recording(line: Mapping[str, Any]) -> _Recording:
    path = line.get(PATH)
    if not path:
        return _Recording(SIMULATOR, str(line.get(SIMULATOR) or "arrays"))  # those that were in memory have no name
    return _Recording(PATH, ",".join(map(str, path)) if isinstance(path, list) else str(path))


def _names(recordings: Sequence[_Recording]) -> dict[_Recording, str]:
    """Return a word for each recording, where there are several; its file's name where that is its own."""
    several = list(dict.fromkeys(recordings))
    if len(several) < 2:
        return {}
    short = len({recording.name for recording in several}) == len(several)
    mixed = len({recording.key for recording in several}) > 1
    return {each: f"{DATA if mixed else each.key}={each.name if short else each.value}" for each in several}


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


def _named(key: str, value: str) -> str:
    """Return a value with the last part of its name, where it does not say by itself what it is."""
    if key == SHIFT:
        return f"{value} labels"
    return value if key in NAMES or key.startswith("family") else f"{key.rpartition('.')[2]}={value}"
