"""What a model sees: the layout of a session, and batches of its trials.

A :class:`Layout` holds what is known before any model is built (sizes, names, units of measure); a :class:`Batch`
holds trials of one session on a common bin grid. Models read nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.errors import unknown

__all__ = ["Batch", "Kind", "Layout", "Observation", "PairSampling", "Sampling", "Share", "TrialSampling", "Variable"]


class Observation(StrEnum):
    """What the activity of a unit in a bin is."""

    COUNTS = "counts"  # spikes per bin
    CONTINUOUS = "continuous"  # calcium, rates, residuals, smoothed counts


class Kind(StrEnum):
    """How values of a behavior variable compare."""

    CONTINUOUS = "continuous"
    CIRCULAR = "circular"  # radians
    CATEGORICAL = "categorical"  # index into the levels


@dataclass(frozen=True)
class Variable:
    """One behavior variable: its kind, its number of channels, and its levels if it is categorical."""

    kind: Kind
    channels: int = 1
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Sizes and names of one session, known before any model is built.

    Units are ordered by region, so a region is a slice and never a copy.
    """

    session: str
    units: Mapping[str, int]  # region -> number of units, in storage order
    unit_ids: tuple[str, ...]  # a new file's units are matched by id, never by position
    observation: Observation
    bin_width_s: float
    behavior: Mapping[str, Variable] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)  # known external variables -> channels
    input_variables: Mapping[str, Variable] = field(default_factory=dict)  # what those were before they were encoded
    conditions: tuple[str, ...] = ()  # levels of the trial column that sorts trials; empty: there is none
    longest_bins: int = 0  # bins of the longest trial
    held_out: tuple[int, ...] = ()  # units for co-smoothing: learned in training, hidden at evaluation

    @property
    def n_units(self) -> int:
        """Number of units of all regions."""
        return sum(self.units.values())

    @property
    def held_in(self) -> tuple[int, ...]:
        """Indices of the units that a model may look at when it is evaluated."""
        hidden = set(self.held_out)
        return tuple(unit for unit in range(self.n_units) if unit not in hidden)

    def region(self, name: str) -> slice:
        """Return where the units of a region lie; raises UserError for a region that does not exist."""
        if name not in self.units:
            raise unknown("region", name, self.units)
        start = 0
        for region, count in self.units.items():
            if region == name:
                break
            start += count
        return slice(start, start + self.units[name])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; ``from_json`` is the inverse."""
        return {
            "session": self.session,
            "units": dict(self.units),
            "unit_ids": list(self.unit_ids),
            "observation": self.observation.value,
            "bin_width_s": self.bin_width_s,
            "behavior": _plain(self.behavior),
            "inputs": dict(self.inputs),
            "input_variables": _plain(self.input_variables),
            "conditions": list(self.conditions),
            "longest_bins": self.longest_bins,
            "held_out": list(self.held_out),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Layout:
        """Build a layout from what ``to_json`` returned."""
        return cls(
            session=plain["session"],
            units=dict(plain["units"]),
            unit_ids=tuple(plain["unit_ids"]),
            observation=Observation(plain["observation"]),
            bin_width_s=float(plain["bin_width_s"]),
            behavior=_variables(plain["behavior"]),
            inputs=dict(plain["inputs"]),
            input_variables=_variables(plain.get("input_variables", {})),
            conditions=tuple(plain.get("conditions", ())),
            longest_bins=int(plain.get("longest_bins", 0)),
            held_out=tuple(plain["held_out"]),
        )


def _plain(variables: Mapping[str, Variable]) -> dict[str, Any]:
    return {
        name: {"kind": variable.kind.value, "channels": variable.channels, "levels": list(variable.levels)}
        for name, variable in variables.items()
    }


def _variables(plain: Mapping[str, Any]) -> dict[str, Variable]:
    return {
        name: Variable(Kind(variable["kind"]), int(variable["channels"]), tuple(variable["levels"]))
        for name, variable in plain.items()
    }


class Share(NamedTuple):
    """Which of the trials of a training step one of several processes holds."""

    trials: int  # of all processes together, fillers not counted
    first: int  # of this process among them; the others of the batch follow it


@dataclass(frozen=True)
class Batch:
    """Trials of one session on a common bin grid.

    ``activity`` keeps the type in which it is stored (counts as small integers), so that a long session is never
    copied; a model converts what it computes with. What is not ``observed`` is arbitrary and must not be looked at.
    """

    activity: Num[Tensor, "trial bin unit"]  # spikes per bin, or a continuous signal
    valid: Bool[Tensor, "trial bin"]  # the bin exists: not padding, not a gap
    observed: Bool[Tensor, "trial bin unit"]  # the model may look; a broadcast view where it does not vary
    behavior: Mapping[str, Float[Tensor, "trial bin _channel"]]  # NaN: no label there
    inputs: Mapping[str, Float[Tensor, "trial bin _channel"]]
    trial_index: Int[Tensor, " trial"]  # row of the trial table
    start_bin: Int[Tensor, " trial"]  # bin of the trial at which the batch begins (windows of long trials)
    layout: Layout
    condition: Int[Tensor, " trial"] | None = None  # index into ``layout.conditions``, -1: unknown; None: all unknown
    share: Share | None = None  # None: all the trials of the step
    others: tuple[Batch, ...] = ()  # windows of further sessions, where a step takes several together
    pairs: Mapping[str, Int[Tensor, "role pair"]] = field(default_factory=dict)  # see PairSampling

    @property
    def n_trials(self) -> int:
        """Number of trials, fillers included."""
        return int(self.activity.shape[0])

    @property
    def n_bins(self) -> int:
        """Length of the bin grid."""
        return int(self.activity.shape[1])

    def map(self, function: Any) -> Batch:
        """Apply ``function`` to every tensor."""
        changed: dict[str, Any] = {
            f.name: function(value) if isinstance(value, Tensor) else {key: function(v) for key, v in value.items()}
            for f in fields(self)
            for value in [getattr(self, f.name)]
            if isinstance(value, Tensor | Mapping)
        }
        return replace(self, **changed, others=tuple(other.map(function) for other in self.others))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Move every tensor to a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Copy every tensor to page-locked memory."""
        return self.map(lambda tensor: tensor.pin_memory())

    def bins(self, start: int, stop: int) -> Batch:
        """Return some bins of the same trials; a view."""
        when = slice(start, stop)
        return replace(
            self,
            activity=self.activity[:, when],
            valid=self.valid[:, when],
            observed=self.observed[:, when],
            behavior={name: values[:, when] for name, values in self.behavior.items()},
            inputs={name: values[:, when] for name, values in self.inputs.items()},
            start_bin=self.start_bin + start,
        )

    def hide(self, units: Iterable[int]) -> Batch:
        """Return the batch with some units not observed; they may still be scored."""
        units = list(units)
        if not units:
            return self
        observed = self.observed.clone(memory_format=torch.contiguous_format)
        observed[..., units] = False
        return replace(self, observed=observed)

    def without_behavior(self) -> Batch:
        """Return the batch with every behavior value unknown."""
        return replace(self, behavior={name: torch.full_like(v, torch.nan) for name, v in self.behavior.items()})


@dataclass(frozen=True)
class TrialSampling:
    """Whole trials, each once an epoch: how most models are fed."""


@dataclass(frozen=True)
class PairSampling:
    """Windows around reference bins, their positives and negatives: how contrastive models are fed.

    The trials of a batch are windows, those of further sessions in ``Batch.others``. Of each kind of positive,
    ``Batch.pairs`` holds three rows: reference, positive and negative, as numbers of windows that count through the
    batch and its others. A window covers the bins ``[t - before, t + after)`` and never crosses the end of a trial.
    """

    before: int
    after: int
    positives: str = "time"  # "time", "behavior" or "hybrid" (both)
    time_offset_bins: int = 10  # from a reference to its positive in time, and of the changes of a label
    behavior: tuple[str, ...] = ()  # variables that define a behavior positive
    delta: float | None = None  # standard deviation of the query around a label; None: changes of the label over time
    balanced: bool = False  # every combination of categories equally often
    weights: tuple[tuple[str, float], ...] = ()  # of variables in the distance of labels; 1 where there is none

    @property
    def window_bins(self) -> int:
        """Length of a window."""
        return self.before + self.after

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of positives."""
        return ("time", "behavior") if self.positives == "hybrid" else (self.positives,)


Sampling = TrialSampling | PairSampling
