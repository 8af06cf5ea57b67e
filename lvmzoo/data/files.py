"""The recordings that a config names: files, globs, lists of them, or a simulator."""

from __future__ import annotations

import glob
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lvmzoo.config import DataConfig
from lvmzoo.data.npz import read_npz
from lvmzoo.data.recording import Recording
from lvmzoo.errors import UserError, unknown

__all__ = ["files_of", "load", "read_file"]


def load(config: DataConfig) -> list[Recording]:
    """Read the recordings that the config names (a file, a glob, a list of them), or simulate some.

    Raises
    ------
    UserError
        If there is no such file or simulator, or a file cannot be used.
    """
    if config.path is None:
        if config.simulator is None:
            raise UserError(
                "There is no data: data.path is null.",
                "It names an NWB or npz file, a glob such as 'sessions/*.nwb', or a list of files.",
                "Set data.path=FILE, or data.simulator=reach for simulated data.",
            )
        from lvmzoo.simulate import simulators

        known = simulators()
        if config.simulator not in known:
            raise unknown("simulator", config.simulator, known)
        options = {"seed": 0, **config.simulator_options}
        arguments = inspect.signature(known[config.simulator]).parameters
        for name in options:
            if name not in arguments:
                raise unknown(f"option of the simulator {config.simulator}", name, arguments)
        made = known[config.simulator](**options)
        return made if isinstance(made, list) else [made]
    paths = files_of(config.path)
    recordings: list[Recording] = []
    for path in paths:
        recording = read_file(path, config)
        taken = {other.session for other in recordings}
        name, number = recording.session, 2
        while name in taken:
            name, number = f"{recording.session}-{number}", number + 1
        recordings.append(replace(recording, session=name))
    return recordings


def files_of(given: Any) -> list[Path]:
    """Return the files that a path, a glob, or a list of either stands for.

    Raises
    ------
    UserError
        If there are none, or one occurs twice.
    """
    found: list[Path] = []
    for item in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
        try:
            text = str(Path(str(item)).expanduser())
            there = Path(text).exists()
        except (OSError, RuntimeError, ValueError) as wrong:  # a name that is too long, nobody's home
            raise UserError(
                f"data.path={str(item)[:100]!r} is no path: {str(wrong.args[-1]).rstrip('.')}.",
                "data.path names a file, a glob, or a list of them.",
                "Check the path.",
            ) from wrong
        if Path(text).is_dir():
            raise UserError(
                f"data.path={text} is a folder.",
                "data.path names a file, a glob, or a list of them.",
                f"For all NWB files in it, quote the glob: 'data.path={text}/*.nwb'.",
            )
        matches = [text] if there else sorted(glob.glob(text, recursive=True))  # noqa: PTH207  absolute, too
        if not matches:
            parent = Path(text).parent
            near = [p.name for p in parent.iterdir() if p.suffix in READERS] if parent.is_dir() else []
            folder = (
                f"The folder holds: {', '.join(sorted(near)[:8])}."
                if near
                else f"No recording lies in {parent.resolve()}."
            )
            error = unknown("file", Path(text).name, near)
            raise UserError(f"There is no file '{text}'.", folder, error.fix if near else "Check the path.")
        found.extend(Path(match) for match in matches)
    if not found:
        raise UserError(
            "data.path is an empty list.",
            "It names an NWB or npz file, a glob, or a list of them.",
            "Name at least one file, such as data.path=[a.nwb,b.nwb].",
        )
    resolved = [path.resolve() for path in found]
    for place, path in enumerate(resolved):
        if path in resolved[:place]:
            raise UserError(
                f"data.path names '{found[place]}' twice.",
                "Each file is one session; twice the same would be in training and in test data.",
                "Remove one of them.",
            )
    return found


def _read_nwb(path: Path, config: DataConfig) -> Recording:
    from lvmzoo.data.nwb import read_nwb  # pynwb takes a second to import

    return read_nwb(path, config)


READERS = {".nwb": _read_nwb, ".npz": read_npz}


def read_file(path: Path, config: DataConfig) -> Recording:
    """Read one file by its extension.

    Raises
    ------
    UserError
        If it is of no known kind, or cannot be used.
    """
    if path.suffix.lower() not in READERS:
        raise UserError(
            f"'{path}' ends in '{path.suffix}'.",
            f"Files that can be read end in {' or '.join(READERS)}.",
            "Convert it to NWB (docs: your own data), or give arrays in Python through lvmzoo.Estimator.",
        )
    return READERS[path.suffix.lower()](path, config)
