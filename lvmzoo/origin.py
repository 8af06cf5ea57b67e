"""What a run began with, kept in its checkpoints: a resumed run goes on with the same release, settings and data."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lvmzoo.checkpoint import previous_of, read_checkpoint
from lvmzoo.config import Experiment
from lvmzoo.data.trials import Session
from lvmzoo.errors import UserError
from lvmzoo.run import experiment_to_plain

__all__ = ["begun", "changes", "check_data", "checkpoint_of", "fingerprint", "origin"]

PLACES = frozenset({"output", "name", "resume", "adapt", "data.path"})  # where things lie; what lies there is compared


def checkpoint_of(folder: Path) -> Path:
    """Return where the last checkpoint of a run lies."""
    return folder / "checkpoints" / "last.ckpt"


def origin(experiment: Experiment, sessions: Sequence[Session], sources: Sequence[str]) -> dict[str, Any]:
    """Return what a run begins with: the release, all settings, and what identifies the data.

    Parameters
    ----------
    experiment : as it is fitted, with what the model recommends filled in.
    sessions : the data as they are fitted.
    sources : the file of each session; empty for data from memory.
    """
    data = {
        session.layout.session: {"source": source, "size": _size(session), **_digests(session)}
        for session, source in zip(sessions, sources, strict=True)
    }
    return {"version": _version(), "config": experiment_to_plain(experiment), "data": data}


def begun(folder: Path, experiment: Experiment) -> dict[str, Any] | None:
    """Return the last checkpoint of a run that is to be resumed; None for one that was stopped before its first.

    Raises
    ------
    UserError
        Where the release or the settings are not those that the run began with, or no checkpoint is whole.
    """
    path = checkpoint_of(folder)
    if not path.exists() and not previous_of(path).exists():
        return None
    state = read_checkpoint(path)
    stored = state.get("origin")
    if stored is None or not _is_origin(stored):
        raise UserError(
            f"The checkpoint in {path.parent} is not one of a run.",
            "A checkpoint says with what release, settings and data its run began.",
            "Start the run anew, without resume.",
        )
    if stored["version"] != _version():
        raise UserError(
            f"The run in {folder} was begun with lvmzoo {stored['version']}; this is lvmzoo {_version()}.",
            "Another release may fit otherwise, so a run is resumed by the release that began it.",
            f"pip install lvmzoo=={stored['version']}, or start a new run.",
        )
    plain = stored["config"], experiment_to_plain(experiment)
    before, now = ({name: leaf for name, leaf in _flat(of).items() if name not in PLACES} for of in plain)
    if changed := changes(before, now):
        raise UserError(
            f"The settings in {folder / 'config.yaml'} are not those that the run began with: {'; '.join(changed)}.",
            "A resumed run goes on with the same settings, and ends in the same weights.",
            "Undo the change, or start a new run with it.",
        )
    return state


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say of each setting that differs what it was and what it is."""
    return [
        f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def check_data(folder: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError, naming the session, its file and what of it changed, unless the data are those of the run."""
    before, here = stored["data"], now["data"]
    changed = [f"session '{name}' is gone" for name in before if name not in here]
    changed += [f"session '{name}' is new" for name in here if name not in before]
    for name in (name for name in before if name in here):
        parts = [part for part in _PARTS if before[name].get(part) != here[name][part]]
        if parts:
            source = f" ({here[name]['source']})" if here[name]["source"] else ""
            sizes = f"{before[name].get('size')} then, {here[name]['size']} now"
            changed.append(f"session '{name}'{source} has other {' and '.join(parts)} ({sizes})")
    if changed:
        raise UserError(
            f"The data are not those that the run in {folder} began with: {'; '.join(changed)}.",
            "A resumed run goes on with the same recording, binned and split in the same way.",
            "Put the recording back as it was, or start a new run.",
        )


def fingerprint(sessions: Sequence[Session]) -> str:
    """Return a hash of the binned activity of all parts."""
    digest = hashlib.blake2b(digest_size=16)
    for session in sessions:
        digest.update(np.ascontiguousarray(session.train.activity.numpy()).data)
        for part in (session.train, session.validation, session.test):
            digest.update(part.start.tobytes() + part.stop.tobytes())
    return digest.hexdigest()


_PARTS = ("units", "activity", "split", "behavior", "inputs")


def _is_origin(stored: Any) -> bool:
    """Return whether a value has the shape of what ``origin`` returns."""
    if not (isinstance(stored, dict) and isinstance(stored.get("version"), str)):
        return False
    config, data = stored.get("config"), stored.get("data")
    return isinstance(config, dict) and isinstance(data, dict) and all(isinstance(of, dict) for of in data.values())


def _digests(session: Session) -> dict[str, str]:
    trials, layout = session.train, session.layout
    missing = () if trials.missing is None else (trials.missing,)
    edges = [edge for part in (trials, session.validation, session.test) for edge in (part.start, part.stop)]
    named = {"units": repr((layout.unit_ids, dict(layout.units), layout.held_out)), "split": ""}
    arrays: dict[str, Sequence[Any]] = {
        "units": (),
        "activity": (trials.activity, trials.valid, *missing),
        "split": edges,
        "behavior": [*trials.behavior.values(), *(() if trials.condition is None else (trials.condition,))],
        "inputs": list(trials.inputs.values()),
    }
    named |= {"behavior": repr(sorted(trials.behavior)), "inputs": repr(sorted(trials.inputs)), "activity": ""}
    return {part: _digest(named[part], arrays[part]) for part in _PARTS}


def _digest(text: str, arrays: Sequence[Tensor | np.ndarray]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for array in arrays:
        values = np.ascontiguousarray(array.numpy() if isinstance(array, Tensor) else array)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _size(session: Session) -> str:
    trials = "/".join(str(len(part)) for part in (session.train, session.validation, session.test))
    return f"{session.layout.n_units} units, {len(session.train.valid)} bins, {trials} trials"


def _version() -> str:
    return importlib.metadata.version("lvmzoo")


def _flat(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by dotted name."""
    if not isinstance(plain, Mapping):
        return {prefix: plain}
    return {
        name: leaf
        for key, item in plain.items()
        for name, leaf in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }
