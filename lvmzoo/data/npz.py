"""Recordings from ``.npz`` files."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.config import DataConfig
from lvmzoo.data.arrays import binned_recording, observation_of, signal_on_bins
from lvmzoo.data.recording import Recording, unit_table
from lvmzoo.data.safety import check_npz
from lvmzoo.errors import UserError, unknown

__all__ = ["read_npz"]

ACTIVITY_KEYS = ("counts", "activity", "residuals", "observations")
REGION_KEYS = ("region", "regions", "group")
ID_KEYS = ("unit_id", "unit_ids")
TRUTH_KEYS = ("latents", "rates")
SIZES_KEY = "region_sizes"
RESERVED = {"trial_length_bins", "timestep", "bin_width_s", SIZES_KEY, *ACTIVITY_KEYS, *REGION_KEYS, *ID_KEYS}


def read_npz(path: str | Path, config: DataConfig) -> Recording:
    """Read a recording from an ``.npz`` file; pickled objects are never loaded.

    The activity is ``counts`` (or ``activity``, ``residuals``, ``observations``): (trials, bins, units), or (bins,
    units) with ``trial_length_bins`` where trials of different lengths follow each other. ``bin_width_s`` gives the bin
    width, ``region`` or ``group`` the region of each unit (or ``region_sizes`` how many units, in their order, each of
    "region_1", "region_2" and so on has), ``timestep`` the bin within its trial (so that trials may
    have gaps). Of all other arrays, those with one row a bin are behavior, those with one value a trial are trial
    columns.

    Raises
    ------
    UserError
        If it is no such file, or its arrays do not fit together.
    """
    path = Path(path)
    stored = _load(path)
    key = _activity_key(path, stored, config.signal)
    values = stored[key]
    lengths = stored.get("trial_length_bins")
    if values.ndim == 3:
        if lengths is not None and (lengths != values.shape[1]).any():
            raise UserError(
                f"{path.name}: '{key}' has shape {values.shape}, and trial_length_bins says that trials are shorter.",
                "Trials of different lengths are stored end to end, as (bins, units): padding would be taken for data.",
                "Store np.concatenate([trial[:n] for trial, n in zip(counts, trial_length_bins)]).",
            )
        lengths = np.full(len(values), values.shape[1])
        shape = values.shape[:2]
        values = values.reshape(shape[0] * shape[1], values.shape[2])
    else:
        shape = None
        lengths = np.array([len(values) if values.ndim else 0]) if lengths is None else lengths
    _check_shape(path, key, values, lengths)
    lengths = lengths.astype(np.int64)
    values, observation = observation_of(values)
    if key == "counts" and observation is not Observation.COUNTS:
        raise UserError(
            f"{path.name}: 'counts' holds values that are negative or not whole.",
            "Counts are spikes in a bin.",
            "Name the array 'activity' if it is a continuous signal.",
        )
    regions = next((stored[name] for name in REGION_KEYS if name in stored), None)
    if regions is None and SIZES_KEY in stored:
        regions = _numbered_regions(path, stored[SIZES_KEY], values.shape[1])
    ids = next((stored[name] for name in ID_KEYS if name in stored), None)
    columns: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        if name in RESERVED or array.ndim == 0:
            continue
        if shape is not None and array.shape[:2] == shape:
            rows[name] = array.reshape(len(values), math.prod(array.shape[2:]))
        elif len(array) == len(values) and (shape is None or array.ndim == 1) and array.ndim <= 2:
            rows[name] = array
        elif len(array) == len(lengths) > 1 and array.ndim == 1:
            columns[name] = array
    notes: tuple[str, ...] = (f"{path.name}: the activity is the array '{key}'.",)
    bin_width_s = _bin_width_s(path, stored["bin_width_s"]) if "bin_width_s" in stored else config.bin_width_s
    if "bin_width_s" not in stored:
        notes += (f"{path.name} does not say its bin width: data.bin_width_s={bin_width_s:g} is taken.",)
    observed = None
    if "timestep" in stored:
        observed, lengths, arrays = _spread(path, stored["timestep"], lengths, {"": values, **rows})
        values = arrays.pop("")
        rows = arrays
    signals = {name: signal_on_bins(name, array, observed) for name, array in rows.items()}
    truth = {name: signals.pop(name) for name in TRUTH_KEYS if name in signals}
    return binned_recording(
        path.stem, values, lengths, bin_width_s, observation, unit_table(values.shape[1], regions, ids),
        columns, signals, truth=truth, observed=observed, source=str(path), notes=notes,
    )  # fmt: skip


def _load(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file, without ever unpickling."""
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.", "data.path names an NWB or npz file.", "Check the path.")
    try:
        with path.open("rb") as file:
            single = file.read(6) == b"\x93NUMPY"
        if single:
            raise UserError(
                f"'{path}' holds a single array.",
                "An npz file holds named arrays.",
                "Save it with np.savez(path, counts=counts).",
            )
        check_npz(path)
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except UserError:
        raise
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "allow_pickle" in str(error)
        raise UserError(
            f"'{path}' cannot be read{': it holds Python objects' if pickled else f' ({error})'}.",
            "An npz file here holds plain numeric and text arrays; objects could run code and are never loaded.",
            "Save ragged trials end to end with their lengths in trial_length_bins."
            if pickled
            else "Write it again with np.savez.",
        ) from error


def _activity_key(path: Path, stored: Mapping[str, np.ndarray], signal: str | None) -> str:
    """Return the name of the array that is the activity."""
    if signal is not None:
        if signal not in stored:
            raise unknown(f"array (data.signal) in {path.name}", signal, stored)
        return signal
    for key in ACTIVITY_KEYS:
        if key in stored:
            return key
    raise UserError(
        f"'{path}' holds the arrays {', '.join(stored) or '(none)'}.",
        f"One of them must be the activity, named {', '.join(ACTIVITY_KEYS)}.",
        "Rename it, or say which it is with data.signal=NAME.",
    )


def _bin_width_s(path: Path, stored: np.ndarray) -> float:
    if stored.size != 1 or stored.dtype.kind not in "iuf" or not 0 < stored.item() < np.inf:
        raise UserError(
            f"{path.name}: bin_width_s is {np.array2string(stored, threshold=5)}.",
            "It is one positive number of seconds.",
            "Write it as bin_width_s=0.02.",
        )
    return float(stored.item())


def _numbered_regions(path: Path, sizes: np.ndarray, units: int) -> np.ndarray:
    """Return the region of each unit from the sizes of regions; raises UserError unless they add up."""
    if sizes.dtype.kind not in "iu" or sizes.ndim != 1 or sizes.min(initial=1) < 1 or sizes.sum() != units:
        raise UserError(
            f"{path.name}: {SIZES_KEY} is {sizes.tolist()}, and there are {units} units.",
            "It holds the number of units of each region, positive whole numbers that add up to the number of units.",
            "Write it again, or name the region of each unit in an array 'region'.",
        )
    return np.repeat([f"region_{number + 1}" for number in range(len(sizes))], sizes)


def _check_shape(path: Path, key: str, values: np.ndarray, lengths: np.ndarray) -> None:
    """Raise UserError unless the trials' lengths add up to the bins."""
    if values.ndim != 2 or not values.size:
        raise UserError(
            f"{path.name}: '{key}' has shape {values.shape}.",
            "Activity is (bins, units) or (trials, bins, units), and not empty.",
            "Check the order of the axes: units are last.",
        )
    if (
        lengths.dtype.kind not in "iu"
        or lengths.ndim != 1
        or lengths.min(initial=1) < 1
        or lengths.max(initial=1) > len(values)
        or lengths.sum() != len(values)
    ):
        total = lengths.sum() if lengths.dtype.kind in "iuf" else f"no number of ({lengths.dtype})"
        raise UserError(
            f"{path.name}: trial_length_bins adds up to {total} bins and '{key}' has {len(values)}.",
            "The lengths of the trials are positive whole numbers and add up to the number of bins.",
            "Write the lengths of the trials whose bins are stored.",
        )


def _spread(
    path: Path, timestep: np.ndarray, lengths: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray, dict[str, np.ndarray]]:
    """Put bins where their ``timestep`` says they were within the trial; the bins between were not observed."""
    total = int(lengths.sum())
    begin = np.repeat(np.cumsum(lengths) - lengths, lengths)
    known = timestep.dtype.kind in "iuf" and timestep.shape == (total,) and bool((np.abs(timestep) < 2**53).all())
    step = timestep.astype(np.int64) if known else np.zeros(total, dtype=np.int64)
    if not (known and (np.diff(step)[np.diff(begin) == 0] > 0).all()):
        raise UserError(
            f"{path.name}: timestep does not ascend within each trial.",
            "timestep is the number of a bin within its trial, one for each bin.",
            "Sort the bins of each trial, or remove the array.",
        )
    within = step - step[begin]
    last = np.cumsum(lengths) - 1
    longer = within[last] + 1
    if longer.sum() == total:
        return None, lengths, dict(arrays)
    if longer.sum() > 100 * total:
        raise UserError(
            f"{path.name}: timestep reaches {int(step.max())}, so that most bins would be empty.",
            "timestep is the number of a bin within its trial.",
            "Check that it counts bins, not milliseconds.",
        )
    place = np.repeat(np.cumsum(longer) - longer, lengths) + within
    spread = {}
    for name, array in arrays.items():
        kind = array.dtype if name == "" or array.dtype.kind not in "f" else np.dtype(np.float32)
        fill = np.nan if name and array.dtype.kind == "f" else "" if array.dtype.kind in "US" else 0
        wide = np.full((int(longer.sum()), *array.shape[1:]), fill, dtype=kind)
        wide[place] = array
        spread[name] = wide
    observed = np.zeros(int(longer.sum()), dtype=bool)
    observed[place] = True
    return observed, longer, spread
