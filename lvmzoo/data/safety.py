"""What is checked about a file from elsewhere before a library opens it."""

from __future__ import annotations

import math
import stat
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np

from lvmzoo.data.stored import memory_bytes
from lvmzoo.errors import UserError

__all__ = ["check_hdf5", "check_npz"]

COMPRESSION = 1000  # no filter of HDF5 makes real data smaller by more than this
LARGEST_EMPTY_BYTES = 8e9  # that a dataset may declare beyond that; arrays that wait for data are smaller
LARGEST_VALUE_BYTES = 1e8  # of one number or text
DEEPEST = 100  # groups within groups


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
            _refuse_external(path, file)
            _walk(path, file, (_address(file),), {_address(file)})
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"'{path}' is damaged: {error}.",
            "Every object of an HDF5 file must be readable.",
            "Copy it again from where it came.",
        ) from error


def check_npz(path: Path) -> None:
    """Refuse an npz file whose arrays do not have the sizes that they declare, or more than the memory holds.

    NumPy asks for the memory of an array before it looks whether the values are there.

    Raises
    ------
    UserError
        Naming the array. Other errors are those of a file that is damaged.
    """
    whole, names = 0, set()
    with zipfile.ZipFile(path) as file:
        for info in file.infolist():
            name = info.filename.removesuffix(".npy")
            if name in names:
                raise UserError(
                    f"'{path}' holds the array '{name}' twice.",
                    "Which of them is meant cannot be known.",
                    "Write the file again with np.savez.",
                )
            names.add(name)
            with file.open(info) as member:
                try:
                    major, _ = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                # A header is parsed as Python: damaged, it raises SyntaxError, TokenError, TypeError and more.
                except Exception as error:
                    raise ValueError(f"the header of the array '{name}' is damaged: {error}") from error
                begin = member.tell()
            declared = math.prod(shape) * dtype.itemsize
            whole += max(declared, info.file_size)
            if not dtype.hasobject and declared != info.file_size - begin:
                raise UserError(
                    f"'{path}' declares {declared} bytes in the array '{name}', and holds {info.file_size - begin}.",
                    "An array must hold the values that it declares.",
                    "Write the file again with np.savez.",
                )
    if whole > memory_bytes() / 2:
        raise UserError(
            f"'{path}' declares {whole / 1e9:.0f} GB.",
            f"It is read as a whole, and this machine has {memory_bytes() / 1e9:.0f} GB of memory.",
            "Write the recording as NWB, which is read piece by piece.",
        )


def _refuse_external(path: Path, file: h5py.File) -> None:
    """Refuse links to other files before any link is followed: one within the file may lead through one of them."""
    waiting, seen = [file], {_address(file)}
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _outside(path, f"{str(group.name).rstrip('/')}/{name}", f"a link to '{link.filename}'")
            if isinstance(link, h5py.HardLink) and group.get(name, getclass=True) is h5py.Group:
                inner = group[name]
                if _address(inner) not in seen:
                    seen.add(_address(inner))
                    waiting.append(inner)


def _walk(path: Path, group: h5py.Group, above: tuple[int, ...], seen: set[int]) -> None:
    """Look at every object once.

    Parameters
    ----------
    above : where the groups begin that the group lies in, itself the last.
    seen : where the objects begin that were looked at.
    """
    for name in group:
        link, place = group.get(name, getlink=True), f"{str(group.name).rstrip('/')}/{name}"
        try:
            item = group[name]
        except (KeyError, RuntimeError) as error:
            if not isinstance(link, h5py.SoftLink):
                raise
            if "too many links" not in str(error):
                warnings.warn(f"{path.name}: {place} is a link to nothing ({link.path}).", stacklevel=2)
                continue
            raise _endless(path, place) from error
        address = _address(item)
        if address in above or len(above) > DEEPEST:
            raise _endless(path, place)
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            _walk(path, item, (*above, address), seen)
        elif isinstance(item, h5py.Dataset):
            _check_dataset(path, item)


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def _check_dataset(path: Path, dataset: h5py.Dataset) -> None:
    if dataset.external:
        raise _outside(path, str(dataset.name), f"stored in '{dataset.external[0][0]}'")
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name != ".":
            raise _outside(path, str(dataset.name), "put together from other files")
        found = None if "%" in source.dset_name else dataset.file.get(source.dset_name)  # "%": a name for each block
        if "%" in source.dset_name or (isinstance(found, h5py.Dataset) and found.is_virtual):
            raise _endless(path, str(dataset.name))  # HDF5 follows it until the stack is full
    if dataset.shape is None:
        return
    declared, stored = float(np.prod(dataset.shape, dtype=np.float64)) * dataset.dtype.itemsize, _stored(dataset)
    limit = min(memory_bytes() / 2, LARGEST_EMPTY_BYTES)
    if (declared > limit and declared > COMPRESSION * stored) or dataset.dtype.itemsize > LARGEST_VALUE_BYTES:
        raise UserError(
            f"'{path}' declares {declared / 1e9:.0f} GB in {dataset.name}, and stores {stored / 1e9:.3g} GB.",
            "A dataset must hold the values that it declares.",
            "Check how the file was written; the dataset was probably created and never filled.",
        )


def _stored(dataset: h5py.Dataset) -> int:
    return int(dataset.id.get_storage_size())


def _endless(path: Path, name: str) -> UserError:
    return UserError(
        f"'{path}' contains itself: {name} leads back to where it lies.",
        "Reading such a file would never end.",
        "Write the file again from its source.",
    )


def _outside(path: Path, name: str, how: str) -> UserError:
    return UserError(
        f"'{path}' reaches outside itself: {name} is {how}.",
        "Links to other files are not followed: they could read any file of yours.",
        "Write a copy that holds everything (pynwb: export with links resolved).",
    )
