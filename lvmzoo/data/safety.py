"""What is checked about a file from elsewhere before a library opens it."""

from __future__ import annotations

import stat
from pathlib import Path

import h5py
import numpy as np

from lvmzoo.data.stored import memory_bytes
from lvmzoo.errors import UserError

__all__ = ["check_hdf5"]

COMPRESSION = 1000  # no filter of HDF5 makes real data smaller by more than this


def check_hdf5(path: Path) -> None:
    """Refuse files that would hang, read other files, or declare more than they hold.

    A pipe blocks whoever opens it; external links, external storage and virtual datasets read any file that the user
    may read; a dataset can declare terabytes in a few bytes.

    Raises
    ------
    UserError
        If it is no regular HDF5 file, reaches outside itself, or declares what no file of its size holds.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"'{path}' cannot be opened: {error.strerror}.", "It must exist.", "Check the path.") from error
    if not stat.S_ISREG(mode):
        raise UserError(
            f"'{path}' is not a regular file.",
            "Pipes, devices and folders are not read.",
            "Give the path of an NWB file.",
        )
    if not h5py.is_hdf5(path):
        raise UserError(
            f"'{path}' is not an HDF5 file ({path.stat().st_size} bytes).",
            "NWB files are HDF5 files; this one is something else, or was not copied completely.",
            "Copy it again, or give an NWB or npz file.",
        )
    try:
        with h5py.File(path, "r") as file:
            _walk(path, file)
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"'{path}' is damaged: {error}.",
            "Every object of an HDF5 file must be readable.",
            "Copy it again from where it came.",
        ) from error


def _walk(path: Path, file: h5py.File) -> None:
    """Look at every object once, without following links."""
    waiting, seen = [file["/"]], set()
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _outside(path, f"{group.name}/{name}", f"a link to '{link.filename}'")
            if isinstance(link, h5py.SoftLink):
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                _check_dataset(path, item)


def _check_dataset(path: Path, dataset: h5py.Dataset) -> None:
    if dataset.external:
        raise _outside(path, str(dataset.name), f"stored in '{dataset.external[0][0]}'")
    if dataset.is_virtual and any(source.file_name != "." for source in dataset.virtual_sources()):
        raise _outside(path, str(dataset.name), "put together from other files")
    declared = float(np.prod(dataset.shape, dtype=np.float64)) * dataset.dtype.itemsize if dataset.shape else 0.0
    if declared > memory_bytes() and declared > COMPRESSION * dataset.id.get_storage_size():
        raise UserError(
            f"'{path}' declares {declared / 1e9:.0f} GB in {dataset.name}, and stores "
            f"{dataset.id.get_storage_size() / 1e9:.3g} GB.",
            "A dataset must hold the values that it declares.",
            "Check how the file was written; the dataset was probably created and never filled.",
        )


def _outside(path: Path, name: str, how: str) -> UserError:
    return UserError(
        f"'{path}' reaches outside itself: {name} is {how}.",
        "Links to other files are not followed: they could read any file of yours.",
        "Write a copy that holds everything (pynwb: export with links resolved).",
    )
