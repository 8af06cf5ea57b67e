"""Checkpoints that survive a kill: written beside the last one, synced, and moved into its place."""

from __future__ import annotations

import io
import os
import pickle  # for the name of an exception: nothing is unpickled
import tempfile
from pathlib import Path
from typing import Any

import torch

from lvmzoo.errors import UserError

__all__ = ["read_checkpoint", "write_bytes", "write_checkpoint"]


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step: after a crash or on a full disk the old content is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint and keep the one before it as ``<name>.previous``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if path.exists():
        previous = path.with_name(f"{path.name}.previous")
        previous.unlink(missing_ok=True)
        os.link(path, previous)
    write_bytes(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the newest checkpoint that is whole; runs no code of the file. Raises UserError when there is none."""
    failed = ""
    for candidate in (path, path.with_name(f"{path.name}.previous")):
        try:
            return dict(torch.load(candidate, weights_only=True, map_location="cpu"))
        except FileNotFoundError:
            continue
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            failed = f" ({candidate.name} is damaged, or not a checkpoint: {type(error).__name__})"
    raise UserError(
        f"There is no usable checkpoint in {path.parent}.",
        f"Looked for {path.name} and {path.name}.previous{failed}.",
        "Start the run anew, without resume.",
    )
