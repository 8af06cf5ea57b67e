"""One session as the figures see it: flat arrays over valid bins, conditions, colors."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lvmzoo.batch import Kind, Layout, Observation, Variable
from lvmzoo.data.conditions import Conditions, choose_conditions
from lvmzoo.data.trials import Session, Trials
from lvmzoo.models.base import Reconstructs
from lvmzoo.report.style import palette

if TYPE_CHECKING:
    from lvmzoo.metrics.base import Evaluation
    from lvmzoo.run import Run

__all__ = ["Axes", "View", "colors_of", "used_behavior"]

_READOUT_BINS = 20_000  # enough to find the readout of a model


def colors_of(conditions: Conditions) -> tuple[Any, ...]:
    """Return a color for each condition."""
    return tuple(palette(len(conditions.levels)))


@dataclass(frozen=True)
class Axes:
    """Coordinates in which latents are drawn, those that vary most first."""

    mean: Float[np.ndarray, " latent"]  # the origin
    forward: Float[np.ndarray, "latent axis"]
    back: Float[np.ndarray, "axis latent"]  # into latents again
    share: Float[np.ndarray, " axis"]  # of the variance
    of_activity: bool  # distances are those of the predicted activity, and so is the variance

    @classmethod
    def principal(cls, mean: Float[np.ndarray, " latent"], covariance: Float[np.ndarray, "latent latent"]) -> Axes:
        """Return principal axes: a rotation for the eye, nothing is rescaled."""
        variance, axes = np.linalg.eigh(covariance)
        variance, axes = variance[::-1].clip(min=0), _signed(axes[:, ::-1])
        return cls(mean, axes, axes.T, variance / max(variance.sum(), 1e-300), False)

    @classmethod
    def of_readout(
        cls,
        mean: Float[np.ndarray, " latent"],
        covariance: Float[np.ndarray, "latent latent"],
        readout: Float[np.ndarray, "latent unit"],
    ) -> Axes:
        """Return the principal axes of the activity that the latents predict.

        They do not depend on how a model scales and mixes its latents (Yu et al. 2009, doi:10.1152/jn.90941.2008).
        """
        # With readout = L Q' and Q orthonormal, latents @ L are coordinates of the predicted activity.
        left, size, _ = np.linalg.svd(readout, full_matrices=False)
        inside = left * size
        variance, turned = np.linalg.eigh(inside.T @ covariance @ inside)
        variance = variance[::-1].clip(min=0)
        forward = _signed(inside @ turned[:, ::-1])
        return cls(mean, forward, np.linalg.pinv(forward), variance / max(variance.sum(), 1e-300), True)

    def project(self, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin axis"]:
        """Return latents in these coordinates."""
        return (latents - self.mean) @ self.forward


def _signed(axes: Float[np.ndarray, "latent axis"]) -> Float[np.ndarray, "latent axis"]:
    """Return axes whose largest entry is positive."""
    return axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)


def used_behavior(run: Run) -> tuple[str, ...]:
    """Return the behavior variables that a model names in its config."""
    return tuple(getattr(run.experiment.model, "behavior", None) or ())


class View:
    """What the figures of one session draw from; everything is computed when first asked for, and once."""

    def __init__(self, run: Run, session: Session, evaluation: Evaluation) -> None:
        self.run = run
        self.session = session
        self.evaluation = evaluation
        self.layout: Layout = session.layout

    @property
    def bin_s(self) -> float:
        """Width of a bin, in seconds."""
        return self.layout.bin_width_s

    @property
    def counts(self) -> bool:
        """Whether the activity is spikes, so that rates are in Hz."""
        return self.layout.observation is Observation.COUNTS

    @property
    def scale(self) -> float:
        """What activity per bin is multiplied with to be shown: spikes per bin become Hz, signals stay."""
        return 1 / self.bin_s if self.counts else 1.0

    @property
    def unit(self) -> str:
        """Unit of measure of the activity shown."""
        return "Hz" if self.counts else "signal"

    @functools.cached_property
    def regions(self) -> list[str]:
        """Region of each unit."""
        return [region for region, count in self.layout.units.items() for _ in range(count)]

    def part(self, name: str) -> Trials:
        """Return the training, validation or test trials."""
        trials: Trials = getattr(self.session, name)
        return trials

    @functools.cached_property
    def conditions(self) -> Conditions | None:
        """What sorts the trials, if anything does."""
        parts = [self.part(name).table for name in ("train", "validation", "test")]
        table = pd.concat([part for part in parts if len(part)], ignore_index=True)
        return choose_conditions(table, self.run.experiment.data.condition)

    @property
    def key(self) -> tuple[str, list[tuple[str, str]]] | None:
        """The condition's column, and its levels with their colors as hexadecimal text."""
        if self.conditions is None:
            return None
        from matplotlib.colors import to_hex

        colors = [to_hex(color) for color in colors_of(self.conditions)]
        return self.conditions.column, list(zip(self.conditions.levels, colors, strict=True))

    @property
    def legend(self) -> tuple[str, list[tuple[str, str]]] | None:
        """The key of figures of test data; None where they show no averages by condition."""
        return self.key if self.averages else None

    @functools.cached_property
    def zero_s(self) -> float:
        """Time of the first bin of a trial relative to the event that trials are aligned to."""
        data = self.run.experiment.data
        return float(data.window_s[0]) if data.align and data.window_s else 0.0

    @property
    def trial_time_label(self) -> str:
        """What trial times count from."""
        align = self.run.experiment.data.align
        return f"time from {align} (s)" if align else "time in trial (s)"

    @functools.cache  # noqa: B019  a view lives as long as its page is written
    def index(self, part: str) -> tuple[Int[np.ndarray, " bin"], Int[np.ndarray, " bin"]]:
        """Return the trial, and the bin within it, of each valid bin of a part."""
        trials = self.part(part)
        valid = trials.valid.numpy()[trials.flat]
        trial = np.repeat(np.arange(len(trials)), trials.lengths)
        inside = np.arange(trials.n_bins) - np.repeat(np.cumsum(trials.lengths) - trials.lengths, trials.lengths)
        return trial[valid], inside[valid]

    def times(self, part: str) -> Float[np.ndarray, " bin"]:
        """Return the time in the recording of the middle of each valid bin, in seconds."""
        trial, inside = self.index(part)
        start = self.part(part).table["start_s"].to_numpy(dtype=np.float64)
        return start[trial] + (inside + 0.5) * self.bin_s

    @functools.cache  # noqa: B019  as above
    def activity(self, part: str) -> Float[np.ndarray, "bin unit"]:
        """Return the recorded activity per bin, NaN where a sample is missing."""
        values = self.evaluation.activity(part).numpy().astype(np.float32)
        recorded = self.evaluation.recorded(part)
        if recorded is not None:
            values[~recorded.numpy()] = np.nan
        return values

    def behavior(self, part: str, name: str) -> Float[np.ndarray, "bin channel"]:
        """Return a behavior variable, NaN where it has no label."""
        return self.evaluation.behavior(part, name)

    def grid(self, part: str, values: Float[np.ndarray, "bin k"]) -> Float[np.ndarray, "trial inside k"]:
        """Return flat values as trials on a common grid, NaN where there is no bin."""
        trial, inside = self.index(part)
        trials = self.part(part)
        bins = int(trials.lengths.max()) if len(trials) else 0
        out = np.full((len(trials), bins, values.shape[1]), np.nan, dtype=np.float32)
        out[trial, inside] = values
        return out

    @functools.cached_property
    def averages(self) -> bool:
        """Whether test trials are averaged by condition: ten of them or more, none far longer than the others."""
        test = self.session.test
        if self.conditions is None or len(test) < 10 or not (self.conditions.codes(test.table) >= 0).any():
            return False
        return float(np.max(test.lengths)) <= 4 * float(np.median(test.lengths))

    @functools.cached_property
    def used(self) -> tuple[str, ...]:
        """Behavior variables that the model was trained with, by their names in its config."""
        return used_behavior(self.run)

    @functools.cached_property
    def variables(self) -> dict[str, Variable]:
        """Behavior with labels in the test data: those the model was trained with first, angles before others."""
        labeled = {
            name: variable
            for name, variable in self.layout.behavior.items()
            if name in self.session.test.behavior and np.isfinite(self.behavior("test", name)).any()
        }
        return dict(sorted(labeled.items(), key=lambda i: (i[0] not in self.used, i[1].kind is not Kind.CIRCULAR)))

    @functools.cached_property
    def axes(self) -> Axes:
        """Directions of the latents to draw: those that the activity is read out from, else the principal ones."""
        latents = self.evaluation.latents("train")
        covariance = np.cov(latents, rowvar=False).reshape(latents.shape[1], -1)
        readout = self._readout()
        if readout is None:
            return Axes.principal(latents.mean(0), covariance)
        return Axes.of_readout(latents.mean(0), covariance, readout)

    def _readout(self) -> Float[np.ndarray, "latent unit"] | None:
        """Return the linear map from latents to rates that is nearest to the model's; None where there is none."""
        if not isinstance(self.run.model, Reconstructs) or not len(self.evaluation.bins("test")):
            return None
        step = max(1, len(self.evaluation.bins("test")) // _READOUT_BINS)
        latents = self.evaluation.latents("test")[::step]
        rates = self.evaluation.rates("test")[::step].astype(np.float64)
        centered = latents - latents.mean(0)
        scale = centered.std(0)
        scale[scale == 0] = 1.0  # latents of very different sizes are all known equally well
        readout = np.linalg.lstsq(centered / scale, rates - rates.mean(0), rcond=1e-8)[0] / scale[:, None]
        return readout if np.abs(readout).max() > 0 else None

    @functools.cached_property
    def projected(self) -> Float[np.ndarray, "bin axis"]:
        """The latents of the test data on those axes."""
        return self.axes.project(self.evaluation.latents("test"))
