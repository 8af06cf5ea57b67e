"""What kind of variable a measured series is: a number, an angle, or a category."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lvmzoo.batch import Kind
from lvmzoo.data.recording import Signal
from lvmzoo.errors import UserError, unknown

__all__ = ["as_kind", "categories", "guess_kind", "labels"]

MOST_LEVELS = 32  # whole numbers with more different values are numbers
RADIANS = {"radian", "radians", "rad"}
DEGREES = {"degree", "degrees", "deg", "°"}
ANGLE_NAMES = re.compile(r"(^|_)(head_?dir(ection)?|heading|angle|theta|orientation|phase|azimuth|yaw)(_|$)", re.I)
TURN = 2 * np.pi


def categories(values: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return values as indices of their sorted levels (NaN where there is none), and the levels as text."""
    column = pd.Series(np.asarray(values).reshape(-1))
    if column.dtype == object:
        column = column.map(lambda v: v.decode() if isinstance(v, bytes) else v).replace("", None)
    index, levels = pd.factorize(column, sort=True)
    return np.where(index < 0, np.nan, index).astype(np.float32), tuple(_text(level) for level in levels)


def _text(level: Any) -> str:
    """Return a level as text, 3.0 as 3."""
    return str(int(level)) if isinstance(level, float | np.floating) and float(level).is_integer() else str(level)


def labels(values: np.ndarray) -> tuple[Any, tuple[str, ...]] | None:
    """Return level indices and levels of an array that is categories: text, booleans, few whole numbers."""
    if values.ndim > 1 and values.shape[1] != 1:
        return None
    kind = values.dtype.kind
    if kind in "USOb" or (kind in "iu" and len(np.unique(values)) <= MOST_LEVELS):
        return categories(values)
    return None


def guess_kind(name: str, signal: Signal) -> Signal:
    """Return the signal as an angle in radians where its unit or its name say that it is one."""
    if signal.kind is not Kind.CONTINUOUS or signal.channels != 1:
        return signal
    unit = signal.unit.strip().lower()
    if unit in RADIANS | DEGREES and not re.search(r"veloc|speed|per", name, re.I):
        return as_circular(name, signal)
    if not unit and ANGLE_NAMES.search(name) and _span(signal) <= 360.0:
        return as_circular(name, signal)
    return signal


def as_circular(name: str, signal: Signal) -> Signal:
    """Return an angle in radians; degrees are converted.

    Raises
    ------
    UserError
        If it has several channels, or a range that is neither that of radians nor of degrees.
    """
    if signal.channels != 1:
        raise UserError(
            f"Behavior variable '{name}' is circular but has {signal.channels} channels.",
            "A circular variable is one angle.",
            f"Give each angle a name of its own, or set data.behavior_kinds.{name}=continuous.",
        )
    unit = signal.unit.strip().lower()
    degrees = unit in DEGREES
    if unit not in RADIANS | DEGREES:
        span = _span(signal)
        degrees = span > 1.05 * TURN
        if span > 361.0:
            raise UserError(
                f"Behavior variable '{name}' is circular but its values span {span:g}.",
                "Angles are in radians, or in degrees with a unit that says so.",
                f"Convert it to radians, or set data.behavior_kinds.{name}=continuous.",
            )
        if degrees:
            warnings.warn(
                f"Behavior variable '{name}' has no unit and spans {span:.4g}: it is taken as degrees.", stacklevel=2
            )
    values = np.deg2rad(np.asarray(signal.values[:], dtype=np.float64)) if degrees else signal.values
    return replace(signal, values=values, kind=Kind.CIRCULAR, unit="radians")


def as_kind(name: str, signal: Signal, kind: str) -> Signal:
    """Return the signal as the kind that the config asks for."""
    if kind not in list(Kind):
        raise unknown("kind of behavior", kind, list(Kind))
    if kind == signal.kind:
        return signal
    if kind == Kind.CIRCULAR:
        if signal.kind is Kind.CATEGORICAL:
            signal = as_kind(name, signal, Kind.CONTINUOUS)
        return as_circular(name, signal)
    values = np.asarray(signal.values[:], dtype=np.float64).reshape(len(signal), -1)
    if kind == Kind.CATEGORICAL:
        if values.shape[1] != 1:
            raise UserError(
                f"Behavior variable '{name}' is categorical but has {values.shape[1]} channels.",
                "A categorical variable has one value a sample.",
                f"Set data.behavior_kinds.{name}=continuous.",
            )
        index, levels = categories(values)
        return replace(signal, values=index, kind=Kind.CATEGORICAL, levels=levels)
    if signal.kind is Kind.CATEGORICAL:
        try:
            table = np.asarray([float(level) for level in signal.levels])
        except ValueError:
            raise UserError(
                f"Behavior variable '{name}' cannot be {kind}: its levels are {', '.join(signal.levels[:5])}.",
                "Only levels that are numbers can be compared as numbers.",
                f"Leave out data.behavior_kinds.{name}.",
            ) from None
        known = np.isfinite(values)
        values = np.where(known, table[np.where(known, values, 0).astype(np.int64)], np.nan)
    return replace(signal, values=values[:, 0] if values.shape[1] == 1 else values, kind=Kind.CONTINUOUS, levels=())


def _span(signal: Signal) -> float:
    """Return the range of the first million values."""
    values = np.asarray(signal.values[:1_000_000], dtype=np.float64)
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if len(finite) else 0.0
