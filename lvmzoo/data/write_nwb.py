"""Writing a recording as a valid NWB file, which ``read_nwb`` gives back."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lvmzoo.batch import Kind
from lvmzoo.data.recording import Recording, Signal, SpikeTimes
from lvmzoo.errors import UserError

if TYPE_CHECKING:
    from pynwb import NWBFile

__all__ = ["write_nwb"]

TRUTH_MODULE = "ground_truth"
RESOLUTION_S = 1 / 30_000  # of spike times
COLUMNS = {
    "target": "Index of the reach target, counterclockwise from the right.",
    "target_angle": "Direction of the target, in radians.",
    "target_on_s": "When the target appeared, in seconds.",
    "go_cue_s": "When the go cue was given, in seconds.",
    "movement_on_s": "When the hand began to move, in seconds.",
    "condition": "Index of the condition.",
}
CONNECTIONS = {
    "source": (str, "Region that drives the target."),
    "target": (str, "Region that is driven."),
    "delay_s": (float, "Time from source to target, in seconds."),
    "dimensions": (int, "Number of dimensions through which the source drives the target."),
}
MODES = {
    "timescale_s": (float, "Time in which the mode decays by e, in seconds."),
    "frequency_hz": (float, "Turns per second; a mode that turns is a pair of eigenvalues."),
}
TRUE_TABLES: Mapping[str, tuple[str, Mapping[str, tuple[type, str]]]] = {  # name -> description, columns
    "connections": ("Which region drives which; every other pair does not communicate.", CONNECTIONS),
    "modes": ("Modes of the linear dynamics of the latents.", MODES),
}


def write_nwb(recording: Recording, path: str | Path) -> None:
    """Write a simulated recording: units with electrodes, trials, behavior, and the ground truth.

    The file appears whole or not at all. ``latents`` and ``rates`` of the truth become TimeSeries in the processing
    module "ground_truth", connections between regions and modes of the dynamics tables beside them; behavior becomes
    SpatialSeries (names with "position"), CompassDirection (angles) or TimeSeries.

    Raises
    ------
    UserError : when the file exists, or the recording holds what cannot be written: activity that came already binned,
        or behavior that is a category.
    """
    path = Path(path)
    if path.exists():
        raise UserError(
            f"'{path}' exists already.",
            "Recordings are not overwritten.",
            f"Choose another name, or remove it first: rm {path}",
        )
    from pynwb import NWBHDF5IO

    nwbfile = _file(recording)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.nwb")
    try:
        with NWBHDF5IO(str(temporary), mode="w") as io:
            io.write(nwbfile)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _file(recording: Recording) -> NWBFile:
    from pynwb import NWBFile
    from pynwb.file import Subject

    nwbfile = NWBFile(
        session_description=f"Simulated recording '{recording.session}' with its ground truth. No animal was used.",
        identifier=str(uuid.uuid4()),
        session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
        session_id=recording.session.replace("_", "-"),
        experimenter=["Simulator, A."],
        experiment_description="Simulated spikes of a latent-variable model, for tests of methods that infer latents.",
        institution="None (simulated)",
        lab="None (simulated)",
        keywords=["simulation", "latent variables", "ground truth"],
    )
    nwbfile.subject = Subject(
        subject_id="simulated",
        description="Not an animal: the spikes are simulated.",
        species="Macaca mulatta",
        sex="U",
        age="P5Y",
    )
    if isinstance(recording.activity, SpikeTimes):
        _add_units(nwbfile, recording, recording.activity)
    elif isinstance(recording.activity, Signal):
        module = nwbfile.create_processing_module("activity", "Continuous activity, one channel a unit.")
        module.add(_series("activity", recording.activity))
    else:
        raise UserError(
            f"The activity of '{recording.session}' came already binned.",
            "NWB holds spike times or continuous signals.",
            "Keep binned activity as .npz.",
        )
    if recording.trials is not None:
        _add_trials(nwbfile, recording.trials)
    _add_behavior(nwbfile, recording.behavior)
    tables = {"connections": recording.connections, "modes": recording.modes}
    if recording.truth or any(table is not None for table in tables.values()):
        module = nwbfile.create_processing_module(TRUTH_MODULE, "What the simulation knows and a recording does not.")
        for name, signal in recording.truth.items():
            module.add(_series(name, signal))
        for name, table in tables.items():
            if table is not None:
                module.add(_true_table(name, table))
    return nwbfile


def _add_units(nwbfile: NWBFile, recording: Recording, spikes: SpikeTimes) -> None:
    """Add one probe a region, one electrode a unit."""
    from pynwb.misc import Units

    device = nwbfile.create_device(name="probe", description="Simulated probe")
    regions = list(recording.units["region"])
    groups = {
        region: nwbfile.create_electrode_group(
            name=f"probe_{region}", description=f"Electrodes in {region}", location=region, device=device
        )
        for region in dict.fromkeys(regions)
    }
    for region in regions:
        nwbfile.add_electrode(location=region, group=groups[region])
    observed = recording.observed if recording.observed is not None else [[recording.start_s, recording.stop_s]]
    nwbfile.units = Units(name="units", description="Simulated units.", resolution=RESOLUTION_S)
    ids = [str(i) for i in recording.units["id"]]
    numbers = [int(i) if i.isdecimal() else -1 for i in ids]
    plain = [str(number) for number in numbers] == ids and len(set(numbers)) == len(ids)
    if not plain:
        nwbfile.add_unit_column("unit_name", "Name of the unit.")
    for row, name in enumerate(ids):
        extra = {} if plain else {"unit_name": name}
        nwbfile.add_unit(
            spike_times=spikes.unit(row),
            electrodes=[row],
            obs_intervals=np.asarray(observed, dtype=np.float64),
            id=numbers[row] if plain else row,
            **extra,
        )


def _add_trials(nwbfile: NWBFile, trials: pd.DataFrame) -> None:
    others = [name for name in trials.columns if name not in ("start_s", "stop_s")]
    for name in others:
        nwbfile.add_trial_column(name, COLUMNS.get(name, f"{name} of the trial."))
    for _, row in trials.astype(object).iterrows():
        nwbfile.add_trial(
            start_time=float(row["start_s"]), stop_time=float(row["stop_s"]), **{name: row[name] for name in others}
        )


def _add_behavior(nwbfile: NWBFile, behavior: Mapping[str, Signal]) -> None:
    from pynwb.behavior import CompassDirection, Position

    if not behavior:
        return
    module = nwbfile.create_processing_module("behavior", "Measured movement.")
    position, compass = Position(name="Position"), CompassDirection(name="CompassDirection")
    for name, signal in behavior.items():
        if signal.kind is Kind.CATEGORICAL:
            raise UserError(
                f"Behavior variable '{name}' is categorical.",
                "Numbers and angles are written as behavior.",
                "Keep categories as a column of the trials.",
            )
        if signal.kind is Kind.CIRCULAR:
            compass.add_spatial_series(_series(name, signal, "counterclockwise from the x axis"))
        elif "position" in name:
            position.add_spatial_series(_series(name, signal, "x and y, from the center"))
        else:
            module.add(_series(name, signal))
    for container in (position, compass):
        if container.spatial_series:
            module.add(container)


def _true_table(name: str, table: pd.DataFrame) -> Any:
    from hdmf.common import DynamicTable, VectorData

    description, columns = TRUE_TABLES[name]
    return DynamicTable(
        name=name,
        description=description,
        columns=[
            VectorData(
                name=column,
                description=meaning,
                data=np.array(table[column].to_list(), dtype=type_of),  # a table without rows has types as well
            )
            for column, (type_of, meaning) in columns.items()
        ],
    )


def _series(name: str, signal: Signal, reference_frame: str | None = None) -> Any:
    """Return a TimeSeries, or a SpatialSeries where there is a reference frame."""
    from hdmf.backends.hdf5.h5_utils import H5DataIO
    from pynwb import TimeSeries
    from pynwb.behavior import SpatialSeries

    values = np.asarray(signal.values)
    clock: dict[str, Any] = {"timestamps": np.asarray(signal.times())}
    if signal.timestamps_s is None:
        clock = {"starting_time": float(signal.start_s), "rate": float(signal.rate_hz or 0.0)}
    fields: dict[str, Any] = {
        "name": name,
        "data": H5DataIO(values, compression="gzip", compression_opts=1, shuffle=True),
        "unit": signal.unit or ("radians" if signal.kind is Kind.CIRCULAR else "a.u."),
        "description": signal.description or f"{name} of the simulation.",
        **clock,
    }
    return TimeSeries(**fields) if reference_frame is None else SpatialSeries(reference_frame=reference_frame, **fields)
