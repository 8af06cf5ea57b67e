"""Checkpoints that survive a kill and a full disk: written beside the last one, synced, and moved into its place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from lvmzoo.errors import UserError

__all__ = ["check_space", "previous_of", "read_checkpoint", "remove_partial", "write_bytes", "write_checkpoint"]

logger = logging.getLogger("lvmzoo")

MAGIC = b"lvmzoo checkpoint 1\n"  # then the digest of all that follows
DIGEST_BYTES = 32
PARTIAL = ".partial"  # ending of a file that is being written


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step: after a crash or on a full disk the old content is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written(path, content) as partial:
        partial.replace(path)
    _sync(path.parent)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint with a checksum, and keep the one before it as ``<name>.previous``.

    At every moment one of the two is whole: the new one is complete on disk before the last one changes its name.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written(path, MAGIC, _digest(content), content) as partial:
        if path.exists():
            path.replace(previous_of(path))
        partial.replace(path)
    _sync(path.parent)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the newest checkpoint that is whole, and say so where it is not the last; runs no code of the file.

    Raises
    ------
    UserError
        When there is none.
    """
    failed = ""
    for candidate in (path, previous_of(path)):
        try:
            state = _read(candidate)
        except FileNotFoundError:
            continue
        except Exception as error:  # whatever a file that is none makes torch and pickle raise, memory included
            failed += f" ({candidate.name} is damaged, or not a checkpoint: {type(error).__name__})"
        else:
            if failed:
                logger.warning("%s is damaged; the one before it, %s, is used.", path, candidate.name)
            return state
    raise UserError(
        f"There is no usable checkpoint in {path.parent}.",
        f"Looked for {path.name} and {path.name}.previous{failed}.",
        "Start the run anew, without resume.",
    )


def previous_of(path: Path) -> Path:
    """Return where the checkpoint before the last lies."""
    return path.with_name(f"{path.name}.previous")


def remove_partial(folder: Path) -> None:
    """Remove what was being written in a folder, or one in it, when its process was killed."""
    for left in folder.rglob(f".*{PARTIAL}"):
        left.unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError where a disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The disk of {folder} has {free / 1e6:,.0f} MB left.",
            f"Checkpoints of this run need {needed / 1e6:,.0f} MB: the last two, and the one that is being written.",
            "Free some space, or choose another disk with output=DIR.",
        )


@contextlib.contextmanager
def _written(path: Path, *parts: bytes | memoryview) -> Any:
    """Write a file of another name beside ``path``, synced to disk; it is removed unless the block moves it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    """Write to disk that a file got another name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _read(path: Path) -> dict[str, Any]:
    """Return the state in one file; raises ValueError where its checksum is not that of its content."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")  # a pipe would hang
    stored = memoryview(path.read_bytes())
    start = len(MAGIC) + DIGEST_BYTES
    if stored[: len(MAGIC)] != MAGIC or stored[len(MAGIC) : start] != _digest(stored[start:]):
        raise ValueError("its checksum is not that of its content")
    return dict(torch.load(io.BytesIO(stored[start:]), weights_only=True, map_location="cpu"))
