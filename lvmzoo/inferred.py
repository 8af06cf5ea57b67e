"""What a fitted model infers from a recording, with the time of every bin: the way out to NWB, xarray and pynapple."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Kind, Layout, Observation, Variable
from lvmzoo.data.load import apply
from lvmzoo.data.recording import Recording, Signal
from lvmzoo.data.trials import Session, Trials
from lvmzoo.errors import UserError, unknown_session
from lvmzoo.metrics.base import Evaluation
from lvmzoo.models.base import Decodes, Reconstructs
from lvmzoo.run import Run, experiment_to_plain

if TYPE_CHECKING:
    import xarray

__all__ = ["Decoded", "Inferred", "infer"]


@dataclass(frozen=True)
class Decoded:
    """A behavior variable as read out from the latents, or as the model itself decodes it."""

    values: Float[np.ndarray, "bin channel"]  # angles in (-pi, pi], categories as the index of a level
    variable: Variable
    unit: str  # "" where the recording does not hold the variable, so that its unit is not known


@dataclass(frozen=True)
class Inferred:
    """Latents, rates and decoded behavior of one recording: its bins, trial after trial; NaN where it did not run.

    Parameters
    ----------
    session : whose units the model took.
    bin_width_s : width of the bins.
    time_s : center of each bin, on the clock of the recording.
    trial : row of each bin in ``trials``.
    trials : a row a trial (or stretch of a continuous recording) in order of time, with ``start_s`` and ``stop_s`` of
        its bins, ``trial`` (its row in the table of the file), and the columns of the file.
    latents : posterior mean.
    rates : expected activity of the units that the recording holds, in its order; None: the model has none.
    rates_unit : "Hz" for spikes, else the unit of the signal.
    units : a row for each column of ``rates``, with ``id`` and ``region``.
    behavior : decoded variables by name.
    origin : where all this comes from: run, model, versions, hash of the settings, citation.
    """

    session: str
    bin_width_s: float
    time_s: Float[np.ndarray, " bin"]
    trial: Int[np.ndarray, " bin"]
    trials: pd.DataFrame
    latents: Float[np.ndarray, "bin latent"]
    rates: Float[np.ndarray, "bin unit"] | None
    rates_unit: str
    units: pd.DataFrame
    behavior: Mapping[str, Decoded]
    origin: Mapping[str, str]

    def take(self, bins: Bool[np.ndarray, " bin"]) -> Inferred:
        """Return some of the bins."""
        return replace(
            self,
            time_s=self.time_s[bins],
            trial=self.trial[bins],
            latents=self.latents[bins],
            rates=None if self.rates is None else self.rates[bins],
            behavior={name: replace(found, values=found.values[bins]) for name, found in self.behavior.items()},
        )

    def in_order(self) -> Inferred:
        """Return the bins whose times ascend: where trials overlap, the later one loses the bins that they share."""
        ends = np.maximum.accumulate(np.concatenate([[-np.inf], self.trials["stop_s"].to_numpy(np.float64)]))
        slack = 1e-6 * self.bin_width_s
        return self.take(self.time_s - self.bin_width_s / 2 >= ends[self.trial] - slack)

    def to_xarray(self) -> xarray.Dataset:
        """Return a Dataset over time; raises UserError without the package xarray (extra ``exchange``)."""
        from lvmzoo.exchange import to_xarray

        return to_xarray(self)

    def to_pynapple(self) -> dict[str, Any]:
        """Return a TsdFrame by name; raises UserError without the package pynapple (extra ``exchange``)."""
        from lvmzoo.exchange import to_pynapple

        return to_pynapple(self)


def infer(run: Run, recording: Recording, session: str | None = None) -> Inferred:
    """Return what the model of a run says of a recording: of all of it, whatever of it was training data.

    Units that were held out for co-smoothing are hidden from the model, as in the report. The readouts of behavior are
    those of the run.

    Parameters
    ----------
    run : with its readouts; it may have been loaded.
    recording : with the units of a session of the run, matched by id.
    session : which session; may be left out where the recording has its name, or the run has only one.

    Raises
    ------
    UserError
        If the session is not known or not clear, or the recording does not fit it.
    """
    layout = _layout(run, recording, session)
    trials = apply(recording, run.experiment.data, layout)
    trials = trials.select(np.argsort(trials.table["start_s"].to_numpy(), kind="stable"))
    nothing = trials.select([])
    evaluation = Evaluation(run.model, Session(trials, nothing, nothing), run.experiment.seed)
    number = np.repeat(np.arange(len(trials)), trials.lengths)
    within = np.concatenate([np.arange(length) for length in trials.lengths])
    units, rates = _rates(run, recording, evaluation)
    return Inferred(
        session=layout.session,
        bin_width_s=layout.bin_width_s,
        time_s=trials.table["start_s"].to_numpy(np.float64)[number] + (within + 0.5) * layout.bin_width_s,
        trial=number,
        trials=trials.table,
        latents=_on_all_bins(trials, evaluation.latents("train")),
        rates=None if rates is None else _on_all_bins(trials, rates),
        rates_unit=_rates_unit(recording),
        units=units,
        behavior=_decoded(run, recording, evaluation),
        origin=_origin(run, recording),
    )


def _layout(run: Run, recording: Recording, session: str | None) -> Layout:
    known = run.model.layouts
    if session is None and recording.session not in known and len(known) > 1:
        raise UserError(
            f"The run knows {len(known)} sessions, and none is named '{recording.session}'.",
            f"Each has units of its own: {', '.join(known)}.",
            "Say whose units these are: --session NAME, in Python session=NAME.",
        )
    name = session or (recording.session if recording.session in known else next(iter(known)))
    if name not in known:
        raise unknown_session(name, known, "layer")
    return known[name]


def _on_all_bins(trials: Trials, values: Float[np.ndarray, "valid channel"]) -> Float[np.ndarray, "bin channel"]:
    """Return values of the valid bins among all bins, in float32."""
    valid = trials.valid.numpy()[trials.flat]
    out = np.full((len(valid), values.shape[1]), np.nan, dtype=np.float32)
    out[valid] = values
    return out


def _rates(
    run: Run, recording: Recording, evaluation: Evaluation
) -> tuple[pd.DataFrame, Float[np.ndarray, "bin unit"] | None]:
    """Return the units of the model that the recording holds, in its order, and their rates."""
    column = {unit: place for place, unit in enumerate(evaluation.layout.unit_ids)}
    units = recording.units[["id", "region"]]
    units = units[units["id"].isin(list(column))].reset_index(drop=True)
    if not isinstance(run.model, Reconstructs):
        return units, None
    rates = evaluation.rates("train")[:, [column[unit] for unit in units["id"]]]
    return units, rates / evaluation.layout.bin_width_s if _rates_unit(recording) == "Hz" else rates


def _rates_unit(recording: Recording) -> str:
    if recording.observation is Observation.COUNTS:
        return "Hz"
    return recording.activity.unit if isinstance(recording.activity, Signal) else ""


def _decoded(run: Run, recording: Recording, evaluation: Evaluation) -> dict[str, Decoded]:
    """Return each variable that the model decodes by itself, else by the readout of the run."""
    layout, trials = evaluation.layout, evaluation.trials("train")
    values = {
        variable: decoder.predict(evaluation.latents("train"))
        for (of, variable), decoder in run.decoders.items()
        if of == layout.session
    }
    if isinstance(run.model, Decodes):
        values |= evaluation.decoded("train")
    found = {}
    for name, decoded in values.items():
        variable, measured = layout.behavior[name], recording.behavior.get(name)
        unit = "radians" if variable.kind is Kind.CIRCULAR else measured.unit if measured is not None else ""
        found[name] = Decoded(_on_all_bins(trials, decoded), variable, unit)
    return found


def _origin(run: Run, recording: Recording) -> dict[str, str]:
    """Return how one finds again what made the values."""
    version = importlib.metadata.version("lvmzoo")
    fitted = str(run.facts.get("versions", {}).get("lvmzoo", version))
    if run.folder is not None and (run.folder / "config.yaml").is_file():
        settings = (run.folder / "config.yaml").read_bytes()
    else:
        settings = yaml.safe_dump(experiment_to_plain(run.experiment), sort_keys=False).encode()
    reference = run.entry.reference
    return {
        "model": run.entry.name,
        "run": "in memory" if run.folder is None else run.folder.resolve().name,
        "settings": f"sha256 {hashlib.sha256(settings).hexdigest()} of config.yaml",
        "software": f"lvmzoo {version}" + (f", fitted by lvmzoo {fitted}" if fitted != version else ""),
        "source": Path(recording.source).name if recording.source else recording.session,
        "training data": (
            "in part: the run was fitted to a session of this name, whose training part is decoded in sample"
            if recording.session in run.model.layouts
            else "no: the run was fitted to other recordings"
        ),
        "citation": f"{reference.citation} https://doi.org/{reference.doi}",
    }
