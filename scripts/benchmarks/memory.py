"""Peak memory of fitting `lds`: a session ten times as long costs at most its data, and two hours fit into 3 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

UNITS, BINS = 500, 36_000
MEGABYTE = 2**20

CHILD = """
import json, resource, sys
import numpy as np
import torch
from lvmzoo import Estimator

bins, units = int(sys.argv[1]), int(sys.argv[2])
counts = np.empty((bins, units), np.uint8)
random = np.random.default_rng(0)
for start in range(0, bins, 5000):
    drift = 0.1 + 0.1 * np.sin(np.arange(start, min(start + 5000, bins)) / 40)[:, None]
    counts[start : start + 5000] = random.poisson(np.broadcast_to(drift, (len(drift), units)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run = Estimator("lds", latents=8, trainer={"max_epochs": 3, "tolerance": 0.0, "progress": False}).fit(counts)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"before": before * 1024, "peak": peak * 1024}))
"""


def peak(bins: int) -> dict[str, int]:
    """Return the peak memory, in bytes, of a process that fits a session, and that before the fit."""
    finished = subprocess.run(
        [sys.executable, "-c", CHILD, str(bins), str(UNITS)], capture_output=True, text=True, check=True
    )
    values: dict[str, int] = json.loads(finished.stdout.splitlines()[-1])
    return values


def run() -> list[dict[str, Any]]:
    """Return the growth of the peak from a session to one ten times as long, and the peak of the long one."""
    short, long = peak(BINS), peak(10 * BINS)
    data = 9 * BINS * UNITS
    growth = long["peak"] - short["peak"]
    return [
        {
            "claim": f"lds: growth of peak memory from {BINS} to {10 * BINS} bins x {UNITS} units, MB",
            "source": "the data's own growth, one byte a count",
            "bound": f"at most {10 * BINS * UNITS // MEGABYTE} MB, the size of the longer session",
            "ours": growth // MEGABYTE,
            "peer": data // MEGABYTE,
            "ratio": round(growth / data, 2),
            "spread": None,
            "ok": growth <= 10 * BINS * UNITS,
        },
        {
            "claim": f"lds: peak memory of a 2-hour session, {10 * BINS} bins x {UNITS} units, MB",
            "source": "libraries included",
            "bound": 3072,
            "ours": long["peak"] // MEGABYTE,
            "peer": None,
            "ratio": None,
            "spread": None,
            "ok": long["peak"] <= 3072 * MEGABYTE,
        },
    ]


if __name__ == "__main__":
    for result in run():
        print(result)
