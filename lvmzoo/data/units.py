"""Which units are used, in which order, and which of them are held out for co-smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from lvmzoo.batch import Observation
from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.binning import Binned
from lvmzoo.errors import UserError, unknown

__all__ = ["active_units", "held_out_units", "select_units"]


def select_units(units: pd.DataFrame, config: DataConfig) -> Int[np.ndarray, " unit"]:
    """Return the rows of the units that the config asks for, ordered by region (stable within it).

    Regions keep the order in which the config, or else the file, names them.

    Raises
    ------
    UserError
        For a region, id or column that does not exist, or when no unit is left.
    """
    keep = np.ones(len(units), dtype=bool)
    known = list(dict.fromkeys(units["region"]))
    if config.regions is not None:
        for region in config.regions:
            if region not in known:
                raise unknown("region", region, known)
        keep &= units["region"].isin(config.regions).to_numpy()
    if config.unit_ids is not None:
        ids = [str(i) for i in config.unit_ids]
        for name in ids:
            if name not in set(units["id"]):
                raise unknown("unit", name, units["id"])
        keep &= units["id"].isin(ids).to_numpy()
    for column, wanted in config.unit_columns.items():
        if column not in units:
            raise unknown("unit column", column, [str(c) for c in units.columns])
        values = wanted if isinstance(wanted, list | tuple) else [wanted]
        texts = {_text(value) for value in values}
        keep &= np.array([_text(value) in texts for value in units[column]], dtype=bool)
    if not keep.any():
        asked = {"regions": config.regions, "unit_ids": config.unit_ids, "unit_columns": config.unit_columns or None}
        said = ", ".join(f"data.{name}={value}" for name, value in asked.items() if value is not None)
        raise UserError(
            f"No unit is left of {len(units)}{' by ' + said if said else ''}.",
            "A model needs at least one unit.",
            "Loosen the selection; `lvmzoo inspect FILE` shows the units' columns and values."
            if said
            else "Choose a file with units.",
        )
    order = {region: place for place, region in enumerate(config.regions or known)}
    rows = np.flatnonzero(keep)
    return rows[np.argsort([order[region] for region in units["region"].to_numpy()[rows]], kind="stable")]


def _text(value: Any) -> str:
    """Return a value as it compares: 1, 1.0 and '1' are the same."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | float | np.number) and float(value).is_integer():
        return str(int(value))
    return str(value).strip().lower() if str(value).lower() in ("true", "false") else str(value)


def active_units(
    binned: Binned,
    train_bins: Int[np.ndarray, " bin"],
    bin_width_s: float,
    observation: Observation,
    minimum_rate_hz: float,
    ids: np.ndarray,
) -> tuple[Bool[np.ndarray, " unit"], tuple[str, ...]]:
    """Return which units to keep, judged by training bins alone, and what was dropped and why.

    Silent units (no spike, or a signal that never changes) are always dropped: nothing about them can be learned.

    Raises
    ------
    UserError
        If no unit is left.
    """
    rows = train_bins[binned.valid[train_bins]]
    sums, span, seen = _totals(binned, rows)
    counts = observation is Observation.COUNTS
    silent = sums == 0 if counts else span <= 0
    silent |= seen == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        rates_hz = sums / (seen * bin_width_s)
    slow = ~silent & (rates_hz < minimum_rate_hz) if counts else np.zeros(len(ids), dtype=bool)
    notes = []
    what = "without a spike" if counts else "with a constant or missing signal"
    for mask, why in ((silent, f"{what} in the training data"), (slow, f"below {minimum_rate_hz:g} Hz in it")):
        if mask.any():
            notes.append(f"{int(mask.sum())} of {len(ids)} units were dropped, {why}: {_names(ids[mask])}.")
    if (silent | slow).all():
        raise UserError(
            f"All {len(ids)} units are silent or below data.minimum_rate_hz={minimum_rate_hz:g} in the training data.",
            f"The fastest one has {np.nanmax(np.where(seen > 0, rates_hz, 0)):.3g} Hz there."
            if counts
            else "None vary.",
            "Lower data.minimum_rate_hz, or check the trial times and tags.",
        )
    return ~(silent | slow), tuple(notes)


def _totals(binned: Binned, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum, the range and the number of observed samples of each unit."""
    n_units = binned.activity.shape[1]
    sums, seen = np.zeros(n_units), np.zeros(n_units)
    lowest, highest = np.full(n_units, np.inf), np.full(n_units, -np.inf)
    step = max(1, 4_000_000 // max(1, n_units))
    whole_numbers = binned.activity.dtype.kind in "iu"
    for low in range(0, len(rows), step):
        here = rows[low : low + step]
        values = binned.activity[here]
        there = True if binned.missing is None else ~binned.missing[here]
        seen += len(here) if binned.missing is None else np.sum(there, axis=0)
        sums += values.sum(0, dtype=np.int64 if whole_numbers else np.float64, where=there)
        if not whole_numbers:  # of counts only the sum is asked for
            lowest = np.minimum(lowest, values.min(0, initial=np.inf, where=there))
            highest = np.maximum(highest, values.max(0, initial=-np.inf, where=there))
    return sums, highest - lowest, seen


def _names(ids: np.ndarray) -> str:
    shown = ", ".join(str(i) for i in ids[:12])
    return shown + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")


def held_out_units(config: SplitConfig, rows: Int[np.ndarray, " unit"], n_file: int) -> tuple[int, ...]:
    """Return the layout indices of the units that are held out for co-smoothing.

    A fraction is drawn at random from the recorded seed. A list names rows of the file's unit table, which do not
    depend on filters; rows that were filtered out are passed over.

    Parameters
    ----------
    config : the split.
    rows : for each unit of the layout, its row in the file's table.
    n_file : number of units of the file.

    Raises
    ------
    UserError
        If a row does not exist, the fraction is not in [0, 1), or no unit would be left.
    """
    wanted = config.held_out_units
    if isinstance(wanted, list | tuple):
        for row in wanted:
            if not isinstance(row, int | np.integer) or not 0 <= row < n_file:
                raise UserError(
                    f"data.split.held_out_units names unit {row!r}.",
                    f"It is a fraction, or rows of the unit table from 0 to {n_file - 1}.",
                    "Try data.split.held_out_units=0.25.",
                )
        held = tuple(int(i) for i in np.flatnonzero(np.isin(rows, np.asarray(wanted, dtype=np.int64))))
    else:
        if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 <= wanted < 1:
            raise UserError(
                f"data.split.held_out_units is {wanted!r}.",
                "It is a fraction from 0 to below 1, or a list of unit rows.",
                "Try data.split.held_out_units=0.25.",
            )
        if wanted == 0:
            return ()
        number = min(max(1, round(wanted * len(rows))), len(rows) - 1)
        draw = np.random.default_rng(config.seed).choice(len(rows), size=max(number, 0), replace=False)
        held = tuple(sorted(int(i) for i in draw))
    if len(held) >= len(rows):
        raise UserError(
            "data.split.held_out_units holds out every unit.",
            "Held-out units are predicted from the others, so some must be left.",
            "Name fewer units.",
        )
    return held
