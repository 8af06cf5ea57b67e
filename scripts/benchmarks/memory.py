"""Peak memory of fitting `lds` to spike times: ten times the session costs its data, and two hours fit into 3 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

UNITS, SECONDS, RATE_HZ = 500, 720, 5
MEGABYTE = 2**20

CHILD = """
import json, resource, sys
import numpy as np
from lvmzoo import Estimator
from lvmzoo.batch import Observation
from lvmzoo.data.recording import Recording, SpikeTimes, unit_table

units, seconds, rate = (int(value) for value in sys.argv[1:])
random = np.random.default_rng(0)
times = np.empty((units, seconds * rate))
for train in times:
    train[:] = random.uniform(0, seconds, len(train))
    train.sort()
offsets = np.arange(units + 1) * times.shape[1]
session = Recording(
    "s", SpikeTimes(times.reshape(-1), offsets), Observation.COUNTS, unit_table(units), 0.0, float(seconds)
)
Estimator("lds", latents=8, trainer={"max_epochs": 3, "tolerance": 0.0, "progress": False}).fit(session)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "data": times.nbytes + seconds * 50 * units}))
"""


def measure(seconds: int) -> dict[str, int]:
    """Return the peak memory of a process that bins (20 ms) and fits a session, and its data's size, in bytes.

    The data are the spike times and their counts, a byte each.
    """
    command = [sys.executable, "-c", CHILD, *(str(value) for value in (UNITS, seconds, RATE_HZ))]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, int] = json.loads(finished.stdout.splitlines()[-1])
    return values


def run() -> list[dict[str, Any]]:
    """Return the growth of the peak from a session to one ten times as long, and the peak of the long one."""
    short, long = measure(SECONDS), measure(10 * SECONDS)
    growth = long["peak"] - short["peak"]
    size = f"{10 * SECONDS / 3600:g} h x {UNITS} units"
    return [
        {
            "claim": f"lds: peak memory of a session of {size} above that of a tenth of it, MB",
            "source": "size of the longer session (spike times and counts)",
            "bound": 1.0,
            "ours": growth // MEGABYTE,
            "peer": long["data"] // MEGABYTE,
            "ratio": round(growth / long["data"], 2),
            "spread": None,
            "ok": growth <= long["data"],
        },
        {
            "claim": f"lds: peak memory of a session of {size}, binned and fitted, libraries included, MB",
            "source": "3 GB",
            "bound": 1.0,
            "ours": long["peak"] // MEGABYTE,
            "peer": 3072,
            "ratio": round(long["peak"] / (3072 * MEGABYTE), 2),
            "spread": None,
            "ok": long["peak"] <= 3072 * MEGABYTE,
        },
    ]


if __name__ == "__main__":
    for result in run():
        print(result)
