"""What was inferred as objects of xarray and pynapple, where those packages are installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lvmzoo.batch import Kind
from lvmzoo.errors import UserError
from lvmzoo.inferred import Decoded, Inferred

if TYPE_CHECKING:
    import xarray

__all__ = ["to_pynapple", "to_xarray"]


def to_xarray(inferred: Inferred) -> xarray.Dataset:
    """Return a Dataset with the variables ``latents``, ``rates`` and ``decoded_NAME`` of each behavior variable.

    The dimension ``time`` holds centers of bins in seconds and has the coordinate ``trial``, the row in the table of
    trials of the file; ``unit`` holds ids and has the coordinate ``region``.

    Raises
    ------
    UserError
        Where xarray is not installed.
    """
    xr = _package("xarray")
    seconds = {"units": "s", "long_name": "center of the bin"}
    trial = inferred.trials["trial"].to_numpy()[inferred.trial]
    coordinates: dict[str, Any] = {
        "time": ("time", inferred.time_s, seconds),
        "trial": ("time", trial, {"long_name": "row in the table of trials"}),
        "latent": np.arange(inferred.latents.shape[1]),
    }
    variables: dict[str, Any] = {"latents": (("time", "latent"), inferred.latents, {"units": "a.u."})}
    if inferred.rates is not None:
        coordinates["unit"] = _ids(inferred.units)
        coordinates["region"] = ("unit", inferred.units["region"].to_numpy(dtype=str))
        variables["rates"] = (("time", "unit"), inferred.rates, {"units": inferred.rates_unit})
    for name, decoded in inferred.behavior.items():
        dimensions = ("time",) if decoded.variable.channels == 1 else ("time", f"{name}_channel")
        values = decoded.values[:, 0] if decoded.variable.channels == 1 else decoded.values
        variables[f"decoded_{name}"] = (dimensions, values, _attributes(decoded))
    return xr.Dataset(variables, coordinates, {"bin_width_s": inferred.bin_width_s, **inferred.origin})


def to_pynapple(inferred: Inferred) -> dict[str, Any]:
    """Return ``latents``, ``rates`` and ``decoded_NAME`` as TsdFrame, variables of one channel as Tsd.

    Times are centers of bins, the time support is the trials. Columns of ``rates`` are ids of units with the metadata
    ``region``. Where trials overlap, the later one loses the bins that they share: pynapple has one clock.

    Raises
    ------
    UserError
        Where pynapple is not installed.
    """
    nap = _package("pynapple")
    inferred = inferred.in_order()
    support = _support(nap, inferred)
    found = {"latents": nap.TsdFrame(t=inferred.time_s, d=inferred.latents, time_support=support)}
    if inferred.rates is not None:
        found["rates"] = nap.TsdFrame(
            t=inferred.time_s,
            d=inferred.rates,
            columns=_ids(inferred.units),
            time_support=support,
            metadata={"region": inferred.units["region"].to_numpy(dtype=str)},
        )
    for name, decoded in inferred.behavior.items():
        one = decoded.variable.channels == 1
        found[f"decoded_{name}"] = (nap.Tsd if one else nap.TsdFrame)(
            t=inferred.time_s, d=decoded.values[:, 0] if one else decoded.values, time_support=support
        )
    return found


def _support(nap: Any, inferred: Inferred) -> Any:
    """Return the times that the bins cover; trials that follow each other without a gap are one interval."""
    half = inferred.bin_width_s / 2
    first = np.flatnonzero(np.diff(inferred.time_s, prepend=-np.inf) > 1.001 * inferred.bin_width_s)
    last = np.append(first[1:], len(inferred.time_s)) - 1
    return nap.IntervalSet(start=inferred.time_s[first] - half, end=inferred.time_s[last] + half)


def _ids(units: pd.DataFrame) -> np.ndarray:
    """Return ids as whole numbers where all of them are, else as text."""
    ids = units["id"].to_numpy(dtype=str)
    numbers = all(unit.isdecimal() and str(int(unit)) == unit for unit in ids)
    return ids.astype(np.int64) if numbers else ids


def _attributes(decoded: Decoded) -> dict[str, Any]:
    if decoded.variable.kind is Kind.CATEGORICAL:
        return {"long_name": "index of the level", "levels": list(decoded.variable.levels)}
    return {"units": decoded.unit} if decoded.unit else {}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"The package {name} is not installed.",
            f"lvmzoo uses it only to return {name} objects.",
            "Install it: pip install 'lvmzoo[exchange]'.",
        ) from error
