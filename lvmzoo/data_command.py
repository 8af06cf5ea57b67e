"""``lvmzoo data get``: recordings of the DANDI archive, with a progress bar."""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lvmzoo.data.dandi_archive import dandi_files
from lvmzoo.data.download import Remote, download
from lvmzoo.errors import UserError

__all__ = ["get"]


def get(name: str, folder: Path) -> None:
    """Download the NWB files that a name of the DANDI archive stands for, and print where they are.

    Raises
    ------
    UserError
        If there are none, they do not fit on the disk, or a download fails; what has come is kept for the next time.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(
            f"The folder '{folder}' does not exist.", "Files are put into a folder.", f"Create it: mkdir -p {folder}"
        )
    with dandi_files(name) as (files, others):
        total = sum(remote.size for remote in files)
        print(f"{name}: {len(files)} NWB file{'s' * (len(files) != 1)}, {_size(total)}.", file=sys.stderr)
        if others:
            print(f"{others} other file{'s' * (others != 1)} left out.", file=sys.stderr)
        _check_space(files, folder)
        fresh = _download_all(files, folder)
    for remote, new in zip(files, fresh, strict=True):
        print(f"{folder / remote.path}{'' if new else ' (was there already)'}")
    print(f"Look at one: lvmzoo inspect {shlex.quote(str(folder / files[0].path))}", file=sys.stderr)


def _download_all(files: list[Remote], folder: Path) -> list[bool]:
    """Download one file after the other; return which of them are new."""
    label, bars = TextColumn("{task.description}"), BarColumn(bar_width=24)
    columns = (label, bars, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    fresh, console = [], Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        for number, remote in enumerate(files, 1):
            task = bar.add_task(f"{number} of {len(files)}  {Path(remote.path).name}", total=remote.size)
            fresh.append(download(remote, folder, partial(_show, bar, task)))
            bar.remove_task(task)
    return fresh


def _show(bar: Progress, task: TaskID, here: int) -> None:
    bar.update(task, completed=here)


def _check_space(files: list[Remote], folder: Path) -> None:
    """Raise UserError where the disk is too small for what is missing."""
    missing = 0
    for remote in files:
        path = folder / remote.path
        part = path.with_name(f"{path.name}.part")
        missing += 0 if path.exists() else remote.size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise UserError(
            f"{_size(missing)} are to be downloaded into '{folder}'.",
            f"Its disk has {_size(free)} left.",
            "Name a part of the dandiset, such as dandi:ID/sub-NAME, or another disk with --out DIR.",
        )


def _size(number: int) -> str:
    """Return a number of bytes in words."""
    shown, power = float(number), 0
    while shown >= 1000 and power < 4:
        shown, power = shown / 1000, power + 1
    return f"{shown:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
