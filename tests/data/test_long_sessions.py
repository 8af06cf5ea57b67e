"""A session of two hours and 500 units: in pieces, so that memory holds little more than its bins."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from lvmzoo.batch import Observation
from lvmzoo.config import DataConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.recording import Recording, SpikeTimes, unit_table
from lvmzoo.data.stored import Stored

UNITS, SECONDS, RATE_HZ = 500, 7200.0, 2.0


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path: Path = tmp_path_factory.mktemp("long") / "spikes.h5"
    rng = np.random.default_rng(0)
    number = int(SECONDS * RATE_HZ)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("times", (UNITS * number,), "f8")
        for unit in range(UNITS):
            stored[unit * number : (unit + 1) * number] = np.sort(rng.uniform(0, SECONDS, number))
        times = Stored.of(path, stored)
    spikes = SpikeTimes(times, np.arange(UNITS + 1, dtype=np.int64) * number)
    return Recording("long", spikes, Observation.COUNTS, unit_table(UNITS), 0.0, SECONDS)


def test_a_long_session_is_binned_in_little_more_than_its_bins(long_recording: Recording):
    tracemalloc.start()
    began = time.perf_counter()
    session = prepare([long_recording], DataConfig(bin_width_s=0.02))[0]
    seconds = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bins = session.train.activity
    assert tuple(bins.shape) == (360_000, UNITS)
    assert int(bins.sum(dtype=int)) == UNITS * int(SECONDS * RATE_HZ)
    assert peak < bins.numel() + 300e6  # one byte a bin and unit, and pieces that do not grow with the number of units
    assert seconds < 60


def test_more_units_cost_their_bins_alone(long_recording: Recording):
    def peak(units: int) -> int:
        ids = [str(i) for i in range(units)]
        tracemalloc.start()
        prepare([long_recording], DataConfig(bin_width_s=0.1, unit_ids=ids))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(400) - peak(100) < 1.1 * 300 * 72_000 + 30e6
