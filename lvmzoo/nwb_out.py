"""Writing what was inferred into a copy of the NWB file that it was inferred from."""

from __future__ import annotations

import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lvmzoo.batch import Kind
from lvmzoo.data.nwb_series import INFERRED
from lvmzoo.errors import UserError, nearest
from lvmzoo.inferred import Decoded, Inferred

if TYPE_CHECKING:
    from pynwb import NWBFile, TimeSeries

__all__ = ["Written", "check_output", "write_copy"]

MODULES = {  # of NWB's own names, which tools look for
    "ecephys": "Processed extracellular electrophysiology.",
    "ophys": "Processed optical physiology.",
    "behavior": "Processed behavior.",
    "misc": "Processed signals.",
}
LONGEST = 255 - len("..4194304.01234567.nwb")  # bytes of a name beside which a temporary file fits
REGULAR = 1e-6  # of a bin: times that differ by less from a constant rate have one


class Written(NamedTuple):
    """A series of the copy."""

    module: str
    name: str
    shape: tuple[int, ...]
    unit: str


def check_output(source: Path, out: Path, overwrite: bool) -> None:
    """Refuse what ``write_copy`` could not write, before the long work.

    Raises
    ------
    UserError
        If ``out`` is no name of an NWB file, is the source, exists although it is not to be overwritten, or lies in no
        folder, or in one that cannot be written to.
    """
    if source.suffix.lower() != ".nwb":
        raise UserError(
            f"'{source}' does not end in .nwb.",
            "Latents are written into a copy of an NWB file.",
            "For other data use Python: lvmzoo.load(RUN).transform(X).",
        )
    if out.suffix != ".nwb":
        name = out.with_suffix(".nwb") if out.stem.strip(".") else source.with_name(f"{source.stem}_latents.nwb")
        raise UserError(f"--out '{out}' does not end in .nwb.", "The output is an NWB file.", f"Write {name}.")
    if len(os.fsencode(out.name)) > LONGEST:
        raise UserError(
            f"The name of --out has {len(os.fsencode(out.name))} bytes: {out.name[:30]}….",
            f"File systems take names of 255, and the copy is written as a file with a longer one: {LONGEST} are left.",
            f"Choose a shorter name, such as {source.stem[:40]}_latents.nwb.",
        )
    if not out.parent.is_dir():
        close = nearest(out.parent.name, [folder.name for folder in out.parent.parent.glob("*/")])
        raise UserError(
            f"The folder '{out.parent}' of --out does not exist.",
            "The copy is written into an existing folder.",
            f"Did you mean '{out.parent.parent / close}'?" if close else f"Create it: mkdir -p {out.parent}",
        )
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"The folder '{out.parent}' of --out cannot be written to.",
            "The copy is written into it.",
            "Choose a folder of yours, or ask for the right to write there.",
        )
    if out.is_dir():
        raise UserError(
            f"--out {out} is a folder.", "The copy is a file.", f"Write {out / f'{source.stem}_latents.nwb'}."
        )
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(
            f"--out {out} is the recording itself.",
            "The original is never changed; latents go into a copy.",
            f"Choose another name, such as {source.with_name(f'{source.stem}_latents.nwb')}.",
        )
    if out.exists() and not overwrite:
        raise UserError(
            f"--out {out} exists already.",
            "A file is only replaced where you ask for it.",
            "Choose another name, or add --overwrite.",
        )


def write_copy(inferred: Inferred, source: Path, out: Path, *, overwrite: bool = False) -> list[Written]:
    """Write a copy of an NWB file with latents, rates and decoded behavior; return its new series.

    Times are the centers of the bins: a rate where bins follow each other without a gap, with NaN where nothing was
    recorded; otherwise timestamps of the bins that were. The copy appears whole or not at all.

    Raises
    ------
    UserError
        See ``check_output``; and if the disk is full, or the copy cannot be written.
    """
    check_output(source, out, overwrite)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.nwb")
    try:
        shutil.copyfile(source, temporary)
        written = _add(inferred, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise UserError(
            f"'{out}' could not be written: {error.strerror or error}.",
            f"It needs about {source.stat().st_size / 1e9:.2g} GB beside a writable folder.",
            "Free some space, or choose another --out.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _add(inferred: Inferred, path: Path) -> list[Written]:
    """Add the series to an NWB file, which gets an identifier of its own."""
    import h5py
    from pynwb import NWBHDF5IO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # versions of cached extensions and the like: nothing to act upon
        with NWBHDF5IO(str(path), mode="a") as io:
            nwbfile = io.read()
            origin = {**inferred.origin, "source identifier": str(nwbfile.identifier)}
            prefix, written = _prefix(nwbfile, inferred.origin["model"]), []
            for module, series in _series(inferred, nwbfile, prefix, origin):
                if module not in nwbfile.processing:
                    nwbfile.create_processing_module(module, MODULES[module])
                nwbfile.processing[module].add(series)
                data = series.data.data if hasattr(series.data, "data") else series.data
                written.append(Written(module, series.name, np.shape(data), series.unit))
            io.write(nwbfile)
    with h5py.File(path, "r+") as file:
        file["identifier"][()] = str(uuid.uuid4())
    return written


def _prefix(nwbfile: NWBFile, model: str) -> str:
    """Return the name of the model, numbered where the file holds latents of this model already."""
    taken = {name for module in nwbfile.processing.values() for name in module.data_interfaces}
    number, prefix = 1, model
    while any(name.startswith(f"{prefix}_") for name in taken):
        number += 1
        prefix = f"{model}_{number}"
    return prefix


def _series(
    inferred: Inferred, nwbfile: NWBFile, prefix: str, origin: dict[str, str]
) -> Iterator[tuple[str, TimeSeries]]:
    """Yield the name of a module and a series for it."""
    from hdmf.backends.hdf5.h5_utils import H5DataIO
    from pynwb import TimeSeries

    kept, clock = _clock(inferred)
    comments = "\n".join([f"{INFERRED}.", *(f"{key}: {value}" for key, value in origin.items())])
    bins = f"One sample for each bin of {inferred.bin_width_s:g} s, at its center."

    def series(name: str, values: np.ndarray, unit: str, text: str, more: str = "") -> TimeSeries:
        values = values[:, 0] if values.shape[1] == 1 and name.startswith("decoded") else values
        return TimeSeries(
            name=f"{prefix}_{re.sub(r'[/:]', '_', name)}",
            data=H5DataIO(values, compression="gzip", compression_opts=4, shuffle=True),
            unit=unit or "unknown",
            description=f"{text} {bins}",
            comments=f"{comments}{more}",
            **clock,
        )

    module = _module(nwbfile, inferred)
    model = inferred.origin["model"]
    yield (
        module,
        series("latents", kept.latents, "a.u.", f"Latents of the population activity, inferred by the model {model}."),
    )
    if kept.rates is not None:
        what = "Firing rate" if kept.rates_unit == "Hz" else "Expected activity"
        ids = ", ".join(kept.units["id"])
        text = f"{what} of each unit given the latents of the model {model}; the comments name the unit of each column."
        yield module, series("rates", kept.rates, kept.rates_unit, text, f"\nunits, by column: {ids}")
    for name, decoded in kept.behavior.items():
        yield "behavior", series(f"decoded_{name}", decoded.values, _unit(decoded), _about(name, decoded, model))


def _clock(inferred: Inferred) -> tuple[Inferred, dict[str, Any]]:
    """Return the bins to write, and their rate or timestamps."""
    kept = inferred.in_order()
    width = inferred.bin_width_s
    regular = kept.time_s[0] + np.arange(len(kept.time_s)) * width
    if np.abs(kept.time_s - regular).max() < REGULAR * width:
        return kept, {"starting_time": float(kept.time_s[0]), "rate": 1.0 / width}
    kept = kept.take(np.isfinite(kept.latents).all(axis=1))
    return kept, {"timestamps": kept.time_s}


def _module(nwbfile: NWBFile, inferred: Inferred) -> str:
    """Return the module for what was recorded in this way."""
    if inferred.rates_unit == "Hz":
        return "ecephys"
    return "ophys" if nwbfile.imaging_planes else "misc"


def _unit(decoded: Decoded) -> str:
    return "n.a." if decoded.variable.kind is Kind.CATEGORICAL else decoded.unit


def _about(name: str, decoded: Decoded, model: str) -> str:
    text = f"{name}, decoded from the population activity through the latents of the model {model}."
    if decoded.variable.kind is Kind.CATEGORICAL:
        levels = ", ".join(f"{index}: {level}" for index, level in enumerate(decoded.variable.levels))
        return f"{text} A value is the index of a level ({levels})."
    return f"{text} Angles lie between -pi and pi." if decoded.variable.kind is Kind.CIRCULAR else text
