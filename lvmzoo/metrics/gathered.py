"""Arrays that are made a piece at a time; large ones lie in a file, so that memory does not grow with the recording."""

from __future__ import annotations

import tempfile
from typing import IO

import numpy as np
from jaxtyping import Shaped

from lvmzoo.errors import UserError

__all__ = ["Gathered"]

LARGEST = 2**24  # bytes of an array that stays in memory


class Gathered:
    """Puts pieces end to end, in memory or, beyond 16 MB, in a temporary file that goes when the array does."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []
        self._bytes = self._rows = 0
        self._file: IO[bytes] | None = None

    def add(self, piece: Shaped[np.ndarray, "_rows _channels"]) -> None:
        """Append rows; raises UserError where the disk is full."""
        self._rows, self._bytes = self._rows + len(piece), self._bytes + piece.nbytes
        self._held.append(piece)
        if self._bytes <= LARGEST:
            return
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="lvmzoo-")  # noqa: SIM115 - closed with the array
            for each in self._held:
                self._file.write(np.ascontiguousarray(each).data)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"What the model says of the recording cannot be stored: {error.strerror or error}.",
                f"Arrays that are too large for memory lie in {tempfile.gettempdir()} while a model is evaluated.",
                "Free some space there, or name another folder: TMPDIR=DIR.",
            ) from error
        self._held = [piece[:0]]  # of this type and with these channels

    @property
    def array(self) -> Shaped[np.ndarray, "_all_rows _channels"]:
        """All rows; without any piece an empty matrix."""
        if not self._held:
            return np.zeros((0, 0))
        if self._file is None:
            return np.concatenate(self._held)
        (like,) = self._held
        # Copy on write: PyTorch takes no array that is read-only.
        return np.asarray(np.memmap(self._file, like.dtype, "c", shape=(self._rows, like.shape[1])))
