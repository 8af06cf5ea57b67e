"""What a run will need of the machine's memory, estimated from the layout before any activity is read."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from lvmzoo import registry
from lvmzoo.batch import Observation
from lvmzoo.config import Experiment
from lvmzoo.data.grid import make_grid
from lvmzoo.data.recording import Recording
from lvmzoo.data.stored import memory_bytes
from lvmzoo.data.units import select_units
from lvmzoo.errors import UserError
from lvmzoo.models.base import Model, StatisticsModel

__all__ = ["available_bytes", "check_memory", "estimate", "limit_bytes"]

logger = logging.getLogger("lvmzoo")

# Bytes for each bin and unit that a fit holds at a time, beside the activity itself, where the entry of the model says
# nothing else. Of 4 to 8 million counts of 100 units lds held 1.2 to 2.2 (8 latents; 5.9 with 24) and
# reduced_rank_regression 7.4. A gradient holds at least its batch, in float32.
WORKING = {"EM": 2.0, "closed form": 8.0, "gradient": 4.0}
PROCESS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
OFF_BY = 2.0  # what an estimate may be too high; only what is beyond it is refused


def check_memory(experiment: Experiment, recordings: Sequence[Recording], model: type[Model]) -> None:
    """Warn where a run is not sure to fit into memory; raise UserError where it cannot.

    Parameters
    ----------
    experiment : what is to be fitted.
    recordings : whose activity is not read yet.
    model : the class that is fitted.
    """
    needed, size = estimate(experiment, recordings, model)
    said = f"This run needs {_gigabytes(needed)} of memory or more: {size}, fitted by {experiment.model.name}."
    ways = "Use wider bins (data.bin_width_s), fewer units (data.regions, data.minimum_rate_hz) or fewer sessions"
    ways += "." if issubclass(model, StatisticsModel) else ", or smaller batches (trainer.batch_size)."
    if needed > OFF_BY * limit_bytes():
        raise UserError(said, f"This process may use {_gigabytes(limit_bytes())} at most.", ways)
    if needed > available_bytes():
        logger.warning("%s %s are free now. If it is too much: %s", said, _gigabytes(available_bytes()), ways)


def estimate(experiment: Experiment, recordings: Sequence[Recording], model: type[Model]) -> tuple[int, str]:
    """Return the bytes that a run will need, and the size of its data in words.

    The activity of all sessions is held in its smallest type. Beside it a fit holds moments, states or gradients of
    one batch, which in proportion to its bins and units differ from model to model.
    """
    held, largest, bins, units = 0, 0, 0, 0
    for recording in recordings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reading says the same later
            grid = make_grid(recording, experiment.data)
        chosen = len(select_units(recording.units, experiment.data))
        counts = recording.observation is Observation.COUNTS and not experiment.data.smoothing_s
        labels = 4 * sum(signal.channels for signal in recording.behavior.values())
        held += grid.total_bins * (chosen * (1 if counts else 4) + labels)
        trials = experiment.trainer.batch_size or len(grid.n_bins)
        if not issubclass(model, StatisticsModel):
            batch = min(grid.total_bins, trials * int(grid.n_bins.max(initial=0)))
        else:
            batch = grid.total_bins
        largest = max(largest, batch * chosen)
        bins, units = bins + grid.total_bins, units + chosen
    working = registry.get(experiment.model.name).working_bytes or WORKING[_way(model)]
    return held + int(largest * working), f"{bins} bins of {units} units"


def limit_bytes() -> int:
    """Return the memory that this process may use, other processes left aside."""
    return min([memory_bytes(), *(limit for limit, _ in _groups())])


def available_bytes() -> int:
    """Return the memory that is free now, for this process."""
    free = [memory_bytes(), *(limit - used for limit, used in _groups())]
    with contextlib.suppress(OSError):  # where there is none, the system is not Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    return max(0, min(free))


def _way(model: type[Model]) -> str:
    if not issubclass(model, StatisticsModel):
        return "gradient"
    return "EM" if model.passes is None else "closed form"


def _groups() -> Iterator[tuple[int, int]]:
    """Yield limit and use of each control group, those of a container or a cluster's job, that this process is in."""
    try:
        lines = PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for kind, path in (line.split(":", 2)[1:] for line in lines):
        if kind not in ("", "memory"):
            continue
        top, names = (GROUPS / kind, V1) if kind else (GROUPS, V2)
        inner = top / path.lstrip("/")
        for folder in (inner, *(parent for parent in inner.parents if parent.is_relative_to(top))):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
                limit, used = (int((folder / name).read_text()) for name in names)
                yield limit, used


def _gigabytes(size: int | float) -> str:
    return f"{size / 1e9:.3g} GB"
