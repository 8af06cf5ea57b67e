"""Arrays that stay on disk until a slice of them is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lvmzoo.errors import UserError

__all__ = ["Stored", "memory_bytes", "read_all"]


@dataclass(frozen=True)
class Stored:
    """A dataset of an HDF5 file; each slice opens the file anew, so that a recording can be pickled and forked."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, path: Path, dataset: Any, scale: float = 1.0, offset: float = 0.0) -> Stored:
        """Describe an open h5py dataset, whose values are multiplied by ``scale`` before ``offset`` is added."""
        return cls(path, str(dataset.name), tuple(dataset.shape), dataset.dtype, float(scale), float(offset))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        import h5py

        try:
            with h5py.File(self.path, "r") as file:
                values = np.asarray(file[self.name][rows])
        except (OSError, KeyError) as error:
            raise UserError(
                f"'{self.path}' could not be read at {self.name}: {error}.",
                "The recording is read piece by piece, so its file must stay in place and whole.",
                "Put the file back, or copy it anew if it is damaged.",
            ) from error
        return values if self.scale == 1.0 and self.offset == 0.0 else values * self.scale + self.offset


def memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_all(values: Any, what: str) -> np.ndarray:
    """Return an array in memory.

    Raises
    ------
    UserError
        If it declares more than half of the machine's memory.
    """
    size = int(np.prod(values.shape, dtype=np.float64)) * max(1, np.dtype(values.dtype).itemsize)
    if size > memory_bytes() / 2:
        raise UserError(
            f"{what} declares {size / 1e9:.0f} GB.",
            f"It is read as a whole, and this machine has {memory_bytes() / 1e9:.0f} GB of memory.",
            "Check the file; its size is not plausible for this kind of data.",
        )
    return np.asarray(values[:])
