"""Downloads that go on where they broke off, and are whole and verified or not there at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lvmzoo.errors import UserError

__all__ = ["Remote", "download"]

ATTEMPTS = 5  # in a row without a single byte
WAIT_S = 1.0  # before the first of them, twice as long before each next one
FINAL = (401, 403, 404, 410)  # answers of a server that will be the same the next time


@dataclass(frozen=True)
class Remote:
    """A file elsewhere."""

    path: str  # relative to the folder that it is put in, with slashes
    size: int  # bytes
    read: Callable[[int], Iterator[bytes]]  # its content from a byte onwards; OSError where the connection breaks
    is_whole: Callable[[Path], bool]  # whether a file holds the right content, by its checksum


def download(remote: Remote, folder: Path, progress: Callable[[int], None]) -> bool:
    """Bring a file into a folder, through ``NAME.part`` beside it; return False where it was there already.

    Parameters
    ----------
    remote : what to download.
    folder : where to; folders in the path of the file are made.
    progress : is told how many bytes are here.

    Raises
    ------
    UserError
        If the connection breaks and stays broken, the content is not what it should be, another file is in the way, or
        nothing can be written. What has come stays in ``NAME.part`` for the next time.
    """
    path = folder / remote.path
    part = path.with_name(f"{path.name}.part")
    if path.exists():
        if path.stat().st_size == remote.size and remote.is_whole(path):
            progress(remote.size)
            return False
        raise UserError(
            f"'{path}' exists already and is another file.",
            "Downloads overwrite nothing.",
            "Move it away, or choose another folder with --out DIR.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        _fetch(remote, part, progress)
        if resumed and not remote.is_whole(part):  # begun when the file had other content
            part.unlink()
            _fetch(remote, part, progress)
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written: {error.strerror or error}.",
            f"It takes {remote.size / 1e9:.2g} GB; what has come is kept in {part.name}.",
            "Free some space or choose another --out DIR, and run the command again.",
        ) from error
    if not remote.is_whole(part):
        part.unlink()
        raise UserError(
            f"'{remote.path}' arrived with a wrong checksum.",
            "Its content was changed on the way, or on the server; it was removed.",
            "Try again; if it happens twice, report it to the archive.",
        )
    part.replace(path)
    return True


def _fetch(remote: Remote, part: Path, progress: Callable[[int], None]) -> None:
    """Append to the part what is missing; go on after breaks of the connection."""
    failed = 0
    with part.open("ab") as file:
        while (here := file.tell()) < remote.size:
            progress(here)
            reason, final = _append(remote, file, progress)
            failed = 0 if file.tell() > here else failed + 1
            if failed and final:
                raise UserError(
                    f"'{remote.path}' cannot be downloaded: {reason}.",
                    "The archive lists the file, and does not give it.",
                    "Try again later, or report it to the archive.",
                )
            if failed == ATTEMPTS:
                raise UserError(
                    f"The download of '{remote.path}' broke off after {here} of {remote.size} bytes: {reason}.",
                    f"What has come is kept in {part}.",
                    "Run the same command again when the network is back: it goes on where it was.",
                )
            if failed:
                time.sleep(WAIT_S * 2 ** (failed - 1))
        file.flush()
        os.fsync(file.fileno())


def _append(remote: Remote, file: BinaryIO, progress: Callable[[int], None]) -> tuple[str, bool]:
    """Append until the connection ends; return how it ended, and whether it would end so again."""
    chunks = remote.read(file.tell())
    while True:
        try:  # reading alone: what goes wrong in writing is no fault of the connection
            chunk = next(chunks, None)
        except OSError as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            return (f"the server answers {status}" if status else type(error).__name__), status in FINAL
        if chunk is None:
            return "the server sent no more", False
        file.write(chunk[: remote.size - file.tell()])
        progress(file.tell())
