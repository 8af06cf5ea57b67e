"""Small NWB files, written by pynwb, and recordings that hold known activity."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def nwb_path(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an NWB file of six units in two regions, changed by ``change(nwbfile)``."""

    def write(
        change: Callable[[Any], None] | None = None,
        name: str = "session.nwb",
        spikes: bool = True,
        seconds: float = 60.0,
    ) -> Path:
        from pynwb import NWBHDF5IO, NWBFile

        nwbfile = NWBFile("made for a test", name, datetime(2024, 1, 1, tzinfo=UTC))
        if spikes:
            rng = np.random.default_rng(0)
            nwbfile.add_unit_column("location", "region")
            nwbfile.add_unit_column("quality", "label")
            for unit in range(6):
                times = np.sort(rng.uniform(0, seconds, int(seconds * (unit + 2))))
                region = ["V1", "V2"][unit % 2]
                nwbfile.add_unit(spike_times=times, location=region, quality=["good", "mua"][unit // 3])
        if change is not None:
            change(nwbfile)
        path = tmp_path / name
        with NWBHDF5IO(str(path), "w") as io:
            io.write(nwbfile)
        return path

    return write
