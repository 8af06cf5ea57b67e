"""Files of a run that somebody else may have made: plain values and tensors, of a plausible size; no code."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lvmzoo.errors import UserError

__all__ = ["check_links", "check_regular", "read_json", "read_tensors", "rebuilding"]

LARGEST_JSON_BYTES = 200_000_000
LARGEST_TENSOR_BYTES = 1_000_000_000  # of a model that is being rebuilt, beyond what its file holds
_NUMBER_BYTES = 8


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; FileNotFoundError where it is missing, UserError where it is damaged or too large."""
    check_regular(path)
    if path.stat().st_size > LARGEST_JSON_BYTES:
        raise _damaged(path, f"it is {path.stat().st_size / 1e6:.0f} MB large")
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, whose sizes have to be those of the file; errors as :func:`read_json`."""
    check_regular(path)
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, and others for types that torch does not have
        raise _damaged(path, f"{error}") from error


def check_regular(path: Path) -> None:
    """Refuse pipes, devices and folders, which would hang or fill the memory: UserError; FileNotFoundError for none."""
    path.stat()
    if not path.is_file():
        raise _damaged(path, "it is no regular file")


def check_links(folder: Path) -> None:
    """Refuse a run that would be written through a link to elsewhere, as one of somebody else can: UserError."""
    inside = folder.resolve()
    for path in (*folder.glob("*"), *folder.glob("checkpoints/*")):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise UserError(
                f"{path} is a link to {path.resolve()}.",
                "A run that goes on writes into its folder; through this link it would write elsewhere.",
                "Put the file itself there, or remove the link.",
            )
        if not (path.is_file() or path.is_dir()):
            raise _damaged(path, "it is no regular file")


@contextlib.contextmanager
def rebuilding(folder: Path) -> Iterator[None]:
    """Answer whatever a description that is not true lets go wrong as a mistake in it, memory included.

    Raises
    ------
    UserError
        For any exception of the block.
    """
    size = (folder / "model.safetensors").stat().st_size
    try:
        with _Bounded(LARGEST_TENSOR_BYTES + 16 * size):
            yield
    except UserError:
        raise
    except Exception as error:  # a model may raise anything for sizes and names that are not its own
        reason = (" ".join(str(error).split()) or "no reason")[:200]
        raise UserError(
            f"The run in {folder} cannot be rebuilt: {type(error).__name__}: {reason}.",
            "Its files do not fit together, or are not of this release.",
            "Copy the whole folder again, or train it again.",
        ) from error


class _Bounded(TorchDispatchMode):
    """Refuses tensors of more than some bytes before memory is asked for."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in args:
            sizes = given if isinstance(given, list | tuple) else (given,) if "eye" in str(func) else ()
            if all(isinstance(size, int) for size in sizes) and math.prod(sizes) * _NUMBER_BYTES > self.most:
                raise MemoryError(f"a tensor of the size {' x '.join(map(str, sizes))}")
        return func(*args, **(kwargs or {}))


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read: {' '.join(reason.split())[:200]}.",
        "It is damaged, or not what lvmzoo writes.",
        "Copy the run again, or train it again.",
    )
