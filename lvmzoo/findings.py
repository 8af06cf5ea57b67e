"""What a model says about the regions of a session: claims with their nulls and intervals, and the curves behind them.

A claim answers one question about two regions. It says how far chance alone goes (the null), how sure its value is
(the interval) and, where there is one, what the same method says within a region (the control). "No evidence" and "too
short to tell" are answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np

__all__ = ["DIRECTLY", "Claim", "Findings", "Profile", "Progress", "Question", "quiet_progress"]

Progress = Callable[[str, float], None]  # what is being done, and the fraction of it that is done


def quiet_progress(what: str, fraction: float) -> None:
    """Say nothing."""


DIRECTLY = "directly"  # item of a claim about communication that is not by way of other regions of the model


class Question(StrEnum):
    """What is asked about two regions."""

    COMMUNICATION = "communication"  # do they share activity at all? undirected
    DIRECTION = "direction"  # does the source drive the target? directed: one claim each way
    DELAY = "delay"  # in ms; positive: the target follows the source
    DIMENSIONS = "dimensions"  # through how many dimensions does the source predict, or share with, the target?


@dataclass(frozen=True)
class Claim:
    """One answer, about one session.

    ``p`` is corrected for everything that was looked at (lags, pairs of regions, latents) as ``note`` says.
    """

    question: Question
    source: str
    target: str
    value: float
    statistic: str  # what the value is: "Granger causality", "cross-validated canonical correlation", "relative delay"
    unit: str = ""  # "ms", "nats/bin"; "" for a ratio or a number
    interval: tuple[float, float] | None = None  # 95 %
    p: float | None = None
    null: tuple[float, float] | None = None  # median and 95th percentile of the statistic under the null
    evidence: bool | None = None  # True: survives its null; False: no evidence; None: cannot be told
    control: float | None = None  # the same within a region
    control_interval: tuple[float, float] | None = None
    item: str = ""  # which one, where there are several: "latent 2"
    note: str = ""  # which null and interval; why it cannot be told

    @property
    def sentence(self) -> str:
        """The claim in plain words."""
        from lvmzoo.sentences import sentence

        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; ``from_json`` is the inverse."""
        return {
            "question": self.question.value,
            **{f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "question"},
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Claim:
        """Build a claim from what ``to_json`` returned."""
        values: dict[str, Any] = {
            name: tuple(map(_number, v)) if isinstance(v, list) else v for name, v in plain.items()
        }
        return cls(**{**values, "question": Question(plain["question"]), "value": _number(plain["value"])})


@dataclass(frozen=True)
class Profile:
    """A curve or a map behind claims about two regions, for figures.

    ``kind`` says what it is: "lag" (value by lag), "time" (a map: time in source by time in target), "rank" (value by
    number of dimensions), "frequency" (value by frequency), "trace" (value by time in the trial), "block" (one number
    about a connection, over all its lags). All arrays have the shape of ``value``, one axis for each of ``axes``.
    """

    kind: str
    source: str
    target: str
    statistic: str  # what the value is
    axes: Mapping[str, np.ndarray]  # label with its unit, such as "lag (ms)" -> where the values lie
    value: np.ndarray
    low: np.ndarray | None = None  # 95 % interval, or a standard error below and above
    high: np.ndarray | None = None
    null: np.ndarray | None = None  # 95th percentile under the null; for a maximum over the axes the same everywhere
    control: np.ndarray | None = None  # the same within a region
    control_low: np.ndarray | None = None
    control_high: np.ndarray | None = None
    marks: Mapping[str, float] = field(default_factory=dict)  # places on the first axis: {"1-SE rank": 2}
    item: str = ""  # which one, where there are several
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; ``from_json`` is the inverse."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Profile:
        """Build a profile from what ``to_json`` returned."""
        arrays: dict[str, Any] = {
            name: _array(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        return cls(**{**arrays, "axes": {label: _array(values) for label, values in plain["axes"].items()}})


@dataclass(frozen=True)
class Findings:
    """All that a model says about the regions of one session."""

    claims: tuple[Claim, ...] = ()
    profiles: tuple[Profile, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; ``from_json`` is the inverse."""
        return {"claims": [claim.to_json() for claim in self.claims], "profiles": [p.to_json() for p in self.profiles]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Findings:
        """Build findings from what ``to_json`` returned."""
        return cls(tuple(map(Claim.from_json, plain["claims"])), tuple(map(Profile.from_json, plain["profiles"])))


def _plain(value: Any) -> Any:
    """Return JSON types; JSON knows no NaN, which becomes null."""
    if isinstance(value, np.ndarray):
        kept = value.astype(object)
        kept[~np.isfinite(value)] = None
        return kept.tolist()
    if isinstance(value, tuple):
        return [_plain(float(v)) for v in value]
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _array(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)
